"""Faults of the machine are not the point's; what Linux alone has is not needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from accelsim import load_results, sweep
from accelsim.cli import main
from accelsim.errors import AccelsimError, MachineError
from accelsim.exploration import _search, executors, point

ROOT = Path(__file__).parents[2]


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    lines = (ROOT / "traces/spatten-gpt2/small.csv").read_text().splitlines()[:3]
    (tmp_path / "w.csv").write_text("\n".join(lines))
    path = tmp_path / "s.yaml"
    path.write_text(
        "sources: [w.csv]\naxes:\n  - {key: accelerator.multipliers, values: [512, 1024]}\n"
    )
    return path


@pytest.mark.parametrize(
    "fault",
    [OSError(28, "No space left on device"), EOFError("Ran out of input"), ImportError("x")],
)
def test_a_fault_of_the_machine_is_no_row(
    sweep_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr(point, "run", fail)
        with pytest.raises(MachineError, match="goes on from its store"):
            sweep(sweep_file, out=tmp_path / "S")
    rows = sweep(sweep_file, out=tmp_path / "S").rows
    assert [row["status"] for row in rows] == ["ok", "ok"]
    assert len(load_results(tmp_path / "S").rows) == 2


def test_cores_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    assert executors.available_cores() == os.cpu_count()


def test_processes_are_told_without_proc() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert _search._runs(str(child.pid))
    child.communicate(b"\n")
    assert not _search._runs(str(child.pid))
    assert not _search._runs("")
    assert _search._runs("1")


@pytest.mark.parametrize("address", ["tls://127.0.0.1:1", "ucx://127.0.0.1:1", "what://x", "::::"])
def test_a_scheduler_that_cannot_be_reached_is_one_line(
    sweep_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    pytest.importorskip("distributed")
    with pytest.raises(SystemExit) as end:
        main(["sweep", str(sweep_file), "--out", str(tmp_path / "S"),
              "--executor", "dask", "--scheduler", address])  # fmt: skip
    assert end.value.code == 2
    assert capsys.readouterr().err.strip().count("\n") == 0
    with pytest.raises(AccelsimError, match="no workers"):
        executors.DaskExecutor(address)
