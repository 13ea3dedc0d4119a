"""Energy of SpAtten1/8 over A3, by either reading of SRAM and arithmetic: docs/energy.md.

    python benchmarks/energy_over_a3.py

Geometric means over the 22 BERT benchmarks of dense-equivalent operations per joule, as SpAtten's
Table III has them (HPCA 2021; published 1.4). Sources, machines and fractions are those of
``accelsim reproduce --only rivals``.
"""

from __future__ import annotations

from statistics import geometric_mean

from accelsim import configs
from accelsim.baselines import AttentionShape
from accelsim.energy import READINGS, EnergyTable, evaluate
from accelsim.hardware import load_accelerator, simulate
from accelsim.hardware.config import MemoryConfig
from accelsim.workloads import benchmark_names, load_benchmark

# 36 KiB of buffers each hold the longest task; A3's fractions are its Fig. 11b and 12b for BERT.
MACHINES = {
    "SpAtten1/8": ("spatten-paper-eighth", {"buffer_lines": 384}),
    "A3": ("a3-conservative", {"candidate_fraction": 0.205, "kept_fraction": 0.066}),
}


def efficiencies(machine: str) -> dict[tuple[str, str], float]:
    """Operations per joule by reading and total."""
    preset, overrides = MACHINES[machine]
    config = load_accelerator(preset, overrides)
    memory = configs.load(MemoryConfig, config.memory, "memories")
    table = configs.load(EnergyTable, config.energy, "energy")
    found: dict[tuple[str, str], list[float]] = {}
    for name in filter(lambda name: name.startswith("bert"), benchmark_names()):
        dense = load_benchmark(name, dense=True)
        workload = dense if machine == "A3" else load_benchmark(name)
        activity = simulate(workload, config, memory)
        operations = AttentionShape.from_workload(dense).flops
        for reading in READINGS:
            report = evaluate(activity, table.under(reading), config, memory)
            for total, joules in (
                ("accesses", report.accesses_j),
                ("everything", report.total_j),
            ):
                found.setdefault((reading, total), []).append(operations / joules)
    return {key: geometric_mean(values) for key, values in found.items()}


def main() -> None:
    """Print the ratios."""
    ours, a3 = (efficiencies(machine) for machine in MACHINES)
    print("| total | both cacti | both foundry | SpAtten cacti, A3 foundry |")
    print("|---|---|---|---|")
    for total in ("accesses", "everything"):
        same = [ours[reading, total] / a3[reading, total] for reading in READINGS]
        mixed = ours["cacti", total] / a3["foundry", total]
        print(f"| `{total}` | {same[0]:.2f} | {same[1]:.2f} | {mixed:.2f} |")


if __name__ == "__main__":
    main()
