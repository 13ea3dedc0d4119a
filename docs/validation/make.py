"""Run every suite of ``accelsim validate``, write what it says: ``docs/validation/make.py``.

The complete output of each suite goes to ``docs/validation/NAME.txt``; the summary in
``docs/validation.md``, between the two marks, is replaced. About three minutes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from accelsim.reports import write_text

HERE = Path(__file__).parent
PAGE = HERE.with_suffix(".md")
BEGIN, END = "<!-- made by docs/validation/make.py -->", "<!-- end -->"
RUNS = {
    "timing-cycle": ("timing", "--engine", "cycle"),
    "timing-event": ("timing", "--engine", "event"),
    "dram": ("dram",),
    "traffic": ("traffic",),
    "engines": ("engines", "--count", "2000"),
    "gpu": ("gpu",),
    "functional": ("functional",),
}


def main() -> None:
    """Write all outputs and the summary."""
    lines = ["| command | cases | mean error | worst | bars |", "|---|---|---|---|---|"]
    for name, words in RUNS.items():
        print(f"validate {' '.join(words)}", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", "accelsim", "validate", *words],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in (0, 1):
            raise SystemExit(done.stderr)
        write_text(
            HERE / f"{name}.txt", "\n".join(map(str.rstrip, done.stdout.splitlines())) + "\n"
        )
        lines.append(_row(name, words, done.stdout))
    page = PAGE.read_text(encoding="utf-8")
    head, rest = page.split(BEGIN)
    tail = rest.split(END)[1]
    write_text(PAGE, f"{head}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{tail}")


def _row(name: str, words: tuple[str, ...], output: str) -> str:
    """One line of the summary, from the verdict that a suite prints."""
    verdict = next(line for line in output.splitlines() if " cases, " in line)
    cases, _, mean, worst = verdict.split(", ")
    bars = [line.removeprefix("bar ") for line in output.splitlines() if line.startswith("bar ")]
    return (
        f"| [`validate {' '.join(words)}`](validation/{name}.txt) | {cases.removesuffix(' cases')} "
        f"| {mean.removeprefix('mean error ')} | {worst.removeprefix('worst ')} "
        f"| {'<br>'.join(bars)} |"
    )


if __name__ == "__main__":
    main()
