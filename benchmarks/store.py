"""The result store against SQLite: time, size, and rows lost to SIGKILL.

Appends rows of a real point one by one, each safe from the death of the process when the call
returns, as a sweep does: by the store's journal and Parquet parts, and by SQLite in WAL mode with
``synchronous`` NORMAL (safe from SIGKILL, as the journal is) and FULL (from a power cut, too). Then
kills writers at work and counts what they had been told was safe and cannot be read.

    python benchmarks/store.py [ROWS] [KILLS]
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from accelsim.exploration import Request, load_results, replay_many
from accelsim.exploration._store import Store

Row = dict[str, Any]
KINDS = ("journal", "sqlite-NORMAL", "sqlite-FULL")


def rows(template: Row, count: int) -> Iterator[Row]:
    """Rows that differ as the points of a sweep do: in key and in figures."""
    for number in range(count):
        yield {**template, "key": f"{number:064x}", "latency_s": template["latency_s"] + number}


def open_writer(kind: str, folder: Path) -> tuple[Callable[[Row], None], Callable[[], None]]:
    """Return how to append a row and how to close."""
    if kind == "journal":
        store = Store(folder)
        return store.append, store.close
    base = sqlite3.connect(folder / "store.db", isolation_level=None)
    base.execute("PRAGMA journal_mode=WAL")
    base.execute(f"PRAGMA synchronous={kind.partition('-')[2]}")
    base.execute("CREATE TABLE IF NOT EXISTS points (key TEXT PRIMARY KEY, row TEXT)")

    def append(row: Row) -> None:
        base.execute("INSERT OR REPLACE INTO points VALUES (?, ?)", (row["key"], json.dumps(row)))

    return append, base.close


def stored(kind: str, folder: Path) -> int:
    """Rows that a reader finds."""
    if kind == "journal":
        return len(load_results(folder).rows)
    with closing(sqlite3.connect(folder / "store.db")) as base:
        return len([json.loads(text) for (text,) in base.execute("SELECT row FROM points")])


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def timed(kind: str, template: Row, count: int) -> str:
    """Append rows, close, read all."""
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        wall, cpu = time.perf_counter(), time.process_time()
        append, close = open_writer(kind, folder)
        for row in rows(template, count):
            append(row)
        close()
        written = time.perf_counter() - wall, time.process_time() - cpu
        wall = time.perf_counter()
        found = stored(kind, folder)
        read = time.perf_counter() - wall
        assert found == count
        size = size_of(folder) / 1e6
    return f"{written[0]:6.1f} s ({written[1]:5.1f} s CPU), read {read:5.1f} s, {size:7.1f} MB"


def killed(kind: str, kills: int) -> str:
    """Kill writers after a few hundred rows; count rows they had reported and that are gone."""
    lost = reported = 0
    for number in range(kills):
        with tempfile.TemporaryDirectory(dir=".") as name:
            child = subprocess.Popen(
                [sys.executable, __file__, "--write", kind, name], stdout=subprocess.PIPE
            )
            assert child.stdout is not None
            told = 0
            for _ in range(100 + 173 * number):
                told = int(child.stdout.readline())
            os.kill(child.pid, signal.SIGKILL)
            for line in child.stdout.read().split(b"\n")[:-1]:
                told = int(line)
            child.wait()
            reported += told
            lost += max(told - stored(kind, Path(name)), 0)
    return f"{lost} of {reported} reported rows lost in {kills} kills"


def write(kind: str, folder: Path) -> None:
    """Append until killed; tell how many are safe after each."""
    append, _ = open_writer(kind, folder)
    for number, row in enumerate(rows({"latency_s": 1.0, "status": "ok"}, 1 << 30), start=1):
        append(row)
        os.write(1, f"{number}\n".encode())


def main() -> None:
    """Print one line a store."""
    if sys.argv[1:2] == ["--write"]:
        write(sys.argv[2], Path(sys.argv[3]))
        return
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    kills = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    (template,) = replay_many([Request("bert-base-cola")])
    print(f"{count} rows of {len(template)} columns, {len(json.dumps(template))} bytes as JSON")
    for kind in KINDS:
        print(f"{kind:14} {timed(kind, template, count)}; {killed(kind, kills)}")


if __name__ == "__main__":
    main()
