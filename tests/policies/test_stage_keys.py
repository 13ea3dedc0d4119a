"""Dotted keys reach into stages: one run, ablations of a policy, sweeps and searches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from accelsim.cli import main
from accelsim.errors import AccelsimError
from accelsim.exploration import replay, search, sweep
from accelsim.functional import run_policy
from accelsim.policies import load_policy_spec
from accelsim.traces import save_trace, synthetic_trace

TRACE = synthetic_trace(head_dim=64)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    save_trace(TRACE, tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


def fraction(spec: str) -> float:
    return float(run_policy(TRACE, load_policy_spec(spec)).accuracy["lsb_refetch_fraction"])


def test_set_and_policy_reach_into_a_stage(trace: Path, tmp_path: Path) -> None:
    spec = "progressive-8-4:decode.quantization.threshold=0.5"
    by_set = replay(
        trace, policy="progressive-8-4", baselines=[],
        overrides={"policy.decode.quantization.threshold": 0.5},
    )  # fmt: skip
    assert by_set.accuracy is not None
    assert by_set.accuracy["lsb_refetch_fraction"] == fraction(spec)
    assert fraction(spec) > fraction("progressive-8-4")
    result = tmp_path / "r.json"
    asked = "policy.decode.quantization.threshold=0.5"
    main(["replay", str(trace), "--policy", "progressive-8-4", "--set", asked,
          "--json", str(result), "--out", str(tmp_path / "o")])  # fmt: skip
    record = json.loads(result.read_text())
    assert record["accuracy"]["lsb_refetch_fraction"] == fraction(spec)


def test_a_stage_is_an_axis(trace: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "sources: [tiny.safetensors]\npolicy: spatten-full\naxes:\n"
        "  - {key: policy.decode.quantization.threshold, values: [0.0, 0.5]}\n"
        "  - {key: policy.prefill.values, values: [none, {keep: 0.5}]}\n"
    )
    rows = sweep(path, tmp_path / "store").rows
    assert [row["status"] for row in rows] == ["ok"] * 4
    assert len({row["accuracy.lsb_refetch_fraction"] for row in rows}) == 2
    assert len({row["accuracy.kept_value_fraction"] for row in rows}) == 2
    path.write_text(
        "sources: [tiny.safetensors]\npolicy: spatten-full\naxes:\n"
        "  - {key: policy.decoding.values.keep, values: [0.5]}\n"
    )
    with pytest.raises(AccelsimError, match="did you mean 'decode'"):
        sweep(path, tmp_path / "other")


def test_a_stage_is_searched(trace: Path, tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(
        "kind: search\nsources: [tiny.safetensors]\npolicy: spatten-full\ntrials: 3\n"
        "set: {policy.tokens.protect.recent: 2, policy.tokens.protect.first: 0}\naxes:\n"
        "  - {key: policy.prefill.tokens.mean_keep, range: {from: 0.3, to: 0.9}}\n"
        "metrics: {latency_s: minimize, accuracy.relative_output_error: minimize}\n"
    )
    rows = search(path, tmp_path / "s").rows
    assert len({row["accuracy.kept_token_fraction"] for row in rows}) > 1
