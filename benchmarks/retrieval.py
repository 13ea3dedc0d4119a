"""Needles that SmolLM2 finds in 1,024 tokens under 12 policies at three budgets, and perplexity.

    python benchmarks/retrieval.py [--store DIR] [--examples 20] [--context 1024] [--write]

Runs ``accelsim verify --closed-loop`` twice: for the tasks (answers stay in the store, so that a
run that was stopped goes on; about an hour of one core) and for the perplexity of the same policies
as docs/accuracy.md has it. ``--write`` puts the table there, and every point with its interval into
docs/retrieval.csv.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _page import replace
from scipy.stats import spearmanr

from accelsim.reports import write_text

DOCS = Path(__file__).resolve().parents[1] / "docs"
TASKS = ("needle", "needle-multikey", "needle-multivalue")
"""The others are dropped: dense SmolLM2 finds less than half of their answers."""
BUDGETED = (
    "quest", "keydiff", "streaming-llm", "h2o", "scissorhands", "tova", "expected-attention",
    "centrality", "snapkv", "pyramidkv", "knorm", "ems",
)  # fmt: skip
BUDGETS = (0.75, 0.5, 0.25)
SINGLE = ("dense", "kivi-4", "tova-smollm2-1pct", "duo-attention")


def spec(policy: str, budget: float) -> str:
    """A policy at a budget, as ``--policy`` takes it."""
    return f"{policy}:selection.budget_fraction={budget}"


POLICIES = (*SINGLE, *(spec(policy, budget) for policy in BUDGETED for budget in BUDGETS))


def measured(*words: str) -> dict[str, Any]:
    """What the verb finds for all policies."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "found.json")
        command = [sys.executable, "-m", "accelsim", "verify", "--closed-loop", *words]
        command += [word for policy in POLICIES for word in ("--policy", policy)]
        subprocess.run([*command, "--json", str(file)], check=True, stdout=subprocess.DEVNULL)
        document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return document


def reduction(dense: dict[str, Any], tasks: dict[str, Any]) -> float:
    """How many times less DRAM traffic a token of question and answer takes, over all tasks."""
    name = "dram_bytes_per_token"
    return float(sum(dense[t][name] for t in TASKS) / sum(tasks[t][name] for t in TASKS))


def points(found: dict[str, Any], scored: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a policy and task."""
    rows = []
    for policy in POLICIES:
        tasks = found["results"][policy]
        less = reduction(found["dense"], tasks)
        for task in TASKS:
            low, high = tasks[task]["interval_95"]
            rows.append(
                {
                    "policy": policy,
                    "task": task,
                    "examples": tasks[task]["examples"],
                    "found": round(tasks[task]["score"], 4),
                    "low_95": round(low, 4),
                    "high_95": round(high, 4),
                    "dram_reduction": round(less, 3),
                    "perplexity": round(scored["results"][policy]["perplexity"], 3),
                }
            )
    return rows


def page_text(rows: list[dict[str, Any]]) -> str:
    """Tables and rank correlations, as Markdown."""
    by = {(row["policy"], row["task"]): row for row in rows}

    def cells(policies: list[str]) -> str:
        found = [
            " / ".join(f"{100 * by[policy, task]['found']:.0f}" for policy in policies)
            for task in TASKS
        ]
        first = [by[policy, TASKS[0]] for policy in policies]
        found.append(" / ".join(f"{row['perplexity']:.1f}" for row in first))
        found.append(" / ".join(f"{row['dram_reduction']:.2f}" for row in first))
        return " | ".join(found)

    head = "perplexity | DRAM, times less |\n|---|---|---|---|---|---|"
    lines = [f"| policy | {' | '.join(f'`{task}`, %' for task in TASKS)} | {head}"]
    lines += [f"| `{policy}` | {cells([policy])} |" for policy in SINGLE]
    budgets = " / ".join(f"{100 * budget:.0f}" for budget in BUDGETS)
    lines += ["", f"At budgets of {budgets} % of the context:", "", lines[0]]
    lines += [f"| `{p}` | {cells([spec(p, budget) for budget in BUDGETS])} |" for p in BUDGETED]
    pruned = [policy for policy in POLICIES if policy != "dense"]
    better = [-by[policy, TASKS[0]]["perplexity"] for policy in pruned]
    ranks = []
    for task in TASKS:
        result = spearmanr(better, [by[policy, task]["found"] for policy in pruned])
        ranks.append(f"{result.statistic:.2f} for `{task}` (p = {result.pvalue:.1g})")
    count = f"over these {len(pruned)} policies, better against better"
    return "\n".join([*lines, "", f"Rank correlation {count}: {', '.join(ranks)}.", ""])


def main() -> None:
    """Measure, and print or write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", default="runs/retrieval-1k")
    parser.add_argument("--examples", type=int, default=20)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    tasks = [word for task in TASKS for word in ("--task", task)]
    size = ["--examples", str(options.examples), "--context", str(options.context)]
    found = measured(*tasks, *size, "--store", options.store)
    scored = measured("--windows", "1", "--prompt-tokens", "256", "--skip", "256")
    rows = points(found, scored)
    text = page_text(rows)
    print(text)
    if options.write:
        replace(DOCS / "accuracy.md", "benchmarks/retrieval.py", text)
        table = io.StringIO()
        writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(DOCS / "retrieval.csv", table.getvalue())


if __name__ == "__main__":
    main()
