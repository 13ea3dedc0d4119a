"""Images, sound and what the tokens of a trace are."""

from __future__ import annotations

import dataclasses
import shutil
import wave

import numpy as np
import pytest
from click.testing import CliRunner

from accelsim.attention.quantization import quantize_dequantize
from accelsim.cli.capture import command
from accelsim.cli.inspect import command as inspect_command
from accelsim.errors import TraceError
from accelsim.functional import run_policy
from accelsim.policies import Policy, load_policy, load_policy_spec, why_not
from accelsim.traces import (
    IMAGE,
    SCHEMA_2,
    TEXT,
    MemoryTensors,
    dense_rows,
    load_trace,
    save_trace,
    synthetic_trace,
    validate_trace,
)
from accelsim.traces.capture import capture
from accelsim.traces.capture._inputs import read_image, read_wav


def test_image_tokens_are_marked(made, tmp_path):
    model = made("LLaVA (image)")
    trace = capture(model, "a b c", images=[f"{model}/image.png"], decode=2)
    # 16 x 16 pixels in patches of 8, before the text; what is decoded is text.
    assert trace.token_type.tolist() == [IMAGE] * 4 + [TEXT] * 5
    assert trace.frame.tolist() == [0] * 4 + [-1] * 5
    assert trace.token_ids[:4].tolist() == [4] * 4
    assert "file: image.png, sha256" in trace.source
    vision = [trace.layer(i) for i in range(trace.num_layers) if trace.layer(i).aside]
    assert [layer.tokens for layer in vision] == [5, 5]  # the patches and a class token
    save_trace(trace, tmp_path / "t.safetensors")
    again = load_trace(tmp_path / "t.safetensors")
    validate_trace(again)
    assert again.frame.dtype == np.int16
    shown = CliRunner().invoke(inspect_command, [str(tmp_path / "t.safetensors")])
    assert "4 image" in shown.output
    assert "5 text" in shown.output


def test_several_images_are_several_frames(made):
    model = made("LLaVA (image)")
    trace = capture(model, "<image> a <image> b", images=[f"{model}/image.png"] * 2)
    assert trace.frame.tolist() == [0] * 4 + [-1] + [1] * 4 + [-1]
    tower = trace.layer(0)
    assert (tower.tokens, tower.mask.kind) == (10, "stored")  # the images do not see each other
    seen = trace.seen(0, np.arange(10))
    assert seen[:5, :5].all()
    assert not seen[:5, 5:].any()


def test_a_prefill_does_not_cut_an_image(made):
    model = made("LLaVA (image)")
    image = [f"{model}/image.png"]
    trace = capture(model, "a b c", images=image, prefill=5)
    assert trace.tokens == 5
    with pytest.raises(TraceError, match="--prefill 3 cuts an image; expected at least 4"):
        capture(model, "a b c", images=image, prefill=3)


def test_a_vision_model_has_a_trace_without_token_ids(made, tmp_path):
    model = made("ViT")
    trace = capture(model, images=[f"{model}/image.png"])
    assert (trace.tokens, trace.causal, trace.token_ids) == (5, False, None)
    save_trace(trace, tmp_path / "t.safetensors")
    validate_trace(load_trace(tmp_path / "t.safetensors"))


BAD = [
    ("ViT", {"text": "a b"}, "takes images; expected --image FILE"),
    ("ViT", {"text": "a b", "images": ["image.png"]}, "takes images; expected no text"),
    ("ViT", {"images": ["image.png"], "prefill": 3}, "takes images; expected no --prefill"),
    ("ViT", {"images": ["image.png"], "decode": 3}, "expected --decode 0"),
    ("ViT", {"images": ["sound.wav"]}, "expected an image"),
    ("ViT", {"images": ["none.png"]}, "no such file; expected an image"),
    ("CLIP (both towers)", {"text": "a b"}, "takes images and text; expected --image FILE"),
    ("CLIP (both towers)", {"images": ["image.png"]}, "expected --text or --text-file"),
    ("Llama 2, 3", {"text": "a b", "images": ["image.png"]}, "takes text; expected no --image"),
    ("Llama 2, 3", {"text": "a b", "audio": "sound.wav"}, "takes text; expected no --audio"),
    ("Whisper (audio)", {"text": "a b"}, "takes sound and text; expected --audio FILE"),
    ("Whisper (audio)", {"audio": "image.png"}, "is no PCM WAV file"),
    ("Whisper (audio)", {"audio": "sound.wav", "text": "a b"}, "expected no text"),
    ("Whisper (audio)", {"audio": "sound.wav", "decode": 99}, "100 tokens; expected at most 32"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "given", "message"), BAD)
def test_what_a_model_does_not_take(made, name, given, message):
    model, files = made(name), made("ViT" if name.startswith("Llama") else name)
    given = dict(given)
    if "images" in given:
        given["images"] = [f"{files}/{path}" for path in given["images"]]
    if "audio" in given:
        given["audio"] = f"{files}/{given['audio']}"
    with pytest.raises(TraceError, match=message) as caught:
        capture(model, **given)
    found = str(caught.value)
    assert "\n" not in found
    assert len(found) - len(model) - len(files) < 300


def test_the_command_takes_files(made, tmp_path):
    model, target = made("Whisper (audio)"), tmp_path / "t.safetensors"
    sound = ["--audio", f"{model}/sound.wav", "--decode", "2", "--out", str(target)]
    done = CliRunner().invoke(command, [model, *sound])
    assert done.exit_code == 0, done.output
    trace = load_trace(target)
    groups = [(trace.layer(i).stack, trace.layer(i).kind) for i in range(trace.num_layers)]
    decoder = [("decoder", "self"), ("decoder", "cross")]
    assert groups == [("encoder", "self")] * 2 + decoder * 3
    assert {trace.layer(i).keys for i in range(3, 8, 2)} == {50}  # one set for all three tokens
    nothing = CliRunner().invoke(command, [model, "--out", str(target)])
    assert "or --image or --audio" in str(nothing.exception)


@pytest.mark.parametrize(("width", "top"), [(1, 255), (2, 32767), (4, 2**31 - 1)])
def test_a_wav_file_is_read(tmp_path, width, top):
    path = tmp_path / "s.wav"
    kind = {1: "u1", 2: "<i2", 4: "<i4"}[width]
    low = 0 if width == 1 else -top - 1
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(2)
        stream.setsampwidth(width)
        stream.setframerate(100)
        stream.writeframes(np.array([[low, low], [top, low]], dtype=kind).tobytes())
    np.testing.assert_allclose(read_wav(path, 100), [-1, 0], atol=1e-2)
    with pytest.raises(TraceError, match="has 100 samples a second; expected 16000"):
        read_wav(path, 16000)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(TraceError, match="no PCM WAV"):
        read_wav(path, 100)


def test_what_is_no_image(tmp_path):
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n junk")
    for path in (tmp_path / "x.png", tmp_path, tmp_path / "none"):
        with pytest.raises(TraceError, match="expected an image"):
            read_image(path)


def typed(**tensors):
    base = synthetic_trace(num_layers=1, prefill_tokens=4, decode_tokens=2)
    kept = {name: base.tensors.read(name) for name in base.tensors.names()}
    return dataclasses.replace(base, tensors=MemoryTensors(kept | tensors))


@pytest.mark.parametrize(
    ("kinds", "frame", "message"),
    [
        ([0, 1, 2, 4, 1, 1], None, "'token_type' holds 4 at 3; expected 0 system, 1 text, 2 image"),
        ([0, -1, 2, 2, 1, 1], None, "'token_type' holds -1 at 1"),
        ([0, 1, 2, 2, 1, 1], [-1, -1, 0, -1, -1, -1], "'frame' holds -1 at 3, a token of image"),
        ([0, 1, 2, 2, 1, 1], [0, -1, 0, 0, -1, -1], "'frame' holds 0 at 0, a token of system"),
        (None, [0, 0, 0, 0, 0, 0], "expected 'token_type' beside it"),
        ([1, 1], None, r"'token_type': expected int8 \[6\]"),
        ([1] * 6, [0, 0], r"'frame': expected int16 \[6\]"),
    ],
)  # fmt: skip
def test_types_of_tokens_are_checked(tmp_path, kinds, frame, message):
    tensors = {}
    if kinds is not None:
        tensors["token_type"] = np.array(kinds, dtype=np.int8)
    if frame is not None:
        tensors["frame"] = np.array(frame, dtype=np.int16)
    save_trace(typed(**tensors), tmp_path / "t.safetensors")
    with pytest.raises(TraceError, match=message) as caught:
        validate_trace(load_trace(tmp_path / "t.safetensors"))
    assert "\n" not in str(caught.value)


def test_types_of_tokens_round_trip(tmp_path):
    kinds = np.array([0, 1, 3, 3, 3, 1], dtype=np.int8)
    frame = np.array([-1, -1, 0, 1, 1, -1], dtype=np.int16)
    save_trace(typed(token_type=kinds, frame=frame), tmp_path / "t.safetensors")
    assert b'"accelsim.schema":"attention-trace/2"' in (tmp_path / "t.safetensors").read_bytes()
    trace = load_trace(tmp_path / "t.safetensors")
    validate_trace(trace)
    assert trace.token_type.tolist() == kinds.tolist()
    assert trace.frame.tolist() == frame.tolist()


@pytest.mark.parametrize(
    ("name", "group", "layers", "tokens", "causal"),
    [
        ("LLaVA (image)", "vision", 2, 5, False),
        ("LLaVA (image)", "language", 3, 7, True),
        ("BART", "encoder", 2, 3, False),
        ("BART", "decoder", 6, 1, True),
    ],
)
def test_one_stack_alone(made, tmp_path, name, group, layers, tokens, causal):
    model = made(name)
    images = [f"{model}/image.png"] if name.startswith("LLaVA") else []
    whole = capture(model, "a b c", images=images)
    trace = capture(model, "a b c", images=images, group=group)
    assert (trace.num_layers, trace.tokens, trace.causal) == (layers, tokens, causal)
    assert not any(trace.layer(i).aside for i in range(layers))
    same = range(layers) if group in ("vision", "encoder") else range(2, 2 + layers)
    for i, j in enumerate(same):
        np.testing.assert_array_equal(trace.query(i), whole.query(j))
    # All but the decoder, which attends across, is as any model: the first schema says all of it.
    assert trace.plain == (group != "decoder")
    save_trace(trace, tmp_path / "t.safetensors")
    policy = load_policy("dense")
    assert why_not(policy, load_trace(tmp_path / "t.safetensors")) == ""
    assert why_not(policy, whole) == ""  # one stack runs after the other


def test_a_stack_that_is_not_there(made):
    with pytest.raises(TraceError, match="group 'vision': expected encoder or decoder"):
        capture(made("BART"), "a b c", group="vision")
    with pytest.raises(TraceError, match="its encoder does not decode; expected --decode 0"):
        capture(made("BART"), "a b c", group="encoder", decode=2)
    with pytest.raises(TraceError, match="group 'encoder': expected none, as this is one stack"):
        capture(made("Llama 2, 3"), "a b c", group="encoder")


def test_random_weights_are_not_recorded(made, tmp_path):
    from safetensors.numpy import load_file, save_file

    model = shutil.copytree(made("BART"), tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    del weights["model.decoder.layers.1.encoder_attn.k_proj.weight"]
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(TraceError, match=r"lack model.decoder.layers.1.encoder_attn.k_proj.weight"):
        capture(str(model), "a b c")


@pytest.mark.parametrize("kind", ["fastv", "pyramid_drop", "focus_sec"])
def test_rules_of_visual_tokens_on_a_captured_model(made, kind):
    model = made("LLaVA (image)")
    images = [f"{model}/image.png"] * 2
    trace = capture(model, "<image> a <image> b c", images=images, decode=3, group="language")
    assert trace.beyond() == {}
    prompt, places = trace.prefill_tokens, np.flatnonzero(trace.token_type == IMAGE)
    rule = {"kind": kind, "layers": [1], "keep": [0.5]}
    w = run_policy(trace, Policy.model_validate({"selection": rule})).workload
    query, key = trace.query(1).astype(float), trace.key(1).astype(float)
    key = np.repeat(quantize_dequantize(key, 12, "per_tensor"), trace.group, axis=0)
    rows = [prompt - 1] if kind != "focus_sec" else range(places[-1] + 1, prompt)
    given = []
    for i in rows:
        weights = np.exp(np.einsum("hd,hkd->hk", query[:, i], key[:, : i + 1]) * trace.scale)
        weights /= weights.sum(axis=1, keepdims=True)
        given.append(weights[:, places])
    score = np.max(given, axis=(0, 1)) if kind == "focus_sec" else np.mean(given, axis=(0, 1))
    gone = set(places[np.argsort(-score, kind="stable")[4:]].tolist())
    first = 1 if kind == "pyramid_drop" else 2
    for layer, keys in zip(w["layer"], w.key_indices, strict=True):
        assert (set(places.tolist()) - set(keys.tolist()) == gone) == (layer >= first)


def test_second_stage_of_todre_on_a_captured_model(made):
    """Images leave behind layer 1 of 3 where both shares of its attention are small."""
    model = made("LLaVA (image)")
    images = [f"{model}/image.png"] * 2
    trace = capture(model, "<image> a <image> b c", images=images, decode=3, group="language")
    prompt, kinds = trace.prefill_tokens, trace.token_type
    assert kinds.tolist() == [IMAGE] * 4 + [TEXT] + [IMAGE] * 4 + [TEXT] * 5
    query, key = trace.query(1).astype(float), trace.key(1).astype(float)
    key = np.repeat(quantize_dequantize(key, 12, "per_tensor"), trace.group, axis=0)
    mean = np.zeros((prompt, prompt))
    for i in range(prompt):
        weights = np.exp(np.einsum("hd,hkd->hk", query[:, i], key[:, : i + 1]) * trace.scale)
        mean[i, : i + 1] = (weights / weights.sum(axis=1, keepdims=True)).mean(axis=0)
    image = kinds[:prompt] == IMAGE
    of_text = mean[~image][:, image].sum() / mean[~image].sum()
    of_images = mean[image][:, ~image].sum() / mean[image].sum()
    assert 0 < of_images < of_text < 1
    for threshold, leave in ((of_text * 1.001, True), (of_text * 0.999, False)):
        rule = {"kind": "todre", "keep": [1.0], "threshold": threshold}
        w = run_policy(trace, Policy.model_validate({"selection": rule})).workload
        for layer, step, keys in zip(w["layer"], w["step"], w.key_indices, strict=True):
            gone = (kinds[: prompt + step] == IMAGE) & (leave and layer == 2)
            assert keys.tolist() == np.flatnonzero(~gone).tolist()
        asked = w["queries"][(w["layer"] == 2) & (w["step"] == 0)]
        assert (asked == trace.group * (3 if leave else prompt)).all()
        pairs = sum(j <= i for i in range(prompt) for j in range(prompt) if image[i] != image[j])
        updates = w["score_updates"]
        assert updates.sum() == pairs * trace.num_query_heads
        assert not updates[w["layer"] != 1].any()


@pytest.fixture(scope="module")
def deep(made, tmp_path_factory):
    """A LLaVA of sixteen layers whose prompt has sixteen image tokens, small and random."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("deep") / "model"
    shutil.copytree(made("LLaVA (image)"), folder)
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    config = transformers.AutoConfig.from_pretrained(folder)
    config.text_config.num_hidden_layers = 16
    config.text_config.layer_types = None
    config.vision_config.num_hidden_layers = 3
    config.vision_config.image_size = 32
    torch.manual_seed(1)
    network = transformers.LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.dim() > 1:
                weight.mul_(4.0)
    network.save_pretrained(folder)
    reader = transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    processor = transformers.AutoProcessor.from_pretrained(folder)
    processor.image_processor = reader
    processor.save_pretrained(folder)
    return str(folder)


def seen_by(model, trace):
    """What each layer is given, [layers + 1, tokens, width], by the model itself."""
    import torch
    import transformers

    network = transformers.LlavaForConditionalGeneration.from_pretrained(
        model, attn_implementation="eager"
    ).eval()
    processor = transformers.AutoProcessor.from_pretrained(model)
    made = processor(
        text=["<image> a b c"], images=[read_image(f"{model}/image.png")], return_tensors="pt"
    )
    made["input_ids"] = torch.tensor([trace.token_ids.tolist()])
    made.pop("attention_mask")
    with torch.no_grad():
        states = network(**made, output_hidden_states=True).hidden_states
    return network, torch.stack([state[0] for state in states])


def test_what_rules_of_visual_tokens_look_at(deep):
    """Embeddings, changes and [CLS] are those of a plain reading of the model and the trace."""
    import torch

    trace = capture(deep, "a b c", images=[f"{deep}/image.png"], decode=3, hidden=[5])
    network, states = seen_by(deep, trace)
    model = network.model.language_model
    np.testing.assert_allclose(trace.embedding, states[0].numpy(), atol=1e-5)
    own = [i for i in range(trace.num_layers) if not trace.layer(i).aside]
    assert len(own) == 16
    hidden = model.norm(states[5]).detach().numpy()
    np.testing.assert_allclose(trace.hidden(own[5]), hidden, rtol=1e-3, atol=1e-4)
    assert all(trace.hidden(i) is None for n, i in enumerate(own) if n != 5)
    for number in (0, 7, 14):
        layer, index = model.layers[number], own[number]
        output = np.concatenate([rows.output for rows in dense_rows(trace, index)], axis=1)
        flat = torch.tensor(output.transpose(1, 0, 2).reshape(trace.tokens, -1)).float()
        with torch.no_grad():
            given = layer.input_layernorm(states[number])
            changed = layer.self_attn.o_proj(flat)
            between = layer.post_attention_layernorm(states[number] + changed)
            ffn = layer.mlp(between)
        for found, before, after in zip(
            trace.transition(index), (given, between), (changed, ffn), strict=True
        ):
            a, b = before.double().numpy(), after.double().numpy()
            size, own_size = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
            some = size > 0  # the embedding of padding is zero
            assert some[:16].all()
            assert not found[~some].any()
            ratio, cosine = own_size / np.where(some, size, 1), (a * b).sum(axis=1)
            np.testing.assert_allclose(found[some, 0], ratio[some], rtol=1e-3)
            expected = cosine[some] / (size * own_size)[some]
            np.testing.assert_allclose(found[some, 1], expected, atol=1e-3)
    rows = trace.class_attention()
    assert list(rows) == [0, 1, 2]
    for layer, row in rows.items():
        query, key = trace.query(layer)[:, 0], trace.key(layer)
        scores = np.exp(np.einsum("hd,hkd->hk", query, key) * trace.layer(layer).scale)
        np.testing.assert_allclose(row, (scores / scores.sum(1, keepdims=True))[:, 1:], rtol=1e-4)
    summed = rows[0].mean(axis=0) + rows[1].mean(axis=0)
    score = trace.scores["vtc_cls"]
    assert score.shape == (trace.num_layers, trace.tokens)
    np.testing.assert_allclose(score[-1][:16], summed, rtol=1e-5)
    assert not score[:, 16:].any()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_presets_of_visual_tokens_run_on_a_capture(deep, tmp_path, dtype):
    image = [f"{deep}/image.png"]
    trace = capture(deep, "a b c a b", images=image, decode=3, group="language", hidden=[5])
    assert {trace.layer(i).stack for i in range(16)} == {None}
    save_trace(trace, tmp_path / "t.safetensors", dtype)
    again = load_trace(tmp_path / "t.safetensors")
    validate_trace(again)
    assert again.tensors.names() == trace.tensors.names()
    assert len(again.class_attention()) == 3
    for name, left in (
        ("transprune", 2), ("vtc-cls", 4), ("todre", 1), ("dart", 4), ("sparse-vlm:LAYERS", 3),
    ):  # fmt: skip
        layers = "selection.layers=[6],selection.keep=[0.2]"
        policy = load_policy_spec(name.replace("LAYERS", layers))
        run = run_policy(again, policy)
        w = run.workload
        last = w["layer"] == 15
        assert (w["keys"][last & (w["step"] == 3)] == left + 5 + 3).all(), name
        assert run.accuracy["kept_token_fraction"] < 1
    whole = capture(deep, "a b c", images=image, hidden=[5])
    alone = whole.of_group("language")
    for name in ("embedding", "layer.5.hidden", "layer.15.transition", "vision.layer.2.cls"):
        np.testing.assert_array_equal(
            alone.tensors.read(name),
            capture(deep, "a b c", images=image, group="language", hidden=[5]).tensors.read(name),
        )


def plain_importance(trace, layer, images, first, threshold):
    """VFlowOpt: of each image, what patches give that receive more than so many times the mean."""
    query, key = trace.query(layer).astype(float), trace.key(layer).astype(float)
    each, found = query.shape[1] // images, []
    for start in range(0, query.shape[1], each):
        own = slice(start, start + each)
        maps = []
        for q, k in zip(query[:, own], key[:, own], strict=True):
            weights = np.exp(q @ k.T * trace.layer(layer).scale)
            maps.append((weights / weights.sum(axis=1, keepdims=True))[first:, first:])
        mean = np.mean(maps, axis=0)
        received = mean.mean(axis=0)
        rate = [i for i, much in enumerate(received) if much > threshold * received.mean()]
        assert 0 < len(rate) < len(received)
        found += [float(np.mean([mean[i, j] for i in rate])) for j in range(each - first)]
    return found


@pytest.mark.parametrize(
    ("name", "first", "images"), [("deep", 1, 1), ("deep", 1, 2), ("PaliGemma (image)", 0, 1)]
)
def test_importance_of_patches(deep, made, tmp_path, name, first, images):
    """By a plain reading of the recorded tower, with a class token and without."""
    model = deep if name == "deep" else made(name)
    given = [f"{model}/image.png"] * images
    text = "<image> a <image> b" if images == 2 else "a b c"
    trace = capture(model, text, images=given, decode=2, importance=(1, 1.01))
    score, kinds = trace.scores["vflowopt"], trace.token_type
    assert score.shape == (trace.num_layers, trace.tokens)
    expected = plain_importance(trace, 1, images, first, 1.01)
    np.testing.assert_allclose(score[-1][kinds == IMAGE], expected, rtol=1e-4)
    assert not score[:, kinds != IMAGE].any()
    save_trace(trace, tmp_path / "t.safetensors")
    again = load_trace(tmp_path / "t.safetensors").of_group("language")
    rule = {"kind": "visual_score", "score": "vflowopt", "layers": [0], "keep": [0.5]}
    w = run_policy(again, Policy.model_validate({"selection": rule})).workload
    count = int((kinds == IMAGE).sum())
    stay = np.flatnonzero(kinds == IMAGE)[np.argsort(-np.array(expected))[: count // 2]]
    left = [j for j in w.key_indices[0].tolist() if kinds[j] == IMAGE]
    assert left == sorted(stay.tolist())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"importance": (1, 99.0)}, "no patch receives more than 99 times the mean in layer 1 of"),
        ({"importance": (3, 1.0)}, "layer 3 is no layer of a vision tower"),
        ({"importance": (-1, 1.0)}, "expected a layer and a threshold from 0 up"),
        ({"importance": (1, float("nan"))}, "expected a layer and a threshold from 0 up"),
        ({"importance": (1, 1.0), "group": "vision"}, "expected a language model that is given"),
        ({"importance": (1, 1.0), "images": []}, "expected a text and --image FILE"),
    ],
)
def test_importance_that_cannot_be_had(deep, given, message):
    with pytest.raises(TraceError, match=message) as caught:
        capture(deep, "a b c", **{"images": [f"{deep}/image.png"]} | given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["25", "a:1", "1:x", "", "-1:2"])
def test_importance_of_the_command(deep, tmp_path, text):
    arguments = [deep, "--text", "a b", "--image", f"{deep}/image.png", "--group", "language"]
    target = tmp_path / "t.safetensors"
    wrong = CliRunner().invoke(command, [*arguments, "--importance", text, "--out", str(target)])
    assert "expected a layer and a threshold, as in 25:34.76" in str(wrong.exception)
    done = CliRunner().invoke(command, [*arguments, "--importance", "2:1.01", "--out", str(target)])
    assert done.exit_code == 0, done.output
    assert "vflowopt" in load_trace(target).scores


def test_a_layer_whose_input_cannot_be_recorded(deep, made):
    with pytest.raises(TraceError, match="layer 16 is no decoder layer whose input"):
        capture(deep, "a b c", images=[f"{deep}/image.png"], hidden=[16])
    with pytest.raises(TraceError, match="layer 0 is no decoder layer"):
        capture(made("GPT-2"), "a b c", hidden=[0])


BESIDE = [
    ("embedding", np.zeros((19, 4), np.float32), r"expected F16, BF16, F32 \[20, any\]"),
    ("embedding", np.zeros((20, 4), np.int8), "'embedding' is I8"),
    ("embedding", np.zeros(20, np.float32), "'embedding' is F32"),
    ("layer.0.hidden", np.zeros((20, 0), np.float32), "'layer.0.hidden' is F32"),
    ("layer.0.transition", np.zeros((2, 20, 3), np.float32), r"\[2, 20, 2\]"),
    ("layer.9.transition", np.zeros((2, 20, 2), np.float32), "expected a layer of the tokens"),
    ("vision.layer.0.cls", np.zeros((2, 3, 1), np.float32), r"\[any, any\]"),
    ("embedding", np.full((20, 4), np.nan, np.float32), "holds NaN or infinity"),
    ("vision.layer.0.cls", np.full((2, 4), np.inf, np.float32), "holds NaN or infinity"),
]


@pytest.mark.parametrize(("name", "tensor", "message"), BESIDE)
def test_a_wrong_tensor_beside_is_refused(tmp_path, name, tensor, message):
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    path = tmp_path / "t.safetensors"
    save_trace(synthetic_trace(num_layers=1, prefill_tokens=16, decode_tokens=4), path)
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    save_file(load_file(path) | {name: tensor}, path, metadata | {"accelsim.schema": SCHEMA_2})
    with pytest.raises(TraceError, match=message) as caught:
        validate_trace(load_trace(path))
    assert "\n" not in str(caught.value)
