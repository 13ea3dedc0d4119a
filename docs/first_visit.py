"""Record a first visit: ``python docs/first_visit.py`` (make first-visit).

A wheel is built, installed into an empty environment and used in an empty folder with an empty
home, so that kernels are compiled as they are for a newcomer. What was typed, what it printed and
how long it took go to ``docs/first-visit.md``; what the demo printed also into the README.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import shlex
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE, README = ROOT / "docs" / "first-visit.md", ROOT / "README.md"
COMMANDS = (
    "accelsim doctor",
    "accelsim demo",
    "accelsim demo",
    "accelsim inspect smollm2-64p-32d --json inspect.json",
    "accelsim replay minilm-128 --policy static-8 --baseline a100 --out minilm",
    "accelsim presets show tova-smollm2-1pct",
    "accelsim compare minilm-128 --policy dense --policy statc-8",
)
"""What is typed; the second demo finds its kernels compiled, the last command has a mistake."""
MARKS = ("<!-- demo -->", "<!-- end of demo -->")
LINES = 60
"""Of an output, at most."""


def record(folder: Path, words: list[str], environment: dict[str, str]) -> tuple[str, float, float]:
    """Run a command; return what it printed, seconds by the clock, and of the processor."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        words, cwd=folder, env=environment, check=False, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    text = done.stdout if not done.returncode else f"{done.stdout}(exit status {done.returncode})"
    return text.rstrip(), time.monotonic() - start, busy


def visit(work: Path) -> tuple[list[str], dict[str, object]]:
    """Install and use the wheel; return the page's parts and the document of the demo."""
    run = {"cwd": ROOT, "check": True, "capture_output": True}
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", work, ROOT], **run)  # type: ignore[call-overload]
    (wheel,) = work.glob("*.whl")
    venv.create(work / "venv", with_pip=True)
    (work / "home").mkdir()
    (work / "empty").mkdir()
    environment = {
        "PATH": f"{work / 'venv/bin'}:/usr/bin:/bin",
        "HOME": str(work / "home"),
        "LANG": "C.UTF-8",
        # Where packages come from is the machine's business.
        **{k: v for k, v in os.environ.items() if k.startswith(("PIP_", "SSL_"))},
    }
    size = f"{wheel.stat().st_size / 1e6:.1f} MB"
    pip = ["pip", "install", "--quiet", "--disable-pip-version-check", str(wheel)]
    _, seconds, busy = record(work / "empty", [str(work / "venv/bin/pip"), *pip[1:]], environment)
    parts = [step(f"pip install {wheel.name}", f"(a wheel of {size})", seconds, busy)]
    seen: list[str] = []
    for command in COMMANDS:
        words = shlex.split(command)
        program = str(work / "venv/bin" / words[0])
        text, seconds, busy = record(work / "empty", [program, *words[1:]], environment)
        told = "(prints the same)" if text in seen else text.replace(str(work), "…")
        seen.append(text)
        parts.append(step(command, told, seconds, busy))
    return parts, json.loads((work / "empty/runs/demo/demo.json").read_text(encoding="utf-8"))


def step(command: str, text: str, seconds: float, busy: float) -> str:
    """One command of the page."""
    lines = text.splitlines()
    if len(lines) > LINES:
        lines = [*lines[:LINES], f"… ({len(lines) - LINES} lines more)"]
    body = "\n".join(line.rstrip() for line in lines)
    return (
        f"```text\n$ {command}\n{body}\n```\n"
        f"{busy:.1f} s of processor time, {seconds:.0f} s by the clock.\n"
    )


def shown(demo: dict[str, object]) -> str:
    """Return the tables and words of a demo as Markdown."""
    parts: list[str] = []
    for table in demo["tables"]:  # type: ignore[attr-defined]
        parts += [f"{table['title']}:", ""]
        parts.append("| " + " | ".join(table["columns"]) + " |")
        parts.append("|" + "---|" * len(table["columns"]))
        parts += ["| " + " | ".join(map(str, row)) + " |" for row in table["rows"]]
        parts.append("")
    return "\n".join([*parts, *(f"* {line}" for line in demo["words"])])  # type: ignore[attr-defined]


def main() -> None:
    """Write the page and the README's part."""
    with tempfile.TemporaryDirectory() as folder:
        parts, demo = visit(Path(folder))
    head = (
        "# A first visit, recorded\n\n"
        "Made by `make first-visit`: a wheel in an empty environment, folder and home, Python "
        f"{platform.python_version()}, {os.cpu_count()} cores, on a machine that did other work "
        "beside. What was typed, what it printed (on standard error too), how long it took.\n"
    )
    PAGE.write_text("\n".join([head, *parts]), encoding="utf-8")
    before, _, rest = README.read_text(encoding="utf-8").partition(MARKS[0])
    _, found, after = rest.partition(MARKS[1])
    if not found:
        raise SystemExit(f"{README}: no marks {MARKS}")
    text = f"{before}{MARKS[0]}\n{shown(demo)}\n{MARKS[1]}{after}"
    README.write_text(text, encoding="utf-8")
    print(f"wrote {PAGE} and a part of {README}")


if __name__ == "__main__":
    main()
