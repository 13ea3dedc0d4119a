"""The figure of accuracy against traffic."""

from __future__ import annotations

import pytest

from accelsim.reports import frontier_figure
from accelsim.reports._policy_plot import policy_figure


def test_every_policy_is_a_labelled_point_and_files_repeat() -> None:
    points = {"dense": (2e6, 22.9), "h2o": (5e5, 23.3)}
    svg = policy_figure(points, "perplexity (closed loop)", title="smollm2", log=True)
    for text in ("dense", "h2o", "perplexity (closed loop)", "smollm2"):
        assert text in svg
    assert policy_figure(points, "perplexity (closed loop)", title="smollm2", log=True) == svg
    assert "dense" not in policy_figure({"h2o": (1e6, 1.0)}, "x")


def test_another_cost_names_its_axis_and_scales() -> None:
    svg = policy_figure({"dense": (3e-3, 0.1)}, "error", cost="latency, µs", scale=1e-6)
    assert "latency, µs" in svg
    assert svg == policy_figure({"dense": (3e3, 0.1)}, "error", cost="latency, µs", scale=1)


def test_a_frontier_names_what_is_not_beaten_and_no_names_overlap() -> None:
    rows = [
        {"name": "dense", "loss": 0.0, "dram_reduction": 1.0},
        {"name": "poor", "loss": 0.3, "dram_reduction": 1.2, "held_out_loss": None},
        {"name": "tuned", "loss": 0.009, "dram_reduction": 3.0, "held_out_loss": 0.012},
        *({"name": f"twin-{n}", "loss": 0.2, "dram_reduction": 2.0} for n in range(40)),
    ]
    svg = frontier_figure(rows, 0.01, title="what was measured")
    assert svg == frontier_figure(rows, 0.01, title="what was measured")
    for text in ("dense", "tuned", "poor", "what was measured", "held-out texts"):
        assert text in svg
    # Forty names at one point have no place; those that find none are left out.
    assert 1 <= svg.count("<!-- twin-") < 15
    assert "held-out" not in frontier_figure(rows[:1], 0.01)


def glyphs(svg: str, text: str) -> list[int]:
    """How many characters are drawn, at each place where a text is."""
    places = svg.split(f"<!-- {text} -->")[1:]
    return [place.split("</g>")[0].count("<use ") for place in places]


@pytest.mark.parametrize("name", ["$x$", r"$\frac$", "a$b", "p[$old].yaml", "cost_$"])
def test_a_dollar_is_no_formula(name: str) -> None:
    svg = policy_figure({name: (2e6, 22.9)}, name, title=name)
    assert glyphs(svg, name) == [len(name)] * 3
    # The labels of a logarithmic axis stay powers.
    assert "mathdefault" in policy_figure({name: (2e6, 1e-3), "x": (1, 1.0)}, name, log=True)
