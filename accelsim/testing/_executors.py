"""What holds of everything that runs points of a sweep."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelsim.exploration.executors import Executor, LocalExecutor
from accelsim.exploration.point import Point, Row
from accelsim.exploration.sweep_file import Plan, SweepConfig
from accelsim.traces import save_trace, synthetic_trace

WHERE_IT_RAN = ("elapsed_s", "finished_at_unix_s", "worker")
"""Columns of a row in which executors differ."""


class ExecutorContract:
    """Runs points of a small sweep, of which one fails."""

    def open(self) -> Executor:
        """Return the executor to test."""
        raise NotImplementedError

    def points(self, folder: Path) -> list[Point]:
        """Two machines that run, and one whose trace is gone."""
        trace = folder / "t.safetensors"
        save_trace(synthetic_trace(num_layers=1, prefill_tokens=8, decode_tokens=2), trace)
        config = SweepConfig.model_validate(
            {
                "sources": [str(trace)],
                "axes": [{"key": "accelerator.multipliers", "values": [256, 512]}],
            }
        )
        plan = Plan(config, str(folder / "sweep.yaml"))
        points = [plan.resolve(settings) for settings in plan.settings(config.sampling)]
        gone = str(folder / "gone.safetensors")
        return [*points, replace(points[0], key="gone", source=gone)]

    def test_every_point_runs_once_and_as_in_this_process(self, tmp_path: Path) -> None:
        """Rows are equal but for where and when they ran."""
        points = self.points(tmp_path)
        with closing(self.open()) as executor:
            rows = list(executor.run(iter(points)))
        assert _by_key(rows) == _by_key(LocalExecutor().run(points))
        assert len(rows) == len(points)

    def test_a_point_that_fails_is_a_row(self, tmp_path: Path) -> None:
        """And the others run."""
        points = self.points(tmp_path)
        with closing(self.open()) as executor:
            rows = _by_key(executor.run(points))
        assert [rows[point.key]["status"] for point in points] == ["ok", "ok", "failed"]

    def test_points_are_drawn_as_they_are_run(self, tmp_path: Path) -> None:
        """Not all at once: an iterator may decide late."""
        points = self.points(tmp_path)
        many = [*points[:2]] * 40
        drawn = 0

        def draw() -> Any:
            nonlocal drawn
            for point in many:
                drawn += 1
                yield point

        with closing(self.open()) as executor:
            rows = executor.run(draw(), ahead=1)
            next(iter(rows))
            assert drawn <= 1 + 2 * executor.workers
            assert len(list(rows)) == len(many) - 1

    def test_no_points_are_no_rows(self) -> None:
        """Nothing waits."""
        with closing(self.open()) as executor:
            assert list(executor.run([])) == []


def _by_key(rows: Any) -> dict[str, Row]:
    return {
        row["key"]: {name: value for name, value in row.items() if name not in WHERE_IT_RAN}
        for row in rows
    }
