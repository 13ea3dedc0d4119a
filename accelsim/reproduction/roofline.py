"""Fig. 18: where the two families lie under SpAtten's roofs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from accelsim.reproduction._base import BERT, GPT2, Figure, Job, Outcome, Row, geomean, total, tried
from accelsim.reproduction._causes import BERT_CHANGES, CAUSES, FULL, GPT2_CHANGES, trial_of

_JOBS = (*FULL, *CAUSES)
_PUBLISHED = {
    "BERT": (BERT, 83.0, 1.61, BERT_CHANGES),
    "GPT-2": (GPT2, 2.1, 0.43, GPT2_CHANGES),
}


def _intensity(runs: Sequence[Outcome]) -> float:
    return total(runs, lambda r: r.operations) / total(runs, lambda r: r.dram_bytes)


def _rate(runs: Sequence[Outcome]) -> float:
    return 1e-12 * total(runs, lambda r: r.operations) / total(runs, lambda r: r.seconds)


def _rows(outcomes: Mapping[Job, Outcome]) -> list[Row]:
    rows = []
    for family, (names, intensity, tflops, changes) in _PUBLISHED.items():
        runs = [outcomes[Job(name)] for name in names]
        jobs = [trial_of(Job(name)) for name in names]
        rows += [
            Row(
                f"{family}, operational intensity",
                _intensity(runs),
                intensity,
                "op/B",
                "all operations over all bytes; input lengths and widths of BERT are ours",
                changes=tried(changes, jobs, outcomes, _intensity),
            ),
            Row(
                f"{family}, operational intensity, mean of benchmarks",
                geomean(r.operations / r.dram_bytes for r in runs),
                intensity,
                "op/B",
                "the other way to count: geometric mean of the benchmarks' intensities",
                "convention",
            ),
            Row(
                f"{family}, computed operations",
                _rate(runs),
                tflops,
                "TOP/s",
                "all operations over all time",
                changes=tried(changes, jobs, outcomes, _rate),
            ),
            Row(
                f"{family}, computed operations, mean of benchmarks",
                geomean(r.operations / r.seconds for r in runs) * 1e-12,
                tflops,
                "TOP/s",
                "the other way to count: geometric mean of the benchmarks' rates",
                "convention",
                tried(
                    changes,
                    jobs,
                    outcomes,
                    lambda some: geomean(r.operations / r.seconds for r in some) * 1e-12,
                ),
            ),
            Row(
                f"{family}, dense-equivalent operations",
                total(runs, lambda r: r.dense_operations)
                / total(runs, lambda r: r.seconds)
                * 1e-12,
                None,
                "TOP/s",
                "operations of the unpruned attention, as Table III counts",
                "convention",
            ),
            Row(
                f"{family}, DRAM bandwidth used",
                total(runs, lambda r: r.dram_bytes) / total(runs, lambda r: r.seconds) * 1e-9,
                None,
                "GB/s",
                "of 512 GB/s",
            ),
        ]
    return rows


FIGURE = Figure("roofline", "Operational intensity and throughput", "Fig. 18", _JOBS, _rows)
