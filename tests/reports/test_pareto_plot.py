"""The figure of two metrics and their front, and the front itself."""

from __future__ import annotations

import pytest

from accelsim.errors import AccelsimError
from accelsim.exploration import Results
from accelsim.reports import Svg, pareto_figure

POINTS = [(1.0, 9.0, 4), (2.0, 5.0, 4), (3.0, 6.0, 8), (4.0, 1.0, 8)]


def results(**goals: str) -> Results:
    rows = [
        {"key": str(i), "status": "ok", "energy_j": e, "loss": loss, "policy.bits": bits}
        for i, (e, loss, bits) in enumerate(POINTS)
    ]
    failed = {"key": "f", "status": "failed", "error": "x", "energy_j": 0.0, "loss": 0.0}
    return Results([*reversed(rows), failed], ["policy.bits"], goals)


def test_front_of_two_metrics_in_order_and_by_direction() -> None:
    assert [r["energy_j"] for r in results().front("energy_j", "loss")] == [1.0, 2.0, 4.0]
    # A metric that is only reported counts as one to minimize.
    assert len(results(loss="report").front("energy_j", "loss")) == 3
    best = results(loss="maximize").front("energy_j", "loss")
    assert [r["energy_j"] for r in best] == [1.0]
    assert results().front() == []


def test_every_value_of_the_color_axis_is_in_the_legend_and_files_repeat() -> None:
    svg = pareto_figure(results(), "energy_j", "loss", color="policy.bits", label="energy_j")
    for text in ("bits = 4", "bits = 8", "energy, J", "loss", "Pareto front"):
        assert text in svg
    again = pareto_figure(results(), "energy_j", "loss", color="policy.bits", label="energy_j")
    assert svg == again


def test_a_notebook_keeps_the_picture_once() -> None:
    formatters = pytest.importorskip("IPython.core.formatters")
    shown, _ = formatters.DisplayFormatter().format(Svg("<svg></svg>"))
    assert shown == {"image/svg+xml": "<svg></svg>", "text/plain": "<Svg of 11 characters>"}


def test_names_are_checked() -> None:
    with pytest.raises(AccelsimError, match=r"no usable point has 'energy'.*did you mean"):
        pareto_figure(results(), "energy", "loss")
