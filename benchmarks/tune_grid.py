"""Grid search over the space of ``tune``: what 400 policies alike in all layers reach in SmolLM2.

    python benchmarks/tune_grid.py --text shipped --text news.txt [--workers 2] [--write]

``tune`` runs at most 40 policies, chosen by what a few probes predict; this runs ten times as many,
chosen by nobody, on the same windows (two of each text). Each runs once: measurements are kept in
``--store``, and a run that was stopped goes on. Nine seconds of one core a policy. ``--write`` puts
the table into docs/accuracy.md and all points into docs/tuning/smollm2-grid.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from _page import replace
from rich.progress import track

from accelsim.exploration._closed_tune import policy_text
from accelsim.exploration._tune_space import Family
from accelsim.policies import Policy, ProgressiveQuantization

DOCS = Path(__file__).resolve().parents[1] / "docs"
TOKENS, LAYERS = 512, 30
LIMIT = 0.01
TUNED = ("tova", "h2o", "streaming_llm")
SHARES = (0.75, 0.5, 14 / 32, 12 / 32, 11 / 32, 10 / 32, 9 / 32, 8 / 32, 6 / 32)
Row = dict[str, Any]


def grid() -> Iterator[tuple[str, Policy]]:
    """Families and policies: every step that could be within the limit or near it."""
    for store in ("channel", "kivi"):
        yield from policies(Family("widths", store, True, TOKENS), {})
        for rule in TUNED:
            kept = [max(1, round(share * TOKENS)) for share in SHARES]
            yield from policies(Family(rule, store, True, TOKENS), {"keep": kept})
    cascade = {"keep": (0.9, 0.8, 0.7), "values": (1.0, 0.75, 0.5)}
    yield from policies(Family("spatten", "channel", True, TOKENS), cascade, (8, 6))


def policies(
    family: Family, kept: dict[str, Sequence[Any]], widths: Sequence[int] = (8, 6, 4)
) -> Iterator[tuple[str, Policy]]:
    """All combinations of what is kept and of widths, the same in every layer."""
    ladders = family.ladders
    for bits in ("key_bits", "value_bits"):
        wanted = [bit for bit in ladders[bits] if bit in widths or family.rule == "widths"]
        kept = {**kept, bits: wanted}
    for values in product(*kept.values()):
        steps = {
            knob: (ladders[knob].index(value),) * LAYERS
            for knob, value in zip(kept, values, strict=True)
        }
        yield family.name, family.policy(steps)


_LOOP: list[Any] = []


def load(texts: Sequence[str]) -> None:
    """Open the model once a process."""
    from accelsim.functional.closed_loop import open_loss

    _LOOP.append(open_loss("smollm2", texts=texts, windows=2, held_out=4))


def measure(name: str, text: str, *, others: bool = False) -> Row | None:
    """Loss of one policy on the windows to tune on, or on the others."""
    policy = Policy.model_validate_json(text)
    loss = _LOOP[0].held_out(policy) if others else _LOOP[0].measure(policy)
    return {
        "name": name, "loss": loss.loss, "loss_low": loss.low, "loss_high": loss.high,
        "perplexity": loss.score, "dram_reduction": loss.reduction, "policy": text,
    }  # fmt: skip


def search(path: Path, texts: Sequence[str], workers: int, until: float) -> list[Row]:
    """Measure what is not in the store yet, and return all of the grid that is."""
    wanted = {policy_text(policy): name for name, policy in grid()}
    known: dict[str, Row] = {}
    if path.exists():
        rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        known = {row["policy"]: row for row in rows}
    left = [(name, text) for text, name in wanted.items() if text not in known]
    print(f"{len(wanted)} policies, {len(left)} to measure", flush=True)
    if not left:
        return [known[text] for text in wanted]
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with (
        ProcessPoolExecutor(workers, get_context("spawn"), load, (texts,)) as pool,
        path.open("a", encoding="utf-8") as store,
    ):
        futures = [pool.submit(measure, name, text) for name, text in left]
        for future in track(as_completed(futures), "grid", len(left)):
            row = future.result()
            assert row is not None
            known[row["policy"]] = row
            store.write(json.dumps(row) + "\n")
            store.flush()
            if time.monotonic() > until:
                pool.shutdown(cancel_futures=True)
                break
    return [known[text] for text in wanted if text in known]


def page_text(rows: Sequence[Row]) -> str:
    """The best of each family within the limit, with its loss on the other windows."""
    lines = [
        f"{len(rows)} policies of {len({row['name'] for row in rows})} families.", "",
        "| within 1 % | family | policy | DRAM, times less | loss, % (95 %) | held out, % (95 %) |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for bound, column in (("the estimate", "loss"), ("the upper end", "loss_high")):
        best: dict[str, Row] = {}
        for row in sorted(rows, key=lambda row: -float(row["dram_reduction"])):
            if row[column] <= LIMIT:
                best.setdefault(row["name"], row)
        for name, row in best.items():
            other = measure(name, row["policy"], others=True)
            assert other is not None
            lines.append(
                f"| {bound} | `{name}` | {words(row['policy'])} | {row['dram_reduction']:.2f} "
                f"| {interval(row)} | {interval(other)} |"
            )
    return "\n".join([*lines, ""])


def interval(row: Row) -> str:
    """A loss in per cent."""
    low, high = 100 * row["loss_low"], 100 * row["loss_high"]
    return f"{100 * row['loss']:.2f} ({low:.2f} to {high:.2f})"


def words(text: str) -> str:
    """What a policy keeps."""
    policy, stored = json.loads(text), Policy.model_validate_json(text).quantization
    assert not isinstance(stored, ProgressiveQuantization)
    bits = f"keys {stored.key_bits}, values {stored.value_bits} bit"
    kept = policy.get("selection", {}).get("budget_tokens")
    parts = [f"{kept} tokens"] if kept else []
    for part in ("tokens", "values"):
        if part in policy:
            parts.append(f"{part} {policy[part]['keep_by_layer'][0]:g}")
    return ", ".join([*parts, bits])


def main() -> None:
    """Measure, and print or write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", action="append", required=True)
    parser.add_argument("--store", type=Path, default=Path("runs/tune-grid.jsonl"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    options.store.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + options.seconds
    rows = search(options.store, options.text, options.workers, until)
    load(options.text)
    text = page_text(rows)
    print(text)
    if options.write:
        replace(DOCS / "accuracy.md", "benchmarks/tune_grid.py", text)
        with (DOCS / "tuning" / "smollm2-grid.csv").open("w", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            short = ({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
                     for row in rows)  # fmt: skip
            writer.writerows(short)


if __name__ == "__main__":
    main()
