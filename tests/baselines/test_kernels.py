"""Measured platforms: the fitted kernels, what they must never say, and the rows made of them."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from accelsim.baselines import (
    AttentionShape,
    Call,
    Calls,
    Device,
    Kernel,
    Platform,
    default_baselines,
    evaluate_baselines,
    kernels_of,
)
from accelsim.baselines._kernels import coordinates, fastest_s, load_kernels, physical_s
from accelsim.cli._options import chosen_baselines
from accelsim.configs import config_root, load, preset_names
from accelsim.errors import ConfigError
from accelsim.exploration import replay

MEASURED = {
    "a100": 6, "b200": 9, "h100": 9, "h200": 9, "l40s": 9, "rtx-pro-6000": 9,
}  # fmt: skip
"""Measured platforms and how many framework-kind pairs each has: no encoder on the A100."""
KERNELS = [(n, *key) for n in MEASURED for key in kernels_of(load(Platform, n, "baselines"))]
TOY = Device(100, 40e6, 1e12, 100e12)


def one(
    kind: str, batch: float, tokens: float, heads: tuple[float, float, float], window: float = 0
) -> Calls:
    return Calls(kind, *(np.array([float(v)]) for v in (batch, tokens, *heads, window)))


def kernel(name: str, framework: str, kind: str) -> Kernel:
    return kernels_of(load(Platform, name, "baselines"))[framework, kind]


def drawn(kind: str, count: int, largest_tokens: float = 2**19, seed: int = 0) -> Calls:
    """Calls of every size, also far beyond what was measured; most heads were never seen."""
    random = np.random.default_rng(seed)

    def sizes(largest: float) -> np.ndarray:
        return np.round(2 ** random.uniform(0, math.log2(largest), count))

    kv_heads = sizes(32)
    query_heads = kv_heads * (1 if kind == "encoder" else sizes(16))
    head_dim = random.choice([32, 64, 96, 128, 192, 256], count).astype(float)
    window = random.choice([0, 0, 128, 1024], count).astype(float) * (kind != "encoder")
    return Calls(kind, sizes(4096), sizes(largest_tokens), query_heads, kv_heads, head_dim, window)


def test_every_measured_platform_has_its_kernels() -> None:
    found = [n for n in preset_names("baselines") if load(Platform, n, "baselines").measured_kernel]
    assert found == sorted(MEASURED)
    assert {name: sum(k[0] == name for k in KERNELS) for name in MEASURED} == MEASURED


def test_fitted_devices_are_the_platforms_own(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("scipy")
    pytest.importorskip("pandas")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    fitted = importlib.import_module("fit_gpu_kernels").DEVICES
    assert len(fitted) == len(MEASURED)
    for name in MEASURED:
        measured = load(Platform, name, "baselines").measured_kernel
        assert measured is not None
        assert fitted[measured.system] == kernel(name, "vllm", "decode").device


def test_parameters_are_small() -> None:
    files = list((config_root() / "baselines" / "kernels").iterdir())
    assert sum(path.stat().st_size for path in files) < 2_000_000


def test_work_of_a_call_by_hand() -> None:
    prefill = one("prefill", 2, 5, (8, 2, 64), window=3)
    # Queries see 1, 2, 3, 3 and 3 keys.
    assert prefill.pairs[0] == 12
    assert prefill.flops[0] == 4 * 2 * 8 * 64 * 12
    assert prefill.bytes[0] == 2 * 2 * 64 * (2 * 2 * 5 + 2 * 8 * 5)
    decode = one("decode", 2, 5, (8, 2, 64), window=3)
    assert decode.pairs[0] == 3
    assert decode.bytes[0] == 2 * 2 * 64 * (2 * 2 * 3 + 2 * 8)
    assert one("encoder", 1, 5, (8, 8, 64)).pairs[0] == 25


def test_physical_form_by_hand() -> None:
    # 4-norm of: 2 waves of 1 us; 8.4 MB in L2 at twice half of 1 TB/s; 68.7 MFLOP at 50 TFLOP/s.
    calls = one("decode", 25, 1024, (8, 8, 8 * 16))
    constants = np.array([5e-6, 1e-6, 0.5, 0.5, 1.0, 2.0])
    moved = 2 * 25 * 128 * (2 * 8 * 1024 + 2 * 8)
    missed = 1 / (1 + (40e6 / moved) ** 6)
    memory = moved / 0.5e12 * (missed + (1 - missed) / 2)
    compute = 4 * 25 * 8 * 128 * 1024 / 50e12
    expected = 5e-6 + (2e-6**4 + memory**4 + compute**4) ** 0.25
    assert physical_s(TOY, calls, constants)[0] == pytest.approx(expected, rel=1e-12)


def test_coordinates_by_hand() -> None:
    where = coordinates(TOY, one("decode", 4, 512, (12, 4, 80), window=128), 10e-6)[0]
    assert where[:7] == pytest.approx([2, 7, 9, 1, 2, math.log2(3), math.log2(80)])
    assert where[7:9] == pytest.approx([math.log2(128 / 80), math.log2(4 / 3)])
    assert where[13] == pytest.approx(math.log2(16 / 100))
    # 16, 32, 64 and 128 blocks on 100 multiprocessors: what the last wave rounds up.
    assert where[14:18] == pytest.approx(
        [math.log2(100 / b) for b in (16, 32, 64)] + [math.log2(200 / 128)]
    )
    assert where[18] == 1


@pytest.mark.parametrize(("name", "framework", "kind"), KERNELS)
def test_no_call_is_faster_than_the_machine(name: str, framework: str, kind: str) -> None:
    model, calls = kernel(name, framework, kind), drawn(kind, 2000)
    seconds = model.seconds(calls)
    assert np.isfinite(seconds).all()
    assert (seconds >= model.constants[0]).all()
    assert (seconds >= calls.flops / model.device.peak_flop_per_s).all()
    assert (seconds >= fastest_s(model.device, calls, model.constants[0])).all()
    low, high = model.interval(calls, seconds)
    assert ((low > 0) & (low <= seconds) & (seconds <= high)).all()
    assert (high > low).all()


@pytest.mark.parametrize(("name", "framework", "kind"), KERNELS)
@pytest.mark.parametrize("size", ["batch", "tokens"])
def test_more_work_is_not_faster(name: str, framework: str, kind: str, size: str) -> None:
    # Real kernels switch tiles and splits, so a doubling may gain a little; not more than that.
    model, calls = kernel(name, framework, kind), drawn(kind, 2000)
    twice = replace(calls, **{size: 2 * getattr(calls, size)})
    growth = model.seconds(twice) / model.seconds(calls)
    assert growth[~model.outside(twice)].min(initial=1) > 0.75
    assert np.quantile(growth, 0.01) > 0.85
    assert growth.min() > 0.4  # head size 32 at the edge of L2, far from anything measured


@pytest.mark.parametrize(("name", "framework", "kind"), KERNELS)
def test_far_outside_the_physical_form_remains(name: str, framework: str, kind: str) -> None:
    model = kernel(name, framework, kind)
    calls = one(kind, 16, 2**22, (8, 8, 128))
    growth = model.seconds(replace(calls, tokens=2 * calls.tokens)) / model.seconds(calls)
    assert growth[0] == pytest.approx(2 if kind == "decode" else 4, rel=0.02)
    assert model.outside(calls).all()


def test_outside_the_interval_is_wider() -> None:
    model = kernel("a100", "vllm", "decode")
    inside, outside = one("decode", 8, 4096, (32, 8, 128)), one("decode", 8, 4096, (32, 8, 64))
    assert not model.outside(inside)[0]
    assert model.outside(outside)[0]
    widths = []
    for calls in (inside, outside):
        low, high = model.interval(calls, np.array([50e-6]))
        widths.append(high[0] / low[0])
    assert widths[1] == pytest.approx(1.25**2 * widths[0])


@pytest.mark.parametrize(("name", "framework", "kind"), KERNELS[:2])
def test_correction_is_the_network_written_out(name: str, framework: str, kind: str) -> None:
    model, calls = kernel(name, framework, kind), drawn(kind, 20)
    for row, expected in zip(model.scaled(calls), model.correction(calls), strict=True):
        values = list(row)
        for index, (weight, bias) in enumerate(model.layers):
            values = [
                sum(w * v for w, v in zip(line, values, strict=True)) + b
                for line, b in zip(weight, bias, strict=True)
            ]
            if index < 2:
                values = [v / (1 + math.exp(-v)) for v in values]
        assert expected == pytest.approx(min(max(values[0], model.limits[0]), model.limits[1]))


def test_a_damaged_parameter_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELSIM_CONFIGS", str(tmp_path))
    folder = tmp_path / "baselines" / "kernels"
    folder.mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"toy\.npz: cannot be read as fitted kernels"):
        load_kernels("toy", TOY)
    (folder / "toy.npz").write_bytes(b"not a zip file")
    with pytest.raises(ConfigError, match="cannot be read as fitted kernels"):
        load_kernels("toy", TOY)
    np.savez(folder / "toy.npz", **{"vllm.decode.low": np.zeros(3)})
    with pytest.raises(ConfigError, match="is missing"):
        load_kernels("toy", TOY)


# ------------------------------------------------------------------ rows of a platform

GENERATION = AttentionShape(tuple(Call(12, 1, n, True) for n in range(65, 97)), 12, 12, 64)


def test_a_measured_row_is_the_sum_of_its_calls() -> None:
    shape = AttentionShape((Call(3, 700, 700, True), Call(5, 1, 701, True)), 32, 8, 128)
    row = evaluate_baselines(shape, ["h200"])["h200/measured-kernel"]
    framework = row["framework"].split()[0]
    prefill = kernel("h200", framework, "prefill").seconds(one("prefill", 1, 700, (32, 8, 128)))[0]
    decode = kernel("h200", framework, "decode").seconds(one("decode", 1, 701, (32, 8, 128)))[0]
    assert row["latency_s"] == pytest.approx(3 * prefill + 5 * decode)
    assert row["latency_low_s"] < row["latency_s"] < row["latency_high_s"]
    assert row["energy_low_j"] < row["energy_j"] < row["energy_high_j"]
    assert row["dram_bytes"] == shape.bytes_moved(2)
    assert row["kind"] == "measured-kernel"


def test_the_fastest_framework_is_taken() -> None:
    row = evaluate_baselines(GENERATION, ["h100"])["h100/measured-kernel"]
    times = {}
    for framework in ("vllm", "trtllm", "sglang"):
        model = kernel("h100", framework, "decode")
        calls, counts = GENERATION.to_calls()
        if not model.outside(calls[0]).any():
            times[framework] = float(model.seconds(calls[0]) @ counts[0])
    assert row["framework"].split()[0] == min(times, key=lambda name: times[name])
    assert row["latency_s"] == pytest.approx(min(times.values()))
    assert not row["extrapolated"]


def test_a_short_call_draws_less_than_the_limit() -> None:
    row = evaluate_baselines(GENERATION, ["h200"])["h200/measured-kernel"]
    assert row["energy_with_idle_j"] / row["latency_s"] < 0.5 * 700
    assert row["energy_j"] == pytest.approx(row["energy_with_idle_j"] - 116 * row["latency_s"])


def test_no_encoder_was_measured_on_the_a100() -> None:
    bert = AttentionShape((Call(12, 128, 128, False),), 12, 12, 64)
    assert set(evaluate_baselines(bert, ["a100", "h100"])) == {
        "a100/roofline", "h100/measured-kernel", "h100/roofline",
    }  # fmt: skip
    row = evaluate_baselines(GENERATION, ["a100"])["a100/measured-kernel"]
    assert row["extrapolated"]  # only head size 128 was measured


def test_queries_on_a_context_count_as_a_prefill_of_their_pairs() -> None:
    shape = AttentionShape((Call(1, 100, 1000, True),), 8, 8, 64)
    (calls,), (counts,) = shape.to_calls()
    assert calls.kind == "prefill"
    assert calls.pairs[0] == pytest.approx(100 * 950.5, rel=0.01)
    assert counts.tolist() == [1]


def test_each_call_of_a_roofline_has_its_own_bound() -> None:
    # A prefill bound by arithmetic and a decode bound by memory do not share one maximum.
    prefill, decode = Call(2, 4096, 4096, True), Call(7, 1, 4097, True)
    parts = [
        evaluate_baselines(AttentionShape((c,), 8, 8, 64), ["rtx-4090"])["rtx-4090/roofline"]
        for c in (prefill, decode)
    ]
    whole = evaluate_baselines(AttentionShape((prefill, decode), 8, 8, 64), ["rtx-4090"])
    row = whole["rtx-4090/roofline"]
    assert row["latency_s"] == pytest.approx(sum(p["latency_s"] for p in parts))
    assert row["dram_bytes"] == sum(p["dram_bytes"] for p in parts)
    assert set(whole) == {"rtx-4090/roofline"}


def test_guessed_platforms_only_on_request() -> None:
    assert {"jetson-nano"} == set(default_baselines(True)) - set(default_baselines())
    names = {row.split("/")[0] for row in evaluate_baselines(GENERATION)}
    assert names == set(default_baselines())
    assert "jetson-nano/framework-2020" in evaluate_baselines(GENERATION, ["jetson-nano"])


def test_the_option_guessed_adds_the_guessed_ones() -> None:
    assert chosen_baselines((), False) is None
    assert chosen_baselines(("h100",), False) == ["h100"]
    assert chosen_baselines(("h100",), True) == ["h100", "jetson-nano"]
    assert chosen_baselines((), True) == default_baselines(guessed=True)


def test_ratios_of_a_measured_kernel_have_ends() -> None:
    trace = Path(__file__).parents[2] / "traces" / "minilm-128.safetensors"
    rows = replay(trace, baselines=["h100"]).baselines
    measured, roofline = rows["h100/measured-kernel"], rows["h100/roofline"]
    for ratio in ("speedup", "energy_ratio"):
        assert measured[f"{ratio}_low"] < measured[ratio] < measured[f"{ratio}_high"]
        assert roofline[f"{ratio}_low"] is roofline[f"{ratio}_high"] is None
    wide = measured["latency_high_s"] / measured["latency_s"]
    assert measured["speedup_high"] / measured["speedup"] == pytest.approx(wide)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("to_s: 10e-6, low_w: 144", "to_s: 50e-6, low_w: 144", "to_s must grow"),
        ("kind: decode, low_w: 689", "kind: decode, to_s: 1, low_w: 689", "the last has none"),
        ("multiprocessors: 132", "multiprocessors: 0", "multiprocessors"),
    ],
)
def test_wrong_measured_platforms(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (config_root() / "baselines" / "h100.yaml").read_text()
    assert old in text
    (tmp_path / "x.yaml").write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        evaluate_baselines(GENERATION, [str(tmp_path / "x.yaml")])
