"""``attention-trace/2``: layers that differ, written, read, and refused when they contradict."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accelsim.errors import TraceError
from accelsim.traces import (
    Bias,
    Indexer,
    LayerEntry,
    Mask,
    MemoryTensors,
    batch_of,
    dense_rows,
    layer_skew,
    load_trace,
    save_trace,
    synthetic_trace,
    validate_trace,
)

KINDS = st.sampled_from(["causal", "full", "window", "chunk", "prefix", "stored", "left", "both"])
SCHEMA_FILE = Path(__file__).parents[2] / "docs" / "attention-trace-2.schema.json"
LEFT = Mask(kind="window", size=5, side="left")
ENTRIES = (
    LayerEntry(mask=LEFT, scale=0.5, model_layer=3),
    LayerEntry(softcap=2.0, sinks=(0.5, -1.0, 0.0, 3.0)),
    LayerEntry(
        mask=Mask(kind="chunk", size=6), bias=Bias(kind="alibi", slopes=(0.5, 0.25, 0.1, 0))
    ),
    LayerEntry(value_dim=6),
    LayerEntry(query_heads=2, kv_heads=1, key_dim=4),
    LayerEntry(mask=Mask(kind="stored")),
    LayerEntry(kind="latent", kv_heads=1, value_dim=12),
    LayerEntry(kind="cross", key_tokens=7, group="decoder"),
    LayerEntry(bias=Bias(kind="relative", first=-3, buckets=(2, 1, 1, 0))),
    LayerEntry(bias=Bias(kind="stored")),
    LayerEntry(
        group="encoder", query_tokens=9, bias=Bias(kind="relative", first=0, buckets=(0, 1))
    ),
    LayerEntry(group="vision", query_tokens=5, query_heads=2, kv_heads=2, key_dim=4),
    LayerEntry(indexer=Indexer(top_k=3, heads=2, dim=5)),
    LayerEntry(mask=Mask(kind="stored"), indexer=Indexer(top_k=3, shared=True)),
)


def made(entries, **changes):
    """A trace of layers as described, with random tensors."""
    base = synthetic_trace(num_layers=len(entries), **changes)
    trace = dataclasses.replace(base, layers=tuple(entries), proof_error=3.21e-7)
    rng = np.random.default_rng(1)
    tensors = {"token_ids": base.token_ids}
    for name, shape in trace.expected_shapes():
        if name.endswith(".mask"):
            seen = np.tril(rng.random((trace.tokens, trace.tokens)) < 0.5)
            np.fill_diagonal(seen, True)
            tensors[name] = np.packbits(seen, axis=1, bitorder="little")
            assert tensors[name].shape == shape
        else:
            tensors[name] = rng.normal(size=shape).astype(np.float32)
    return dataclasses.replace(trace, tensors=MemoryTensors(tensors))


def by_hand(trace, layer):
    """Attention of a layer, head by head and query by query."""
    own, entry = trace.layer(layer), trace.layers[layer]
    query, key, value = (
        t.astype(float) for t in (trace.query(layer), trace.key(layer), trace.value(layer))
    )
    output = np.zeros((own.query_heads, query.shape[1], value.shape[2]))
    forward = own.kind != "cross" and entry.query_tokens is None
    for head in range(own.query_heads):
        kv = head // (own.query_heads // own.kv_heads)
        for i in range(query.shape[1]):
            total = 0.0 if entry.sinks is None else np.exp(entry.sinks[head])
            for j in range(key.shape[1]):
                kind = "causal" if entry.mask is None and forward else own.mask.kind
                stored = kind == "stored" and trace.seen(layer, np.array([i]))[0, j]
                sees = {"causal": j <= i, "window": i - 5 < j <= i, "stored": stored, "full": True}
                sees["chunk"] = i // 6 == j // 6 and j <= i
                if not sees[kind]:
                    continue
                score = query[head, i] @ key[kv, j] * own.scale
                if entry.softcap:
                    score = entry.softcap * np.tanh(score / entry.softcap)
                if entry.bias and entry.bias.kind == "alibi":
                    score += entry.bias.slopes[head] * (j - i)
                if entry.bias and entry.bias.kind == "stored":
                    score += float(trace.tensors.read(f"layer.{layer}.bias")[head, i, j])
                if entry.bias and entry.bias.kind == "relative":
                    at = min(max(j - i - entry.bias.first, 0), len(entry.bias.buckets) - 1)
                    table = trace.tensors.read(f"layer.{layer}.bias")
                    score += float(table[head, entry.bias.buckets[at]])
                total += np.exp(score)
                output[head, i] += np.exp(score) * value[kv, j]
            output[head, i] /= total
    return output


def test_every_kind_of_layer_round_trips_and_means_what_it_says(tmp_path):
    trace = made(ENTRIES)
    save_trace(trace, tmp_path / "t.safetensors", np.float32)
    again = load_trace(tmp_path / "t.safetensors")
    validate_trace(again)
    assert again.layers == trace.layers
    assert again.proof_error == 3.2e-7
    for layer in range(len(ENTRIES)):
        output = np.concatenate([rows.output for rows in dense_rows(again, layer)], axis=1)
        np.testing.assert_allclose(output, by_hand(trace, layer), rtol=1e-9, atol=1e-12)
        skew = layer_skew(again, layer)
        assert 0 < skew.top_mass <= 1


def test_what_the_first_schema_can_say_is_written_in_it(tmp_path):
    for layers in ((), (LayerEntry(), LayerEntry())):
        trace = dataclasses.replace(synthetic_trace(), layers=layers)
        save_trace(trace, tmp_path / "t.safetensors")
        assert metadata(tmp_path / "t.safetensors")["accelsim.schema"] == "attention-trace/1"
        assert load_trace(tmp_path / "t.safetensors").layers == ()


def metadata(path):
    payload = path.read_bytes()
    length = int.from_bytes(payload[:8], "little")
    return json.loads(payload[8 : 8 + length])["__metadata__"]


@pytest.mark.parametrize(
    ("mask", "causal", "expected"),
    [
        (Mask(kind="window", size=2, side="left"), True, "10000 11000 01100 00110 00011"),
        (Mask(kind="window", size=2, side="both"), False, "11000 11100 01110 00111 00011"),
        (Mask(kind="chunk", size=2), True, "10000 11000 00100 00110 00001"),
        (Mask(kind="prefix", length=3), False, "11100 11100 11100 11110 11111"),
        (Mask(kind="full"), False, "11111 11111 11111 11111 11111"),
        (Mask(kind="causal"), True, "10000 11000 11100 11110 11111"),
    ],
)  # fmt: skip
def test_masks(mask, causal, expected):
    from accelsim.traces.capture._fitting import fitting_mask

    trace = made([LayerEntry(mask=mask)], prefill_tokens=5, decode_tokens=0, causal=causal)
    rows = trace.seen(0, np.arange(5))
    assert " ".join("".join(str(int(bit)) for bit in row) for row in rows) == expected
    first, end = mask.first(np.arange(5)), mask.end(np.arange(5), 5)
    assert fitting_mask(first, end, causal) == mask


BAD = [
    ([{"mask": {"kind": "window", "size": 0, "side": "left"}}], "greater than or equal to 1"),
    ([{"mask": {"kind": "window", "size": 4}}], "expected side and size"),
    ([{"mask": {"kind": "causal", "size": 4}}], "expected nothing more"),
    ([{"mask": {"kind": "windows", "size": 4}}], "mask.kind"),
    ([{"mask": {"kind": "full"}}], "shows later tokens; metadata 'causal' is true"),
    ([{"mask": {"kind": "window", "size": 4, "side": "both"}}], "shows later tokens"),
    ([{"softcap": -1.0}], "softcap"),
    ([{"softcap": 0}], "softcap"),
    ([{"scale": 0.0}], "scale"),
    ([{"scale": "1"}], "scale"),
    ([{"sinks": [1.0, 2.0]}], "sinks has 2 numbers; expected 4"),
    ([{"bias": {"kind": "alibi", "slopes": [1.0]}}], "bias.slopes has 1 numbers; expected 4"),
    ([{"bias": {"kind": "t5"}}], "bias"),
    ([{"bias": {"kind": "alibi"}}], "expected slopes beside"),
    ([{"bias": {"kind": "relative", "first": 0}}], "expected buckets and first beside"),
    ([{"bias": {"kind": "relative", "first": 0, "buckets": []}}], "at least one of 'buckets'"),
    ([{"bias": {"kind": "relative", "first": 0, "buckets": [-1]}}], "bias.buckets"),
    ([{"bias": {"kind": "relative", "first": 0, "buckets": [0]}}], "layer.0.bias' is missing"),
    ([{"bias": {"kind": "stored"}}], "layer.0.bias' is missing"),
    ([{"bias": {"kind": "stored", "slopes": [1.0]}}], "expected nothing more beside"),
    ([{"group": "decodr"}], "group"),
    ([{"group": "encoder"}], "'query_tokens' belongs to groups"),
    ([{"group": "decoder", "query_tokens": 4}], "'query_tokens' belongs to groups"),
    ([{"query_tokens": 4}], "'query_tokens' belongs to groups"),
    ([{"group": "vision", "query_tokens": 0}], "query_tokens"),
    ([{"group": "vision", "query_tokens": 4, "kind": "cross", "key_tokens": 4}], "in the decoder"),
    (
        [{"group": "encoder", "query_tokens": 4, "mask": {"kind": "prefix", "length": 5}}],
        "expected at most 4",
    ),
    ([{"kind": "latent"}], "expected value_dim"),
    ([{"kind": "latent", "value_dim": 99}], "at most key_dim"),
    ([{"kind": "cross"}], "'key_tokens' belongs to kind 'cross'"),
    ([{"key_tokens": 4}], "'key_tokens' belongs to kind 'cross'"),
    ([{"kind": "cross", "key_tokens": 4, "mask": {"kind": "causal"}}], "expected mask 'full'"),
    ([{"kv_heads": 3}], "no multiple"),
    ([{"value_dim": 5}], "has shape"),
    ([{"mask": {"kind": "stored"}}], "layer.0.mask' is missing"),
    ([{"model_layer": -1}], "model_layer"),
    ([{"indexer": {"top_k": 0, "heads": 2, "dim": 4}}], "indexer.top_k"),
    ([{"indexer": {"top_k": 4, "heads": 2}}], "expected 'heads' and 'dim', or 'shared'"),
    ([{"indexer": {"top_k": 4, "heads": 2, "dim": 4, "shared": True}}], "or 'shared'"),
    ([{"indexer": {"top_k": 4, "shared": True}}], "expected a layer before it"),
    ([{"indexer": {"top_k": 4, "heads": 2, "dim": 4}}], "layer.0.index_query' is missing"),
    (
        [{"kind": "cross", "key_tokens": 4, "indexer": {"top_k": 4, "heads": 2, "dim": 4}}],
        "'indexer': expected it in a layer of a causal model",
    ),
    (
        [{"mask": {"kind": "chunk", "size": 4}, "indexer": {"top_k": 4, "heads": 2, "dim": 4}}],
        "'indexer' beside mask 'chunk'",
    ),
    ([{"windw": 4}], "windw"),
    ([{}, {}], "a JSON list of 1 mappings"),
    ({}, "a JSON list of 1 mappings"),
    (["x"], "expected a mapping"),
    ("NaN", "a JSON list"),
    ("[" * 100_000, "a JSON list"),
    ([{"scale": float("nan")}], "scale"),
]


@pytest.mark.parametrize(("layers", "message"), BAD)
def test_contradictions_are_refused(tmp_path, layers, message):
    path = tmp_path / "t.safetensors"
    save_trace(synthetic_trace(num_layers=1), path)
    text = layers if isinstance(layers, str) else json.dumps(layers)
    rewrite(path, {"accelsim.schema": "attention-trace/2", "layers": text})
    with pytest.raises(TraceError) as caught:
        load_trace(path)
    found = str(caught.value)
    assert message in found
    assert "metadata 'layers'" in found or "tensor '" in found
    assert "\n" not in found
    assert len(found) - len(str(path)) < 300


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
KEYS = tuple(LayerEntry.model_fields)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    entry=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=3),
    mask=st.dictionaries(st.sampled_from(["kind", "size", "side", "length"]), JSON | KINDS),
)
def test_any_layer_is_read_or_refused(tmp_path, entry, mask):
    path = tmp_path / "t.safetensors"
    save_trace(synthetic_trace(num_layers=1), path)
    entry = entry | ({"mask": mask} if mask else {})
    rewrite(path, {"accelsim.schema": "attention-trace/2", "layers": json.dumps([entry])})
    message = ""
    try:
        validate_trace(load_trace(path))
    except TraceError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) - len(str(path)) < 300


@pytest.mark.parametrize("text", ["nan", "-1", "x", "inf", ""])
def test_a_proof_error_is_a_number(tmp_path, text):
    save_trace(synthetic_trace(num_layers=1), tmp_path / "t.safetensors")
    rewrite(tmp_path / "t.safetensors", {"proof_error": text})
    with pytest.raises(TraceError, match=r"'proof_error' is .*expected a number"):
        load_trace(tmp_path / "t.safetensors")


def test_a_prefix_is_no_longer_than_the_prompt(tmp_path):
    trace = made([LayerEntry(mask=Mask(kind="prefix", length=13))], causal=False)
    save_trace(trace, tmp_path / "t.safetensors")
    with pytest.raises(TraceError, match="'prefix' of 13 tokens; expected at most 12"):
        load_trace(tmp_path / "t.safetensors")


@pytest.mark.parametrize(
    ("row", "message"), [(0, "token 3 sees no key"), (255, "shows later tokens")]
)
def test_stored_bits_are_checked(tmp_path, row, message):
    trace = made([LayerEntry(mask=Mask(kind="stored"))])
    trace.tensors.read("layer.0.mask")[3] = row
    save_trace(trace, tmp_path / "t.safetensors")
    with pytest.raises(TraceError, match=message):
        validate_trace(load_trace(tmp_path / "t.safetensors"))


def rewrite(path, changes):
    payload = path.read_bytes()
    length = int.from_bytes(payload[:8], "little")
    header = json.loads(payload[8 : 8 + length])
    header["__metadata__"].update(changes)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + payload[8 + length :])


def test_the_schema_file_is_that_of_the_reader(tmp_path):
    """``docs/attention-trace-2.schema.json`` accepts what is written, and refuses what is not."""
    jsonschema = pytest.importorskip("jsonschema")
    from accelsim.traces import header_schema

    document = json.loads(SCHEMA_FILE.read_text())
    assert document == header_schema(), "python tests/traces/families.py writes it"
    validator = jsonschema.Draft202012Validator(document)
    save_trace(made(ENTRIES), tmp_path / "t.safetensors")
    validator.validate(as_document(metadata(tmp_path / "t.safetensors")))
    save_trace(synthetic_trace(), tmp_path / "t.safetensors")
    validator.validate(as_document(metadata(tmp_path / "t.safetensors")))
    other = (*ENTRIES[:1], LayerEntry(softcap=3.0), *ENTRIES[2:])
    batch = batch_of([made(ENTRIES), made(other, decode_tokens=1)])
    save_trace(batch, tmp_path / "t.safetensors")
    validator.validate(as_document(metadata(tmp_path / "t.safetensors")))
    for layers in (BAD[0][0], BAD[3][0], BAD[6][0], BAD[8][0], [{"windw": 4}]):
        wrong = as_document(metadata(tmp_path / "t.safetensors")) | {"layers": layers}
        assert not validator.is_valid(wrong)


def as_document(header):
    """The metadata with ``layers`` and ``sequences`` as the lists that their texts are."""
    listed = ("layers", "sequences")
    return {k: json.loads(v) if k in listed else v for k, v in header.items()}
