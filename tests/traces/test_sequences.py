"""Several sequences in one trace: the file, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest
from headers import edited
from hypothesis import given, settings
from hypothesis import strategies as st

from accelsim.errors import TraceError
from accelsim.traces import (
    LayerEntry,
    Mask,
    MemoryTensors,
    batch_of,
    layer_skew,
    load_trace,
    save_trace,
    synthetic_trace,
    validate_trace,
)

LENGTHS = st.tuples(st.integers(0, 9), st.integers(0, 4)).filter(sum)


def one(seed=0, prefill=4, decode=2, **changes):
    return synthetic_trace(seed=seed, prefill_tokens=prefill, decode_tokens=decode, **changes)


def tensors(trace):
    return {name: trace.tensors.read(name) for name in trace.tensors.names()}


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(LENGTHS, min_size=1, max_size=4))
def test_a_file_holds_every_sequence(tmp_path_factory, lengths):
    path = tmp_path_factory.mktemp("t") / "t.safetensors"
    traces = [one(seed, *length) for seed, length in enumerate(lengths)]
    save_trace(batch_of(traces), path, np.float32)
    again = load_trace(path)
    validate_trace(again)
    assert len(again.sequences) == len(traces)
    for found, trace in zip(again.sequences, traces, strict=True):
        assert (found.prefill_tokens, found.decode_tokens) == (
            trace.prefill_tokens, trace.decode_tokens,
        )  # fmt: skip
        assert found.tokens_sha256 == trace.tokens_sha256
        for name, tensor in tensors(trace).items():
            np.testing.assert_array_equal(found.tensors.read(name), tensor)
    save_trace(again, path.with_name("u.safetensors"), np.float32)
    assert path.read_bytes() == path.with_name("u.safetensors").read_bytes()


def test_one_sequence_is_written_as_ever(tmp_path):
    save_trace(one(), tmp_path / "a.safetensors")
    save_trace(batch_of([one()]), tmp_path / "b.safetensors")
    written = (tmp_path / "a.safetensors").read_bytes()
    assert written == (tmp_path / "b.safetensors").read_bytes()
    assert b"attention-trace/1" in written


def test_layers_of_a_sequence_may_differ(tmp_path):
    def prefixed(length):
        entries = (LayerEntry(mask=Mask(kind="prefix", length=length)), LayerEntry())
        return dataclasses.replace(one(prefill=9, causal=False), layers=entries)

    path = tmp_path / "t.safetensors"
    full = one(decode=0, causal=False)
    save_trace(batch_of([prefixed(2), prefixed(5), full, prefixed(2)]), path)
    found = [own.layer(0).mask.length for own in load_trace(path).sequences]
    assert found == [2, 5, None, 2]


def test_skew_is_over_all_queries():
    first, second = one(1, 5, 1), one(2, 9, 0)
    both = layer_skew(batch_of([first, second]), 1)
    parts = [layer_skew(own, 1).top_mass * own.tokens for own in (first, second)]
    assert both.top_mass == pytest.approx(sum(parts) / 15)


@pytest.mark.parametrize(
    ("traces", "message"),
    [
        ([], "a batch of 0 sequences: expected 1 to 4096"),
        ([one(), one(head_dim=4)], "sequence 1 of a batch has head_dim 4; expected"),
        ([one(), one(num_layers=3)], "has num_layers 3"),
        ([batch_of([one(), one()]), one()], "is a batch already"),
        ([one(), dataclasses.replace(one(), model="other")], "has model other"),
        (
            [one(), dataclasses.replace(one(), layers=(LayerEntry(value_dim=2), LayerEntry()))],
            "layers of other heads or widths",
        ),
    ],
)
def test_what_is_no_batch(traces, message):
    with pytest.raises(TraceError, match=message):
        batch_of(traces)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "expected a JSON list of 1 to 4095 mappings"),
        ("[]", "expected a JSON list"),
        ("[1]", "sequence 1: expected a mapping"),
        ('[{"prefill_tokens": 4}]', "decode_tokens"),
        ('[{"prefill_tokens": 0, "decode_tokens": 0}]', "has zero tokens"),
        ('[{"prefill_tokens": -1, "decode_tokens": 2}]', "prefill_tokens"),
        ('[{"prefill_tokens": 4, "decode_tokens": 2, "txt": ""}]', "did you mean 'text'"),
        ('[{"prefill_tokens": 4, "decode_tokens": 2, "layers": [{}]}]', "has 1 layers; expected 2"),
        ('[{"prefill_tokens": 5, "decode_tokens": 2}]', "sequence 1: tensor 'layer.0.query' has"),
        ('[{"prefill_tokens": 4, "decode_tokens": 2, "proof_error": NaN}]', "proof_error"),
    ],
)
def test_bad_headers(tmp_path, text, message):
    path = tmp_path / "t.safetensors"
    save_trace(batch_of([one(), one(1)]), path)
    edited(path, lambda header: header["__metadata__"].update(sequences=text))
    with pytest.raises(TraceError, match=message) as caught:
        load_trace(path)
    assert "\n" not in str(caught.value)


def test_tensors_that_nobody_counts(tmp_path):
    path = tmp_path / "t.safetensors"
    save_trace(batch_of([one(), one(1), one(2)]), path)

    def fewer(header):
        entries = json.loads(header["__metadata__"]["sequences"])[:1]
        header["__metadata__"]["sequences"] = json.dumps(entries)

    with pytest.raises(TraceError, match=r"tensor 'sequence\.2\..*has 1 entries"):
        load_trace(edited(path, fewer))


def test_numbers_of_every_sequence_are_checked(tmp_path):
    bad = dict(tensors(one()))
    bad["layer.1.key"] = np.full_like(bad["layer.1.key"], np.nan)
    batch = batch_of([one(), dataclasses.replace(one(), tensors=MemoryTensors(bad))])
    with pytest.raises(TraceError, match=r"layer\.1\.key' holds NaN"):
        validate_trace(batch)
    with pytest.raises(TraceError, match="expected one, for one group"):
        batch_of([one(), one()]).of_group("language")


@pytest.mark.parametrize(
    "name",
    ["T5 (relative bias)", "Gemma 3 (windows)", "gpt-oss (windows, sinks)", "DeepSeek-V3 (MLA)"],
)
def test_batches_of_every_kind_of_layer(made, tmp_path, name):
    """What a policy reads of a batch is what it reads of its sequences."""
    from accelsim.functional import run_policy
    from accelsim.policies import load_policy
    from accelsim.traces.capture import capture

    text = "a b c d a b c d a b c d a b c d a b c d a b c d"
    traces = [capture(made(name), text, prefill=p, decode=n) for p, n in ((16, 4), (9, 1))]
    save_trace(batch_of(traces), tmp_path / "t.safetensors", np.float32)
    batch = load_trace(tmp_path / "t.safetensors")
    validate_trace(batch)
    for policy in map(load_policy, ("dense", "h2o")):
        parts = [run_policy(trace, policy).workload.policy_bytes() for trace in traces]
        whole = run_policy(batch, policy).workload.policy_bytes()
        assert whole == {tensor: sum(part[tensor] for part in parts) for tensor in whole}
