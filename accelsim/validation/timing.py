"""Cycles against the authors' RTL: every row of a case file, on either engine.

A case file has the columns of ``data/rtl/cases.csv``: ``workload`` is relative to the file, and the
others are the parameters of the released test bench (docs/accelerators/spatten.md). The cycle
engine is also held to the files beside it, where there are any: ``requests.csv``
(``id,request,completion_cycle``) and the log of DRAM requests (``_dram_log``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydantic

from accelsim import configs
from accelsim.errors import ConfigError, WorkloadError
from accelsim.exploration import Runner
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.machines.spatten_rtl.config import SpattenRtlConfig, TopKConfig
from accelsim.validation._base import (
    DATA,
    Bar,
    Case,
    Failure,
    OnCase,
    Options,
    Report,
    Tally,
    event_bars,
    silent,
    worst_error,
)
from accelsim.validation._dram_log import FILE as LOG_FILE
from accelsim.validation._dram_log import Log, agreeing, read_logs, simulated_log
from accelsim.validation._table import Line, read_lines
from accelsim.workloads import Workload, read_csv

TAKES = ("cases",)
SHIPPED = DATA / "rtl" / "cases.csv"
COLUMNS = (
    "id",
    "workload",
    "iteration",
    "multipliers",
    "buffer_lines",
    "topk_parallelism",
    "bandwidth_divisor",
    "rounding",
    "reference_cycles",
)
"""Columns that a case file must have; ``requests`` and ``dram_reads`` are checked if present."""

REQUESTS = "requests.csv"
REQUEST_COLUMNS = ("id", "request", "completion_cycle")

_FULL_CHANNELS, _FULL_FETCH_CHANNELS = 16, 32
"""DRAM and fetcher channels at bandwidth divisor 1 (specification section 2.1)."""


@dataclass(frozen=True)
class TimingCase:
    """A row of a case file, ready to run."""

    id: str
    where: str
    workload: Workload
    config: SpattenRtlConfig
    reference_cycles: int
    dram_reads: int | None


@dataclass(frozen=True)
class Details:
    """What is known of cases beyond their totals.

    Attributes:
        completions: by case, the cycle of each response by request.
        logs: by case, every DRAM request.
    """

    completions: Mapping[str, Mapping[int, int]]
    logs: Mapping[str, Log]


NO_DETAILS = Details({}, {})


def run(options: Options) -> Report:
    """Run all cases; see :func:`accelsim.validation.validate`."""
    path = options.cases or SHIPPED
    details = read_details(path.parent) if options.engine == "cycle" else NO_DETAILS
    return run_cases(read_cases(path), options.engine, options.on_case, details)


def run_cases(
    cases: list[TimingCase],
    engine: str,
    on_case: OnCase = silent,
    details: Details = NO_DETAILS,
) -> Report:
    """Run cases on one engine.

    Raises:
        WorkloadError, ConfigError: a case that the machine refuses, with file and line.
    """
    memory = configs.load(MemoryConfig, SpattenRtlConfig.model_fields["memory"].default, "memories")
    runner, results, failed = Runner(), [], []
    completions, events = Tally("completion cycles"), Tally("events of the DRAM log")
    for number, case in enumerate(cases, start=1):
        on_case(number, len(cases), case.id)
        try:
            run = runner.replay(case.workload, case.config, engine)
            activity = run.activity
        except (WorkloadError, ConfigError) as error:
            raise type(error)(f"{case.where}: {error}") from None
        except Exception as error:  # A model that breaks on a case has failed that case.
            failed.append(Failure(case.id, f"{type(error).__name__}: {error}"))
            continue
        results.append(Case(case.id, case.reference_cycles, activity.cycles, case.workload.rows))
        reads = activity.counters.get("dram_reads", 0)
        if case.dram_reads is not None and reads != case.dram_reads:
            failed.append(Failure(case.id, f"{reads} DRAM reads; the RTL makes {case.dram_reads}"))
        if case.id in details.completions:
            failed += _compare_completions(
                case, details.completions[case.id], activity.completion_cycles, completions
            )
        if case.id in details.logs:
            failed += _compare_log(case, details.logs[case.id], memory, events)
    bars = [Bar("worst", worst_error(results), 0.0)] if engine == "cycle" else event_bars(results)
    tallies = [tally for tally in (completions, events) if tally.total]
    return Report("timing", engine, "cycles", results, failed, bars, tallies)


def _compare_completions(
    case: TimingCase, reference: Mapping[int, int], ours: Sequence[int], tally: Tally
) -> list[Failure]:
    wrong = [
        request
        for request, cycle in reference.items()
        if request >= len(ours) or ours[request] != cycle
    ]
    tally.total += len(reference)
    tally.exact += len(reference) - len(wrong)
    tally.cases += 1
    if not wrong:
        return []
    first = min(wrong)
    if first >= len(ours):
        text = f"request {first} of {REQUESTS} is not in the workload"
    else:
        text = (
            f"{len(wrong)} of {len(reference)} completion cycles differ; the first is request "
            f"{first}: {ours[first]}, in the RTL {reference[first]}"
        )
    return [Failure(case.id, text)]


def _compare_log(
    case: TimingCase, reference: Log, memory: MemoryConfig, tally: Tally
) -> list[Failure]:
    total = sum(map(len, reference.values()))
    if len(reference) > case.config.channels:
        return [Failure(case.id, f"the DRAM log has {len(reference)} channels")]
    same = agreeing(reference, simulated_log(case.workload, case.config, memory))
    tally.total += total
    tally.exact += same
    tally.cases += 1
    if same == total:
        return []
    return [Failure(case.id, f"{total - same} of {total} events of the DRAM log are not ours")]


def read_details(folder: Path) -> Details:
    """Read completion cycles and DRAM logs beside a case file, where there are any.

    Raises:
        CaseFileError: with file, line and column.
    """
    completions: dict[str, dict[int, int]] = {}
    if (folder / REQUESTS).is_file():
        for line in read_lines(folder / REQUESTS, REQUEST_COLUMNS):
            of_case = completions.setdefault(line["id"], {})
            of_case[line.integer("request", 0)] = line.integer("completion_cycle")
    log = folder / LOG_FILE
    return Details(completions, read_logs(log) if log.is_file() else {})


def read_cases(path: Path) -> list[TimingCase]:
    """Read a case file and the workloads that it names.

    Raises:
        CaseFileError: with file, line and column.
        WorkloadError: a workload file that cannot be used.
    """
    lines = read_lines(path, COLUMNS)
    seen: set[str] = set()
    for line in lines:
        if line["id"] in seen:
            raise line.error(f"column 'id': '{line['id']}' appears twice")
        seen.add(line["id"])
    return [_case(line, path.parent) for line in lines]


def _case(line: Line, folder: Path) -> TimingCase:
    config = _config(line)
    path = folder / line["workload"]
    if not path.is_file():
        raise line.error(f"column 'workload': no such file '{path}'")
    try:
        workload = read_csv(path, line.optional_integer("iteration"))
    except WorkloadError as error:
        raise line.error(f"column 'workload': {error}") from None
    requests = line.optional_integer("requests")
    if requests not in (None, workload.rows):
        raise line.error(
            f"column 'requests': {requests}, but the workload has {workload.rows} requests"
        )
    return TimingCase(
        line["id"],
        line.where,
        workload,
        config,
        line.integer("reference_cycles"),
        line.optional_integer("dram_reads"),
    )


def _config(line: Line) -> SpattenRtlConfig:
    multipliers, divisor = line.integer("multipliers"), line.integer("bandwidth_divisor")
    if multipliers % 64:
        raise line.error(
            f"column 'multipliers': {multipliers}; expected a multiple of 64 (one vector)"
        )
    channels = _FULL_CHANNELS // divisor
    if channels < 1:
        raise line.error(
            f"column 'bandwidth_divisor': {divisor} leaves {_FULL_CHANNELS}/{divisor} < 1 DRAM "
            f"channels; expected 1 to {_FULL_CHANNELS}"
        )
    if channels & (channels - 1):
        raise line.error(
            f"column 'bandwidth_divisor': {divisor} leaves {channels} DRAM channels; expected a "
            "power of two"
        )
    try:
        return SpattenRtlConfig(
            kind="spatten-rtl",
            description=f"validation case {line['id']}",
            source=line.where,
            multipliers=multipliers,
            buffer_lines=line.integer("buffer_lines"),
            channels=channels,
            fetch_channels=max(_FULL_FETCH_CHANNELS // divisor, multipliers // 64),
            rounding=line.integer("rounding"),
            topk=TopKConfig(parallelism=line.integer("topk_parallelism")),
        )
    except pydantic.ValidationError as error:
        messages = [each["msg"].removeprefix("Value error, ") for each in error.errors()]
        raise line.error("; ".join(messages)) from None
