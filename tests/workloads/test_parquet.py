"""Parquet keeps every column and index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from accelsim.errors import WorkloadError
from accelsim.workloads import COLUMNS, Workload, read_parquet, write_parquet


def test_round_trip(tmp_path: Path) -> None:
    workload = Workload.from_columns(
        {"keys": [3, 2], "values": [2, 2], "key_bits": [8, 8], "value_bits": [8, 8]},
        head_dim=32,
        name="tiny",
    )
    workload = Workload(
        workload.columns,
        32,
        "tiny",
        (np.array([0, 4, 9], np.int32), np.array([1, 2], np.int32)),
        (np.array([0, 4], np.int32), np.array([1, 2], np.int32)),
    )
    write_parquet(workload, tmp_path / "w.parquet")
    again = read_parquet(tmp_path / "w.parquet")
    assert again.head_dim == 32
    assert again.key_indices is not None
    assert again.key_indices[0].tolist() == [0, 4, 9]
    for name in COLUMNS:
        np.testing.assert_array_equal(again[name], workload[name])


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(WorkloadError, match="Parquet"):
        read_parquet(tmp_path / "x.parquet")
