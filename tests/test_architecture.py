"""The import direction of the rooms, and what the command line may load."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def layers() -> list[str]:
    """Rooms from the top down, as the import contract has them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = settings["tool"]["importlinter"]["contracts"]
    return [name.removeprefix("accelsim.") for name in contract["layers"]]


def test_every_room_is_in_the_contract_and_on_the_map() -> None:
    package = ROOT / "accelsim"
    rooms = {path.stem for path in package.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert rooms - {"__init__", "__main__", "__pycache__", "_data"} == set(layers())
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = page.split("## Rooms")[1].split("```")[1]
    lines = [line.split() for line in block.strip().splitlines()]
    files = {path.stem for path in package.glob("*.py")}
    drawn = [words[0] for words in lines if words[0] not in files]
    assert drawn == [name for name in layers() if name not in files]
    assert lines[-1] == [name for name in layers() if name in files]


_IMPORT = re.compile(
    r"^\s*(?:from\s+accelsim\.([\w.]+)\s+import\s+(\([^)]*\)|[^\n]*)|import\s+accelsim\.([\w.]+))",
    re.M,
)


def test_a_room_imports_nothing_private_of_another() -> None:
    """An underscore says: not for another room."""
    found = []
    for file in (ROOT / "accelsim").rglob("*.py"):
        room = file.relative_to(ROOT / "accelsim").parts[0].removesuffix(".py")
        for source, names, plain in _IMPORT.findall(file.read_text(encoding="utf-8")):
            first, *rest = (source or plain).split(".")
            imported = [name.split()[0] for name in names.strip("()").split(",") if name.strip()]
            if first != room and any(name.startswith("_") for name in (*rest, *imported)):
                found.append(f"{file.relative_to(ROOT)}: {source or plain} {names}")
    assert not found


def test_rooms_import_only_what_comes_before_them() -> None:
    script = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
