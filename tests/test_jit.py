"""What recompiles a kernel, and what does not."""

from pathlib import Path

from accelsim import jit

PACKAGE = Path(jit.__file__).parent


def reached(source: str) -> set[str]:
    found, waiting = {PACKAGE / source}, [PACKAGE / source]
    while waiting:
        new = set(jit._read(waiting.pop())[1]) - found
        found |= new
        waiting += new
    return {str(path.relative_to(PACKAGE)) for path in found}


def test_kernel_depends_on_the_files_whose_functions_it_inlines() -> None:
    assert "hardware/memories/_channel.py" in reached("hardware/memories/_stream.py")


def test_kernel_does_not_depend_on_verbs_and_reports() -> None:
    for path in PACKAGE.rglob("*.py"):
        if "accelsim.jit import" in path.read_text():
            found = reached(str(path.relative_to(PACKAGE)))
            assert not [name for name in found if name.startswith(("cli", "reports"))]


def test_stamp_follows_contents(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "inner.py").write_text("SIZE = 1\n")
    (tmp_path / "outer.py").write_text("from accelsim.inner import (\n    SIZE,\n)\n")
    (tmp_path / "other.py").write_text("")
    monkeypatch.setattr(jit, "_PACKAGE", tmp_path)

    def stamp() -> str:
        jit._read.cache_clear()
        jit._sources_stamp.cache_clear()
        return jit._sources_stamp(tmp_path / "outer.py")

    before = stamp()
    (tmp_path / "other.py").write_text("x = 1\n")
    assert stamp() == before
    (tmp_path / "inner.py").write_text("SIZE = 2\n")
    assert stamp() != before
