"""Sampled simulation against whole runs: error, and how often the interval covers the truth.

    python benchmarks/sampling.py [--draws 200] [--store FOLDER] [--write]

``--write`` puts the table into docs/contexts.md. All take an hour of one core.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _page import replace

from accelsim.configs import load
from accelsim.energy import EnergyTable, evaluate
from accelsim.functional import run_policy
from accelsim.functional.shapes import Habits, draws, shape_workload, trace_like
from accelsim.hardware import in_series, load_accelerator, simulate
from accelsim.hardware.activity import Activity
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.sampling import LEVEL, sample
from accelsim.policies import load_policy
from accelsim.traces import load_trace
from accelsim.workloads import Workload
from accelsim.workloads.shapes import read_shape

PAGE = Path(__file__).parent.parent / "docs" / "contexts.md"
Case = tuple[str, str, str, str | None]
"""Source, policy, accelerator, and memory where it is not the accelerator's own."""
LOOKED_AT: tuple[Case, ...] = (
    ("shape:smollm2-135m:context=4096,decode=64", "spatten-full", "spatten-paper", None),
    ("shape:smollm2-135m:context=4096,decode=64", "dense", "spatten-paper", None),
    ("shape:smollm2-135m:context=2048,decode=64", "dense", "spatten-paper", "lpddr5"),
    ("shape:smollm2-135m:context=2048,decode=64", "dense", "spatten-paper", "hbm3"),
    ("shape:smollm2-135m:context=1024,decode=64,batch=2", "tova", "spatten-paper", None),
    ("shape:gpt2-medium:context=992,decode=72", "spatten-tokens", "spatten-paper", None),
    ("shape:qwen3-0.6b:context=2048,decode=64", "spatten-pruned", "spatten-paper", None),
)
"""Cases on which warm-up and the least width of intervals were chosen."""
NEW: tuple[Case, ...] = (
    ("shape:qwen3-0.6b:context=1024,decode=0", "static-8", "spatten-paper", None),
    ("shape:gpt2-medium:context=1024,decode=0", "dense", "spatten-paper", None),
    ("shape:gemma-3-270m:context=4096,decode=96", "static-8", "spatten-paper", None),
    ("shape:gpt2-medium:context=992,decode=64", "spatten-full", "spatten-e2e", None),
    ("shape:qwen3-0.6b:context=1024,decode=64", "dense", "spatten-paper", "hbm3"),
    ("shape:llama-1b-class:context=2048,decode=64", "dense", "spatten-paper", "ddr4"),
    ("shape:gpt2-small:context=1494,decode=66,batch=2", "tova", "spatten-paper", "ddr4"),
    ("shape:llama-1b-class:context=2033,decode=16", "spatten-values", "spatten-paper", None),
    ("shape:qwen3-0.6b:context=768,decode=44", "spatten-heads", "spatten-paper", "lpddr5"),
    ("shape:llama-1b-class:context=3330,decode=27", "streaming-llm", "spatten-paper", "ddr4"),
)
"""Cases on which nothing was chosen. The last four were drawn: model, policy, memory, context (512
to 4,096), steps (16 to 90), sequences (1 or 2), the first that can be sampled and run whole."""
FRACTION = 0.02
HEAD = (
    "| source | policy | machine | rows: whole, sampled | total | draws | mean error "
    "| 95 % of errors below | worst | half interval, mean | covers |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)


def workload_of(text: str, policy_name: str) -> Workload:
    """What a policy asks for on a shape."""
    source, policy = read_shape(text), load_policy(policy_name)
    model, habits = source.load(), None
    if draws(policy, source):
        run = run_policy(load_trace(trace_like(source, model.causal)), policy)
        habits = Habits.of(run, policy, source.decode > 0)
    return shape_workload(model, source, policy, habits)


class Trial:
    """One case: all its rows run once, and draw after draw.

    Args:
        case: see :data:`Case`.
        store: folder that keeps what was run; ``None``: nothing is kept.
    """

    def __init__(self, case: Case, store: Path | None) -> None:
        self.case = case
        text, _, accelerator, other = case
        own = {"model": text.split(":")[1]} if accelerator == "spatten-e2e" else {}
        self._machine = load_accelerator(accelerator, own)
        self._memory = load(MemoryConfig, other or self._machine.memory, "memories")
        self._table = load(EnergyTable, self._machine.energy, "energy")
        self._file = store and store / (
            re.sub(r"\W+", "-", " ".join(filter(None, case))) + ".jsonl"
        )
        kept = self._file.read_text().splitlines() if self._file and self._file.exists() else []
        self.draws: list[dict[str, Any]] = [json.loads(line) for line in kept]

    def run(self, count: int) -> None:
        """Draw until there are so many."""
        if len(self.draws) >= count:
            return
        text, policy, _, _ = self.case
        work = workload_of(text, policy)
        run = partial(simulate, accelerator=self._machine, memory=self._memory)
        truth = self.draws[0]["truth"] if self.draws else self._totals(run(work))
        between = in_series(work, self._machine, self._memory)
        attention = partial(run, attention_only=True)
        for seed in range(len(self.draws), count):
            part = sample(work, attention, FRACTION, seed, between)
            if part is None:
                raise SystemExit(f"{text}: too short to be sampled")
            ends = {name: part.interval(of) for name, of in self._of().items()}
            found = self._totals(part.activity)
            self.draws.append(
                {
                    "rows": [work.rows, part.rows_simulated],
                    "truth": truth,
                    "found": found,
                    "ends": ends,
                }
            )
            if self._file:
                with self._file.open("a") as file:
                    file.write(json.dumps(self.draws[-1]) + "\n")

    def _of(self) -> dict[str, Callable[[Activity], float]]:
        table, machine, memory = self._table, self._machine, self._memory
        return {
            "cycles": lambda a: a.cycles,
            "bytes read": lambda a: sum(a.dram_read_bytes.values()),
            "energy": lambda a: evaluate(a, table, machine, memory).total_j,
        }

    def _totals(self, activity: Activity) -> dict[str, float]:
        return {name: of(activity) for name, of in self._of().items()}

    def lines(self) -> list[str]:
        """Its lines of the table."""
        text, policy, accelerator, other = self.case
        name_of = f"`{accelerator}`" + (f", `{other}`" if other else "")
        whole, simulated = np.mean([draw["rows"] for draw in self.draws], axis=0)
        lines = []
        for name in self._of():
            truth = self.draws[0]["truth"][name]
            error = np.array([draw["found"][name] for draw in self.draws]) / truth - 1
            low, high = np.array([draw["ends"][name] for draw in self.draws]).T / truth - 1
            wrong = abs(error)
            lines.append(
                f"| `{text}` | `{policy}` | {name_of} "
                f"| {whole:,.0f}, {simulated:,.0f} | {name} | {len(error)} | {error.mean():+.2%} "
                f"| {np.quantile(wrong, 0.95):.2%} | {wrong.max():.2%} | "
                f"{(high - low).mean() / 2:.1%} | {((low <= 0) & (high >= 0)).mean():.1%} |"
            )
        return lines


def main() -> None:
    """Run all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--store", type=Path, help="folder of what was drawn; a run goes on there")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.store:
        options.store.mkdir(parents=True, exist_ok=True)
    tables: dict[str, list[str]] = {}
    for which, cases in (("New cases", NEW), ("Cases looked at", LOOKED_AT)):
        tables[which] = []
        for case in cases:
            trial = Trial(case, options.store)
            trial.run(options.draws)
            tables[which] += trial.lines()
            print("\n".join(trial.lines()[:1] if trial.draws else []), flush=True)
    page = f"Intervals of {LEVEL:.0%}.\n"
    for name, lines in tables.items():
        page += f"\n{name}:\n\n{HEAD}\n" + "\n".join(lines) + "\n"
    print(page)
    if options.write:
        replace(PAGE, "benchmarks/sampling.py", page)


if __name__ == "__main__":
    main()
