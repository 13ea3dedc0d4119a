"""Speed of both engines, beside that of the authors' RTL on the same cases.

    python benchmarks/engines.py [--write] [--json FILE]

``--write`` puts the tables into docs/performance.md. The RTL's seconds are those recorded with the
cases (``rtl_wall_seconds``: its simulation alone, on one core of another run); ours are the best of
a few runs after a warm-up, on one core. About a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _page import replace
from _timing import best

from accelsim import configs
from accelsim.hardware import load_accelerator, simulate
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.machines.spatten_rtl.cycle import CycleMachine
from accelsim.validation import timing
from accelsim.validation._table import read_lines
from accelsim.workloads import read_csv

ROOT = Path(__file__).resolve().parents[1]
FILES = ROOT / "traces" / "spatten-gpt2"
DENSE, PRUNED = (
    FILES / f"summary-gpt2-{name}.csv" for name in ("medium-ptb-per0", "small-wikitext2-per8")
)
PAGE = ROOT / "docs" / "performance.md"
REPEATS = 3
BAR_ON = "spatten-rtl-eighth"
"""The machine of the release's own run of that file: 2.07 M cycles for iteration 0."""
CYCLE_BAR, EVENT_BAR_S, FILE_BAR_S, REPLAY_BAR_S = 100, 0.12, 4.0, 2.0
NOTABLE_CYCLES = 1000
"""Below, a run of either is mostly set-up."""

Row = dict[str, Any]


def cycle_engine() -> list[Row]:
    """Every case of the validation on the cycle engine."""
    memory = configs.load(MemoryConfig, "hbm2-spatten", "memories")
    cases = timing.read_cases(timing.SHIPPED)
    rtl = {
        line["id"]: line.real("rtl_wall_seconds")
        for line in read_lines(timing.SHIPPED, (*timing.COLUMNS, "rtl_wall_seconds"))
    }
    simulate(cases[0].workload, cases[0].config, memory, "cycle")
    rows = []
    for case in cases:
        arguments = case.workload, case.config, memory
        seconds = best(partial(simulate, *arguments, engine="cycle"), REPEATS)
        set_up = best(partial(CycleMachine, *arguments), REPEATS)
        rows.append(
            {
                "case": case.id,
                "multipliers": case.config.multipliers,
                "cycles": case.reference_cycles,
                "seconds": seconds,
                "set_up_seconds": set_up,
                "cycles_per_s": case.reference_cycles / seconds,
                "rtl_seconds": rtl[case.id],
                "ratio": rtl[case.id] / seconds,
            }
        )
    return rows


def released_file() -> list[Row]:
    """SpAtten's release: the dense GPT-2 medium file, and the pruned GPT-2 small one."""
    memory = configs.load(MemoryConfig, "hbm2-spatten", "memories")
    first, everything, pruned = read_csv(DENSE, 0), read_csv(DENSE), read_csv(PRUNED, 0)
    rows = []
    for accelerator in ("spatten-rtl-eighth", "spatten-rtl"):
        machine = load_accelerator(accelerator)
        for name, workload, engine, bar, repeats in (
            ("dense medium, iteration 0", first, "event", EVENT_BAR_S, 5),
            ("dense medium, whole file", everything, "event", FILE_BAR_S, 1),
            ("dense medium, iteration 0", first, "cycle", None, 1),
            ("pruned small, iteration 0", pruned, "event", None, 5),
        ):
            activity = simulate(workload, machine, memory, engine)
            seconds = best(partial(simulate, workload, machine, memory, engine), repeats)
            rows.append(
                {
                    "workload": name,
                    "requests": workload.rows,
                    "accelerator": accelerator,
                    "engine": engine,
                    "cycles": activity.cycles,
                    "seconds": seconds,
                    "bar_s": bar if accelerator == BAR_ON else None,
                }
            )
    return rows


def first_replay() -> list[Row]:
    """``accelsim replay`` in a new process, kernels on disk."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for source, engine in (("small.csv", "event"), ("small.csv", "cycle")):
            words = [
                sys.executable, "-m", "accelsim", "replay",
                str(FILES / source),
                "--accelerator", "spatten-rtl-eighth",
                "--engine", engine, "--json", str(Path(folder, "result.json")),
            ]  # fmt: skip

            def run(words: list[str] = words) -> None:
                subprocess.run(words, check=True, capture_output=True, cwd=ROOT)

            run()
            rows.append({"source": source, "engine": engine, "seconds": best(run, REPEATS)})
    return rows


def verdict(met: bool) -> str:
    """How a bar is reported."""
    return "met" if met else "MISSED"


def page_text(cases: list[Row], released: list[Row], replays: list[Row]) -> str:
    """All tables, as Markdown."""
    lines = [
        "| cycle engine, cases of 1,000 cycles and more | cycles/s, median | without set-up "
        f"| set-up, ms | RTL, median | times the RTL: least, median, greatest | bar {CYCLE_BAR} |",
        "|---|---|---|---|---|---|---|",
    ]
    for multipliers in sorted({row["multipliers"] for row in cases}):
        chosen = [
            row
            for row in cases
            if row["multipliers"] == multipliers and row["cycles"] >= NOTABLE_CYCLES
        ]
        speed, ratio = ([row[key] for row in chosen] for key in ("cycles_per_s", "ratio"))
        running = [row["cycles"] / (row["seconds"] - row["set_up_seconds"]) for row in chosen]
        set_up = 1e3 * np.median([row["set_up_seconds"] for row in chosen])
        theirs = np.median([row["cycles"] / row["rtl_seconds"] for row in chosen])
        lines.append(
            f"| M = {multipliers}, {len(chosen)} cases | {np.median(speed):,.0f} "
            f"| {np.median(running):,.0f} | {set_up:.1f} | {theirs:,.0f} "
            f"| {min(ratio):.0f}, {np.median(ratio):.0f}, {max(ratio):.0f} "
            f"| {verdict(min(ratio) >= CYCLE_BAR)} |"
        )
    lines += [
        "",
        "| released GPT-2 file | accelerator | engine | cycles | seconds | bar |",
        "|---|---|---|---|---|---|",
    ]
    for row in released:
        bar = row["bar_s"]
        shown = "–" if bar is None else f"{bar:g} s {verdict(row['seconds'] <= bar)}"
        lines.append(
            f"| {row['workload']}, {row['requests']:,} requests | `{row['accelerator']}` "
            f"| {row['engine']} | {row['cycles']:,} | {row['seconds']:.3f} | {shown} |"
        )
    lines += ["", "| first replay in a new process | engine | seconds | bar |", "|---|---|---|---|"]
    lines += [
        f"| `{row['source']}` | {row['engine']} | {row['seconds']:.2f} "
        f"| {REPLAY_BAR_S:g} s {verdict(row['seconds'] <= REPLAY_BAR_S)} |"
        for row in replays
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    cases = cycle_engine()
    print(f"{'case':16}{'M':>5}{'cycles':>9}{'s':>9}{'cycles/s':>12}{'RTL s':>8}{'ratio':>8}")
    for row in cases:
        print(
            f"{row['case']:16}{row['multipliers']:5}{row['cycles']:9,}{row['seconds']:9.4f}"
            f"{row['cycles_per_s']:12,.0f}{row['rtl_seconds']:8.3f}{row['ratio']:8.0f}"
        )
    released, replays = released_file(), first_replay()
    text = page_text(cases, released, replays)
    print(f"\n{text}\nload of the machine before: {load_before:.2f}, {os.cpu_count()} cores")
    if options.json:
        document = {"cycle": cases, "released": released, "first_replay": replays}
        options.json.write_text(json.dumps(document, indent=1), encoding="utf-8")
    if options.write:
        replace(PAGE, "benchmarks/engines.py", text)


if __name__ == "__main__":
    main()
