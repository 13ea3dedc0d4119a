"""Does the validation notice one cycle? Changes one constant at a time, and says what fails.

    python benchmarks/mutation.py [WORD ...] [--write] [--json FILE]

Each mutant is a copy of the package with one line changed; it runs ``validate timing --engine
cycle`` (and ``validate dram``, where the memory was changed) in a process of its own. With words,
only mutants whose description has one of them. A mutant of a kernel compiles for some 20 s; all of
them take about six minutes on two cores. Prints a Markdown table; ``--write`` puts it into
docs/validation.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _page import replace

ROOT = Path(__file__).resolve().parents[1]
CYCLE = "accelsim/hardware/machines/spatten_rtl/cycle"
FACTS = "accelsim/hardware/machines/spatten_rtl"
MEMORY = "hw_configs/memories/hbm2-spatten.yaml"
RUN = """
import json, sys
from accelsim.validation import validate
found = {}
for suite in sys.argv[1:]:
    report = validate(suite, "cycle")
    # Of the memories only the one that is changed; the others are not all exact.
    cases = [c for c in report.cases if c.group in ("", "hbm2-spatten")]
    broken = {f.id for f in report.failed} - {c.id for c in report.cases}
    found[suite] = {
        "cases": len(cases) + len(broken),
        "inexact": sorted(broken | {c.id for c in cases if c.relative_error}),
        "failed": sorted({f.id for f in report.failed}),
        "tallies": [[t.total - t.exact, t.total] for t in report.tallies],
    }
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Mutant:
    """One line of the package, changed."""

    block: str
    what: str
    file: str
    old: str
    new: str


def constant(block: str, file: str, name: str, old: int, new: int) -> Mutant:
    """A named constant at the top of a file."""
    what = f"`{name}` {old} → {new}"
    folder = FACTS if file == "facts" else CYCLE
    return Mutant(block, what, f"{folder}/{file}.py", f"\n{name} = {old}\n", f"\n{name} = {new}\n")


def expression(block: str, what: str, file: str, old: str, new: str) -> Mutant:
    """A part of an expression that occurs once in its file."""
    return Mutant(block, what, f"{CYCLE}/{file}.py", old, new)


def timing(level: str, after: str, before: str, name: str, cycles: int) -> Mutant:
    """A row of the timing table of the memory, one tick longer."""
    row = f"level: {level}, after: {after}, before: [{before}], cycles: "
    return Mutant(
        "DRAM", f"{name} {cycles} → {cycles + 1}", MEMORY, f"{row}{cycles}", f"{row}{cycles + 1}"
    )


MUTANTS = (
    expression(
        "allocators", "handle table cleared one cycle later", "_buffers",
        "if now < HANDLES:", "if now < HANDLES + 1:",
    ),
    constant("allocators", "_buffers", "RELEASE_CYCLES", 4, 5),
    expression(
        "allocators", "keys released one cycle later", "_key_side",
        "key_handle, s[0].now + 1)", "key_handle, s[0].now + 2)",
    ),
    expression(
        "allocators", "values released one cycle later", "_value_side",
        "value_handle, done)", "value_handle, done + 1)",
    ),
    constant("buffer reader", "_buffers", "DESCRIPTOR_CYCLES", 1, 2),
    constant("buffer reader", "_buffers", "GENERATE_CYCLES", 3, 4),
    constant("buffer reader", "facts", "READ_QUEUE", 16, 15),
    expression(
        "buffer reader", "blocked after reset for one cycle more", "_buffers",
        " now >= s[0].buffer_lines // 2", " now > s[0].buffer_lines // 2",
    ),
    expression(
        "buffer reader", "bank 0 first, also when bank 1 waited first", "_buffers",
        "if r.merge_lock < 0:", "if True:",
    ),
    expression(
        "buffer reader", "lines that passed each other are discarded", "_buffers",
        "== r.turn\n",
        "== r.turn and (checked >> 2) - 1 == r.committed\n",
    ),
    expression(
        "buffer writer", "a port offers two lines a cycle", "_buffers", "port != served and ", "",
    ),
    constant("key fork", "_key_side", "INFLIGHT_RESERVE", 8, 9),
    expression(
        "key fork", "refetches ready one cycle later", "_key_side",
        "queue_peek(s, ring, LSB_PASSES, 1)", "queue_peek(s, ring, LSB_PASSES, 2)",
    ),
    constant("dot product", "facts", "DOT_STAGES", 8, 9),
    expression(
        "dot product", "broadcast register stalls with it", "_key_side",
        "s[0].broadcast < 0\n", "dot_moves\n        and s[0].broadcast < 0\n",
    ),
    expression(
        "maximum tree", "one stage more", "_key_side",
        "line.entered + s[0].log_scores == s[0].tree_clock",
        "line.entered + s[0].log_scores + 1 == s[0].tree_clock",
    ),
    expression(
        "all queues", "3 cycles from push to pop instead of 2", "_state",
        "latency: int = 2", "latency: int = 3",
    ),
    expression(
        "top-k", "search one cycle longer", "_value_side",
        "if s[0].now >= s[0].topk_since", "if s[0].now > s[0].topk_since",
    ),
    Mutant(
        "top-k", "a pass of quick-select one cycle longer",
        f"{FACTS}/java_random.py", "+ pass_overhead", "+ pass_overhead + 1",
    ),
    expression(
        "top-k", "path around it opens only after the dropped scores", "_value_side",
        "if ((beat & MASK) + 1) * s[0].line_scores == requests[request].values:\n"
        "                    s[0].topk_inside",
        "if is_last_beat(s, requests, beat):\n                    s[0].topk_inside",
    ),
    constant("multiply-value", "facts", "MULTIPLY_STAGES", 3, 4),
    expression(
        "value side", "score queue one beat shorter", "_engine",
        "c.SCORES: SCORE_ROWS * row_beats,", "c.SCORES: SCORE_ROWS * row_beats - 1,",
    ),
    constant("fetcher", "facts", "ADDRESS_FIFO", 16, 15),
    constant("fetcher", "facts", "RESPONSE_FIFO", 64, 63),
    expression(
        "fetcher", "address queues: 3 cycles instead of 2", "_fetcher",
        "+ ADDRESS_LATENCY <= now", "+ ADDRESS_LATENCY + 1 <= now",
    ),
    expression(
        "fetcher", "response queues: 3 cycles instead of 2", "_fetcher",
        "beats[slot].latest + 2 <=", "beats[slot].latest + 3 <=",
    ),
    Mutant("DRAM", "read latency 11 → 12", MEMORY, "read_latency: 11", "read_latency: 12"),
    Mutant("DRAM", "16 → 15 reads in flight", MEMORY, "inflight_limit: 16", "inflight_limit: 15"),
    timing("channel", "ACT", "ACT, PRE, PREA, REFab", "ACT on the command bus", 2),
    timing("pseudochannel", "ACT", "ACT", "nRRDS", 2),
    timing("pseudochannel", "RD", "RD", "nBL", 4),
    timing("bankgroup", "ACT", "ACT", "nRRDL", 3),
    timing("bank", "ACT", "RD, WR", "nRCD", 7),
    timing("bank", "ACT", "PRE", "nRAS", 17),
    timing("bank", "ACT", "ACT", "nRC", 19),
    timing("bank", "PRE", "ACT", "nRP", 7),
    Mutant(
        "DRAM", "nFAW 15 → 16", MEMORY, "cycles: 15, window: 4", "cycles: 16, window: 4",
    ),
    Mutant(
        "DRAM", "nRTPL 3 → 4", MEMORY, 'cycles: 3, source: "nRTPL', 'cycles: 4, source: "nRTPL',
    ),
)  # fmt: skip


def run(mutant: Mutant | None) -> dict[str, Any]:
    """Validate a copy of the package, with one line changed."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("accelsim", "hw_configs"):
            # Compiled kernels come along; they stay valid as long as no source changes.
            shutil.copytree(ROOT / name, Path(folder, name))
        suites = ["timing"]
        if mutant is not None:
            file = Path(folder, mutant.file)
            text = file.read_text(encoding="utf-8")
            if text.count(mutant.old) != 1:
                raise SystemExit(f"{mutant.what}: not once in {mutant.file}: {mutant.old!r}")
            file.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        if mutant is None or mutant.file == MEMORY:
            suites.append("dram")
        done = subprocess.run(
            [sys.executable, "-c", RUN, *suites],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": folder},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{mutant and mutant.what}: {done.stderr[-2000:]}")
        return dict(json.loads(done.stdout))


def row(mutant: Mutant, found: dict[str, Any]) -> str:
    """A line of the table."""
    cells = [mutant.block, mutant.what]
    timing = found["timing"]
    cells.append(f"{len(timing['inexact'])} of {timing['cases']}")
    cells += [f"{wrong:,} of {total:,}" for wrong, total in timing["tallies"]]
    dram = found.get("dram")
    cells.append(f"{len(dram['inexact'])} of {dram['cases']}" if dram else "–")
    return f"| {' | '.join(cells)} |"


def caught(found: dict[str, Any]) -> bool:
    """Whether a suite failed."""
    return any(each["inexact"] or each["failed"] for each in found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.write and options.words:
        parser.error("--write needs all mutants, so no words")
    chosen = [
        mutant
        for mutant in MUTANTS
        if not options.words
        or any(word.lower() in f"{mutant.block} {mutant.what}".lower() for word in options.words)
    ]
    if caught(run(None)):
        raise SystemExit("the package as it is does not pass: nothing to learn from mutants")
    table = [
        "| block | change | totals off | requests off | DRAM events off | DRAM streams off |",
        "|---|---|---|---|---|---|",
    ]
    print("\n".join(table), flush=True)
    results: list[tuple[Mutant, dict[str, Any]]] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for mutant, found in zip(chosen, pool.map(run, chosen), strict=True):
            table.append(row(mutant, found))
            print(table[-1], flush=True)
            results.append((mutant, found))
    alive = [mutant.what for mutant, found in results if not caught(found)]
    table += ["", f"{len(results) - len(alive)} of {len(results)} are caught."]
    print(f"\n{table[-1]} Not caught: {', '.join(alive) or 'none'}")
    if options.write:
        replace(ROOT / "docs/validation.md", "benchmarks/mutation.py", "\n".join(table) + "\n")
    if options.json:
        document = [{"block": m.block, "what": m.what, "found": found} for m, found in results]
        options.json.write_text(json.dumps(document, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
