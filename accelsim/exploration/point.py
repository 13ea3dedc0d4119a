"""One point of many: what travels to a worker, and the row that comes back."""

from __future__ import annotations

import faulthandler
import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelsim import configs
from accelsim.errors import AccelsimError, ConfigError, MachineError
from accelsim.exploration._manifest import code_sha256, versions
from accelsim.exploration._resolve import AUTO, Resolved, Setup, schema
from accelsim.exploration._run import run
from accelsim.exploration._sources import Session
from accelsim.exploration.closed_loop import Scorer
from accelsim.workloads import Workload
from accelsim.workloads.shapes import is_shape

Row = dict[str, Any]
_PARSED_LIMIT = 4096


@dataclass(frozen=True)
class Point:
    """A run as plain text, so that a worker needs nothing but the source's file.

    Attributes:
        key: SHA-256 of configurations, source, engine and modelling code: the point's name.
        source: absolute path, the text that names a shape, or the workload itself.
        source_sha256: contents that the worker must find there.
        engine: timing engine.
        texts: section to canonical JSON.
        baselines: platforms to compare with.
        code: digest of the modelling code that the point is for.
        dependencies, sample: as in :class:`Setup`.
        closed_loop: what each policy is scored by inside a model, of
            :func:`~accelsim.exploration.closed_loop.packed`; empty if it is not.
    """

    key: str
    source: str | Workload
    source_sha256: str
    engine: str
    texts: Mapping[str, str]
    baselines: tuple[str, ...] = ()
    code: str = ""
    dependencies: str | None = None
    sample: str = AUTO
    closed_loop: str = ""

    @classmethod
    def of(
        cls,
        setup: Setup,
        source_sha256: str,
        baselines: tuple[str, ...] = (),
        closed_loop: str = "",
    ) -> Point:
        """Name and pack a resolved run."""
        content = {
            "configs": {name: part.sha256 for name, part in setup.parts.items()},
            "source": source_sha256,
            "engine": setup.engine,
            "dependencies": setup.dependencies,
            "sample": setup.sample,
            "baselines": baselines,
            "closed_loop": closed_loop,
            "code": code_sha256(),
        }
        key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        texts = {name: part.text for name, part in setup.parts.items()}
        source: Path | Workload | str = setup.source
        if isinstance(source, Path):
            source = str(source if setup.shape else source.absolute())
        return cls(
            key,
            source,
            source_sha256,
            setup.engine,
            texts,
            baselines,
            str(content["code"]),
            setup.dependencies,
            setup.sample,
            closed_loop,
        )

    @property
    def group(self) -> str:
        """Equal for points that share a functional run."""
        return self.source_name + self.texts.get("policy", "")

    @property
    def source_name(self) -> str:
        """Path of the source, or the name of a workload."""
        return self.source.name if isinstance(self.source, Workload) else self.source


class Worker:
    """Runs points in one process; keeps traces, functional runs and parsed configurations."""

    def __init__(self) -> None:
        self.session = Session()
        self._scorer = Scorer(self._checked)
        self._parsed: dict[str, Resolved] = {}
        # Dask may give a worker several threads; one simulation at a time is as fast.
        self._lock = threading.Lock()

    def evaluate(self, point: Point, timeout_s: float | None = None) -> Row:
        """Run one point; whatever is wrong with it becomes the row's ``error``.

        A fault of the machine (a full disk, a broken library) is not the point's and would be
        gone at the next try: it ends the sweep, which goes on where it was when called again.

        A point that takes longer than ``timeout_s`` ends the process: a compiled kernel that does
        not return can be stopped in no other way.
        """
        started = time.perf_counter()
        row: Row = {"key": point.key, "status": "ok"}
        try:
            with self._lock, _deadline(timeout_s):
                row |= self._run(point)
        except AccelsimError as error:
            row |= failure(point.key, str(error))
        except (OSError, EOFError, ImportError) as error:
            raise MachineError(
                f"{socket.gethostname()}: {type(error).__name__}: {error}; the sweep ends here and "
                "goes on from its store when called again"
            ) from error
        except Exception as error:
            row |= failure(point.key, f"internal error, {type(error).__name__}: {error}")
        row["elapsed_s"] = time.perf_counter() - started
        row["finished_at_unix_s"] = time.time()
        row["worker"] = f"{socket.gethostname()}:{os.getpid()}"
        return row | describe(point)

    def _run(self, point: Point) -> Row:
        if point.code != code_sha256():
            raise ConfigError("this worker runs another version of accelsim; install the same one")
        if isinstance(point.source, Workload):
            source: Path | Workload = point.source
        else:
            source = self._checked(Path(point.source), point.source_sha256)
        parts = {name: self._parse(name, text) for name, text in point.texts.items()}
        setup = Setup(source, point.engine, parts, point.dependencies, point.sample)
        row = run(setup, self.session, baselines=point.baselines).to_row()
        if point.closed_loop:
            row |= self._scorer.score(point.closed_loop, point.texts.get("policy", ""))
        return row

    def _checked(self, source: Path, sha256: str) -> Path:
        if not is_shape(str(source)) and not source.exists():
            raise AccelsimError(
                f"{source}: no such file on {socket.gethostname()}; workers open sources by path, "
                "so it must be on a shared file system"
            )
        if self.session.source_sha256(source) != sha256:
            raise AccelsimError(f"{source}: has changed since the sweep began, or differs here")
        return source

    def _parse(self, section: str, text: str) -> Resolved:
        known = self._parsed.get(text)
        if known is None:
            if len(self._parsed) > _PARSED_LIMIT:
                self._parsed.clear()
            data = json.loads(text)
            model = schema(section, data, section)
            known = self._parsed[text] = Resolved(configs.validate(model, data, section), text)
        return known


def failure(key: str, message: str) -> Row:
    """Return the row of a point that could not be run."""
    return {"key": key, "status": "failed", "error": message}


def describe(point: Point) -> Row:
    """Return the columns that say what was run: source, engine, versions, configurations."""
    return {
        "source_path": point.source_name,
        "source_sha256": point.source_sha256,
        "timing_engine": point.engine,
        "accelsim_version": versions()["accelsim"],
        "code_sha256": point.code,
        **{f"config.{name}": text for name, text in point.texts.items()},
    }


@contextmanager
def _deadline(timeout_s: float | None) -> Iterator[None]:
    """End this process after ``timeout_s``, even inside a kernel that holds the interpreter."""
    if timeout_s is None:
        yield
        return
    with Path(os.devnull).open("w") as nowhere:
        faulthandler.dump_traceback_later(timeout_s, exit=True, file=nowhere)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


_worker: Worker | None = None


def evaluate(point: Point, timeout_s: float | None = None) -> Row:
    """Run one point with this process's worker."""
    global _worker
    if _worker is None:
        _worker = Worker()
    return _worker.evaluate(point, timeout_s)
