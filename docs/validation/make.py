"""Run every suite of ``accelsim validate``, write what it says: ``docs/validation/make.py``.

The complete output of each suite goes to ``docs/validation/NAME.txt``; the summary in
``docs/validation.md`` and the table of memories in ``docs/memories.md``, between the two marks, are
replaced. About ten minutes.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from accelsim.reports import write_text
from accelsim.validation import Report, validate

HERE = Path(__file__).parent
PAGE = HERE.with_suffix(".md")
MEMORIES = HERE.parent / "memories.md"
BEGIN, END = "<!-- made by docs/validation/make.py -->", "<!-- end -->"
_MOST_BARS = 4
"""More are counted instead of listed."""
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
    _replace(PAGE, lines)
    _replace(MEMORIES, _memories(validate("dram")))


def _replace(path: Path, lines: list[str]) -> None:
    """Put lines between the marks of a page."""
    head, rest = path.read_text(encoding="utf-8").split(BEGIN)
    tail = rest.split(END)[1]
    write_text(path, f"{head}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{tail}")


def _memories(report: Report) -> list[str]:
    """One line for each memory."""
    lines = ["| preset | streams | of those exact | mean error | worst |", "|---|---|---|---|---|"]
    for memory in dict.fromkeys(case.group for case in report.cases):
        errors = [abs(case.relative_error) for case in report.cases if case.group == memory]
        exact = sum(error == 0 for error in errors)
        mean, worst = 100 * sum(errors) / len(errors), 100 * max(errors)
        lines.append(f"| `{memory}` | {len(errors)} | {exact} | {mean:.2g} % | {worst:.2g} % |")
    return lines


def _row(name: str, words: tuple[str, ...], output: str) -> str:
    """One line of the summary, from the verdict that a suite prints."""
    verdict = next(line for line in output.splitlines() if " cases, " in line)
    cases, _, mean, worst = verdict.split(", ")
    bars = [line.removeprefix("bar ") for line in output.splitlines() if line.startswith("bar ")]
    if len(bars) > _MOST_BARS:
        met = sum(bar.startswith("met") for bar in bars)
        limits = dict.fromkeys(re.sub(r"(MISSED|met): (\w+).*\((.*)\)", r"\2 \3", b) for b in bars)
        bars = [f"{met} of {len(bars)} met ({', '.join(limits)})"]
    return (
        f"| [`validate {' '.join(words)}`](validation/{name}.txt) | {cases.removesuffix(' cases')} "
        f"| {mean.removeprefix('mean error ')} | {worst.removeprefix('worst ')} "
        f"| {'<br>'.join(bars)} |"
    )


if __name__ == "__main__":
    main()
