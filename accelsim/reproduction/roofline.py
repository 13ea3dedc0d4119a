"""Fig. 18: where the two families lie under SpAtten's roofs."""

from __future__ import annotations

from collections.abc import Mapping

from accelsim.reproduction._base import BERT, GPT2, Figure, Job, Outcome, Row, geomean

_JOBS = tuple(Job(name) for name in (*BERT, *GPT2))
_PUBLISHED = {"BERT": (BERT, 83.0, 1.61), "GPT-2": (GPT2, 2.1, 0.43)}


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
                "operations that are computed; short sentences cannot fill the pipeline",
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
    return rows


FIGURE = Figure("roofline", "Operational intensity and throughput", "Fig. 18", _JOBS, _rows)
