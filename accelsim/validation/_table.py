"""Case files: CSV whose rows know their line, so that an error can name line and column."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from accelsim.errors import AccelsimError, did_you_mean
from accelsim.files import read_text

T = TypeVar("T")


class CaseFileError(AccelsimError):
    """A case file that cannot be used."""


class Line(dict[str, str]):
    """One row, by column name.

    Attributes:
        where: file and line, for errors.
    """

    def __init__(self, where: str, fields: dict[str, str]) -> None:
        super().__init__(fields)
        self.where = where

    def integer(self, column: str, low: int = 1) -> int:
        """Return a column as an integer of at least ``low``."""
        return self._number(column, int, "an integer", low)

    def real(self, column: str, low: float = 0.0) -> float:
        """Return a column as a finite number of at least ``low``."""
        return self._number(column, float, "a number", low)

    def optional_integer(self, column: str, low: int = 0) -> int | None:
        """Return a column as an integer, or ``None`` where it is absent or empty."""
        return self.integer(column, low) if self.get(column) else None

    def error(self, message: str) -> CaseFileError:
        """Return an error about this row."""
        return CaseFileError(f"{self.where}: {message}")

    def _number(self, column: str, kind: Callable[[str], T], what: str, low: float) -> T:
        text = self[column]
        try:
            value = kind(text)
        except ValueError:
            raise self.error(f"column '{column}': expected {what}, got '{text[:40]}'") from None
        if not low <= value < float("inf"):  # type: ignore[operator]
            raise self.error(f"column '{column}': expected {what} >= {low}, got '{text[:40]}'")
        return value


def read_lines(path: Path, required: Sequence[str]) -> list[Line]:
    """Read a case file.

    Args:
        path: CSV with a header.
        required: columns that must be there; others may.

    Raises:
        CaseFileError: unreadable, empty, a column missing, or a row of another length.
    """
    try:
        text = read_text(path, CaseFileError)
        records = list(csv.reader(text.splitlines(keepends=True)))
    except csv.Error as error:
        raise CaseFileError(f"{path}: cannot be read as CSV ({error})") from None
    if not records:
        raise CaseFileError(f"{path}: empty file; expected the header {','.join(required)}")
    header = records[0]
    for name in required:
        if name not in header:
            raise CaseFileError(
                f"{path}: line 1: column '{name}' is missing{did_you_mean(name, header)}"
            )
    lines = []
    for number, fields in enumerate(records[1:], start=2):
        where = f"{path}: line {number}"
        if not fields:
            continue
        if len(fields) != len(header):
            raise CaseFileError(f"{where}: {len(fields)} fields; expected {len(header)}")
        lines.append(Line(where, dict(zip(header, fields, strict=True))))
    if not lines:
        raise CaseFileError(f"{path}: no cases below the header")
    return lines
