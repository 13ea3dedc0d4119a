"""YAML as accelsim reads it: the core schema, small, and without a second meaning.

PyYAML scans and parses; what a scalar means is decided here, the same for files, ``--set`` and the
values of a sweep. A text that could be read in two ways (``010``) or that would grow while it is
read (aliases of aliases) is refused.
"""

from __future__ import annotations

import copy
import re
import unicodedata
from typing import Any

import yaml

from accelsim.errors import shorten

MAX_CHARACTERS = 1 << 20
"""Longest text that is read."""
MAX_NODES = 20_000
"""Most values as written: PyYAML reads some 20,000 in a second."""
MAX_EXPANDED = 100_000
"""Most values after aliases; a text counts one for each hundred characters."""
MAX_DEPTH = 50
_MAX_FLOW_DEPTH = 100
_MAX_DIGITS = 400

_PREFIX = "tag:yaml.org,2002:"
_TAGS = ("str", "int", "float", "bool", "null", "map", "seq")
_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_TRUE = frozenset(("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"))
_FALSE = frozenset(("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"))
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"([-+]?)\.(inf|Inf|INF)")
_NOT_A_NUMBER = frozenset((".nan", ".NaN", ".NAN"))


class YamlError(ValueError):
    """A text that is not YAML, or means more than accelsim reads; the message is one line."""


def read(text: str) -> Any:
    """Return the value of a YAML text: ``None``, booleans, numbers, text, lists and mappings.

    ``true yes on`` and ``false no off`` are booleans, ``0o17`` and ``0x1f`` numbers, ``1e9`` a
    floating one; dates, times and ``1_000`` are text. Keys are words, or all whole numbers. Values
    that aliases share are copies.

    Raises:
        YamlError: with line and column.
    """
    if len(text) > MAX_CHARACTERS:
        raise YamlError(f"more than {MAX_CHARACTERS:,} characters")
    try:
        return _Builder(text).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise YamlError(place + shorten(error.problem or str(error), 160)) from None
    except yaml.YAMLError as error:
        raise YamlError(shorten(str(error), 160)) from None


class _Events(yaml.reader.Reader, yaml.scanner.Scanner, yaml.parser.Parser):
    """PyYAML up to its events."""

    def __init__(self, text: str) -> None:
        yaml.reader.Reader.__init__(self, text)
        yaml.scanner.Scanner.__init__(self)
        yaml.parser.Parser.__init__(self)

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:  # noqa: N803 - PyYAML's name
        # PyYAML looks at every open bracket for each token: thousands would take minutes.
        if self.flow_level >= _MAX_FLOW_DEPTH:
            raise yaml.scanner.ScannerError(
                None, None, f"brackets nested more than {_MAX_FLOW_DEPTH} deep", self.get_mark()
            )
        super().fetch_flow_collection_start(TokenClass)


class _Builder:
    """Values from events; counts what it builds."""

    def __init__(self, text: str) -> None:
        self._events: Any = _Events(text)  # PyYAML's methods have no types
        self._anchors: dict[str | None, tuple[Any, int] | None] = {}
        self._written = 0
        self._expanded = 0

    def document(self) -> Any:
        """Return the one document of the text; ``None`` if it is empty."""
        events = self._events
        events.get_event()
        if events.check_event(yaml.StreamEndEvent):
            return None
        events.get_event()
        value = self._value(0)
        events.get_event()
        if not events.check_event(yaml.StreamEndEvent):
            raise _error("expected one document", events.get_event())
        return value

    def _value(self, depth: int) -> Any:
        event = self._events.get_event()
        self._written += 1
        if self._written > MAX_NODES:
            raise _error(f"more than {MAX_NODES:,} values", event)
        if depth > MAX_DEPTH:
            raise _error(f"nested more than {MAX_DEPTH} deep", event)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        before = self._expanded
        self._count(1, event)
        if isinstance(event, yaml.ScalarEvent):
            value = _scalar(event)
            if isinstance(value, str):
                self._count(len(value) // 100, event)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._sequence(event, depth)
        else:
            value = self._mapping(event, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = value, self._expanded - before
        return value

    def _alias(self, event: yaml.AliasEvent) -> Any:
        name = f"alias '*{shorten(str(event.anchor), 40)}'"
        if event.anchor not in self._anchors:
            raise _error(f"{name} has no anchor before it", event)
        found = self._anchors[event.anchor]
        if found is None:
            raise _error(f"{name} holds itself", event)
        value, size = found
        self._count(size, event)
        return copy.deepcopy(value)

    def _count(self, size: int, event: Any) -> None:
        self._expanded += size
        if self._expanded > MAX_EXPANDED:
            raise _error(f"aliases expand to more than {MAX_EXPANDED:,} values", event)

    def _sequence(self, event: Any, depth: int) -> list[Any]:
        _check_tag(event, "seq")
        items = []
        while not self._events.check_event(yaml.SequenceEndEvent):
            items.append(self._value(depth + 1))
        self._events.get_event()
        return items

    def _mapping(self, event: Any, depth: int) -> dict[Any, Any]:
        _check_tag(event, "map")
        own: dict[Any, Any] = {}
        merged: list[dict[Any, Any]] | None = None
        while not self._events.check_event(yaml.MappingEndEvent):
            key_event = self._events.peek_event()
            if _is_merge(key_event):
                self._events.get_event()
                if merged is not None:
                    raise _error("key '<<' appears twice", key_event)
                merged = _mappings(self._value(depth + 1), key_event)
                continue
            key = self._value(depth + 1)
            if isinstance(key, (dict, list)):
                raise _error("keys must be plain words", key_event)
            shown = shorten(str(getattr(key_event, "value", key)), 40)
            if isinstance(key, bool) or not isinstance(key, (str, int)):
                raise _error(f"keys must be plain words: quote '{shown}'", key_event)
            if key in own:
                raise _error(f"key '{shown}' appears twice", key_event)
            own[key] = self._value(depth + 1)
        self._events.get_event()
        result: dict[Any, Any] = {}
        for part in reversed(merged or []):
            result |= part
        result |= own
        if len({type(key) for key in result}) > 1:
            raise _error("keys must be all words or all whole numbers", event)
        return result


def _is_merge(event: Any) -> bool:
    return (
        isinstance(event, yaml.ScalarEvent)
        and event.value == "<<"
        and event.tag is None
        and not event.style
    )


def _mappings(value: Any, event: Any) -> list[dict[Any, Any]]:
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, dict) for part in parts):
        raise _error("expected a mapping, or a list of mappings, behind '<<'", event)
    return parts


def _check_tag(event: Any, name: str) -> None:
    if event.tag not in (None, "!", _PREFIX + name):
        raise _tag_error(event, "a mapping" if name == "map" else "a list")


def _tag_error(event: Any, what: str) -> yaml.MarkedYAMLError:
    tag = event.tag
    shown = f"!!{tag.removeprefix(_PREFIX)}" if tag.startswith(_PREFIX) else tag
    if tag.removeprefix(_PREFIX) in _TAGS and tag.startswith(_PREFIX):
        return _error(f"tag '{shown}' does not fit {what}", event)
    known = ", ".join(f"!!{name}" for name in _TAGS)
    return _error(f"tag '{shorten(shown, 60)}' is not allowed; expected one of {known}", event)


def _scalar(event: yaml.ScalarEvent) -> Any:
    text: str = event.value
    for character in text:
        if unicodedata.category(character) in ("Cs", "Cc") and character not in "\t\n\r\x85":
            raise _error(f"character U+{ord(character):04X} in a text", event)
    if event.tag in ("!", _PREFIX + "str") or (event.tag is None and event.style):
        return text
    value = _meaning(event)
    if event.tag is None:
        return value
    kind = event.tag.removeprefix(_PREFIX)
    shown = f"'{shorten(text, 40)}'"
    if not event.tag.startswith(_PREFIX) or kind not in _TAGS or kind in ("map", "seq"):
        raise _tag_error(event, f"the text {shown}")
    if kind == "float" and type(value) is int:
        return float(value)
    wanted = {"int": int, "float": float, "bool": bool, "null": type(None)}[kind]
    if type(value) is not wanted:
        raise _tag_error(event, shown)
    return value


def _meaning(event: yaml.ScalarEvent) -> Any:
    """Return what a plain scalar stands for in the core schema."""
    text: str = event.value
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if text in _NOT_A_NUMBER:
        return float("nan")
    if infinite := _INFINITE.fullmatch(text):
        return float(infinite[1] + "inf")
    if _LEADING_ZERO.fullmatch(text):
        raise _error(
            f"'{shorten(text, 40)}' may be octal or decimal: write it without the leading zero, "
            "as 0o… or in quotes",
            event,
        )
    base = next((b for b, p in _WHOLE.items() if p.fullmatch(text)), None)
    if (base or _FLOAT.fullmatch(text)) and len(text) > _MAX_DIGITS:
        raise _error(f"a number of {len(text):,} characters; at most {_MAX_DIGITS}", event)
    if base:
        return int(text.removeprefix("0o"), base) if base == 8 else int(text, base)
    return float(text) if _FLOAT.fullmatch(text) else text


_WHOLE = {10: _DECIMAL, 8: _OCTAL, 16: _HEXADECIMAL}


def _error(problem: str, event: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
