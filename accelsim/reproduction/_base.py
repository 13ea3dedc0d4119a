"""What a reproduced figure is: points to simulate, then rows of ours beside theirs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from accelsim.reproduction._runs import TRACES, Job, Outcome
from accelsim.workloads import benchmark_names

__all__ = [
    "ALL",
    "BERT",
    "GPT2",
    "PLATFORMS",
    "TRACES",
    "Figure",
    "Job",
    "Outcome",
    "Row",
    "geomean",
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


@dataclass(frozen=True)
class Row:
    """One number beside the published one.

    Attributes:
        label: what it is.
        ours: simulated.
        theirs: published; ``None`` where the paper prints nothing comparable.
        unit: of both.
        why: one line on why they differ, or on what was assumed.
    """

    label: str
    ours: float
    theirs: float | None
    unit: str
    why: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours over theirs."""
        return self.ours / self.theirs if self.theirs else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "label": self.label,
            "ours": self.ours,
            "theirs": self.theirs,
            "ratio": self.ratio,
            "unit": self.unit,
            "why": self.why,
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


def geomean(values: Iterable[float]) -> float:
    """Geometric mean."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))
