"""Table III: SpAtten1/8, in both conventions of operations per second."""

from __future__ import annotations

from collections.abc import Mapping

from accelsim.reproduction._base import BERT, Figure, Job, Outcome, Row, geomean

# An eighth of 192 KiB, 24 KiB, would hold 128 tokens a bank: too few for SQuAD's 170.
EIGHTH = ("spatten-paper-eighth", (("buffer_lines", 384),))
"""Accelerator and overrides: 36 KiB of buffers each, as the paper's area leaves no room for 192."""

_JOBS = tuple(Job(name, "full", 1, *EIGHTH) for name in BERT)


def _rows(outcomes: Mapping[Job, Outcome]) -> list[Row]:
    runs = [outcomes[job] for job in _JOBS]
    dense = geomean(r.dense_operations / r.seconds for r in runs) * 1e-9
    computed = geomean(r.operations / r.seconds for r in runs) * 1e-9
    efficiency = geomean(r.dense_operations / r.access_energy_j for r in runs) * 1e-9
    area = sum(runs[0].area_mm2_by_module.values())
    trap = "the published 360 is above the 256 GOP/s of its 128 multipliers: dense-equivalent"
    return [
        Row("throughput, dense-equivalent", dense, 360.0, "GOP/s", trap),
        Row("throughput, computed", computed, None, "GOP/s", "the other convention"),
        Row("over A3 as published (221 GOP/s)", dense / 221, 1.6, "x", "A3 peak halved in 221"),
        Row("over MNNFast as published (120 GOP/s)", dense / 120, 3.0, "x", "as published"),
        Row(
            "energy efficiency, dense-equivalent",
            efficiency,
            382.0,
            "GOP/J",
            "our energy table and without DRAM background",
        ),
        Row("area", area, 1.55, "mm2", "buffers of 36 KiB to hold SQuAD; top-k is not shrunk"),
    ]


FIGURE = Figure("table3", "SpAtten1/8 against A3 and MNNFast", "Table III", _JOBS, _rows)
