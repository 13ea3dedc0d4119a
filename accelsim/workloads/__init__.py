"""Workloads: the table of requests that functional models write and hardware reads."""

from accelsim.workloads._bytes import SERVICES, read_bits
from accelsim.workloads._csv import CSV_COLUMNS, read_csv, write_csv
from accelsim.workloads._parquet import read_parquet, write_parquet
from accelsim.workloads._rival import undecided
from accelsim.workloads._table import COLUMNS, CacheShape, LayerShape, RivalWorkload, Workload
from accelsim.workloads.benchmarks import (
    Benchmark,
    benchmark_names,
    benchmark_path,
    load_benchmark,
    quick_select_work,
    read_benchmark,
    synthesize,
)
from accelsim.workloads.queries import BEAT, QueryTable

__all__ = [
    "BEAT",
    "COLUMNS",
    "CSV_COLUMNS",
    "SERVICES",
    "Benchmark",
    "CacheShape",
    "LayerShape",
    "QueryTable",
    "RivalWorkload",
    "Workload",
    "benchmark_names",
    "benchmark_path",
    "load_benchmark",
    "quick_select_work",
    "read_benchmark",
    "read_bits",
    "read_csv",
    "read_parquet",
    "synthesize",
    "undecided",
    "write_csv",
    "write_parquet",
]
