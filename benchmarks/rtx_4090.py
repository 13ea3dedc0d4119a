"""The RTX 4090 of the baselines against attention times that others measured; docs/baselines.md.

    python benchmarks/rtx_4090.py attention.csv [--write]

The file is LLMServingSim's (casys-kaist, MIT), commit 5daddb2,
``profiler/perf/RTX4090/meta-llama/Llama-3.1-8B/bf16/tp1/attention.csv``: one layer of Llama 3.1 8B
in vLLM 0.19, bfloat16, three iterations, in microseconds. Nothing is fitted to it. Calls that mix
prompts and decoding are left out: the baselines have none.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from _page import replace

from accelsim.baselines import AttentionShape, Call, evaluate_baselines

ROOT = Path(__file__).resolve().parents[1]
QUERY_HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
PLATFORM = "rtx-4090"
EDGES_US = (0, 10, 30, 100, 1000, np.inf)


def calls(file: Path) -> Iterator[tuple[str, AttentionShape, float]]:
    """Kind, shape and measured microseconds of each call of one kind."""
    with file.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            chunk, before, sequences, context = (
                int(row[name]) for name in ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")
            )
            if chunk and sequences:
                continue
            call = Call(1, chunk or 1, before + chunk if chunk else context, True)
            kind = "decode" if not chunk else "chunk of a prompt" if before else "prompt"
            heads = QUERY_HEADS, KV_HEADS, HEAD_DIM
            yield kind, AttentionShape((call,), *heads, max(sequences, 1)), float(row["time_us"])


def table(file: Path) -> str:
    """Measured time over the predicted one, by kind and by measured time."""
    kinds: list[str] = []
    measured, predicted = [], []
    for kind, shape, time_us in calls(file):
        kinds.append(kind)
        measured.append(time_us)
        (row,) = evaluate_baselines(shape, [PLATFORM]).values()
        predicted.append(1e6 * row["latency_s"])
    took, said, of = np.array(measured), np.array(predicted), np.array(kinds)
    lines = [
        "| calls | measured | number | measured over predicted, median (5…95 %) | "
        "mean absolute error |",
        "|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys(kinds):
        for low, high in [(0, np.inf), *itertools.pairwise(EDGES_US)]:
            here = (of == kind) & (took >= low) & (took < high)
            if here.sum() < 5:
                continue
            ratio = took[here] / said[here]
            ends = np.quantile(ratio, (0.05, 0.95))
            where = "all" if (low, high) == (0, np.inf) else f"{low:g} to {high:g} µs"
            error = 100 * np.abs(said[here] / took[here] - 1).mean()
            lines.append(
                f"| {kind} | {where.replace(' to inf', ' and more')} | {here.sum()} | "
                f"{np.median(ratio):.2f} ({ends[0]:.2f}…{ends[1]:.2f}) | {error:.0f} % |"
            )
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--write", action="store_true", help="put the table into docs/baselines.md")
    options = parser.parse_args()
    text = table(options.file)
    print(text)
    if options.write:
        replace(ROOT / "docs" / "baselines.md", "benchmarks/rtx_4090.py", text + "\n")


if __name__ == "__main__":
    main()
