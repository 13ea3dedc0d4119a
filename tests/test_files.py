"""Text files are read one way, and a file is written where its name leads, whole or not at all."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from accelsim.cli import main
from accelsim.errors import AccelsimError, TraceError
from accelsim.files import check_target, read_text, whole_file
from accelsim.reports import write_text
from accelsim.traces import load_trace, save_trace, synthetic_trace
from accelsim.workloads import read_csv, read_parquet, write_csv, write_parquet

ROOT = Path(__file__).parents[1]
SMALL = ROOT / "traces/spatten-gpt2/small.csv"
WORKLOAD = read_csv(SMALL).select(read_csv(SMALL)["layer"] == 0)
WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: write_text(path, "{}"),
    "csv": lambda path: write_csv(WORKLOAD, path),
    "parquet": lambda path: write_parquet(WORKLOAD, path),
    "trace": lambda path: save_trace(synthetic_trace(num_layers=1), path),
}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask() -> Iterator[Callable[[int], object]]:
    old = os.umask(0o022)
    yield os.umask
    os.umask(old)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("w.csv", "replay {}"),
        ("p.yaml", "replay bert-base-cola --accelerator {}"),
        ("s.yaml", "sweep {}"),
        ("r.json", "report {}"),
        ("r.json", "diff {0} {0}"),
        ("t.safetensors.index.json", "inspect {}"),
        ("t.csv", "validate timing --cases {}"),
        ("t.txt", "capture smollm2 --text-file {} --out x.safetensors"),
    ],
)
def test_utf_16_is_named(
    encoding: str, name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes('{"kind": "sweep"}'.encode(encoding))
    with pytest.raises(SystemExit) as stop:
        main(words.format(name).split())
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {name}: is UTF-16")
    assert "expected UTF-8" in err
    assert err.count("\n") == 1


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(b"\xef\xbb\xbfhello\xef\xbb\xbf")
    assert read_text(path) == "hello\ufeff"  # only the first is a mark
    path.write_bytes(b"h\xff")
    with pytest.raises(TraceError, match=r"t\.txt: cannot be read as text .expected UTF-8; byte 1"):
        read_text(path, TraceError)
    with pytest.raises(AccelsimError, match=r"no: cannot be read \(No such file"):
        read_text(tmp_path / "no")


def test_a_marked_workload_is_the_same_workload(tmp_path: Path) -> None:
    (tmp_path / "marked.csv").write_bytes(b"\xef\xbb\xbf" + SMALL.read_bytes())
    marked, plain = read_csv(tmp_path / "marked.csv"), read_csv(SMALL)
    assert all((marked[name] == plain[name]).all() for name in plain.columns)


@pytest.mark.parametrize("name", ["diff r.json r.json", "report r.json --out r.md"])
def test_a_marked_result_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = {
        "schema": "accelsim.result/1",
        "metrics": {"latency_cycles": 1, "latency_s": 1e-9},
        "dram_read_bytes_by_tensor": {"value": 8},
        "energy_j_by_part": {"dram": 1e-9},
        "accuracy": None,
        "modules": {},
        "baselines": {},
        "manifest": {"configs": {}},
    }
    (tmp_path / "r.json").write_text(json.dumps(result), encoding="utf-8-sig")
    main(name.split())


def test_a_marked_index_is_read(tmp_path: Path) -> None:
    save_trace(synthetic_trace(num_layers=1), tmp_path / "a.safetensors")
    names = load_trace(tmp_path / "a.safetensors").tensors.names()
    table = {"metadata": {}, "weight_map": dict.fromkeys(names, "a.safetensors")}
    index = tmp_path / "a.safetensors.index.json"
    index.write_text(json.dumps(table), encoding="utf-8-sig")
    assert load_trace(index).num_layers == 1


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_a_new_file_has_what_the_umask_leaves(
    tmp_path: Path, umask: Callable[[int], object], kind: str, mask: int
) -> None:
    umask(mask)
    WRITERS[kind](tmp_path / "new")
    assert mode(tmp_path / "new") == 0o666 & ~mask
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_keeps_its_mode_and_a_link_its_target(tmp_path: Path, kind: str) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to("target")
    WRITERS[kind](link)
    assert link.is_symlink()
    assert mode(target) == 0o640
    assert target.read_bytes() != b"old"


def test_a_link_to_nothing_makes_its_target(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"


@pytest.mark.parametrize("kind", WRITERS)
def test_a_fifo_is_written_through(tmp_path: Path, kind: str) -> None:
    fifo, read = tmp_path / "fifo", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: read.append(fifo.read_bytes()), daemon=True)
    reader.start()
    check_target(fifo)
    WRITERS[kind](fifo)
    reader.join(10)
    WRITERS[kind](tmp_path / "plain")
    assert read == [(tmp_path / "plain").read_bytes()]
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_a_device_is_written_through_and_stays(tmp_path: Path) -> None:
    link = tmp_path / "null"
    link.symlink_to("/dev/null")
    write_text(link, "gone")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(AccelsimError, match=r"/dev/full: cannot be written \(No space left"):
        write_text("/dev/full", "x" * 100_000)


def test_what_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")

    def half() -> None:
        with whole_file(path) as stream:
            stream.write(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize(
    ("name", "message"),
    [(".", "is a folder"), ("no/f", "does not exist"), ("f\0", "null"), ("f/g", "cannot be")],
)
def test_targets_that_cannot_be_are_refused_before_the_work(
    tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(AccelsimError, match=message):
        check_target(tmp_path / name)
    with pytest.raises(AccelsimError):
        write_text(tmp_path / name, "")


def test_parquet_is_whole(tmp_path: Path) -> None:
    write_parquet(WORKLOAD, tmp_path / "w.parquet")
    assert read_parquet(tmp_path / "w.parquet").rows == WORKLOAD.rows
