"""The result store: what it keeps of a row, when it makes parts, and whom it refuses."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelsim.exploration import _store
from accelsim.exploration._store import Store, StoreError, read_rows, write_part

LARGEST = 2**63


def row(key: str, **more: Any) -> dict[str, Any]:
    return {"key": key, "status": "ok", **more}


def back(folder: Path, *values: Any) -> list[Any]:
    """Values of one column, written as rows of a part and read again."""
    with Store(folder) as store:
        for place, value in enumerate(values):
            store.append(row(str(place), value=value))
    return [found.get("value") for found in read_rows(folder)]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ((True, False), "bool"),
        ((1, -2), "int64"),
        (("a", "b"), "string"),
        ((1.5, 2.0), "double"),
        ((1, 2.5), "double"),
        ((LARGEST - 1, -LARGEST), "int64"),
        ((1, None), "int64"),
        ((1.5, None), "double"),
        ((True, None), "bool"),
        (("a", None), "string"),
    ],
)
def test_a_column_has_one_type(tmp_path: Path, values: tuple[Any, ...], kind: str) -> None:
    assert back(tmp_path / "s", *values) == list(values)
    (part,) = (tmp_path / "s").glob("part-*.parquet")
    assert str(pq.read_schema(part).field("value").type) == kind


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ((LARGEST, 1), [str(LARGEST), "1"]),
        ((-LARGEST - 1,), [str(-LARGEST - 1)]),
        ((2 * LARGEST, None), [str(2 * LARGEST), None]),
        ((True, 1), ["true", "1"]),
        ((1, "a"), ["1", "a"]),
        (({"b": 1, "a": 2},), ['{"a": 2, "b": 1}']),
        (([1, None], "x"), ["[1, null]", "x"]),
        (("\ud800",), ["\\ud800"]),
    ],
)
def test_what_has_no_type_of_its_own_is_text(
    tmp_path: Path, values: tuple[Any, ...], texts: list[Any]
) -> None:
    assert back(tmp_path / "s", *values) == texts


def test_a_journal_becomes_a_part_at_its_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_store, "_ROWS_PER_PART", 3)
    with Store(tmp_path / "s") as store:
        (journal,) = (tmp_path / "s").glob("journal-*.jsonl")
        for number in range(7):
            store.append(row(str(number)))
            parts = sorted(path.name[-13:] for path in store.folder.glob("part-*"))
            assert parts == [f"{part:05}.parquet" for part in range((number + 1) // 3)]
            assert len(journal.read_bytes().splitlines()) == (number + 1) % 3
    assert [found["key"] for found in read_rows(tmp_path / "s")] == list("0123456")
    assert not list((tmp_path / "s").glob("journal-*"))


def test_an_empty_writer_leaves_no_part(tmp_path: Path) -> None:
    with Store(tmp_path / "s"):
        pass
    assert [path.name for path in (tmp_path / "s").iterdir() if path.name[0] != "."] == [
        "store.json"
    ]


@pytest.mark.parametrize("parts", [16, 17])
def test_parts_are_merged_when_they_are_many(tmp_path: Path, parts: int) -> None:
    for number in range(parts):
        with Store(tmp_path / "s"):
            pass
        write_part(
            tmp_path / "s" / f"part-{number:012}-00000.parquet", [row(str(number), n=number)]
        )
    with Store(tmp_path / "s") as store:
        assert len(list(store.folder.glob("part-*"))) == (1 if parts == 17 else 16)
        assert [found["n"] for found in store.rows()] == list(range(parts))


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        ({"status": "failed"}, {"status": "ok"}, 2),
        ({"status": "ok"}, {"status": "failed"}, 1),
        ({"revision": 1}, {"revision": 2}, 2),
        ({}, {"revision": 1}, 2),
        ({"revision": 1}, {}, 1),
        ({}, {"revision": 0}, 1),
        ({"revision": 3}, {"revision": 3}, 1),
        ({"status": "ok"}, {"status": "failed", "revision": 5}, 1),
    ],
)
def test_of_two_rows_of_a_point_one_stands(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], kept: int
) -> None:
    with Store(tmp_path / "s") as store:
        store.append(row("a", n=1) | first)
        store.append(row("a", n=2) | second)
        assert [found["n"] for found in store.rows()] == [kept]
    assert [found["n"] for found in read_rows(tmp_path / "s")] == [kept]


def test_a_write_that_is_cut_short_is_finished(tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store:
        journal = store._journal

        class Short:
            """Takes half of what it is given the first time."""

            def __init__(self) -> None:
                self.taken: list[bytes] = []

            def write(self, line: bytes) -> int:
                self.taken.append(line[: len(line) if self.taken else len(line) // 2])
                return journal.write(self.taken[-1])

        short = Short()
        store._journal = short  # type: ignore[assignment]
        store.append(row("a", text="x" * 40))
        store._journal = journal
        assert len(short.taken) == 2
        assert [found["text"] for found in store.rows()] == ["x" * 40]


def test_a_disk_that_is_full_says_so(tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store:
        journal = store._journal

        class Full:
            def write(self, line: bytes) -> int:
                raise OSError(errno.ENOSPC, "No space left on device")

        store._journal = Full()  # type: ignore[assignment]
        with pytest.raises(StoreError, match=r"written \(No space left on device\); finished"):
            store.append(row("a"))
        store._journal = journal

    class SilentError(OSError):
        """Without a number."""

    with (
        pytest.raises(StoreError, match=r"read \(no number\)"),
        _store._explained(tmp_path, "read"),
    ):
        raise SilentError("no number")
    with pytest.raises(FileNotFoundError), _store._explained(tmp_path, "read", FileNotFoundError):
        raise FileNotFoundError(2, "gone")
    with pytest.raises(ValueError, match="other"), _store._explained(tmp_path, "read"):
        raise ValueError("other")


def test_only_empty_folders_and_stores_are_written_to(tmp_path: Path) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / ".DS_Store").touch()
    with Store(tmp_path / "hidden"):
        pass
    with Store(tmp_path / "hidden"):
        pass
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").touch()
    with pytest.raises(StoreError, match="neither empty nor a result store"):
        Store(tmp_path / "foreign")
    with pytest.raises(StoreError, match="is a file; expected a folder"):
        Store(tmp_path / "foreign" / "thesis.tex")
    with pytest.raises(StoreError, match=r"no store\.json"):
        read_rows(tmp_path / "foreign")


def test_lines_that_are_no_rows_are_passed_over(tmp_path: Path) -> None:
    with Store(tmp_path / "s"):
        pass
    lines = ["[1]", '"status"', '{"key": 1, "status": "ok"}', '{"key": "b"}', '{"status": "ok"}']
    whole = [json.dumps(row("a")), *lines, json.dumps(row("c")), '{"key": "d", "sta']
    (tmp_path / "s" / "journal-gone.jsonl").write_text("\n".join(whole))
    assert [found["key"] for found in read_rows(tmp_path / "s")] == ["a", "c"]
    with Store(tmp_path / "s") as store:
        # Its writer is gone: it is a part now.
        assert store.writers() == [f"journal-{store._id}"]
        assert [found["key"] for found in store.rows()] == ["a", "c"]


def test_nobody_waits_for_a_writer_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, waits = _store.FileLock, []

    def noted(path: Path, timeout: float = -1) -> Any:
        waits.append((Path(path).name, timeout))
        return lock(path, timeout=timeout)

    with Store(tmp_path / "s") as first:
        first.append(row("a"))
        monkeypatch.setattr(_store, "FileLock", noted)
        with Store(tmp_path / "s") as second:
            assert [found["key"] for found in second.rows()] == ["a"]
            assert len(second.writers()) == 2
        assert (first.folder / f"journal-{first._id}.jsonl").read_bytes()
    own = f"journal-{second._id}.lock"
    assert {(name, timeout) for name, timeout in waits if name != own} == {
        (".lock", 0),
        (f"journal-{first._id}.lock", 0),
    }


@given(st.lists(st.integers(-(2**65), 2**65) | st.none(), min_size=1, max_size=5))
def test_whole_numbers_come_back_whole(values: list[int | None]) -> None:
    found = _store._uniform(list(values))
    assert [None if v is None else int(v) for v in found] == values
