"""What recompiles a kernel, and what does not."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
    assert "hardware/memories/channel.py" in reached("hardware/memories/_stream.py")


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


KERNELS = """
from accelsim.jit import in_place, inlined, kernel

@inlined
def one(x):
    return x + 1

@kernel
def two(x):
    return one(one(x))

@in_place
def fill(x):
    x[:] = one(x[0])
"""
RUN = """
import sys
from pathlib import Path

import numpy as np
from accelsim import jit

jit._PACKAGE = Path.cwd()
sys.path.insert(0, ".")
import kernels

x = np.zeros(3)
kernels.fill(x)
print(kernels.two(1), x[2], sum(kernels.two.stats.cache_hits.values()))
"""


def run(folder: Path, **environment: str) -> tuple[str, list[str]]:
    """Run two kernels; what they gave, with the number of cache hits, and what was said."""
    (folder / "kernels.py").write_text(KERNELS)
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr.splitlines()


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def garbled(content: bytes) -> bytes:
    middle = len(content) // 2
    return (
        content[:middle]
        + bytes(byte ^ 0x55 for byte in content[middle : middle + 64])
        + (content[middle + 64 :])
    )


FAULTS = {
    "empty": lambda content: b"",
    "cut": cut,
    "garbled": garbled,
    "one bit": lambda content: content[:-100] + bytes([content[-100] ^ 1]) + content[-99:],
    "foreign": lambda content: b"not a pickle",
    "foreign pickle": lambda content: pickle.dumps({"a": 1}),
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two kernels and a cache that is whole."""
    folder = tmp_path_factory.mktemp("compiled")
    assert run(folder) == ("3 1.0 0", [])
    assert run(folder) == ("3 1.0 1", [])
    return folder


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_entry_is_compiled_again(
    compiled: Path, tmp_path: Path, fault: str, suffix: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(compiled, folder)
    entries = list((folder / "__pycache__").glob(f"*{suffix}"))
    assert len(entries) >= 2
    for entry in entries:
        entry.write_bytes(FAULTS[fault](entry.read_bytes()))
    assert run(folder) == ("3 1.0 0", [])
    assert run(folder) == ("3 1.0 1", [])


def test_a_cache_may_be_moved(compiled: Path, tmp_path: Path) -> None:
    """Else the test above would find nothing where it finds nothing broken."""
    shutil.copytree(compiled, tmp_path / "copy")
    assert run(tmp_path / "copy") == ("3 1.0 1", [])


def test_an_entry_that_is_a_folder_costs_no_more_than_time(tmp_path: Path) -> None:
    run(tmp_path)
    for entry in (tmp_path / "__pycache__").glob("*.nb?"):
        entry.unlink()
        entry.mkdir()
    assert run(tmp_path) == ("3 1.0 0", [])


def no_cache(folder: Path) -> dict[str, str]:
    """Files where the folders of caches would be: nobody, root neither, can write into them."""
    folder.mkdir(exist_ok=True)
    (folder / "__pycache__").touch()
    return {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null", "NUMBA_CACHE_DIR": "/dev/null/no"}


def test_without_a_folder_kernels_go_to_the_temporary_one(tmp_path: Path) -> None:
    environment = {**no_cache(tmp_path / "work"), "TMPDIR": str(tmp_path)}
    first = run(tmp_path / "work", **environment)
    assert first[0] == "3 1.0 0"
    assert len(first[1]) == 1
    assert first[1][0].startswith("note: no folder for compiled kernels can be written")
    assert run(tmp_path / "work", **environment)[0] == "3 1.0 1"
    (kept,) = tmp_path.glob("accelsim-kernels-*")
    assert kept.stat().st_mode & 0o77 == 0


def test_a_temporary_folder_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    planted = tmp_path / f"accelsim-kernels-{os.getuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    run(tmp_path / "work", **no_cache(tmp_path / "work"), TMPDIR=str(tmp_path))
    assert not list(planted.iterdir())


def test_without_any_folder_kernels_are_compiled(tmp_path: Path) -> None:
    script = "import tempfile; tempfile.gettempdir = lambda: '/dev/null'\n" + RUN
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), **no_cache(tmp_path)}
    (tmp_path / "kernels.py").write_text(KERNELS)
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "3 1.0 0", done.stderr
    assert done.stderr.count("\n") == 1


def test_no_variable_is_needed(tmp_path: Path) -> None:
    kept = {name: os.environ[name] for name in ("PATH",) if name in os.environ}
    (tmp_path / "kernels.py").write_text(KERNELS)
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=tmp_path, env={**kept, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "3 1.0 0", done.stderr


@pytest.mark.parametrize("disabled", ["0", "1"])
def test_machine_code_does_what_its_kernel_does(disabled: str) -> None:
    program = """
import numpy as np
from accelsim.hardware.machines.spatten.pipeline import latest
from accelsim.jit import direct
times = np.arange(15).reshape(3, 5)
code = direct(latest, times)
for arguments in ((0, 2, 3, -1), (1, 3, 0, 2), (2, 2, 0, -1)):
    print(code(times, *arguments), latest(times, *arguments))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"NUMBA_DISABLE_JIT": disabled},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["8", "8", "22", "22", "0", "0"]
