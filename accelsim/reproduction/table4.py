"""Table IV, attention part: GPT-2-Medium, mean of four tasks."""

from __future__ import annotations

from collections.abc import Mapping

from accelsim.reproduction._base import GPT2, Figure, Job, Outcome, Row

_JOBS = tuple(Job(name) for name in GPT2 if "medium" in name)


def _rows(outcomes: Mapping[Job, Outcome]) -> list[Row]:
    runs = [outcomes[job] for job in _JOBS]
    count = len(runs)
    gpu = sum(r.baselines["titan-xp/framework-2020"]["latency_s"] for r in runs) / count
    return [
        Row(
            "TITAN Xp attention, operations",
            sum(r.dense_operations for r in runs) / count * 1e-9,
            3.3,
            "GOP",
            "contexts 993 to 1024",
        ),
        Row("TITAN Xp attention", gpu * 1e3, 366.7, "ms", "calibrated on this number"),
        Row(
            "SpAtten attention, operations",
            sum(r.operations for r in runs) / count * 1e-9,
            0.9,
            "GOP",
            "keep ratios from averages; the paper's row has no head pruning",
        ),
        Row(
            "SpAtten attention",
            sum(r.seconds for r in runs) / count * 1e3,
            2.13,
            "ms",
            "keep ratios and 6+4 bit are ours; the paper's row has no head pruning",
        ),
    ]


FIGURE = Figure("table4", "GPT-2-Medium attention, generation", "Table IV", _JOBS, _rows)
