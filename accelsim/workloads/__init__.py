"""Workloads: the table of requests that functional models write and hardware reads."""

from accelsim.workloads._csv import CSV_COLUMNS, read_csv, write_csv
from accelsim.workloads._parquet import read_parquet, write_parquet
from accelsim.workloads._table import COLUMNS, Workload

__all__ = [
    "COLUMNS",
    "CSV_COLUMNS",
    "Workload",
    "read_csv",
    "read_parquet",
    "write_csv",
    "write_parquet",
]
