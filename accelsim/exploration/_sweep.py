"""Sweeps: every point of a plan, each once, into a store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accelsim.errors import AccelsimError
from accelsim.exploration._arguments import checked
from accelsim.exploration._space import Settings
from accelsim.exploration._store import Store
from accelsim.exploration._stored_points import Results
from accelsim.exploration.executors import Executor, open_executor
from accelsim.exploration.point import Point, Row, failure
from accelsim.exploration.sweep_file import Plan, SweepConfig, load_file

OnPoint = Callable[[Row | None, int, int], None]
"""Told of each finished row (``None`` at the start), how many are done, and of how many."""


@checked
def sweep(
    file: str | Path,
    out: str | Path | None = None,
    executor: str = "local",
    workers: int | None = None,
    scheduler: str | None = None,
    sources: Sequence[str] = (),
    retry_failed: bool = False,
    on_point: OnPoint = lambda row, done, total: None,
    point_timeout_s: float | None = None,
) -> Results:
    """Run a sweep, or what is left of it.

    Args:
        file: preset name or YAML file.
        out: result store; ``runs/sweeps/NAME`` if not given. Points that it holds are not run.
        executor: ``local``, ``processes`` or ``dask``; the results are the same.
        workers: processes; one per core if ``None``.
        scheduler: address of a Dask scheduler; a local cluster if ``None``.
        sources: used instead of the file's sources.
        retry_failed: run stored failures again.
        on_point: progress.
        point_timeout_s: a point that takes longer fails; not with ``local``.

    Raises:
        AccelsimError: bad input, or a store that cannot be written.
    """
    config, where = load_file(SweepConfig, str(file))
    plan = Plan(config, where, tuple(sources))
    folder = Path(out) if out is not None else Path("runs", "sweeps", plan.name)
    allowed, excluded = [], 0
    for settings in plan.settings(config.sampling):
        if plan.allowed(settings):
            allowed.append(settings)
        else:
            excluded += 1
    if not allowed:
        raise AccelsimError(f"{plan.where}: no point holds the constraints")
    with Store(folder) as store:
        return _Run(plan, store, allowed, retry_failed, on_point).results(
            excluded, lambda: open_executor(executor, workers, scheduler, point_timeout_s)
        )


class _Run:
    """One pass over a plan."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        settings: list[Settings],
        retry_failed: bool,
        on_point: OnPoint,
    ) -> None:
        self.plan, self.store, self.on_point = plan, store, on_point
        self.known = {
            row["key"]: row for row in store.rows() if row["status"] == "ok" or not retry_failed
        }
        self.settings: dict[str, Settings] = {}
        self.missing: dict[str, Point] = {}
        for chosen in settings:
            self._place(chosen)

    def results(self, excluded: int, open_pool: Callable[[], Executor]) -> Results:
        """Run what is missing, and return every row of the plan."""
        total = len(self.settings)
        self.on_point(None, total - len(self.missing), total)
        if self.missing:
            # Neighbours share a functional run, so a worker finds it in its cache.
            ordered = sorted(self.missing.values(), key=lambda point: point.group)
            pool = open_pool()
            try:
                for done, row in enumerate(pool.run(ordered), total - len(ordered) + 1):
                    self.on_point(self._keep(row), done, total)
            finally:
                pool.close()
        rows = [self._finish(self.known[key], chosen) for key, chosen in self.settings.items()]
        self.plan.check_measured(rows)
        return Results(
            rows, self.plan.axes, dict(self.plan.config.metrics), self.store.folder, excluded
        )

    def _place(self, chosen: Settings) -> None:
        try:
            point = self.plan.resolve(chosen)
        except AccelsimError as error:
            key = self.plan.invalid_key(chosen, str(error))
            self.settings[key] = chosen
            if key not in self.known:
                row = failure(key, str(error)) | chosen
                self.store.append(row)
                self.known[key] = row
            return
        self.settings[point.key] = chosen
        if point.key not in self.known:
            self.missing[point.key] = point

    def _keep(self, row: Row) -> Row:
        row = {**row, **self.settings[row["key"]]}
        self.store.append(row)
        self.known[row["key"]] = row
        return self._finish(row, self.settings[row["key"]])

    def _finish(self, row: Row, chosen: Settings) -> Row:
        """Attach this plan's settings and verdict to a row that another sweep may have made."""
        row = {**row, **chosen}
        return self.plan.finish(row) if row["status"] == "ok" else row


def summary(results: Results) -> dict[str, Any]:
    """Return the ``accelsim.sweep/1`` document."""
    return {
        "schema": "accelsim.sweep/1",
        "store": str(results.store),
        "axes": results.axes,
        "metrics": dict(results.goals),
        "points": len(results.rows),
        "failed": len(results.failed),
        "excluded": results.excluded,
        "infeasible": len(results.rows) - len(results.failed) - len(results.usable),
        "best": {
            name: _brief(results, results.best(name))
            for name, goal in results.goals.items()
            if goal != "report"
        },
        "pareto": [_brief(results, row) for row in results.pareto()],
        "failures": [
            {**(_brief(results, row) or {}), "error": row["error"]} for row in results.failed
        ],
    }


def _brief(results: Results, row: Row | None) -> Row | None:
    if row is None:
        return None
    names = ("key", *results.axes, *results.goals)
    finalist = [name for name in row if name.startswith("finalist.")]
    return {name: row[name] for name in (*names, *finalist) if name in row}
