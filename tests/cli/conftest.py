"""What tests of verbs share: a way to run one, and small input."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from accelsim.cli import main
from accelsim.traces import save_trace, synthetic_trace
from accelsim.workloads import Workload, write_parquet


@dataclass(frozen=True)
class Done:
    """What a verb left: its status, and what it printed."""

    status: int
    out: str
    err: str

    def document(self, schema: str | None = None) -> dict[str, Any]:
        """All of standard output as one JSON document without NaN."""

        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} in JSON")

        document: dict[str, Any] = json.loads(self.out, parse_constant=refuse)
        if schema is not None:
            assert document["schema"] == schema
        return document


@pytest.fixture
def accelsim(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run a verb as the command line does; a refusal is one line and status 2."""

    def run(*words: str | Path, status: int = 0) -> Done:
        capsys.readouterr()
        found = 0
        try:
            main([str(word) for word in words])
        except SystemExit as stop:
            found = int(stop.code or 0)
        done = Done(found, *capsys.readouterr())
        assert done.status == status, done.err
        if status == 2:
            assert done.err.startswith("error: ")
            assert done.err.count("\n") == 1
            assert len(done.err) <= 310
            assert done.out == ""
        return done

    return run


@pytest.fixture(scope="session")
def tiny_trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace of two layers whose vectors every accelerator takes."""
    path = tmp_path_factory.mktemp("cli") / "tiny.safetensors"
    save_trace(synthetic_trace(seed=3, head_dim=64), path)
    return path


@pytest.fixture(scope="session")
def tiny_workload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight rows that prune, with an LSB pass each."""
    path = tmp_path_factory.mktemp("cli") / "stream.parquet"
    rows = {"keys": [200] * 8, "values": [64] * 8, "key_bits": [8] * 8, "value_bits": [8] * 8}
    extra = {"refetch_lsb": [True] * 8, "key_lsb_bits": [4] * 8}
    write_parquet(Workload.from_columns({**rows, **extra}, name="stream"), path)
    return path
