"""Many runs that a program asks for, on any executor: one row of figures each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelsim.errors import AccelsimError
from accelsim.exploration._resolve import DEFAULT_ACCELERATOR
from accelsim.exploration._run import Runner
from accelsim.exploration.executors import open_executor
from accelsim.exploration.point import Point, Row
from accelsim.workloads import Workload


@dataclass(frozen=True)
class Request:
    """One run; see :func:`accelsim.replay`.

    Attributes:
        source: file, name of a benchmark, or workload in memory.
        accelerator: preset name or YAML file.
        policy: preset name or YAML file; only for traces.
        engine: ``event`` or ``cycle``.
        overrides: dotted keys.
        baselines: names of baseline presets; none if empty.
        dependencies: ``causal`` or ``streamed``.
    """

    source: str | Path | Workload
    accelerator: str = DEFAULT_ACCELERATOR
    policy: str | None = None
    engine: str = "event"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    baselines: Sequence[str] = ()
    dependencies: str | None = None


def replay_many(
    requests: Iterable[Request],
    executor: str = "local",
    workers: int | None = None,
    on_done: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Run each request and return its row, in the order of the requests.

    Args:
        requests: drawn as workers become free, so that an iterator may make them late.
        executor: ``local``, ``processes`` or ``dask``; the rows are the same.
        workers: processes; one per core if ``None``.
        on_done: called after each.

    Returns:
        Rows as of :meth:`RunResult.to_row`, in the order of the requests.

    Raises:
        AccelsimError: bad input, or a run that failed.
    """
    runner = Runner()
    places: dict[str, list[int]] = {}
    finished: dict[str, Row] = {}
    total = 0

    def points() -> Iterator[Point]:
        nonlocal total
        for place, request in enumerate(requests):
            total = place + 1
            setup = runner.setup(
                request.source,
                request.accelerator,
                request.policy,
                request.engine,
                request.overrides,
                request.dependencies,
            )
            digest = runner.session.source_sha256(setup.source)
            point = Point.of(setup, digest, tuple(request.baselines))
            places.setdefault(point.key, []).append(place)
            if len(places[point.key]) == 1:
                yield point
            else:
                on_done()

    pool = open_executor(executor, workers)
    try:
        for row in pool.run(points()):
            if row["status"] != "ok":
                raise AccelsimError(f"{row['source_path']}: {row['error']}")
            finished[row["key"]] = row
            on_done()
    finally:
        pool.close()
    rows: list[Row] = [{}] * total
    for key, row in finished.items():
        for place in places[key]:
            rows[place] = row
    return rows
