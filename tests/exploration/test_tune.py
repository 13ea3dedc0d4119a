"""Tuning keeps its limit, is deterministic, saves what it says, and refuses senseless limits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from accelsim.cli import main
from accelsim.errors import ConfigError, TraceError
from accelsim.exploration import tune
from accelsim.functional import run_policy
from accelsim.policies import Policy, load_policy
from accelsim.traces import load_trace, save_trace, synthetic_trace
from accelsim.workloads import read_parquet, write_parquet


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    trace = synthetic_trace(
        seed=1, num_layers=4, num_query_heads=4, num_kv_heads=2, head_dim=16, prefill_tokens=48,
        decode_tokens=8,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("tune") / "t.safetensors"
    save_trace(trace, path)
    return str(path)


def test_limit_holds_and_file_says_the_same(source: str, tmp_path: Path) -> None:
    out, report = tmp_path / "tuned.yaml", tmp_path / "tuned.json"
    main(["tune", source, "--max-loss", "5%", "--out", str(out), "--json", str(report)])
    policy, found = load_policy(str(out)), json.loads(report.read_text())
    run = run_policy(load_trace(source), policy)
    assert run.accuracy["relative_output_error"] == pytest.approx(found["loss"])
    assert 0 < found["loss"] <= 0.05
    before, after = (found[k]["metrics"] for k in ("before", "after"))
    assert after["dram_read_bytes"] < 0.8 * before["dram_read_bytes"]
    assert after["policy_read_bytes"] == sum(run.workload.policy_bytes().values())
    again = tune(source, 0.05)
    assert again.to_yaml() == out.read_text()
    assert yaml.safe_load(out.read_text())["source"].startswith("accelsim tune")
    assert tune(source, 0.2).after.metrics["dram_read_bytes"] < after["dram_read_bytes"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-loss", "0"], "expected more than 0"),
        (["--max-loss", "120%"], "less than 1"),
        (["--max-loss", "nan"], "expected more than 0"),
        (["--max-loss", "one"], "expected a number"),
        (["--max-loss", "0.0001%"], "already loses"),
        (["--max-loss", "5%", "--layers-per-group", "9"], "expected 1 to 4"),
        (["--max-loss", "-1%"], "expected more than 0"),
        (["--max-loss", "5%", "--minimize", "energy"], "--minimize goes with a model"),
        (["--max-loss", "5%", "--text", "shipped"], "--text goes with a model"),
        (["--max-loss", "5%", "--accelerator", "a3-base"], "expected an attention trace"),
    ],
)
def test_errors(
    source: str,
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "no.yaml"
    with pytest.raises(SystemExit) as caught:
        main(["tune", source, *arguments, "--out", str(out)])
    assert caught.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def test_widths_and_ratios_by_layer_reach_the_workload(source: str, tmp_path: Path) -> None:
    trace = load_trace(source)
    policy = Policy.model_validate(
        {
            "tokens": {"keep_by_layer": [1, 0.5, 0.5, 0.25], "protect": {"first": 1, "recent": 2}},
            "values": {"keep_by_layer": [1, 1, 0.5, 0.5]},
            "quantization": {"kind": "static", "key_bits_by_layer": [12, 8, 8, 4]},
        }
    )
    w = run_policy(trace, policy).workload
    last = w["step"] == 8
    for layer, (keep, bits) in enumerate([(1, 12), (0.5, 8), (0.5, 8), (0.25, 4)]):
        rows = last & (w["layer"] == layer)
        assert (w["key_bits"][rows] == bits).all()
        assert (w["value_bits"][rows] == 12).all()
        assert (w["keys"][rows] <= -(-keep * 56 // 1)).all()
    assert (w["values"] == w["keys"])[w["layer"] < 2].all()
    assert (w["query_values"] < w["query_keys"])[w["layer"] >= 2].all()
    write_parquet(w, tmp_path / "w.parquet")
    again = read_parquet(tmp_path / "w.parquet")
    assert all((again[c] == w[c]).all() for c in w.columns)
    with pytest.raises(TraceError, match="has 3 entries; expected 4"):
        run_policy(trace, Policy.model_validate({"values": {"keep_by_layer": [1, 1, 1]}}))
    selecting = Policy.model_validate(
        {
            "selection": {"kind": "h2o", "budget_tokens": 16},
            "quantization": {"kind": "static", "value_bits_by_layer": [12, 6, 6, 6]},
        }
    )
    w = run_policy(trace, selecting).workload
    assert (w["value_bits"] == 6).tolist() == (w["layer"] > 0).tolist()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"tokens": {}}, "mean_keep"),
        ({"tokens": {"mean_keep": 0.5, "keep_by_layer": [1]}}, "mean_keep"),
        ({"tokens": {"slope": 0.5, "keep_by_layer": [1]}}, "slope"),
        ({"tokens": {"keep_by_layer": [0]}}, "greater than 0"),
        ({"values": {}}, "give one of"),
        ({"quantization": {"kind": "static", "key_bits_by_layer": [5]}}, "4, 6, 8, 10 or 12"),
    ],
)
def test_lists_are_checked(data: dict[str, object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match=r"p\.yaml") as caught:
        load_policy(str(path))
    assert message in str(caught.value)
