"""Sampled simulation against whole runs: error, and how often the interval covers the truth.

    python benchmarks/sampling.py [--draws 200] [--write]

``--write`` puts the table into docs/contexts.md.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

import numpy as np
from _page import replace

from accelsim.configs import load
from accelsim.energy import EnergyTable, evaluate
from accelsim.functional import run_policy
from accelsim.functional.shapes import Habits, draws, shape_workload, trace_like
from accelsim.hardware import load_accelerator, simulate
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.sampling import LEVEL, sample
from accelsim.policies import load_policy
from accelsim.traces import load_trace
from accelsim.workloads import Workload
from accelsim.workloads.shapes import read_shape

PAGE = Path(__file__).parent.parent / "docs" / "contexts.md"
CASES = (
    ("shape:smollm2-135m:context=4096,decode=48", "spatten-full", "spatten-paper", None),
    ("shape:smollm2-135m:context=4096,decode=48", "dense", "spatten-paper", None),
    ("shape:smollm2-135m:context=2048,decode=48", "dense", "spatten-paper", "lpddr5"),
    ("shape:smollm2-135m:context=1024,decode=64,batch=2", "tova", "spatten-paper", None),
    ("shape:gpt2-medium:context=992,decode=32", "spatten-tokens", "spatten-paper", None),
    ("shape:qwen3-0.6b:context=2048,decode=24", "spatten-pruned", "spatten-paper", None),
)
"""Source, policy, accelerator, and memory where it is not the accelerator's own."""
FRACTION = 0.05
HEAD = (
    "| source | policy | machine | rows: whole, sampled | total | mean error "
    "| 95 % of errors below | worst | half interval, mean | covers |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def workload_of(text: str, policy_name: str) -> Workload:
    """What a policy asks for on a shape."""
    source, policy = read_shape(text), load_policy(policy_name)
    model, habits = source.load(), None
    if draws(policy, source):
        run = run_policy(load_trace(trace_like(source, model.causal)), policy)
        habits = Habits.of(run, policy, source.decode > 0)
    return shape_workload(model, source, policy, habits)


def rows(text: str, policy: str, accelerator: str, other: str | None, count: int) -> list[str]:
    """Lines of the table for one case."""
    machine = load_accelerator(accelerator)
    memory = load(MemoryConfig, other or machine.memory, "memories")
    table = load(EnergyTable, machine.energy, "energy")
    work = workload_of(text, policy)
    run = partial(simulate, accelerator=machine, memory=memory)
    totals = {
        "cycles": lambda a: a.cycles,
        "bytes read": lambda a: sum(a.dram_read_bytes.values()),
        "energy": lambda a: evaluate(a, table, machine, memory).total_j,
    }
    started = time.process_time()
    truth = run(work)
    whole_s = time.process_time() - started
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in totals}
    started, simulated = time.process_time(), 0
    for seed in range(count):
        part = sample(work, run, FRACTION, seed)
        if part is None:
            raise SystemExit(f"{text}: too short to be sampled")
        simulated += part.rows_simulated
        for name, of in totals.items():
            found[name].append(_relative(of(part.activity), part.interval(of), of(truth)))
    each_s = (time.process_time() - started) / count
    print(f"{text} {policy}: whole {whole_s:.1f} s, sampled {each_s:.2f} s")
    name_of = f"`{accelerator}`" + (f", `{other}`" if other else "")
    lines = []
    for name, draws_ in found.items():
        error, low, high = np.array(draws_).T
        wrong = abs(error)
        lines.append(
            f"| `{text}` | `{policy}` | {name_of} "
            f"| {work.rows:,}, {simulated / count:,.0f} | {name} | {error.mean():+.2%} "
            f"| {np.quantile(wrong, 0.95):.2%} | {wrong.max():.2%} | "
            f"{(high - low).mean() / 2:.1%} | {((low <= 0) & (high >= 0)).mean():.1%} |"
        )
        print(lines[-1], flush=True)
    return lines


def _relative(middle: float, ends: tuple[float, float], truth: float) -> tuple[float, float, float]:
    return middle / truth - 1, ends[0] / truth - 1, ends[1] / truth - 1


def main() -> None:
    """Run all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    head = f"{options.draws} draws a case, intervals of {LEVEL:.0%}:\n\n{HEAD}\n"
    lines: list[str] = []
    for case in CASES:
        lines += rows(*case, options.draws)
        if options.write:
            replace(PAGE, "benchmarks/sampling.py", head + "\n".join(lines) + "\n")
    print(head + "\n".join(lines))


if __name__ == "__main__":
    main()
