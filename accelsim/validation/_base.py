"""The words of validation: a case, a failure, a bar, and the report that holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
"""Our own record of the reference values."""

MOST_LISTED = 10_000
"""Cases that a report with groups still lists one by one."""

OnCase = Callable[[int, int, str], None]


def silent(number: int, total: int, name: str) -> None:
    """Report no progress."""


@dataclass(frozen=True)
class Options:
    """What the user asked of a suite; see :func:`accelsim.validation.validate`."""

    engine: str = "event"
    cases: Path | None = None
    count: int | None = None
    on_case: OnCase = silent


@dataclass(frozen=True)
class Case:
    """One number beside its reference.

    Attributes:
        id: unique within the report.
        reference: the number to agree with.
        simulated: ours.
        requests: requests in the workload, where there is one.
        group: what it is listed under, where a suite has several; such cases follow one another.
    """

    id: str
    reference: float
    simulated: float
    requests: int = 0
    group: str = ""

    @property
    def relative_error(self) -> float:
        """Signed, a fraction of the reference; the plain difference where the reference is 0."""
        difference = self.simulated - self.reference
        return difference / abs(self.reference) if self.reference else difference


@dataclass(frozen=True)
class Failure:
    """A case that did not run, or broke a rule that knows no tolerance."""

    id: str
    message: str


@dataclass(frozen=True)
class Bar:
    """An error that must not exceed a limit; both are fractions."""

    name: str
    value: float
    limit: float

    @property
    def met(self) -> bool:
        """Whether the bar is reached."""
        return self.value <= self.limit


@dataclass
class Tally:
    """How many numbers of one kind are equal to their references.

    Attributes:
        name: what is counted, in the plural.
        exact: those that are equal.
        total: all that were compared.
        cases: cases that had any.
    """

    name: str
    exact: int = 0
    total: int = 0
    cases: int = 0


@dataclass(frozen=True)
class Report:
    """Outcome of a suite.

    Attributes:
        suite: its name.
        engine: engine under test; ``None`` where no engine takes part.
        unit: of the cases' numbers.
        cases: all that ran.
        failed: what broke; see :class:`Failure`.
        bars: what the errors are held to.
        tallies: equality of numbers that are too many to list.
        groups: errors of groups of cases, where the cases are too many to look at.
    """

    suite: str
    engine: str | None
    unit: str
    cases: Sequence[Case]
    failed: Sequence[Failure]
    bars: Sequence[Bar]
    tallies: Sequence[Tally] = ()
    groups: Sequence[Mapping[str, Any]] = ()

    @property
    def mean_abs_relative_error(self) -> float | None:
        """Mean over the cases; ``None`` if none ran."""
        return mean_error(self.cases)

    @property
    def max_abs_relative_error(self) -> float | None:
        """Largest over the cases; ``None`` if none ran."""
        return worst_error(self.cases) if self.cases else None

    @property
    def passed(self) -> bool:
        """Some cases ran, none failed and every bar is met."""
        return bool(self.cases) and not self.failed and all(bar.met for bar in self.bars)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON of ``accelsim validate --json``; groups only where there are any.

        Above :data:`MOST_LISTED` cases of a suite with groups, ``cases`` is left out.
        """
        document: dict[str, Any] = {"suite": self.suite, "engine": self.engine}
        if not self.groups or len(self.cases) <= MOST_LISTED:
            document["cases"] = [
                {
                    "id": case.id,
                    "reference": case.reference,
                    "simulated": case.simulated,
                    "relative_error": case.relative_error,
                }
                for case in self.cases
            ]
        document |= {
            "mean_abs_relative_error": self.mean_abs_relative_error,
            "max_abs_relative_error": self.max_abs_relative_error,
            "failed": [{"id": each.id, "message": each.message} for each in self.failed],
        }
        if self.groups:
            document["groups"] = [dict(group) for group in self.groups]
        return document


def mean_error(cases: Sequence[Case]) -> float | None:
    """Mean absolute relative error; ``None`` for no cases."""
    return sum(abs(case.relative_error) for case in cases) / len(cases) if cases else None


def worst_error(cases: Sequence[Case]) -> float:
    """Largest absolute relative error; 0 for no cases."""
    return max((abs(case.relative_error) for case in cases), default=0.0)


_STREAM = 16
"""Requests from which a workload counts as a stream."""


def event_bars(cases: Sequence[Case]) -> list[Bar]:
    """Bars of the event engine: tighter for streams, where start-up does not weigh."""
    streams = [case for case in cases if case.requests >= _STREAM]
    short = [case for case in cases if case.requests < _STREAM]
    bars = []
    if streams:
        bars += [
            Bar(f"mean, {_STREAM} requests or more", mean_error(streams) or 0.0, 0.02),
            Bar(f"worst, {_STREAM} requests or more", worst_error(streams), 0.05),
        ]
    if short:
        bars.append(Bar(f"worst, fewer than {_STREAM} requests", worst_error(short), 0.10))
    return bars
