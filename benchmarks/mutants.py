"""Would a test notice? Changes one operator or constant of the package at a time, and runs tests.

    python benchmarks/mutants.py [ROOM ...] [--write] [--jobs N] [--seed N] [--each N]

Sites are drawn from the files of a room: comparisons, arithmetic, ``and``/``or``, ``not``,
``min``/``max`` and integer constants. Each mutant runs the tests of its room in a copy of the
repository, stopped at the first failure. With ``--write`` the table and the survivors go into
docs/testing.md.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from _page import replace

ROOT = Path(__file__).resolve().parents[1]
MACHINE = "accelsim/hardware/machines/spatten"
BLOCKS = "accelsim/hardware/blocks"
LIMIT_S = 240
"""A mutant that runs longer hangs; that is noticed."""


@dataclass(frozen=True)
class Room:
    """Files whose mutants are tried, and the tests that should notice, the fastest first."""

    files: tuple[str, ...]
    tests: tuple[str, ...]


ROOMS = {
    "event engine": Room(
        (
            *(
                f"{MACHINE}/{name}.py"
                for name in (
                    "key_side",
                    "value_side",
                    "selection",
                    "foresight",
                    "kept_scores",
                    "order",
                    "decision",
                    "plan",
                    "rows",
                    "requests",
                    "layout",
                    "pipeline",
                    "counts",
                )
            ),
            *(
                f"{BLOCKS}/{name}.py"
                for name in (
                    "softmax",
                    "top_k",
                    "dot_product",
                    "weighted_sum",
                    "ring_buffer",
                    "buffer_pool",
                    "matrix_fetcher",
                )
            ),
            "accelsim/hardware/simulation/_module.py",
        ),
        ("tests/hardware/test_pins.py", "tests/hardware/blocks", "tests/hardware"),
    ),
    "rivals": Room(
        ("accelsim/hardware/machines/a3.py", "accelsim/hardware/machines/mnnfast.py"),
        (
            "tests/hardware/test_a3.py",
            "tests/hardware/test_mnnfast.py",
            "tests/hardware/test_pins.py",
        ),
    ),
    "energy": Room(
        (
            "accelsim/energy/_evaluate.py",
            "accelsim/energy/_library.py",
            "accelsim/energy/_table.py",
        ),
        ("tests/energy",),
    ),
    "CSV import": Room(
        ("accelsim/workloads/_csv.py", "accelsim/workloads/_table.py"),
        ("tests/workloads",),
    ),
    "policies": Room(
        ("accelsim/policies", "accelsim/policies/selections"),
        ("tests/policies", "tests/contracts/test_policies.py", "tests/functional"),
    ),
    "sweep": Room(
        (
            "accelsim/exploration/_sweep.py",
            "accelsim/exploration/sweep_file.py",
            "accelsim/exploration/_space.py",
            "accelsim/exploration/_stored_points.py",
            "accelsim/exploration/metrics.py",
        ),
        ("tests/exploration/test_metrics.py", "tests/exploration/test_sweep.py"),
    ),
    "store": Room(
        ("accelsim/exploration/_store.py",),
        ("tests/exploration/test_sweep.py", "tests/exploration/test_search.py"),
    ),
}

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv,
}
_NAMES = {"min": "max", "max": "min"}


@dataclass(frozen=True)
class Mutant:
    """One site of a file, changed.

    Attributes:
        room, file: where.
        line: of the site.
        text: the file with the change.
        what: the line before and after.
    """

    room: str
    file: str
    line: int
    text: str
    what: str


def mutants_of(room: str, file: Path) -> Iterator[Mutant]:
    """Every mutant of a file."""
    source = file.read_text(encoding="utf-8")
    tree = ast.parse(source)
    for node in _nodes(tree):
        for old, new in _changes(node):
            start, end = _span(source, old)
            text = source[:start] + new + source[end:]
            try:
                ast.parse(text)
            except SyntaxError:
                continue
            line = source.count("\n", 0, start) + 1
            before, after = source.splitlines()[line - 1], text.splitlines()[line - 1]
            what = f"{before.strip()} → {after.strip()}"
            yield Mutant(room, str(file.relative_to(ROOT)), line, text, what)


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those inside f-strings, whose places Python 3.11 does not know."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.JoinedStr):
            yield from _nodes(child)


def _changes(node: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    """Expressions below a node and what to put in their place."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        other = _COMPARISONS.get(type(node.ops[0]))
        if other is not None:
            yield node, ast.unparse(ast.Compare(node.left, [other()], node.comparators))
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        changed = ast.BinOp(node.left, _ARITHMETIC[type(node.op)](), node.right)
        yield node, f"({ast.unparse(changed)})"
    elif isinstance(node, ast.BoolOp):
        other_op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield node, f"({ast.unparse(ast.BoolOp(other_op, node.values))})"
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node, f"({ast.unparse(node.operand)})"
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id in _NAMES:
            yield node.func, _NAMES[node.func.id]
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        yield node, str(node.value + 1)


def _span(source: str, node: ast.expr) -> tuple[int, int]:
    """Where a node is in its source, in characters."""
    lines = source.splitlines(keepends=True)
    assert node.end_lineno is not None
    assert node.end_col_offset is not None

    def at(line: int, column: int) -> int:
        before = sum(map(len, lines[: line - 1]))
        return before + len(lines[line - 1].encode()[:column].decode())

    return at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)


def drawn(rooms: list[str], each: int, seed: int) -> list[Mutant]:
    """So many mutants of each room."""
    found = []
    for name in rooms:
        paths = [ROOT / entry for entry in ROOMS[name].files]
        files = [file for path in paths for file in sorted(path.glob("*.py")) or [path]]
        sites = [mutant for file in files for mutant in mutants_of(name, file)]
        found += random.Random(f"{seed} {name}").sample(sites, min(each, len(sites)))
    return found


class Copies:
    """Copies of the repository in which tests run, one for each job, with compiled kernels."""

    def __init__(self, folder: Path, jobs: int) -> None:
        self.free: SimpleQueue[Path] = SimpleQueue()
        skip = shutil.ignore_patterns(".git", ".venv", ".hypothesis", "*_cache")
        for job in range(jobs):
            shutil.copytree(ROOT, folder / str(job), ignore=skip, symlinks=True)
            self.free.put(folder / str(job))

    def noticed(self, mutant: Mutant) -> bool:
        """Whether a test of the room fails, or hangs."""
        copy = self.free.get()
        file = copy / mutant.file
        whole = file.read_text(encoding="utf-8")
        kept = copy.with_name(f"{copy.name}-cache")
        try:
            # Kernels of the mutant must not replace those of the package.
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(copy / "accelsim", kept, copy_function=os.link)
            file.write_text(mutant.text, encoding="utf-8")
            return any(self._fails(copy, tests) for tests in ROOMS[mutant.room].tests)
        finally:
            shutil.rmtree(copy / "accelsim")
            kept.rename(copy / "accelsim")
            (copy / mutant.file).unlink()
            (copy / mutant.file).write_text(whole, encoding="utf-8")
            self.free.put(copy)

    def fails(self, tests: str) -> bool:
        """Whether tests fail as they are."""
        copy = self.free.get()
        try:
            return self._fails(copy, tests)
        finally:
            self.free.put(copy)

    @staticmethod
    def _fails(copy: Path, tests: str) -> bool:
        words = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", tests]
        try:
            done = subprocess.run(
                [sys.executable, *words],
                cwd=copy,
                env={**os.environ, "PYTHONPATH": str(copy)},
                capture_output=True,
                timeout=LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return True
        return done.returncode != 0


def main() -> None:
    """Try them, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rooms", nargs="*", help=f"of {', '.join(ROOMS)}; all if none")
    parser.add_argument("--write", action="store_true", help="put the table into docs/testing.md")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=32, help="mutants of a room")
    args = parser.parse_args()
    rooms = args.rooms or list(ROOMS)
    mutants = drawn(rooms, args.each, args.seed)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.jobs) as pool:
        copies = Copies(Path(folder), args.jobs)
        for room in rooms:
            if any(copies.fails(tests) for tests in ROOMS[room].tests):
                raise SystemExit(f"{room}: tests fail without a mutant")
        results = []
        for mutant, noticed in zip(mutants, pool.map(copies.noticed, mutants), strict=True):
            results.append((mutant, noticed))
            state = "noticed" if noticed else "SURVIVED"
            where = f"{mutant.file}:{mutant.line}"
            print(f"{len(results)}/{len(mutants)} {state} {where}: {mutant.what}", flush=True)
    lines = ["| room | mutants | noticed | share |", "|---|---|---|---|"]
    for room in [*rooms, "all"]:
        found = [noticed for mutant, noticed in results if room in (mutant.room, "all")]
        share = 100 * sum(found) / len(found)
        lines.append(f"| {room} | {len(found)} | {sum(found)} | {share:.0f} % |")
    lines.append("")
    survivors = [mutant for mutant, noticed in results if not noticed]
    lines += [f"- `{mutant.file}:{mutant.line}`: `{mutant.what}`" for mutant in survivors]
    print("\n".join(lines))
    if args.write:
        replace(ROOT / "docs" / "testing.md", "benchmarks/mutants.py", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
