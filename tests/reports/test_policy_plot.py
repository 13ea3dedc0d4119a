"""The figure of accuracy against traffic."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from accelsim.reports._policy_plot import policy_figure


def point(error: float | None) -> Any:
    accuracy = None if error is None else {"relative_output_error": error}
    metrics = {"dram_read_bytes": 2_000_000, "dram_write_bytes": 0}
    return SimpleNamespace(metrics=metrics, accuracy=accuracy)


def test_every_policy_with_accuracy_is_a_labelled_point() -> None:
    results = {"dense": point(0.0), "h2o": point(0.2), "a-workload": point(None)}
    svg = policy_figure(results)
    assert "open loop" in svg
    assert "h2o" in svg
    assert "a-workload" not in svg
    closed = policy_figure(results, {"h2o": 23.3}, "perplexity")
    assert "perplexity (closed loop)" in closed
    assert "dense" not in closed
