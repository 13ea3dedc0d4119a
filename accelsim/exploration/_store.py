"""The result store: a folder of Parquet parts that many processes may append to and none can break.

Every finished point is first a line in the writer's own journal (it survives SIGKILL the moment it
is written), and moves in batches to Parquet parts that appear by rename, whole or not at all. A
journal whose writer is gone is folded into a part by the next one who opens the store. A point
that is present twice is the same point: readers take the highest ``revision``, else the first.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from accelsim.errors import AccelsimError

SCHEMA = "accelsim.store/1"
Row = dict[str, Any]

_ROWS_PER_PART = 512
_MAX_PARTS = 16
_READ_ATTEMPTS = 20


class StoreError(AccelsimError):
    """A store that cannot be read or written."""


class Store:
    """One writer's view of a result store.

    Args:
        folder: created if missing.

    Raises:
        StoreError: the folder holds something else, is read-only, or the disk is full.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._id = uuid.uuid4().hex[:12]
        self._rows: list[Row] = []
        self._part = 0
        with _explained(self.folder, "opened for writing"):
            _create(self.folder)
            self._owner = FileLock(self.folder / f"journal-{self._id}.lock")
            self._owner.acquire()
            self._journal = (self.folder / f"journal-{self._id}.jsonl").open("ab", buffering=0)
            self._tidy()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, row: Row) -> None:
        """Add one finished point; on return it survives the death of this process.

        Raises:
            StoreError: read-only or full; points appended before are safe.
        """
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        with _explained(self.folder, "written"):
            written = self._journal.write(line)
            if written != len(line):
                # A second write says why the first was cut short.
                self._journal.write(line[written:])
        self._rows.append(row)
        if len(self._rows) >= _ROWS_PER_PART:
            self.flush()

    def flush(self) -> None:
        """Move the journal's rows into a Parquet part."""
        if not self._rows:
            return
        with _explained(self.folder, "written"):
            write_part(self.folder / f"part-{self._id}-{self._part:05}.parquet", self._rows)
            self._part += 1
            self._journal.truncate(0)
        self._rows = []

    def close(self) -> None:
        """Flush, and give up the journal."""
        try:
            self.flush()
            with _explained(self.folder, "written"):
                self._tidy()
            (self.folder / f"journal-{self._id}.jsonl").unlink(missing_ok=True)
        finally:
            self._journal.close()
            self._owner.release()
            (self.folder / f"journal-{self._id}.lock").unlink(missing_ok=True)

    def rows(self) -> list[Row]:
        """Every point of the store, those of other running writers included."""
        return read_rows(self.folder)

    def writers(self) -> list[str]:
        """Names of the writers at work on the store, this one included."""
        return sorted(path.stem for path in self.folder.glob("journal-*.jsonl"))

    def _tidy(self) -> None:
        """Fold journals of dead writers and many small parts; skipped if someone else is at it."""
        try:
            with FileLock(self.folder / ".lock", timeout=0):
                for journal in self.folder.glob("journal-*.jsonl"):
                    self._adopt(journal)
                parts = sorted(self.folder.glob("part-*.parquet"))
                if len(parts) > _MAX_PARTS:
                    merged = [row for part in parts for row in _read_part(part)]
                    name = f"part-{uuid.uuid4().hex[:12]}-merged.parquet"
                    write_part(self.folder / name, list(_unique(merged)))
                    for part in parts:
                        part.unlink(missing_ok=True)
        except Timeout:
            return

    def _adopt(self, journal: Path) -> None:
        lock = journal.with_suffix(".lock")
        if lock == Path(self._owner.lock_file):
            return
        try:
            with FileLock(lock, timeout=0):
                if rows := _read_journal(journal):
                    write_part(self.folder / f"part-{uuid.uuid4().hex[:12]}-00000.parquet", rows)
                journal.unlink(missing_ok=True)
        except Timeout:
            return
        lock.unlink(missing_ok=True)


def is_store(path: str | Path) -> bool:
    """Whether a folder is a result store."""
    return (Path(path) / "store.json").is_file()


def read_rows(folder: str | Path) -> list[Row]:
    """Return every point of a store, each once, also while others write to it.

    Raises:
        StoreError: no store, or damaged.
    """
    folder = Path(folder)
    if not is_store(folder):
        raise StoreError(f"{folder}: is not a result store (it has no store.json)")
    for _ in range(_READ_ATTEMPTS):
        try:
            with _explained(folder, "read", but=FileNotFoundError):
                # Journals first: what leaves one during the reading is in a part by then.
                journals = [r for p in folder.glob("journal-*.jsonl") for r in _read_journal(p)]
                parts = [r for p in sorted(folder.glob("part-*.parquet")) for r in _read_part(p)]
            return list(_unique([*parts, *journals]))
        except FileNotFoundError:
            continue  # merged under our hands: list again
    raise StoreError(f"{folder}: cannot be read, its files keep changing")


def write_part(path: Path, rows: list[Row]) -> None:
    """Write rows as one Parquet file, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{_storable(name): _storable(value) for name, value in row.items()} for row in rows]
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: _uniform([row.get(name) for row in rows]) for name in names}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            pq.write_table(pa.table(columns), stream, compression="zstd")
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _storable(value: Any) -> Any:
    """Return a value of a row as Parquet takes it: a scalar, whose text has a UTF-8 form.

    A journal holds whatever JSON holds, and must never be a reason not to open the store.
    """
    if isinstance(value, (dict, list, tuple)):
        value = _text(value)
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value


def _uniform(values: list[Any]) -> list[Any]:
    """Give a column one type: whole, floating, true/false, else text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {bool} or kinds <= {int} or kinds <= {str} or kinds <= {float}:
        return values if kinds != {int} or _fits(values) else [_text(v) for v in values]
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in values]
    return [_text(value) for value in values]


def _fits(values: list[Any]) -> bool:
    return all(value is None or -(1 << 63) <= value < 1 << 63 for value in values)


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, sort_keys=True)


def _read_part(path: Path) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows: list[Row] = pq.read_table(path, partitioning=None).to_pylist()
    except pa.ArrowException as error:
        detail = " ".join(str(error).split())[:200]
        raise StoreError(f"{path}: is damaged ({detail}); remove it to run its points again") from (
            None
        )
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def _read_journal(path: Path) -> list[Row]:
    rows = []
    for line in path.read_bytes().split(b"\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue  # the line that its writer was killed in
        if isinstance(row, dict) and isinstance(row.get("key"), str) and "status" in row:
            rows.append(row)
    return rows


def _unique(rows: Iterable[Row]) -> Iterator[Row]:
    seen: dict[str, Row] = {}
    for row in rows:
        known = seen.get(row["key"])
        if known is None or _standing(row) > _standing(known):
            seen[row["key"]] = row
    return iter(seen.values())


def _create(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder}: is a file; expected a folder for the result store")
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / "store.json"
    if marker.is_file():
        return
    # Whoever makes a store writes the marker before any other visible file.
    visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
    if visible and not marker.is_file():
        raise StoreError(f"{folder}: is neither empty nor a result store; choose another")
    with FileLock(folder / ".lock"):
        temporary = folder / f".store.json.{os.getpid()}.tmp"
        temporary.write_text(json.dumps({"schema": SCHEMA}) + "\n", encoding="utf-8")
        temporary.replace(marker)


def _standing(row: Row) -> tuple[bool, int]:
    """A retried failure replaces the failure, a row with more figures the one without."""
    return row["status"] == "ok", int(row.get("revision", 0))


class _explained:  # noqa: N801 - reads as a phrase after ``with``
    """Turns errors of the file system into one line that says what to do."""

    def __init__(self, folder: Path, action: str, but: type[BaseException] | None = None) -> None:
        self.folder, self.action, self.but = folder, action, but

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if not isinstance(error, OSError) or (self.but and isinstance(error, self.but)):
            return
        reason = error.strerror or str(error)
        raise StoreError(
            f"{self.folder}: cannot be {self.action} ({reason}); finished points are safe, run the "
            "same command again to go on"
        ) from None
