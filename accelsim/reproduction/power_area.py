"""Table II and Fig. 13: power by part, and area by module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from accelsim.reproduction._base import ALL, STREAMED, Figure, Job, Outcome, Row, total, tried
from accelsim.reproduction._causes import CAUSES, FREE_SEARCH, FULL, WITHOUT_VALUES, trial_of

_CHANGES = (STREAMED, FREE_SEARCH, WITHOUT_VALUES)
_POWER_W = {"logic": 1.36, "sram": 1.24, "dram": 5.71, "all": 8.30}
_AREA_MM2 = {"qk_unit": 7.12, "pv_unit": 7.22, "fetcher": 2.65, "softmax": 0.79, "topk": 0.50}
_NOTE_POWER = {
    "logic": "multipliers, softmax and comparators; control, wires and clock have no source",
    "sram": "arrays of the energy table and their leakage",
    "dram": "accesses without background",
    "all": "without DRAM background, as the paper counts accesses only",
}
_NOTE_AREA = {
    "qk_unit": "key SRAM of the energy table",
    "pv_unit": "value SRAM of the energy table",
    "fetcher": "FIFOs as registers; crossbar wires left out",
    "softmax": "floating-point units of the energy table",
    "topk": "FIFO entries of 32 bit are ours",
}


def _joules(outcome: Outcome) -> dict[str, float]:
    parts = outcome.energy_j_by_part
    leak = sum(j for name, j in outcome.energy_j_by_entry.items() if name.endswith("sram_leakage"))
    joules = {
        "logic": parts["logic"] + parts["leakage"] - leak,
        "sram": parts["sram"] + leak,
        "dram": parts["dram"],
    }
    return joules | {"all": sum(joules.values()), "background": parts["dram_background"]}


def _watts(runs: Sequence[Outcome], part: str) -> float:
    """Joules of all runs over their time."""
    return total(runs, lambda run: _joules(run)[part]) / total(runs, lambda run: run.seconds)


def _rows(outcomes: Mapping[Job, Outcome]) -> list[Row]:
    runs = [outcomes[job] for job in FULL]
    jobs = [trial_of(Job(name)) for name in ALL]
    rows = []
    for part, theirs in _POWER_W.items():
        rows += [
            Row(
                f"power, {part}",
                _watts(runs, part),
                theirs,
                "W",
                "joules over seconds of all runs; " + _NOTE_POWER[part],
                changes=tried(_CHANGES, jobs, outcomes, partial(_watts, part=part)),
            ),
            Row(
                f"power, {part}, mean of benchmarks",
                sum(_joules(run)[part] / run.seconds for run in runs) / len(runs),
                theirs,
                "W",
                "the other way to count: 5 us of one benchmark weigh as much as 2 ms of another",
                "convention",
            ),
        ]
    rows.append(
        Row("power, DRAM background", _watts(runs, "background"), None, "W", "not in Table II")
    )
    area = runs[0].area_mm2_by_module
    rows += [
        Row(f"area, {name}", area[name], theirs, "mm2", _NOTE_AREA[name])
        for name, theirs in _AREA_MM2.items()
    ]
    rows.append(
        Row("area, all", sum(area.values()), 18.71, "mm2", "the paper's 'others' is 0.43 mm2 of it")
    )
    return rows


FIGURE = Figure(
    "power-area", "Power by part and area by module", "Table II, Fig. 13", (*FULL, *CAUSES), _rows
)
