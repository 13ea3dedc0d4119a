"""Shapes as sources of ``replay``, ``compare`` and ``sweep``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import accelsim
from accelsim.cli import main
from accelsim.errors import AccelsimError
from accelsim.traces import save_trace, synthetic_trace

SHAPE = "shape:smollm2-135m"
KEYS = ("--context", "80", "--decode", "2")


def replay(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    main(["replay", *words, "--json", "-"])
    return json.loads(capsys.readouterr().out)


def test_keys_may_stand_in_the_source_or_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    beside = replay(capsys, SHAPE, *KEYS)
    within = replay(capsys, f"{SHAPE}:context=80,decode=2")
    python = accelsim.replay(SHAPE, context=80, decode=2).to_dict()
    assert beside["metrics"] == within["metrics"] == python["metrics"]
    assert beside["manifest"]["source"] == f"{SHAPE}:context=80,decode=2"
    assert beside["accuracy"] is None
    assert beside["metrics"]["prefill_latency_cycles"] == 0
    assert "a100/measured-kernel" in beside["baselines"]


def test_the_manifest_says_what_was_drawn_and_from_where(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    dense = replay(capsys, SHAPE, *KEYS)["manifest"]["shape"]
    assert dense["drawn"] is None
    main(["replay", SHAPE, *KEYS, "--policy", "spatten-full", "--seed", "5", "--json", "-"])
    out, err = capsys.readouterr()
    full = json.loads(out)["manifest"]["shape"]
    assert (full["context"], full["decode"], full["batch"], full["seed"]) == (80, 2, 1, 5)
    assert full["drawn"]["prefill_tokens"] == 64
    assert 0 < full["drawn"]["accuracy_of_trace"]["kept_mass"] < 1
    assert "drawn from smollm2-64p-32d (64 + 32 tokens), seed 5" in err
    save_trace(synthetic_trace(head_dim=64), tmp_path / "own.safetensors")
    own = replay(
        capsys,
        SHAPE,
        *KEYS,
        "--policy",
        "spatten-full",
        "--like",
        str(tmp_path / "own.safetensors"),
    )
    assert own["manifest"]["shape"]["drawn"]["like_sha256"] != full["drawn"]["like_sha256"]
    assert own["manifest"]["source_sha256"] != json.loads(out)["manifest"]["source_sha256"]


def test_a_context_beyond_the_configuration_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    main(["replay", "shape:gpt2-small", "--context", "1100", "--decode", "1", "--json", "-"])
    assert "1,101 tokens; its configuration goes to 1,024" in capsys.readouterr().err


def test_compare_and_machines_with_a_rule_of_their_own() -> None:
    both = accelsim.compare(SHAPE, ["dense", "static-8"], context=80, decode=2)
    read = [both[name].metrics["dram_read_bytes"] for name in ("dense", "static-8")]
    assert 0.6 < read[1] / read[0] < 0.75
    own = accelsim.replay("shape:gpt2-small", "a3-base", context=64, decode=1)
    assert own.metrics["latency_cycles"] > 0
    with pytest.raises(AccelsimError, match="prunes by its own rule"):
        accelsim.replay("shape:gpt2-small", "a3-base", "spatten-full", context=64, decode=1)


def test_a_batch_is_a_batch_for_the_baselines_too() -> None:
    one, four = (
        accelsim.replay(SHAPE, context=200, decode=1, batch=n, baselines=["h100"]) for n in (1, 4)
    )
    assert four.metrics["dram_read_bytes"] == 4 * one.metrics["dram_read_bytes"]
    times = [r.baselines["h100/measured-kernel"]["latency_s"] for r in (one, four)]
    assert times[0] < times[1] < 2 * times[0]
    bytes_moved = [r.baselines["h100/roofline"]["dram_bytes"] for r in (one, four)]
    assert bytes_moved[1] == 4 * bytes_moved[0]


def test_a_sweep_varies_the_keys(tmp_path: Path) -> None:
    file = tmp_path / "contexts.yaml"
    file.write_text(
        f"""
sources: ["{SHAPE}:context=64,decode=1"]
axes:
  - {{key: source.context, values: [64, 128]}}
  - {{key: source.batch, values: [1, 2]}}
metrics: [latency_s, dram_read_bytes]
"""
    )
    rows = accelsim.sweep(file, tmp_path / "store").rows
    assert [row["status"] for row in rows] == ["ok"] * 4
    read = {(row["source.context"], row["source.batch"]): row["dram_read_bytes"] for row in rows}
    assert read[128, 2] == 2 * read[128, 1] > 2 * read[64, 1]
    alone = accelsim.replay(SHAPE, context=128, decode=1, batch=2).metrics["dram_read_bytes"]
    assert alone == read[128, 2]
    again = accelsim.sweep(file, tmp_path / "store").rows
    assert [r["finished_at_unix_s"] for r in again] == [r["finished_at_unix_s"] for r in rows]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{key: source.contxt, values: [1]}", "did you mean 'context'"),
        ("{key: source.context, values: [0]}", "key 'context'"),
    ],
)
def test_a_sweep_names_what_is_wrong(tmp_path: Path, line: str, problem: str) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(f'sources: ["{SHAPE}:context=64"]\naxes:\n  - {line}\n')
    try:
        rows = accelsim.sweep(file, tmp_path / "store").rows
        message = rows[0]["error"]
    except AccelsimError as error:
        message = str(error)
    assert problem in message


def test_keys_of_a_shape_are_for_shapes(tmp_path: Path) -> None:
    save_trace(synthetic_trace(head_dim=64), tmp_path / "own.safetensors")
    with pytest.raises(AccelsimError, match="context: for shapes only"):
        accelsim.replay(str(tmp_path / "own.safetensors"), context=5)
    file = tmp_path / "mixed.yaml"
    file.write_text("sources: [own.safetensors]\naxes:\n  - {key: source.context, values: [5]}\n")
    with pytest.raises(AccelsimError, match=r"'source\.context': for shapes"):
        accelsim.sweep(file, tmp_path / "store")


@pytest.mark.parametrize(
    "words",
    [
        (SHAPE,),
        ("shape:smolm2", *KEYS),
        (SHAPE, "--context", "0"),
        (SHAPE, "--context", "9", "--batch", "0"),
        (SHAPE, "--context", "9", "--decode", "-1"),
        (SHAPE, "--context", "2000000"),
        (SHAPE, *KEYS, "--policy", "h2o"),
        (SHAPE, *KEYS, "--like", "nothing"),
        ("shape:deepseek-v3", *KEYS),
    ],
)
def test_bad_shapes_end_with_one_line_and_status_2(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["replay", *words])
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, "")
    assert err.count("\n") == 1
    assert len(err) <= 310


def test_a_sample_is_said_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    words = (SHAPE, "--context", "600", "--decode", "30", "--sample", "5%")
    main(["replay", *words])
    out, err = capsys.readouterr()
    assert "rows simulated" in out
    assert "98% interval" in out
    assert "sampled: " in err
    result = accelsim.replay(SHAPE, context=600, decode=30, sample=0.05)
    said = result.manifest["sampled"]
    assert said["rows"] == 2700
    assert said["rows_simulated"] < 1350
    assert set(said["intervals"]) == {
        "latency_cycles", "latency_s", "prefill_latency_cycles", "decode_latency_cycles",
        "dram_read_bytes", "dram_write_bytes", "energy_j",
    }  # fmt: skip
    for name, ends in said["intervals"].items():
        assert ends["low"] <= result.metrics[name] <= ends["high"]
    whole = accelsim.replay(SHAPE, context=600, decode=30)
    assert whole.manifest["sampled"] is None
    assert not any(warning.startswith("sampled") for warning in whole.warnings)
    assert result.metrics["latency_s"] == pytest.approx(whole.metrics["latency_s"], rel=0.03)
    assert result.metrics["decode_latency_cycles"] == result.metrics["latency_cycles"]


def test_what_takes_minutes_is_sampled_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelsim.exploration import _run

    monkeypatch.setattr(_run, "SMALLEST", 1)
    assert accelsim.replay(SHAPE, context=600, decode=30).manifest["sampled"]
    assert not accelsim.replay(SHAPE, context=600, decode=30, sample="off").manifest["sampled"]
    short = accelsim.replay(SHAPE, context=20, decode=1)
    assert short.manifest["sampled"] is None  # half of the rows would be run
    recorded = accelsim.replay(SHAPE, context=600, decode=30, timeline=(0, 100))
    assert recorded.manifest["sampled"] is None
    with pytest.raises(AccelsimError, match="nothing whole to record"):
        accelsim.replay(SHAPE, context=600, decode=30, timeline=(0, 100), sample="2%")


@pytest.mark.parametrize("given", ["0%", "100%", "two", "-1", "1.5", "nan", ""])
def test_samples_are_parts(given: str) -> None:
    with pytest.raises(AccelsimError, match="sample: expected auto, off"):
        accelsim.replay(SHAPE, context=20, decode=1, sample=given)


def test_a_sweep_takes_a_sample(tmp_path: Path) -> None:
    file = tmp_path / "sampled.yaml"
    file.write_text(
        f'sources: ["{SHAPE}:context=600,decode=30"]\nsample: 5%\n'
        "axes:\n  - {key: accelerator.channels, values: [8, 16]}\n"
    )
    for row in accelsim.sweep(file, tmp_path / "store").rows:
        assert row["sampled.rows_simulated"] < row["sampled.rows"] == 2700
        assert row["sampled.intervals.latency_s.low"] < row["latency_s"]
