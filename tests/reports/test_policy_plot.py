"""The figure of accuracy against traffic."""

from __future__ import annotations

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
