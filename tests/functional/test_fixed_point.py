"""The compiled datapath against plain Python integers, to the bit; and against float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from accelsim.attention import reference
from accelsim.attention.quantization import progressive_planes, quantize_dequantize
from accelsim.configs import preset_names
from accelsim.errors import ConfigError, SimulationError
from accelsim.functional import _fixed_kernels
from accelsim.functional import fixed_point as fp
from accelsim.functional import fixed_point_reference as plain
from accelsim.policies import Policy, load_policy

DATAPATHS = [fp.load_datapath(n, r) for n in fp.DATAPATHS for r in fp.ROUNDINGS]
NARROW = [
    replace(p, accumulator_bits=bits, overflow=overflow)
    for p in DATAPATHS
    for bits in (8, 16)
    for overflow in ("saturate", "wrap")
]
extremes = st.sampled_from([-2048, -2047, -1, 0, 1, 2047])
codes = extremes | st.integers(-2048, 2047)
roundings = st.sampled_from(fp.ROUNDINGS)


def drawing(data: st.DataObject) -> Callable[..., np.ndarray]:
    """What draws integer arrays of a shape, of codes if nothing else is asked for."""

    def draw(shape: tuple[int, ...], elements: st.SearchStrategy[int] = codes) -> np.ndarray:
        return data.draw(hnp.arrays(np.int64, shape, elements=elements))

    return draw


def compare(
    query: np.ndarray,
    first: np.ndarray,
    both: np.ndarray,
    value: np.ndarray,
    multipliers: np.ndarray,
    shift: int,
    ratios: np.ndarray,
    datapath: fp.Datapath,
    threshold: int = 0,
    budget: int | None = None,
    value_both: np.ndarray | None = None,
    changes: fp.Changes | None = None,
    bias: np.ndarray | None = None,
) -> plain.Row:
    """Run one row both ways, insist on equality, and return it."""
    keys = len(first)
    row = plain.attend_row(
        query.tolist(), first.tolist(), both.tolist(), value.tolist(),
        multipliers=multipliers.tolist(), shift=shift, value_ratios=ratios.tolist(),
        datapath=datapath, threshold=threshold, budget=budget,
        values_both=None if value_both is None else value_both.tolist(),
        changes=changes, bias=None if bias is None else bias.tolist(),
    )  # fmt: skip
    result = fp.fixed_point_attention(
        query[None], first, both, value, np.array([keys]),
        multipliers=multipliers[None], shifts=np.array([shift]), ratios=ratios,
        datapath=datapath, threshold=threshold,
        value_budget=None if budget is None else np.full(keys + 1, budget),
        value_both=value_both, changes=changes, bias=None if bias is None else bias[None],
    )  # fmt: skip
    assert result.probabilities[0].tolist() == row.probabilities
    assert np.flatnonzero(result.used[0]).tolist() == row.used
    assert result.output[0].tolist() == row.output
    assert bool(result.refetched[0]) == row.refetched
    overflows = (row.score_overflows, row.value_overflows, row.output_saturations)
    assert result.overflows == overflows
    return row


@settings(deadline=None, max_examples=150)
@given(
    data=st.data(), keys=st.integers(1, 12), dim=st.sampled_from([1, 3, 8]),
    width=st.sampled_from([1, 2, 9]),
)  # fmt: skip
def test_kernels_equal_plain_integers(data: st.DataObject, keys: int, dim: int, width: int) -> None:
    draw = drawing(data)
    first = draw((keys, dim))
    both = np.clip(first + draw((keys, dim), st.integers(-8, 7)), -2048, 2047)
    compare(
        draw((dim,)), first, both, draw((keys, width)),
        draw((keys,), st.integers(1, 2**fp.MULTIPLIER_BITS)),
        data.draw(st.integers(-10, 90)),
        draw((keys,), st.integers(0, 2**fp.RATIO_BITS)),
        data.draw(st.sampled_from(DATAPATHS + NARROW)),
        data.draw(st.integers(0, 2048)),
        data.draw(st.none() | st.integers(1, keys)),
        data.draw(st.none() | st.just(draw((keys, width)))),
    )  # fmt: skip


numbers = st.sampled_from([-1e9, -40.0, -1e-9, 0.0, 1e-9, 40.0, 1e9]) | st.floats(-60, 60)
caps = st.sampled_from([1e-9, 0.1, 1.0, fp.MAX_SOFTCAP]) | st.floats(0.5, 100)


@settings(deadline=None, max_examples=200)
@given(data=st.data(), keys=st.integers(1, 9), dim=st.sampled_from([1, 8]))
def test_changed_scores_equal_plain_integers(data: st.DataObject, keys: int, dim: int) -> None:
    """Soft caps, biases and sinks, up to scores and shifts that no model has."""
    draw = drawing(data)
    cap, sink = data.draw(st.none() | caps), data.draw(st.none() | numbers)
    bias = data.draw(st.none() | hnp.arrays(np.float64, (keys,), elements=numbers))
    first = draw((keys, dim))
    compare(
        draw((dim,)), first, np.clip(first + 1, -2048, 2047), draw((keys, 3)),
        draw((keys,), st.integers(1, 2**fp.MULTIPLIER_BITS)),
        data.draw(st.integers(-10, 90)),
        draw((keys,), st.integers(0, 2**fp.RATIO_BITS)),
        data.draw(st.sampled_from(DATAPATHS + NARROW)),
        data.draw(st.integers(0, 2048)),
        data.draw(st.none() | st.integers(1, keys)),
        changes=fp.score_changes(cap, sink),
        bias=None if bias is None else fp.score_codes(bias),
    )  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 999), cap=st.none() | st.floats(0.5, 100),
    sink=st.none() | st.floats(-9, 9), biased=st.booleans(), steep=st.floats(0.01, 4.0),
)  # fmt: skip
def test_changed_probabilities_are_those_of_float64(
    seed: int, cap: float | None, sink: float | None, biased: bool, steep: float
) -> None:
    """Within a code and a half of the models' order: cap, then bias, then a sink in the sum."""
    rng, keys, dim = np.random.default_rng(seed), 17, 8
    query, key = rng.integers(-2047, 2048, (1, dim)), rng.integers(-2047, 2048, (keys, dim))
    value = rng.integers(-2047, 2048, (keys, 5))
    added = rng.normal(size=keys) * 3 if biased else None
    multipliers, shift = fp.dequantization(2**-11, np.full(keys, 2**-11), steep)
    found = fp.fixed_point_attention(
        query, key, key, value, np.array([keys]), multipliers=multipliers[None],
        shifts=np.array([shift]), ratios=np.full(keys, 1 << fp.RATIO_BITS),
        datapath=fp.load_datapath(), changes=fp.score_changes(cap, sink),
        bias=None if added is None else fp.score_codes(added)[None],
    )  # fmt: skip
    weights, output = reference.dense(
        query[None] / 2.0**11, key[None] / 2.0**11, value[None], np.ones((1, keys), dtype=bool),
        scale=steep, softcap=cap, bias=added, sinks=None if sink is None else np.array([sink]),
    )  # fmt: skip
    codes_of = weights[0, 0] * fp.PROBABILITY_ONE
    np.testing.assert_allclose(found.probabilities[0], codes_of, atol=0.6)
    assert np.abs(found.output[0] - output[0, 0]).max() < 0.6 * keys + 1


def test_caps_that_the_datapath_does_not_hold_are_refused() -> None:
    with pytest.raises(ConfigError, match="takes caps up to 1024"):
        fp.score_changes(2000.0, None)


@pytest.mark.parametrize("datapath", DATAPATHS + NARROW, ids=lambda p: f"{p.name}-{p.rounding}")
@pytest.mark.parametrize(
    "case", ["equal", "dominant", "largest", "smallest", "zero", "single", "threshold"]
)
def test_adversarial_rows(datapath: fp.Datapath, case: str) -> None:
    keys, dim = (1 if case == "single" else 64), 64
    rng = np.random.default_rng(1)
    query, first = rng.integers(-500, 500, dim), rng.integers(-500, 500, (keys, dim))
    value = rng.integers(-2047, 2048, (keys, dim))
    threshold = 0
    if case in ("equal", "threshold"):
        first[:] = first[0]
        # Each of 64 equal keys has code 2047/64 = 31.98.
        threshold = 31 if datapath.rounding == "floor" else 32
    elif case == "dominant":
        query *= 4
        first[:], first[7] = -query, query
    elif case == "largest":
        query[:], first[:], value[:] = 2047, 2047, 2047
    elif case == "smallest":
        query[:], first[:], value[:] = 2047, -2048, -2048
    elif case == "zero":
        query[:], first[:], value[:] = 0, 0, 0
    both = np.minimum(first + 1, 2047)
    multipliers, shift = fp.dequantization(2**-9, np.full(keys, 2**-9), dim**-0.5)
    ones = np.full(keys, 1 << fp.RATIO_BITS)
    args = (query, first, both, value, multipliers, shift, ones, datapath)
    row = compare(*args, threshold, max(1, keys // 3))
    assert not row.refetched
    if case in ("equal", "largest", "zero", "smallest"):
        assert len(set(row.probabilities)) == 1
        assert row.used == list(range(21)), "ties go to the lower index"
        assert compare(*args, row.probabilities[0] + 1).refetched
    if case == "zero":
        assert not any(row.output)
    if case == "single":
        assert row.probabilities == [fp.PROBABILITY_ONE]
    if datapath.accumulator_bits == 32:
        assert (row.score_overflows, row.value_overflows, row.output_saturations) == (0, 0, 0)
        if case == "single":
            assert row.output == value[0].tolist()
        if case == "dominant":
            assert row.probabilities[7] == fp.PROBABILITY_ONE


def test_saturating_and_wrapping_differ_where_they_should() -> None:
    query, keys = np.full(64, 2047), np.full((2, 64), 2047)
    ones, shift = np.full(2, 1 << fp.RATIO_BITS), 40
    rows = {
        overflow: compare(
            query, keys, keys, keys, np.ones(2, dtype=np.int64), shift, ones,
            replace(fp.DATAPATHS["published"], accumulator_bits=20, overflow=overflow),
        )
        for overflow in ("saturate", "wrap")
    }  # fmt: skip
    assert rows["saturate"].scores == [2**19 - 1] * 2
    assert rows["wrap"].scores == [(2047 * 2047 * 64 + 2**19) % 2**20 - 2**19] * 2
    assert all(row.score_overflows == 2 for row in rows.values())


def test_rtl_reading_keeps_the_top_12_bits_and_wraps() -> None:
    rtl = fp.DATAPATHS["rtl"]
    assert plain.scores_of([2047, -1], [[2047, 1]], rtl) == ([1023 - 1], 0)
    assert plain.scores_of([2047] * 3, [[2047] * 3], rtl) == ([3 * 1023 - 4096], 1)


@given(value=st.integers(-(2**40), 2**40), by=st.integers(1, 2**20), rounding=roundings)
def test_division_rounds_as_named(value: int, by: int, rounding: str) -> None:
    assert plain.divide(value, by, rounding) == _fixed_kernels.divide(
        value, by, fp.ROUNDINGS.index(rounding)
    )
    exact = math.floor if rounding == "floor" else round
    if rounding == "nearest" and 2 * value % (2 * by) == by:
        assert plain.divide(value, by, rounding) == (2 * value + by) // (2 * by)
    elif abs(value) < 2**30:
        assert plain.divide(value, by, rounding) == exact(Fraction(value, by))


@settings(deadline=None)
@given(distance=st.integers(0, 2**56), shift=st.integers(-200, 400), rounding=roundings)
def test_exponential_is_equal_and_near(distance: int, shift: int, rounding: str) -> None:
    code = plain.exponential(distance, shift, rounding)
    assert code == _fixed_kernels.exponential(distance, shift, fp.ROUNDINGS.index(rounding))
    exact = math.exp(-min(math.ldexp(distance, -shift), 700.0))
    assert abs(code / 2**fp.FRACTION_BITS - exact) <= 4e-6 * exact + 8 / 2**fp.FRACTION_BITS


def test_exponential_error_is_what_the_document_says() -> None:
    x = np.linspace(0, 8, 20001)
    got = [plain.exponential(round(v * 2**24), 24, "nearest") for v in x]
    exact = np.exp(-np.round(x * 2**24) / 2**24)
    values = np.array(got) / 2**fp.FRACTION_BITS
    assert np.abs(values - exact).max() == pytest.approx(2.285e-6, rel=1e-3)
    assert np.abs(values / exact - 1)[x < 4].max() == pytest.approx(3.26e-6, rel=1e-2)
    assert got[0] == 1 << fp.FRACTION_BITS


KIVI = [n for n in preset_names("policies") if load_policy(n).quantization.kind == "kivi"]


@pytest.mark.parametrize("name", KIVI)
def test_kivi_is_refused_because_the_datapath_has_one_scale_per_vector(name: str) -> None:
    with pytest.raises(ConfigError, match="kivi"):
        fp.operands(*np.ones((3, 2, 5, 8)), load_policy(name))


# A scale a channel is in the query instead: tests/policies/test_family.py.
CHANNEL = [
    name
    for name in preset_names("policies")
    if getattr(load_policy(name).quantization, "key_scale", None) == "per_channel"
]


@pytest.mark.parametrize("name", [n for n in preset_names("policies") if n not in KIVI + CHANNEL])
def test_operands_stand_for_what_run_policy_computes_with(name: str) -> None:
    policy = load_policy(name)
    rng = np.random.default_rng(0)
    query, key, value = (rng.normal(size=(2, 5, 8)).astype(np.float32) for _ in range(3))
    ops = fp.operands(query, key, value, policy)
    q = policy.quantization
    if q.kind == "progressive":
        first, both = progressive_planes(key, q.msb_bits, q.lsb_bits, q.split, q.scale)
        bits = q.fetched_value_bits
    else:
        first = both = quantize_dequantize(key, q.key_bits, q.scale)
        bits = q.value_bits
    np.testing.assert_allclose(ops.key_first * ops.key_step, first, rtol=1e-14)
    np.testing.assert_allclose(ops.key_both * ops.key_step, both, rtol=1e-14)
    stored = quantize_dequantize(value, bits, q.scale)
    np.testing.assert_allclose(ops.value * ops.value_step, stored, rtol=1e-14)
    fp.check_operands(*ops[:4])


@pytest.mark.parametrize("scale", ["per_tensor", "per_token"])
@pytest.mark.parametrize("rounding", fp.ROUNDINGS)
def test_published_datapath_is_near_float64(scale: str, rounding: str) -> None:
    policy = Policy.model_validate(
        {"quantization": {"kind": "static", "key_bits": 12, "value_bits": 12, "scale": scale}}
    )
    rng = np.random.default_rng(5)
    query, key, value = (rng.normal(size=(1, 40, 64)).astype(np.float32) for _ in range(3))
    value *= rng.uniform(0.1, 3, size=(1, 40, 1)).astype(np.float32)
    ops = fp.operands(query, key, value, policy)
    steps = [np.broadcast_to(s, (1, 40, 1))[0, :, 0] for s in ops[4:7]]
    scaled = [fp.dequantization(float(step), steps[1], 0.125) for step in steps[0]]
    ratios, value_step = fp.value_ratios(steps[2])
    result = fp.fixed_point_attention(
        ops.query[0], ops.key_first[0], ops.key_both[0], ops.value[0], np.full(40, 40),
        multipliers=np.array([m for m, _ in scaled]), shifts=np.array([s for _, s in scaled]),
        ratios=ratios, datapath=fp.load_datapath("published", rounding),
    )  # fmt: skip
    exact = reference.attention(
        query[0], key[0], key[0], value[0], np.ones((40, 40), dtype=bool), scale=0.125
    )
    error = np.linalg.norm(result.output * value_step - exact.output)
    assert error < (0.04 if rounding == "floor" else 0.01) * np.linalg.norm(exact.output)
    off = np.abs(result.probabilities / 2047 - exact.probabilities).max()
    assert off < (1.4 if rounding == "floor" else 0.9) / 2047
    assert result.overflows == (0, 0, 0)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'published'"):
        fp.load_datapath("publishd")
    with pytest.raises(ConfigError, match="rounding 'up'"):
        fp.load_datapath("rtl", "up")
    wide = Policy.model_validate({"quantization": {"kind": "progressive", "msb_bits": 10}})
    with pytest.raises(ConfigError, match="14 bits; the multipliers take 12"):
        fp.operands(*np.zeros((3, 1, 2, 4)), wide)
    with pytest.raises(SimulationError, match="12 signed bits"):
        fp.check_operands(np.full((1, 2), 2048))
    with pytest.raises(SimulationError, match="at most 256"):
        fp.check_operands(np.zeros((1, 257), dtype=np.int64))
    with pytest.raises(SimulationError, match="keys"):
        fp.check_operands(np.zeros((0, 4), dtype=np.int64))
