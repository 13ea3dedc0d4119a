"""§V-B: DRAM access and computation that pruning and quantization save."""

from __future__ import annotations

from collections.abc import Mapping

from accelsim.reproduction._base import ALL, GPT2, Figure, Job, Outcome, Row, geomean

_JOBS = tuple(Job(name) for name in ALL)
_INPUT = (
    "the benchmarks' ratios are set from the paper's averages, so this checks the accounting and "
    "predicts nothing"
)


def _rows(outcomes: Mapping[Job, Outcome]) -> list[Row]:
    runs = {job.benchmark: outcomes[job] for job in _JOBS}
    dram = {name: run.dense_fp32_bytes / run.dram_bytes for name, run in runs.items()}
    work = {name: run.dense_operations / run.operations for name, run in runs.items()}
    return [
        Row(
            "DRAM access, all, against FP32",
            geomean(dram.values()),
            10.0,
            "x",
            "BERT at 8 bit and both queries and outputs at 12 bit are ours; " + _INPUT,
        ),
        Row("DRAM access, GPT-2, against FP32", geomean(dram[n] for n in GPT2), None, "x", _INPUT),
        Row("computation, all", geomean(work.values()), 2.1, "x", _INPUT),
        Row("computation, GPT-2", geomean(work[n] for n in GPT2), 3.8 * 1.1, "x", _INPUT),
    ]


FIGURE = Figure("reductions", "DRAM access and computation saved", "§V-B", _JOBS, _rows)
