"""Table II and Fig. 13: power by part, and area by module."""

from __future__ import annotations

from collections.abc import Mapping

from accelsim.reproduction._base import ALL, Figure, Job, Outcome, Row

_JOBS = tuple(Job(name) for name in ALL)
_POWER_W = {"logic": 1.36, "sram": 1.24, "dram": 5.71}
_AREA_MM2 = {"qk_unit": 7.12, "pv_unit": 7.22, "fetcher": 2.65, "softmax": 0.79, "topk": 0.50}
_WHY_POWER = {
    "logic": "multipliers, softmax and comparators only; control, wires and clock have no source",
    "sram": "CACTI arrays and their leakage; foundry SRAMs cost up to nine times less, FIFOs vary",
    "dram": "activity of our task lengths; mean over benchmarks of equal weight",
}
_WHY_AREA = {
    "qk_unit": "CACTI is 5 times smaller than A3's foundry SRAM (3.4 mm2 for 192 KiB)",
    "pv_unit": "CACTI is 5 times smaller than A3's foundry SRAM (3.4 mm2 for 192 KiB)",
    "fetcher": "FIFOs as registers; crossbar wires left out",
    "softmax": "floating-point units of the Aladdin tables",
    "topk": "FIFO entries of 32 bit are an assumption of ours",
}


def _power(outcome: Outcome) -> dict[str, float]:
    parts = {name: joules / outcome.seconds for name, joules in outcome.energy_j_by_part.items()}
    sram_leak = outcome.energy_j_by_entry["key_and_value_sram_leakage"] / outcome.seconds
    return {
        "logic": parts["logic"] + parts["leakage"] - sram_leak,
        "sram": parts["sram"] + sram_leak,
        "dram": parts["dram"],
        "background": parts["dram_background"],
    }


def _rows(outcomes: Mapping[Job, Outcome]) -> list[Row]:
    powers = [_power(outcomes[job]) for job in _JOBS]
    mean = {name: sum(p[name] for p in powers) / len(powers) for name in powers[0]}
    rows = [
        Row(f"power, {name}", mean[name], theirs, "W", _WHY_POWER[name])
        for name, theirs in _POWER_W.items()
    ]
    rows.append(
        Row(
            "power, all",
            sum(mean[name] for name in _POWER_W),
            8.30,
            "W",
            "without DRAM background, as the paper counts accesses only",
        )
    )
    rows.append(
        Row("power, DRAM background", mean["background"], None, "W", "two stacks, not in Table II")
    )
    area = outcomes[_JOBS[0]].area_mm2_by_module
    rows += [
        Row(f"area, {name}", area[name], theirs, "mm2", _WHY_AREA[name])
        for name, theirs in _AREA_MM2.items()
    ]
    rows.append(
        Row("area, all", sum(area.values()), 18.71, "mm2", "the paper's 'others' is 0.43 mm2 of it")
    )
    return rows


FIGURE = Figure("power-area", "Power by part and area by module", "Table II, Fig. 13", _JOBS, _rows)
