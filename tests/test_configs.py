"""Configuration files: inheritance, overrides, and errors that name file, key and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from accelsim.configs import Config, Unit, load, parse_override, read_yaml
from accelsim.errors import ConfigError
from accelsim.exploration._resolve import Library, resolve


class Inner(Config):
    depth: int = 1


class Outer(Config):
    name: str
    rate: float = 1.0
    size: Annotated[int, Field(le=64), Unit("bytes")] | None = None
    fast: bool = False
    bits: tuple[int, ...] = ()
    shares: dict[str, float] = Field(default_factory=dict)
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


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("rate", True, "key 'rate': expected a valid number, got true"),
        ("size", True, "key 'size': expected a valid integer, got true"),
        ("inner.depth", False, "key 'inner.depth': expected a valid integer, got false"),
        ("bits", [8, True], "key 'bits': expected a valid integer, got true"),
        ("shares", {"a": True}, "key 'shares': expected a valid number, got true"),
        ("size", "8", "key 'size': expected a valid integer, got '8'"),
        ("size", "1_0", "key 'size': expected a valid integer, got '1_0'"),
        ("rate", "1e3", "key 'rate': expected a valid number, got '1e3'"),
        ("fast", 1, "key 'fast': expected true or false, got 1"),
        ("fast", "yes", "key 'fast': expected true or false, got 'yes'"),
        ("name", True, "key 'name': expected a valid string, got true"),
        ("size", 65, "key 'size': expected less than or equal to 64 bytes, got 65"),
        ("name", ["x"] * 10_000, "key 'name': expected a valid string, got ['x', "),
        ("rate", 10**400, "key 'rate': expected"),
        ("size", [10**5000], "key 'size': expected"),
        ("z" * 5000, 1, "unknown key 'zzz"),
    ],
)
def test_a_scalar_means_one_thing(tmp_path: Path, key: str, value: Any, message: str) -> None:
    path = write(tmp_path / "a.yaml", "name: a\n")
    with pytest.raises(ConfigError) as caught:
        load(Outer, path, "memories", {key: value})
    assert message in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_numbers_that_are_kept(tmp_path: Path) -> None:
    text = "name: a\nrate: 3\nsize: 8.0\nfast: on\nbits: [1, 2]\nshares: {a: 1, b: .5}\n"
    config = load(Outer, write(tmp_path / "a.yaml", text), "memories")
    assert (config.rate, config.size, config.fast, config.bits) == (3.0, 8, True, (1, 2))
    assert config.shares == {"a": 1.0, "b": 0.5}


def test_merge_keys(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "name: a\ninner:\n  <<: {depth: 3}\n")
    assert load(Outer, path, "memories").inner.depth == 3


def test_extends_is_beside_the_file_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    write(tmp_path / "sub" / "base.yaml", "name: right\n")
    write(tmp_path / "base.yaml", "name: wrong\n")
    write(tmp_path / "here.yaml", "name: here\n")
    write(tmp_path / "sub" / "deep" / "child.yaml", "extends: ../base.yaml\nrate: 2\n")
    write(tmp_path / "sub" / "child.yaml", "extends: base.yaml\n")
    write(tmp_path / "sub" / "far.yaml", "extends: here.yaml\n")
    monkeypatch.chdir(tmp_path)
    assert load(Outer, "sub/child.yaml", "memories").name == "right"
    assert load(Outer, "sub/deep/child.yaml", "memories").name == "right"
    # Only where there is none beside it, the current folder counts.
    assert load(Outer, "sub/far.yaml", "memories").name == "here"
    with pytest.raises(ConfigError, match=r"lost.yaml: key 'extends': none.yaml: no such file"):
        load(Outer, write(tmp_path / "lost.yaml", "extends: none.yaml\n"), "memories")


def test_circle_by_way_of_another_folder(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", f"extends: ../{tmp_path.name}/a.yaml\n")
    with pytest.raises(ConfigError, match="circle"):
        load(Outer, path, "memories")


def test_a_machine_finds_its_memory_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that a file names, in every key and at every depth of ``extends``."""
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub" / "m.yaml", "extends: flat\nflat_latency: 7\n")
    write(tmp_path / "sub" / "base.yaml", "extends: spatten-paper\nmemory: m.yaml\n")
    write(tmp_path / "child.yaml", "extends: sub/base.yaml\n")
    write(tmp_path / "m.yaml", "extends: flat\nflat_latency: 9\n")
    monkeypatch.chdir(tmp_path)
    csv = Path(__file__).parents[1] / "traces" / "spatten-gpt2" / "small.csv"

    def latency(machine: str, **overrides: Any) -> Any:
        setup = resolve(csv, machine, None, "event", overrides, Library())
        return getattr(setup.parts["memory"].config, "flat_latency")  # noqa: B009

    assert latency("child.yaml") == latency("sub/base.yaml") == 7
    # What the command line names is looked for from where it is called.
    assert latency("child.yaml", memory="m.yaml") == 9


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


def test_a_huge_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    with (tmp_path / "huge.yaml").open("wb") as stream:
        stream.write(b"name: a\n#")
        stream.truncate(1 << 40)
    with pytest.raises(ConfigError, match="characters"):
        read_yaml(tmp_path / "huge.yaml")


def test_a_byte_order_mark_is_no_part_of_a_key(tmp_path: Path) -> None:
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfname: a\n")
    assert read_yaml(tmp_path / "bom.yaml") == {"name": "a"}


def test_overrides_are_yaml() -> None:
    assert parse_override("a.b=[1, 2]") == ("a.b", [1, 2])
    assert parse_override("rate=1e9") == ("rate", 1e9)
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        parse_override("rate")
