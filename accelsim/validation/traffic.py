"""DRAM bytes of the released workloads against our record of the RTL's rules.

``data/traffic.csv`` holds what the rules of docs/accelerators/spatten.md (widths, pairs of 6-bit
heads, forced LSB passes, rounding) give for each released file: by tensor at rounding 8, in total
at rounding 32. The smallest file is also run, and the bytes that its read bursts move are compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from accelsim import configs
from accelsim.exploration import Runner
from accelsim.files import shipped
from accelsim.hardware.activity import Activity
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.machines.spatten_rtl.config import SpattenRtlConfig
from accelsim.validation._base import DATA, Bar, Case, Failure, Options, Report, worst_error
from accelsim.validation._table import CaseFileError, Line, read_lines
from accelsim.workloads import read_csv

TAKES = ("cases",)
_RECORD = DATA / "traffic.csv"
_MACHINES = {8: "spatten-rtl-eighth", 32: "spatten-rtl"}
"""Rounding to the machine that the test bench uses it for (specification section 6.2)."""
_RUN = "small.csv"
_TENSORS = ("key_msb", "key_lsb", "value")


def run(options: Options) -> Report:
    """Compare all recorded files of a folder; see :func:`accelsim.validation.validate`.

    Raises:
        CaseFileError: none of the released files is there.
        WorkloadError: a file that cannot be used.
    """
    folder = options.cases or shipped("traces/spatten-gpt2")
    record = read_lines(_RECORD, ("file", "rounding", "total_bytes"))
    chosen = [line for line in record if (folder / line["file"]).is_file()]
    if not chosen:
        names = ", ".join(dict.fromkeys(line["file"] for line in record))
        hint = "" if options.cases else "; pass the folder that holds them with --cases"
        raise CaseFileError(f"{folder}: none of the released workload files ({names}){hint}")
    cases: list[Case] = []
    failed: list[Failure] = []
    for number, line in enumerate(chosen, start=1):
        name = f"{line['file'].removesuffix('.csv')}/rounding-{line['rounding']}"
        options.on_case(number, len(chosen), name)
        cases.extend(_counted(folder, line, name))
        if line["file"] == _RUN:
            _simulated(folder, line, name, options.engine, cases, failed)
    return Report(
        "traffic", options.engine, "bytes", cases, failed, [Bar("worst", worst_error(cases), 0.0)]
    )


def _counted(folder: Path, line: Line, name: str) -> Iterator[Case]:
    """Bytes that the request table of the machine asks for, without running it."""
    from accelsim.hardware.machines.spatten_rtl.counts import count_requests
    from accelsim.hardware.machines.spatten_rtl.requests import requests

    workload, config = read_csv(folder / line["file"]), _machine(line)
    activity = Activity(0, config.frequency_hz)
    count_requests(activity, workload, requests(workload, config))
    moved = activity.dram_read_bytes
    for tensor in _TENSORS:
        expected = line.optional_integer(f"{tensor}_bytes")
        if expected is not None:
            yield Case(f"{name}/{tensor}", expected, moved[tensor], workload.rows)
    yield Case(f"{name}/total", line.integer("total_bytes"), sum(moved.values()), workload.rows)


def _simulated(
    folder: Path, line: Line, name: str, engine: str, cases: list[Case], failed: list[Failure]
) -> None:
    """Bytes of the read bursts of a run."""
    config = _machine(line)
    memory = configs.load(MemoryConfig, config.memory, "memories")
    workload = read_csv(folder / line["file"])
    try:
        run = Runner().replay(workload, config, engine)
    except Exception as error:  # A model that breaks on a case has failed that case.
        failed.append(Failure(f"{name}/run", f"{type(error).__name__}: {error}"))
        return
    activity = run.activity
    moved = activity.counters["dram_reads"] * memory.transaction_bytes
    expected = line.integer("total_bytes")
    cases.append(Case(f"{name}/run", expected, moved, workload.rows))
    if sum(activity.dram_read_bytes.values()) != moved:
        failed.append(Failure(f"{name}/run", "bytes by tensor do not add up to the read bursts"))


def _machine(line: Line) -> SpattenRtlConfig:
    return configs.load(SpattenRtlConfig, _MACHINES[line.integer("rounding")], "accelerators")
