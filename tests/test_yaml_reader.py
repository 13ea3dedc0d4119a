"""What a YAML text means: one reading of each scalar, and nothing that grows while it is read."""

from __future__ import annotations

import math
import resource
import time
from typing import Any

import pytest

from accelsim.configs import parse_override
from accelsim.errors import ConfigError
from accelsim.yaml_reader import MAX_DEPTH, MAX_NODES, YamlError, read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        ("-8", -8),
        ("0", 0),
        ("0o17", 15),
        ("0x1F", 31),
        ("1e9", 1e9),
        (".5", 0.5),
        ("5.", 5.0),
        ("true", True),
        ("Yes", True),
        ("on", True),
        ("OFF", False),
        ("no", False),
        ("~", None),
        ("", None),
        # Other readers make numbers and dates of these.
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("2024-01-01", "2024-01-01"),
        ("y", "y"),
        # Quoted, and tagged.
        ("'8'", "8"),
        ("'010'", "010"),
        ("'yes'", "yes"),
        ("!!str 8", "8"),
        ("!!int '8'", 8),
        ("!!float 8", 8.0),
        ("!!bool 'on'", True),
        ("!!null ''", None),
        ("!!seq [1]", [1]),
        ("! 8", "8"),
        # Merge keys.
        ("{<<: {a: 1}, b: 2}", {"a": 1, "b": 2}),
        ("{a: 3, <<: {a: 1, b: 1}}", {"a": 3, "b": 1}),
        ("{<<: [{a: 1}, {a: 2, b: 2}]}", {"a": 1, "b": 2}),
        ("x: &x {a: 1}\ny: {<<: *x, b: 2}", {"x": {"a": 1}, "y": {"a": 1, "b": 2}}),
        ("{'<<': 1}", {"<<": 1}),
        ("{1: a, 2: b}", {1: "a", 2: "b"}),
    ],
)
def test_every_text_has_one_meaning(text: str, value: Any) -> None:
    found = read(text)
    assert found == value
    assert type(found) is type(value)


def test_numbers_that_are_none() -> None:
    assert read("-.inf") == -math.inf
    assert math.isnan(read(".nan"))


def test_values_of_aliases_are_copies() -> None:
    data = read("a: &x {k: [1]}\nb: *x")
    data["a"]["k"].append(2)
    assert data["b"] == {"k": [1]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("010", "octal or decimal"),
        ("-08", "octal or decimal"),
        ("0_7", "octal or decimal"),
        ("!!bool x", "'!!bool' does not fit"),
        ("!!int ''", "'!!int' does not fit"),
        ("!!int 1.5", "'!!int' does not fit"),
        ("!!float [1]", "'!!float' does not fit"),
        ("!!map x", "'!!map' does not fit"),
        ("!!seq {a: 1}", "'!!seq' does not fit"),
        ("!!timestamp 2024-01-01", "'!!timestamp' is not allowed"),
        ("!!set {a, b}", "'!!set' is not allowed"),
        ("!!binary AAAA", "'!!binary' is not allowed"),
        ("!!omap [a: 1]", "'!!omap' is not allowed"),
        ("!!merge x", "'!!merge' is not allowed"),
        ("!!python/object/apply:os.system ['true']", "is not allowed"),
        ("!mine x", "'!mine' is not allowed"),
        ("{a: 1, a: 2}", "twice"),
        ("{<<: {a: 1}, <<: {b: 1}}", "twice"),
        ("{<<: 1}", "expected a mapping"),
        ("{1: a, b: 2}", "all words or all whole numbers"),
        ("{2.5: 1}", "plain words"),
        ("{on: 1}", "quote 'on'"),
        ("{[a]: 1}", "plain words"),
        ("&a [*a]", "holds itself"),
        ("&a {b: {c: *a}}", "holds itself"),
        ("*a", "no anchor"),
        ("9" * 5000, "5,000 characters"),
        ("0x" + "f" * 5000, "characters"),
        ('"\\ud800"', "U+D800"),
        ('"a\\0"', "U+0000"),
        ("- a\n- b: [", "line 2"),
    ],
)
def test_what_is_refused_says_where(text: str, message: str) -> None:
    with pytest.raises(YamlError, match=r"line [0-9]+, column [0-9]+: ") as caught:
        read(text)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 240


def laughs(first: str, level: str) -> str:
    levels = [level.format(i, ", ".join([f"*a{i - 1}"] * 9)) for i in range(1, 12)]
    return "\n".join([first, *levels])


BOMBS = {
    "lists": laughs("a0: &a0 [x, x, x, x, x, x, x, x, x]", "a{0}: &a{0} [{1}]"),
    "merges": laughs("a0: &a0 {k: 1}", "a{0}: &a{0} {{<<: [{1}]}}"),
    "texts": "a: &a " + "x" * 900_000 + "\nb: [" + "*a, " * 9000 + "]",
    "nested lists": "- " * 3000 + "x",
    "nested brackets": "[" * 3000,
    "nested keys": "? " * 3000,
    "nested mappings": "{a: " * 3000,
    "indentation": "\n".join(" " * i + f"k{i}:" for i in range(900)),
    "many values": "[" + "a," * 400_000 + "]",
    "many keys": "\n".join(f"k{i}: 1" for i in range(90_000)),
    "digits": "9" * 1_000_000,
    "long": "# " + "x" * 100_000_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_grows_is_refused_soon(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    with pytest.raises(YamlError):
        read(BOMBS[name])
    with pytest.raises(ConfigError) as caught:
        parse_override("description=" + BOMBS[name])
    assert time.process_time() - started < 2.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
    assert len(str(caught.value)) <= 300
    assert "\n" not in str(caught.value)


def test_limits_leave_room() -> None:
    assert len(read("\n".join(f"- {i}" for i in range(MAX_NODES - 1)))) == MAX_NODES - 1
    assert read("[" * MAX_DEPTH + "1" + "]" * MAX_DEPTH)
