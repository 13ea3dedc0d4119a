"""Where points run: in this process, in a pool of processes, on a Dask cluster. Same results."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol

from accelsim.errors import AccelsimError, redacted
from accelsim.exploration._manifest import code_sha256
from accelsim.exploration.point import Point, Row, describe, evaluate, failure

EXECUTORS = ("local", "processes", "dask")
_ATTEMPTS = 3
"""Workers that a point may take down before it is given up."""


class Executor(Protocol):
    """Runs points, yields rows in the order in which they finish.

    The points are drawn only as workers become free, so that an iterator may decide late.
    """

    workers: int

    def run(self, points: Iterable[Point], ahead: int = 2) -> Iterator[Row]:
        """Run every point once; ``ahead`` is how many per worker are drawn at a time."""
        ...

    def close(self) -> None:
        """End the workers."""
        ...


_NO_WORKERS = (
    "workers end as they start (what they said is above); workers run the script that starts them "
    "once more, so it must do so under: if __name__ == '__main__'"
)


class LocalExecutor:
    """One point after the other in this process."""

    workers = 1

    def run(self, points: Iterable[Point], ahead: int = 2) -> Iterator[Row]:
        """Run every point once."""
        return map(evaluate, points)

    def close(self) -> None:
        """Nothing to end."""


class ProcessExecutor:
    """A pool of processes that survives the death of its members.

    Args:
        workers: processes; one per core if ``None``.
        timeout_s: a worker that takes longer over a point ends itself.

    Raises:
        AccelsimError: workers do not start.
    """

    def __init__(self, workers: int | None = None, timeout_s: float | None = None) -> None:
        self.timeout_s = timeout_s
        self.workers = workers or available_cores()
        # A fork server imports the model once; its children start with it loaded.
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else None
        self._context = multiprocessing.get_context(method)
        if method:
            self._context.set_forkserver_preload(["accelsim.exploration._fork_server"])
        self._pool = self._new_pool(self.workers)
        try:
            self._pool.submit(os.getpid).result()
        except BrokenProcessPool:
            raise AccelsimError(f"executor 'processes': {_NO_WORKERS}") from None

    def run(self, points: Iterable[Point], ahead: int = 2) -> Iterator[Row]:
        """Run every point once; one that takes its worker down is tried again on its own."""
        source = iter(points)
        running: dict[Future[Row], Point] = {}
        suspects: list[Point] = []
        # The first point runs alone: it compiles the kernels that the others then find on disk.
        limit = 1
        while True:
            try:
                for point in itertools.islice(source, limit - len(running)):
                    running[self._submit(point, suspects)] = point
                if not running:
                    break
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    row = future.result()
                    del running[future]
                    yield row
                limit = self.workers * ahead
            except BrokenProcessPool:
                suspects += running.values()
                running = {}
                self._pool.shutdown(wait=False, cancel_futures=True)
                self._pool = self._new_pool(self.workers)
            for point in suspects:
                yield self._run_alone(point)
            suspects = []

    def close(self) -> None:
        """End the workers."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, point: Point, suspects: list[Point]) -> Future[Row]:
        try:
            return self._pool.submit(evaluate, point, self.timeout_s)
        except BrokenProcessPool:
            # Drawn from the iterator already, so it must not be lost.
            suspects.append(point)
            raise

    def _run_alone(self, point: Point) -> Row:
        for _ in range(_ATTEMPTS - 1):
            try:
                with self._new_pool(1) as pool:
                    return pool.submit(evaluate, point, self.timeout_s).result()
            except BrokenProcessPool:
                continue
        return _lost(point, self.timeout_s)

    def _new_pool(self, workers: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(workers, self._context, initializer=_start_worker)


class DaskExecutor:
    """Workers of a Dask cluster, or of a local one made for the occasion.

    Args:
        scheduler: address of a running scheduler; a local cluster if ``None``.
        workers: processes of the local cluster; one per core if ``None``.
        timeout_s: a worker that takes longer over a point ends itself.

    Raises:
        AccelsimError: Dask is not installed, the scheduler does not answer, or its workers run
            another version.
    """

    def __init__(
        self,
        scheduler: str | None = None,
        workers: int | None = None,
        timeout_s: float | None = None,
    ) -> None:
        self.timeout_s = timeout_s
        try:
            import dask
            import distributed
        except ImportError:
            raise AccelsimError(
                "executor 'dask' needs Dask; install it with: pip install 'accelsim[explore]'"
            ) from None
        self._cluster: Any = None
        self._client: Any = None
        dask.config.set({"distributed.scheduler.allowed-failures": _ATTEMPTS - 1})
        if scheduler is None:
            try:
                self._cluster = distributed.LocalCluster(
                    n_workers=workers or available_cores(),
                    threads_per_worker=1,
                    dashboard_address=None,
                    silence_logs=50,
                )
            except RuntimeError:
                raise AccelsimError(f"executor 'dask': {_NO_WORKERS}") from None
        try:
            self._client = distributed.Client(self._cluster or scheduler, timeout="20s")
            self._client.wait_for_workers(1, timeout=120)
        except Exception as error:  # a protocol that is not installed or set up raises its own
            self.close()
            where = redacted(str(scheduler))
            detail = redacted(str(error), str(scheduler)) or type(error).__name__
            raise AccelsimError(f"Dask scheduler {where}: no workers ({detail})") from None
        self._check_versions()
        self.workers = max(sum(self._client.nthreads().values()), 1)

    def run(self, points: Iterable[Point], ahead: int = 2) -> Iterator[Row]:
        """Run every point once; Dask moves the points of a dead worker to another."""
        from distributed import as_completed

        source = iter(points)
        known: dict[str, Point] = {}

        def submit(point: Point) -> Any:
            future = self._client.submit(evaluate, point, self.timeout_s, pure=False)
            known[future.key] = point
            return future

        first = [submit(point) for point in itertools.islice(source, self.workers * ahead)]
        completed = as_completed(first)
        for future in completed:
            point = known.pop(future.key)
            try:
                yield future.result()
            except Exception as error:
                if isinstance(error, AccelsimError):
                    raise
                if type(error).__name__ != "KilledWorker":
                    raise AccelsimError(f"Dask: {type(error).__name__}: {error}") from None
                yield _lost(point, self.timeout_s)
            for point in itertools.islice(source, 1):
                completed.add(submit(point))

    def close(self) -> None:
        """Leave the cluster; end it if it was made here."""
        if self._client is not None:
            self._client.close()
        if self._cluster is not None:
            self._cluster.close()

    def _check_versions(self) -> None:
        for address, code in self._client.run(code_sha256).items():
            if code != code_sha256():
                raise AccelsimError(
                    f"Dask worker {address} runs another version of accelsim; install the same one"
                )


def open_executor(
    name: str,
    workers: int | None = None,
    scheduler: str | None = None,
    point_timeout_s: float | None = None,
) -> LocalExecutor | ProcessExecutor | DaskExecutor:
    """Return an executor by name: ``local``, ``processes`` or ``dask``.

    Raises:
        AccelsimError: no such executor, or it cannot be started.
    """
    if scheduler is not None and name != "dask":
        raise AccelsimError("--scheduler goes with --executor dask")
    if point_timeout_s is not None and name == "local":
        raise AccelsimError("--point-timeout goes with --executor processes or dask")
    if name == "local":
        return LocalExecutor()
    if name == "processes":
        return ProcessExecutor(workers, point_timeout_s)
    if name == "dask":
        return DaskExecutor(scheduler, workers, point_timeout_s)
    raise AccelsimError(f"unknown executor '{name}' (known: {', '.join(EXECUTORS)})")


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _lost(point: Point, timeout_s: float | None) -> Row:
    causes = "out of memory, or killed"
    if timeout_s is not None:
        causes += f", or over the limit of {timeout_s:g} s for a point"
    message = f"took its worker down every time ({causes})"
    return failure(point.key, message) | describe(point)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def follow() -> None:
        # A worker whose parent was killed would otherwise wait for points for ever.
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
