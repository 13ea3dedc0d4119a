"""How far rounding alone moves a loss inside SmolLM2: the last bit of every embedding drawn anew.

    python benchmarks/loss_rounding.py --text shipped --text news.txt [--seeds 7] [--write]

The windows are those of ``tune`` (two of each text). A sum of floats depends on the number of
threads and the processor; which of two nearly equal tokens goes, and to which side a number is
rounded, then depends on that, and all that follows with it. Each seed moves every element of the
embeddings to one of its two neighbours, which is less than a float's own rounding. One thread.
``--write`` puts the table into docs/accuracy.md.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Before NumPy: nothing but the seed may differ.
os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

import numpy as np
from _page import replace
from rich.progress import track

from accelsim.functional.closed_loop import Loss, open_loss
from accelsim.policies import Policy, load_policy

PAGE = Path(__file__).resolve().parents[1] / "docs" / "accuracy.md"
TOVA = "tova-smollm2-1pct"


def policies() -> dict[str, Policy]:
    """What is kept by scores, by place and not at all, at the widths of the tuned preset."""
    tova = load_policy(TOVA)
    assert tova.selection is not None
    recent = load_policy("streaming-llm").selection
    assert recent is not None
    by_place = recent.model_copy(update={"budget_tokens": tova.selection.budget_tokens})
    return {
        f"`{TOVA}`": tova,
        "the same, 12 bit": tova.model_copy(update={"quantization": Policy().quantization}),
        "as many tokens, by place (`streaming-llm`)": tova.model_copy(
            update={"selection": by_place}
        ),
        "its widths, all tokens": tova.model_copy(update={"selection": None}),
        "`spatten-full`": load_policy("spatten-full"),
    }


def losses(loop: Any, policy: Policy, seeds: int) -> list[Loss]:
    """Loss as it is, then once for each seed."""
    # A weight that the model keeps is the array itself.
    embedding = loop._model.decoder._weights["token_embd.weight"]
    original = embedding.copy()
    found = [loop.measure(policy)]
    for seed in range(seeds):
        up = np.random.default_rng(seed).random(original.shape, np.float32) < 0.5
        embedding[:] = np.nextafter(original, np.where(up, np.float32(np.inf), -np.float32(np.inf)))
        found.append(loop.measure(policy))
    embedding[:] = original
    return found


def row(name: str, found: Sequence[Loss]) -> str:
    """A line of the table; all figures in per cent."""
    first = found[0]
    moved = np.array([100 * loss.loss for loss in found])
    return (
        f"| {name} | {100 * first.loss:.2f} ({100 * first.low:.2f} to {100 * first.high:.2f}) "
        f"| {moved.min():.2f} to {moved.max():.2f} | {moved.mean():.2f} | {moved.std(ddof=1):.2f} |"
    )


def main() -> None:
    """Measure, and print or write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", action="append", required=True)
    parser.add_argument("--seeds", type=int, default=7)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    loop = open_loss("smollm2", texts=options.text, windows=2, held_out=0)
    lines = [
        f"{1 + options.seeds} runs of each policy over four windows.", "",
        "| policy | loss, % (95 %, of the texts) | of all runs | mean | standard deviation |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    for name, policy in track(policies().items(), "policies"):
        lines.append(row(name, losses(loop, policy, options.seeds)))
        print(lines[-1], flush=True)
    if options.write:
        replace(PAGE, "benchmarks/loss_rounding.py", "\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
