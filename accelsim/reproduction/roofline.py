"""Fig. 18: where the two families lie under SpAtten's roofs."""

from __future__ import annotations

from collections.abc import Mapping

from accelsim.reproduction._base import BERT, GPT2, Figure, Job, Outcome, Row, geomean

_ALL_VALUES = tuple(Job(name, "all-values") for name in BERT)
_JOBS = (*(Job(name) for name in (*BERT, *GPT2)), *_ALL_VALUES)
_PUBLISHED = {"BERT": (BERT, 83.0, 1.61), "GPT-2": (GPT2, 2.1, 0.43)}

_WHY_RATE = {
    "BERT": "quick-select of 16 comparators is slower than the query x key unit that feeds it",
    "GPT-2": "a token waits for the token before, a layer for the layer before",
}


def _rows(outcomes: Mapping[Job, Outcome]) -> list[Row]:
    rows = []
    for family, (names, intensity, tflops) in _PUBLISHED.items():
        runs = [outcomes[Job(name)] for name in names]
        ours = geomean(r.operations / r.dram_bytes for r in runs)
        rate = geomean(r.operations / r.seconds for r in runs) * 1e-12
        dense = geomean(r.dense_operations / r.seconds for r in runs) * 1e-12
        fetched = geomean(r.dram_bytes / r.seconds for r in runs) * 1e-9
        rows += [
            Row(
                f"{family}, operational intensity",
                ours,
                intensity,
                "op/B",
                "follows from the task lengths and widths, which are ours",
            ),
            Row(
                f"{family}, computed operations",
                rate,
                tflops,
                "TOP/s",
                _WHY_RATE[family],
            ),
            Row(
                f"{family}, dense-equivalent operations",
                dense,
                None,
                "TOP/s",
                "the other convention: operations of the unpruned attention (as in Table III)",
            ),
            Row(f"{family}, DRAM bandwidth used", fetched, None, "GB/s", "of 512 GB/s"),
        ]
    runs = [outcomes[job] for job in _ALL_VALUES]
    rate = geomean(r.operations / r.seconds for r in runs) * 1e-12
    why = "the same without local value pruning: no row waits for quick-select"
    rows.append(Row("BERT without value pruning, computed operations", rate, 1.61, "TOP/s", why))
    return rows


FIGURE = Figure("roofline", "Operational intensity and throughput", "Fig. 18", _JOBS, _rows)
