"""The reader of traces: whatever a file holds, a trace or a TraceError."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accelsim.errors import TraceError
from accelsim.traces import load_trace, save_trace, synthetic_trace, validate_trace

TRACE = synthetic_trace(num_layers=1, head_dim=4, prefill_tokens=3, decode_tokens=2)


@pytest.fixture(scope="module")
def payload(tmp_path_factory):
    path = tmp_path_factory.mktemp("trace") / "t.safetensors"
    save_trace(TRACE, path)
    return path.read_bytes()


def read(path):
    """Open and validate; anything but success or TraceError fails the test."""
    try:
        trace = load_trace(path)
        validate_trace(trace)
    except TraceError as error:
        message = str(error)
    else:
        return trace
    assert "\n" not in message
    return message


def split(payload):
    length = int.from_bytes(payload[:8], "little")
    return json.loads(payload[8 : 8 + length]), payload[8 + length :]


def join(header, data):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def changed(tmp_path, payload, change):
    header, data = split(payload)
    change(header)
    path = tmp_path / "changed.safetensors"
    path.write_bytes(join(header, data))
    return read(path)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_round_trip(tmp_path, dtype):
    path = tmp_path / "t.safetensors"
    save_trace(TRACE, path, dtype)
    trace = load_trace(path)
    validate_trace(trace)
    assert (trace.prefill_tokens, trace.decode_tokens, trace.scale) == (3, 2, TRACE.scale)
    np.testing.assert_array_equal(trace.key(0), TRACE.key(0).astype(dtype))
    np.testing.assert_array_equal(trace.token_ids, TRACE.token_ids)


def test_same_trace_same_bytes(tmp_path, payload):
    save_trace(TRACE, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == payload


FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FUZZ
@given(data=st.data())
def test_every_truncation_is_refused(tmp_path, payload, data):
    length = data.draw(st.integers(0, len(payload) - 1))
    path = tmp_path / "cut.safetensors"
    path.write_bytes(payload[:length])
    assert isinstance(read(path), str)


@FUZZ
@given(data=st.data())
def test_flipped_bytes(tmp_path, payload, data):
    raw = bytearray(payload)
    places = data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=4))
    for place in places:
        raw[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "flipped.safetensors"
    path.write_bytes(raw)
    read(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@FUZZ
@given(entry=JSON, meta=JSON, field=st.sampled_from(["dtype", "shape", "data_offsets", ""]))
def test_hostile_headers(tmp_path, payload, entry, meta, field):
    header, data = split(payload)
    if field:
        header["layer.0.key"][field] = entry
    else:
        header["layer.0.key"] = entry
    header["__metadata__"] = {**header["__metadata__"], "scale": meta} if field else meta
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(join(header, data))
    read(path)


KEYS = ("num_layers", "num_kv_heads", "head_dim", "prefill_tokens", "scale", "causal")


@FUZZ
@given(key=st.sampled_from(KEYS), value=st.text(max_size=12))
def test_hostile_metadata(tmp_path, payload, key, value):
    changed(tmp_path, payload, lambda header: header["__metadata__"].update({key: value}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h["__metadata__"].update(num_kv_heads="3"), "multiple"),
        (lambda h: h["__metadata__"].update(prefill_tokens="0", decode_tokens="0"), "zero tokens"),
        (lambda h: h["__metadata__"].pop("num_layers"), "'num_layers' is missing"),
        (lambda h: h["__metadata__"].update({"accelsim.schema": "x/1"}), "attention-trace/1"),
        (lambda h: h["layer.0.key"].update(dtype="I32"), "layer.0.key"),
        (lambda h: h["layer.0.key"].update(dtype="F64"), "expected F16"),
        (lambda h: h["layer.0.key"].update(shape=[5, 2, 4]), "has shape"),
        (
            lambda h: h["layer.0.value"].update(data_offsets=h["layer.0.key"]["data_offsets"]),
            "overlaps",
        ),
        (lambda h: h.update({"layer.0.keys": h.pop("layer.0.key")}), "did you mean"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, payload, change, message):
    assert message in changed(tmp_path, payload, change)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_numbers_must_be_finite(tmp_path, payload, number):
    header, data = split(payload)
    raw = bytearray(data)
    start = header["layer.0.value"]["data_offsets"][0]
    raw[start : start + 2] = np.float16(number).tobytes()
    path = tmp_path / "nan.safetensors"
    path.write_bytes(join(header, bytes(raw)))
    assert "layer.0.value" in read(path)


def test_numbers_that_do_not_fit_are_not_written(tmp_path):
    huge = synthetic_trace(num_layers=1, sharpness=1e6)
    with pytest.raises(TraceError, match="query"):
        save_trace(huge, tmp_path / "huge.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("scale", ["1e308", "1e10", "1e-300", "-1", "inf", "x", "9" * 400])
def test_a_scale_is_one_of_a_model(tmp_path, payload, scale):
    header, data = split(payload)
    header["__metadata__"] = {**header["__metadata__"], "scale": scale}
    (tmp_path / "t.safetensors").write_bytes(join(header, data))
    with pytest.raises(TraceError, match="metadata 'scale' is"):
        load_trace(tmp_path / "t.safetensors")


@pytest.mark.parametrize("text", ["NaN", ".nan", "", "null", "~", "-.inf", "7", "true"])
def test_a_trace_is_recorded_under_a_policy(tmp_path, payload, text):
    header, data = split(payload)
    header["__metadata__"] = {**header["__metadata__"], "recorded_under": text}
    (tmp_path / "t.safetensors").write_bytes(join(header, data))
    with pytest.raises(TraceError, match=r"'recorded_under' is .*expected 'dense' or the YAML"):
        load_trace(tmp_path / "t.safetensors")


def test_a_policy_s_yaml_is_kept(tmp_path, payload):
    header, data = split(payload)
    text = "description: x\ntokens: {mean_keep: 0.5}\n"
    header["__metadata__"] = {**header["__metadata__"], "recorded_under": text}
    (tmp_path / "t.safetensors").write_bytes(join(header, data))
    assert load_trace(tmp_path / "t.safetensors").recorded_under == text
