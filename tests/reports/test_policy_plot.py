"""The figure of accuracy against traffic."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from accelsim.reports import frontier_figure
from accelsim.reports._policy_plot import policy_figure
from accelsim.reports.interactive._names import axis_label


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


def test_names_of_many_policies_do_not_overlap() -> None:
    """Extents of the words that are drawn, of points that crowd."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Annotation, Text

    from accelsim.drawing import new_figure, plain_figures
    from accelsim.reports._point_names import name_points

    rng = np.random.default_rng(5)
    places = [(float(x), float(y)) for x, y in rng.random((30, 2)) ** 3]
    with plain_figures():
        figure, axes = new_figure(8.4, 5.2)
        axes.plot(*zip(*places, strict=True), "o")
        axes.margins(0.08)
        labels = [(f"policy-{n}", place, False) for n, place in enumerate(places)]
        name_points(axes, labels, places, far=True)
        renderer = FigureCanvasAgg(figure).get_renderer()
        drawn = [text for text in axes.texts if isinstance(text, Annotation)]
        boxes = [Text.get_window_extent(text, renderer) for text in drawn]
    assert len(boxes) > 20
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_what_another_policy_beats_in_both_is_grey() -> None:
    points = {"dense": (4.0, 0.1), "good": (1.0, 0.2), "poor": (2.0, 0.5)}
    svg = policy_figure(points, "error")
    assert "beaten in both" in svg
    assert "beaten in both" not in policy_figure({"dense": (4.0, 0.1), "good": (1.0, 0.2)}, "error")


@pytest.mark.parametrize(
    ("name", "values", "label", "scale"),
    [
        ("latency_s", [8e-4, 2e-3], "latency, ms", 1e-3),
        ("energy_j", [2e-6], "energy, µJ", 1e-6),
        ("dram_read_bytes", [5e9], "DRAM read, GB", 1e9),
        ("latency_cycles", [9e9], "latency, cycles", 1.0),
        ("accuracy.relative_output_error", [0.2], "relative output error, %", 0.01),
        ("loss", [3.0], "loss", 1.0),
        ("energy_j", [], "energy, J", 1.0),
    ],
)
def test_axes_are_named_in_words_and_scaled(
    name: str, values: list[float], label: str, scale: float
) -> None:
    assert axis_label(name, values) == (label, scale)
