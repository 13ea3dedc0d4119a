"""Would a test notice? Changes one operator or constant of the package at a time, and runs tests.

    python benchmarks/mutants.py [ROOM ...] [--write] [--seed N] [--each N] [--known FILE]

Sites are drawn from the files of a room: comparisons, arithmetic, ``and``/``or``, ``not``,
``min``/``max`` and integer constants. No sites are texts, paths, what is raised, sizes of caches,
and limits of schemas (``tests/contracts/test_bounds.py`` holds that each number has them). Each
mutant runs the tests of its room in a copy of the repository, stopped at the first failure, or
when they take several times what they take without a change. Survivors that nothing can notice
stand with their reason in mutants.yaml. With ``--write`` the table and the survivors go into
docs/testing.md; rooms that were not run keep what stands there of them.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib
import math
import multiprocessing
import os
import re
import resource
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "testing.md"
MACHINE = "accelsim/hardware/machines/spatten"
BLOCKS = "accelsim/hardware/blocks"
PATIENCE = 2
"""A mutant hangs, and is noticed, if a run of tests takes so many times the processor seconds that
all tests of its room took without a change. That was with no kernel compiled, and a mutant compiles
no more."""
LONGEST_S = 600
"""Processor seconds of the tests of a room without a change, and of what is tried alone."""


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
        (
            "tests/hardware/test_pins.py -k random",
            "tests/hardware/test_pins.py -k presets",
            "tests/hardware/blocks",
            "tests/hardware/test_published_plan.py tests/hardware/test_published_foresight.py",
            "tests/hardware/test_module.py tests/hardware/test_selection_cost.py",
        ),
    ),
    "rivals": Room(
        ("accelsim/hardware/machines/a3.py", "accelsim/hardware/machines/mnnfast.py"),
        (
            "tests/hardware/test_a3.py",
            "tests/hardware/test_mnnfast.py",
            "tests/policies/test_pins.py",
            "tests/hardware/test_pins.py -k presets",
        ),
    ),
    "energy": Room(
        (
            "accelsim/energy/_evaluate.py",
            "accelsim/energy/_library.py",
            "accelsim/energy/_table.py",
        ),
        ("tests/energy/test_energy.py", "tests/energy/test_readings.py"),
    ),
    "CSV import": Room(
        ("accelsim/workloads/_csv.py", "accelsim/workloads/_table.py"),
        (
            "tests/workloads/test_csv.py tests/workloads/test_table.py",
            "tests/workloads/test_query_table.py tests/workloads/test_parquet.py",
        ),
    ),
    "policies": Room(
        ("accelsim/policies", "accelsim/policies/selections"),
        (
            "tests/policies/test_pins.py",
            "tests/traces/test_decisions.py tests/functional/test_rivals.py",
            "tests/policies --deselect tests/policies/test_pins.py",
            "tests/contracts/test_policies.py",
            "tests/functional/test_run_policy.py",
        ),
    ),
    "sweep": Room(
        (
            "accelsim/exploration/_sweep.py",
            "accelsim/exploration/sweep_file.py",
            "accelsim/exploration/_space.py",
            "accelsim/exploration/_stored_points.py",
            "accelsim/exploration/metrics.py",
        ),
        (
            "tests/exploration/test_space.py tests/exploration/test_metrics.py",
            "tests/cli/test_sweep.py",
            "tests/exploration/test_sweep.py -m 'not slow'",
        ),
    ),
    "store": Room(
        ("accelsim/exploration/_store.py",),
        ("tests/exploration/test_store.py", "tests/exploration/test_sweep.py -m 'not slow'"),
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
_NO_SITES = ("ge", "gt", "le", "lt", "maxsize")
"""Arguments that declare or tune and compute nothing: limits of schemas, sizes of caches."""
SECONDS = "processor-seconds"
_LOADED_ONCE = ("numpy", "numba", "pyarrow", "pydantic", "simpy", "yaml")


@dataclass(frozen=True)
class Mutant:
    """One site of a file, changed.

    Attributes:
        room, file: where.
        line: of the site.
        text: the file with the change.
        what: the line before and after; the same change of an equal line has its number behind it.
    """

    room: str
    file: str
    line: int
    text: str
    what: str

    @property
    def key(self) -> str:
        """File and change, on one line."""
        return f"{self.file}: {self.what}"


def mutants_of(room: str, file: Path) -> Iterator[Mutant]:
    """Every mutant of a file."""
    source = file.read_text(encoding="utf-8")
    seen: Counter[str] = Counter()
    for node in _nodes(ast.parse(source)):
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
            seen[what] += 1
            if seen[what] > 1:
                what += f" ({seen[what]})"
            yield Mutant(room, str(file.relative_to(ROOT)), line, text, what)


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes whose change could matter.

    Not those inside f-strings, whose places Python 3.11 does not know.
    """
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.JoinedStr | ast.Raise):
            continue
        if isinstance(child, ast.keyword) and child.arg in _NO_SITES:
            continue
        yield from _nodes(child)


def _changes(node: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    """Expressions below a node and what to put in their place."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        other = _COMPARISONS.get(type(node.ops[0]))
        if other is not None:
            yield node, ast.unparse(ast.Compare(node.left, [other()], node.comparators))
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC and not _is_path(node):
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


def _is_path(node: ast.expr) -> bool:
    """Whether this joins parts of a path."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return _is_path(node.left) or _is_path(node.right)
    return isinstance(node, ast.JoinedStr | ast.Constant) and not isinstance(
        getattr(node, "value", ""), int | float
    )


def _span(source: str, node: ast.expr) -> tuple[int, int]:
    """Where a node is in its source, in characters."""
    lines = source.splitlines(keepends=True)
    assert node.end_lineno is not None
    assert node.end_col_offset is not None

    def at(line: int, column: int) -> int:
        before = sum(map(len, lines[: line - 1]))
        return before + len(lines[line - 1].encode()[:column].decode())

    return at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)


def files_of(room: str) -> list[Path]:
    """The files of a room."""
    paths = [ROOT / entry for entry in ROOMS[room].files]
    return [file for path in paths for file in sorted(path.glob("*.py")) or [path]]


def drawn(room: str, each: int, seed: int) -> list[Mutant]:
    """So many mutants of a room; a change elsewhere in its files draws the same again."""
    sites = [mutant for file in files_of(room) for mutant in mutants_of(room, file)]

    def place(mutant: Mutant) -> bytes:
        return hashlib.sha256(f"{seed} {mutant.file} {mutant.what}".encode()).digest()

    return sorted(sites, key=place)[:each]


def reasons() -> dict[tuple[str, str], str]:
    """Why nothing can notice a mutant, by its file and change."""
    listed = yaml.safe_load((ROOT / "benchmarks" / "mutants.yaml").read_text(encoding="utf-8"))
    return {
        (file, change): reason
        for file, changes in (listed or {}).items()
        for change, reason in changes.items()
    }


class Copy:
    """A copy of the repository in which tests run; kernels are compiled by the first that run."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "copy"
        skip = shutil.ignore_patterns(".git", ".venv", ".hypothesis", "*_cache", "*.nb[ci]", "runs")
        shutil.copytree(ROOT, self.root, ignore=skip, symlinks=True)
        # Third-party packages are loaded once, and every run of tests begins as a fork of that.
        self.start = multiprocessing.get_context("forkserver")
        self.start.set_forkserver_preload(list(_LOADED_ONCE))
        self.limit_s: dict[str, int] = {}

    def learn(self, room: str) -> None:
        """Run the tests of a room without a change: they pass, and this is how long they take."""
        taken = 0.0
        for tests in ROOMS[room].tests:
            if self.fails(tests):
                raise SystemExit(f"{room}: tests fail without a mutant: {tests}")
            taken += float((self.root / SECONDS).read_text(encoding="utf-8"))
        self.limit_s[room] = math.ceil(PATIENCE * taken)

    def noticed(self, mutant: Mutant, tests: tuple[str, ...] = ()) -> bool:
        """Whether one of the tests fails, or hangs; those of the room if none are given."""
        file = self.root / mutant.file
        whole = file.read_text(encoding="utf-8")
        kept = self.root / "kept"
        try:
            # Kernels of the mutant must not replace those of the package.
            shutil.copytree(self.root / "accelsim", kept, copy_function=os.link)
            file.unlink()
            file.write_text(mutant.text, encoding="utf-8")
            limit = self.limit_s.get(mutant.room, LONGEST_S)
            return any(self.fails(each, limit) for each in tests or ROOMS[mutant.room].tests)
        finally:
            shutil.rmtree(self.root / "accelsim")
            kept.rename(self.root / "accelsim")
            assert file.read_text(encoding="utf-8") == whole

    def fails(self, tests: str, limit_s: int = LONGEST_S) -> bool:
        """Whether tests fail, or take more processor seconds."""
        process = self.start.Process(target=_run_tests, args=(str(self.root), tests, limit_s))
        process.start()
        process.join(10 * limit_s)  # a machine may be busy, and what waits for ever uses no time
        if process.is_alive():
            process.kill()
            process.join()
        return process.exitcode != 0


def _run_tests(root: str, tests: str, limit_s: int) -> None:
    """Run tests in this process, which ends with their status and leaves its time in a file."""
    os.chdir(root)
    sys.path.insert(0, root)
    os.environ["PYTHONPATH"] = root
    resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    pytest = importlib.import_module("pytest")
    status = int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *shlex.split(tests)]))
    Path(root, SECONDS).write_text(str(time.process_time()), encoding="utf-8")
    sys.exit(status)


def _found(file: Path | None) -> dict[str, bool]:
    """Mutants of earlier runs, and whether they were noticed; the last run counts."""
    if file is None or not file.exists():
        return {}
    lines = file.read_text(encoding="utf-8").splitlines()
    return {line[2:]: line[0] == "+" for line in lines}


def main() -> None:
    """Try them, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rooms", nargs="*", help=f"of {', '.join(ROOMS)}; all if none")
    parser.add_argument("--write", action="store_true", help="put the table into docs/testing.md")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--known",
        type=Path,
        help="file of what was found: noticed ones are not tried again, with --write none",
    )
    parser.add_argument("--each", type=int, default=40, help="mutants of a room")
    args = parser.parse_args()
    rooms = args.rooms or list(ROOMS)
    mutants = [mutant for room in rooms for mutant in drawn(room, args.each, args.seed)]
    results: list[tuple[Mutant, bool]] = []
    before = _found(args.known)
    if not args.write:
        before = {key: noticed for key, noticed in before.items() if noticed}
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder))
        for room in {mutant.room for mutant in mutants if mutant.key not in before}:
            copy.learn(room)
        for mutant in mutants:
            noticed = before.get(mutant.key)
            if noticed is None:
                noticed = copy.noticed(mutant)
                if args.known is not None:
                    with args.known.open("a", encoding="utf-8") as file:
                        file.write(f"{'+' if noticed else '-'} {mutant.key}\n")
            results.append((mutant, noticed))
            state = "noticed" if noticed else "SURVIVED"
            where = f"{mutant.file}:{mutant.line}"
            print(f"{len(results)}/{len(mutants)} {state} {where}: {mutant.what}", flush=True)
    found = {}
    for room in rooms:
        noticed_here = [noticed for mutant, noticed in results if mutant.room == room]
        found[room] = (len(noticed_here), sum(noticed_here))
    known = reasons()
    survivors = {
        mutant.key: known.get((mutant.file, mutant.what), "no test yet")
        for mutant, noticed in results
        if not noticed
    }
    if args.write:
        old_found, old_survivors = read_page(PAGE.read_text(encoding="utf-8"))
        found = old_found | found
        others = {file for room in ROOMS if room not in rooms for file in files_of(room)}
        survivors |= {
            key: reason
            for key, reason in old_survivors.items()
            if ROOT / key.split(": ")[0] in others
        }
    text = written(found, survivors)
    print(text)
    if args.write:
        sys.path.insert(0, str(ROOT / "benchmarks"))
        importlib.import_module("_page").replace(PAGE, "benchmarks/mutants.py", text)


def written(found: dict[str, tuple[int, int]], survivors: dict[str, str]) -> str:
    """The part of the page: a table of rooms, and survivors with their reasons.

    Args:
        found: of a room, how many mutants were tried and how many noticed.
        survivors: reasons, by :attr:`Mutant.key`.
    """
    lines = ["| room | mutants | noticed | share |", "|---|---|---|---|"]
    rows = {room: found[room] for room in ROOMS if room in found}
    rows["all"] = (sum(tried for tried, _ in rows.values()), sum(n for _, n in rows.values()))
    for room, (tried, noticed) in rows.items():
        lines.append(f"| {room} | {tried} | {noticed} | {100 * noticed / tried:.0f} % |")
    lines += ["", "Survivors, and why nothing notices them:", ""]
    files = [str(file.relative_to(ROOT)) for room in ROOMS for file in files_of(room)]
    for key in sorted(survivors, key=lambda key: files.index(key.split(": ")[0])):
        file, what = key.split(": ", 1)
        lines.append(f"- `{file}`: `{what}`: {survivors[key]}")
    return "\n".join(lines) + "\n"


def read_page(text: str) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """What :func:`written` put into a page."""
    found = {
        match[1]: (int(match[2]), int(match[3]))
        for match in re.finditer(r"^\| ([\w ]+) \| (\d+) \| (\d+) \| \d+ % \|$", text, re.M)
        if match[1] in ROOMS
    }
    survivors = re.findall(r"^- `([^`]+)`: `([^`]+)`: (.+)$", text, re.M)
    return found, {f"{file}: {what}": reason for file, what, reason in survivors}


if __name__ == "__main__":
    main()
