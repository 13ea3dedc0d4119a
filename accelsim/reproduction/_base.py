"""What a reproduced figure is: points to simulate, then rows of ours beside theirs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from accelsim.reproduction._runs import TRACES, Job, Outcome
from accelsim.workloads import benchmark_names

__all__ = [
    "ALL",
    "BERT",
    "GPT2",
    "NEAR",
    "PLATFORMS",
    "STREAMED",
    "TRACES",
    "Change",
    "Figure",
    "Job",
    "Outcome",
    "Row",
    "Tried",
    "geomean",
    "total",
    "tried",
]

PLATFORMS = {
    "titan-xp": "TITAN Xp",
    "xeon-e5-2640v4": "Xeon",
    "jetson-nano": "Jetson Nano",
    "raspberry-pi-4": "Raspberry Pi 4",
}
ALL = benchmark_names()
GPT2 = [name for name in ALL if name.startswith("gpt2")]
BERT = [name for name in ALL if name.startswith("bert")]
NEAR = 1.2
"""A row whose ratio is within this factor of 1 is no miss."""

Kind = Literal["prediction", "input", "convention"]


@dataclass(frozen=True)
class Tried:
    """``ours`` again, with something changed.

    Attributes:
        what: the change, in words.
        ours: the number then.
    """

    what: str
    ours: float


@dataclass(frozen=True)
class Row:
    """One number beside the published one.

    Attributes:
        label: what it is.
        ours: simulated.
        theirs: published; ``None`` where the paper prints nothing comparable.
        unit: of both.
        note: what was assumed, or how it is counted.
        kind: ``prediction``; ``input``, set from what the paper prints, which checks our accounting
            only; or ``convention``, another way to count a number that stands in another row.
        changes: runs that test why the two differ.
        single: one of many that a mean in another row stands for.
    """

    label: str
    ours: float
    theirs: float | None
    unit: str
    note: str = ""
    kind: Kind = "prediction"
    changes: tuple[Tried, ...] = ()
    single: bool = False

    @property
    def ratio(self) -> float | None:
        """Ours over theirs."""
        return self.ours / self.theirs if self.theirs else None

    @property
    def is_miss(self) -> bool:
        """Whether it differs by more than :data:`NEAR`, one way or the other."""
        return self.ratio is not None and not 1 / NEAR <= self.ratio <= NEAR

    @property
    def why(self) -> str:
        """What was assumed, and what was run to find the cause; "unexplained" where nothing was."""
        words = [self.note] if self.note else []
        words += [f"{each.what}: {each.ours:.3g}" for each in self.changes]
        if self.is_miss and self.kind == "prediction" and not self.changes:
            words.append("unexplained")
        return "; ".join(words)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "label": self.label,
            "ours": self.ours,
            "theirs": self.theirs,
            "ratio": self.ratio,
            "unit": self.unit,
            "why": self.why,
            "kind": self.kind,
            "note": self.note,
            "changes": [{"change": each.what, "ours": each.ours} for each in self.changes],
        }


@dataclass(frozen=True)
class Figure:
    """A figure or table of the paper.

    Attributes:
        name: for ``--only``.
        title: what it shows.
        source: where in SpAtten (HPCA 2021).
        jobs: points it needs.
        rows: from their outcomes to the comparison.
    """

    name: str
    title: str
    source: str
    jobs: tuple[Job, ...]
    rows: Callable[[Mapping[Job, Outcome]], list[Row]]


@dataclass(frozen=True)
class Change:
    """What is different in a run that tests a cause.

    Attributes:
        what: in words.
        variant: of the benchmark's policy, as in :class:`Job`; as it was if empty.
        overrides: added to those of the job.
        dependencies: as in :class:`Job`; as it was if ``None``.
        input_tokens: as in :class:`Job`; as it was if 0.
    """

    what: str
    variant: str = ""
    overrides: tuple[tuple[str, Any], ...] = ()
    dependencies: str | None = None
    input_tokens: int = 0

    def of(self, job: Job) -> Job:
        """Return the job with the change."""
        return replace(
            job,
            variant=self.variant or job.variant,
            overrides=(*job.overrides, *self.overrides),
            dependencies=self.dependencies or job.dependencies,
            input_tokens=self.input_tokens or job.input_tokens,
        )


STREAMED = Change("streamed, nothing waits for a layer or token", dependencies="streamed")


def tried(
    changes: Iterable[Change],
    jobs: Sequence[Job],
    outcomes: Mapping[Job, Outcome],
    value: Callable[[Sequence[Outcome]], float],
) -> tuple[Tried, ...]:
    """Compute a number again from the runs with each change."""
    return tuple(
        Tried(change.what, value([outcomes[change.of(job)] for job in jobs])) for change in changes
    )


def geomean(values: Iterable[float]) -> float:
    """Geometric mean."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def total(runs: Iterable[Outcome], value: Callable[[Outcome], float]) -> float:
    """Sum over runs; one of which only each n-th step was simulated counts n times."""
    return sum(run.every * value(run) for run in runs)
