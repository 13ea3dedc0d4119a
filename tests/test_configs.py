"""Configuration files: inheritance, overrides, and errors that name file, key and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from accelsim.configs import Config, load, parse_override, read_yaml
from accelsim.errors import ConfigError


class Inner(Config):
    depth: int = 1


class Outer(Config):
    name: str
    rate: float = 1.0
    inner: Inner = Inner()


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_extends_merges_sections(tmp_path: Path) -> None:
    base = write(tmp_path / "base.yaml", "name: a\nrate: 1e9\ninner: {depth: 3}\n")
    child = write(tmp_path / "child.yaml", f"extends: {base}\nname: b\n")
    config = load(Outer, child, "memories", {"inner.depth": 4})
    assert (config.name, config.rate, config.inner.depth) == ("b", 1e9, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nratee: 2\n", "unknown key 'ratee'; did you mean 'rate'"),
        ("name: a\ninner: {dept: 2}\n", "unknown key 'inner.dept'; did you mean 'depth'"),
        ("name: a\nrate: fast\n", "key 'rate': expected a valid number"),
        ("name: a\nrate: .nan\n", "finite"),
        ("rate: 1\n", "key 'name' is missing"),
        ("name: a\nname: b\n", "twice"),
        ("- 1\n", "expected a mapping"),
        ("name: [\n", "not valid YAML"),
        ("!!python/object/apply:os.system ['true']\n", "not valid YAML"),
        ("? [a]\n: b\n", "plain words"),
    ],
)
def test_errors_name_file_key_and_expectation(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "bad.yaml", text)
    with pytest.raises(ConfigError, match=message) as caught:
        load(Outer, path, "memories")
    assert "bad.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_circular_extends(tmp_path: Path) -> None:
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    write(a, f"extends: {b}\n")
    write(b, f"extends: {a}\n")
    with pytest.raises(ConfigError, match="circle"):
        load(Outer, str(a), "memories")


def test_missing_file_and_binary_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load(Outer, str(tmp_path / "absent.yaml"), "memories")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path / "binary.yaml")


def test_overrides_are_yaml() -> None:
    assert parse_override("a.b=[1, 2]") == ("a.b", [1, 2])
    assert parse_override("rate=1e9") == ("rate", 1e9)
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        parse_override("rate")
