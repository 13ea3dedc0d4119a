"""Search: Optuna proposes points, the same executors run them, the same store keeps them."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from accelsim import configs
from accelsim.errors import AccelsimError, ConfigError, redacted
from accelsim.exploration._arguments import checked
from accelsim.exploration._finalists import (
    Finalist,
    FinalistsConfig,
    ask_finalists,
    open_evaluator,
)
from accelsim.exploration._space import MAX_POINTS, MAX_SEED, Axis, Settings
from accelsim.exploration._store import Store
from accelsim.exploration._stored_points import Results
from accelsim.exploration._sweep import OnPoint
from accelsim.exploration.executors import open_executor
from accelsim.exploration.point import Point, Row
from accelsim.exploration.sweep_file import Plan, SpaceConfig, SweepConfig, load_file

_PROPOSALS_PER_TRIAL = 20
_FINALISTS = 5


class SearchConfig(SpaceConfig):
    """A search; its objectives are the metrics that are minimized or maximized."""

    kind: Literal["search"]
    trials: Annotated[int, Field(ge=1, le=MAX_POINTS)] = 100
    """Finished trials of the study, those of earlier runs included."""
    sampler: Literal["tpe", "nsga2", "nsga3", "random", "qmc"] = "tpe"
    """Optuna's sampler. ``random`` and ``qmc`` do not learn from constraints."""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    finalists: FinalistsConfig | None = None
    """Evaluation of the best points at a higher fidelity, after the trials."""


def goals(file: str | Path) -> dict[str, str]:
    """Return the metrics of a sweep or search file, each with its goal.

    Raises:
        ConfigError: with file, key, what was expected and the nearest match.
    """
    data, _ = configs.resolve(str(file), "sweeps")
    model: type[SpaceConfig] = SearchConfig if data.get("kind") == "search" else SweepConfig
    return dict(load_file(model, str(file))[0].metrics)


@checked
def search(
    file: str | Path,
    out: str | Path | None = None,
    trials: int | None = None,
    storage: str | None = None,
    executor: str = "local",
    workers: int | None = None,
    scheduler: str | None = None,
    source: str | None = None,
    finalist: Finalist | None = None,
    on_point: OnPoint = lambda row, done, total: None,
    point_timeout_s: float | None = None,
) -> Results:
    """Search hardware and policy for the Pareto set, or go on with a search.

    A study is named by what it is about: axes, goals, constraints, source, fixed configurations and
    the package's code. If any of these changes, a new study begins in the same store.

    Several calls may work on one study at the same time, from one machine or, with a database URL
    as ``storage``, from many.

    Args:
        file: YAML file (``kind: search``) or preset.
        out: result store; ``runs/searches/NAME`` if not given.
        trials: instead of the file's number.
        storage: database URL of the study; ``study.db`` (SQLite) beside the store if not given.
        executor: ``local``, ``processes`` or ``dask``.
        workers: processes; one per core if ``None``.
        scheduler: address of a Dask scheduler.
        source: instead of the file's source.
        finalist: evaluates the best of the Pareto set instead of what the file names; its figures
            become columns ``finalist.*`` of the result and the store.
        on_point: progress.
        point_timeout_s: a point that takes longer fails; not with ``local``.

    Raises:
        AccelsimError: bad input, Optuna is not installed, or a store that cannot be written.
    """
    config, where = load_file(SearchConfig, str(file))
    plan = Plan(config, where, () if source is None else (source,))
    if len(plan.sources) != 1:
        raise ConfigError(f"{where}: key 'sources': a search takes one source")
    if not any(goal != "report" for goal in config.metrics.values()):
        raise ConfigError(f"{where}: key 'metrics': expected at least one goal")
    if finalist is None and config.finalists is not None:
        finalist = open_evaluator(config.finalists, plan.sources[0], where)
    folder = Path(out) if out is not None else Path("runs", "searches", plan.name)
    with Store(folder) as store, ExitStack() as opened:
        shared = len(store.writers()) > 1
        place = storage or folder.absolute() / "study.db"
        study, note = _open_study(plan, config, place, shared, opened)
        _fail_orphans(study, alone=storage is None and not shared)
        run = _Search(plan, config, store, study, on_point)
        pool = open_executor(executor, workers, scheduler, point_timeout_s)
        try:
            run.run(pool, trials or config.trials)
        finally:
            pool.close()
        results = replace(run.results(), notes=(note,) if note else ())
        if finalist is not None:
            count = config.finalists.count if config.finalists else _FINALISTS
            settings = config.finalists.model_dump_json() if config.finalists else ""
            ask_finalists(results, store, count, finalist, settings)
    return results


def _optuna() -> Any:
    import warnings

    try:
        with warnings.catch_warnings():
            # Its progress bar, which is not used, warns in notebooks without widgets.
            warnings.simplefilter("ignore")
            import optuna
    except ImportError:
        raise AccelsimError(
            "search needs Optuna; install it with: pip install 'accelsim[explore]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _open_study(
    plan: Plan, config: SearchConfig, place: str | Path, shared: bool, opened: ExitStack
) -> tuple[Any, str]:
    """Open the study of a plan, or begin it.

    Args:
        plan: what is searched.
        config: its sampler and goals.
        place: URL of a database, or file of an SQLite one.
        shared: others are at work on the store.
        opened: closes the database.

    Returns:
        The study; and, if it is a new one beside an earlier one of the same name, what changed.
    """
    optuna = _optuna()
    identity = plan.identity()
    digests = {part: _digest(value) for part, value in identity.items()}
    name = f"{plan.name}-{_digest(identity)[:12]}"
    try:
        storage = _open_storage(optuna, place, opened)
        known = {s.study_name: s for s in optuna.get_all_study_summaries(storage)}
    except Exception as error:
        url = str(place)
        # Without a scheme, nothing says where a password begins.
        shown = f"***@{url.rpartition('@')[2]}" if "@" in url and "://" not in url else url
        detail = redacted(str(error).replace(url, shown), url)
        raise AccelsimError(f"{redacted(shown)}: the study cannot be opened ({detail})") from None
    # A sampler that starts again with the same seed would propose the same points again.
    trials = known[name].n_trials if name in known else 0
    seed = (config.seed + trials + (os.getpid() if shared else 0)) % (MAX_SEED + 1)
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        sampler=_sampler(optuna, config.sampler, seed, 1 + len(plan.constraints)),
        directions=[goal for goal in config.metrics.values() if goal != "report"],
        load_if_exists=True,
    )
    study.set_user_attr("identity", digests)
    earlier = [s for n, s in known.items() if n != name and n.rpartition("-")[0] == plan.name]
    if name in known or not earlier:
        return study, ""
    before = earlier[-1].user_attrs.get("identity", {})
    changed = [part for part in {**before, **digests} if before.get(part) != digests.get(part)]
    return study, f"a new study, as what is searched has changed: {', '.join(changed)}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _sampler(optuna: Any, name: str, seed: int, violations: int) -> Any:
    import warnings

    # The first element says whether there is a configuration at all.
    def of_trial(trial: Any) -> list[float]:
        known: list[float] = trial.user_attrs.get("violations", [1.0] * violations)
        return known

    samplers = optuna.samplers
    options: dict[str, Any] = {"constraints_func": of_trial}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "tpe": lambda: samplers.TPESampler(seed=seed, constant_liar=True, **options),
            "nsga2": lambda: samplers.NSGAIISampler(seed=seed, **options),
            "nsga3": lambda: samplers.NSGAIIISampler(seed=seed, **options),
            "random": lambda: samplers.RandomSampler(seed=seed),
            "qmc": lambda: samplers.QMCSampler(seed=seed, scramble=True),
        }[name]()


def _open_storage(optuna: Any, place: str | Path, opened: ExitStack) -> Any:
    """Open the database of a study.

    Optuna commits some twenty times a trial, and SQLite by default waits for the disk each time.
    With a write-ahead log and NORMAL synchronization it waits at checkpoints only: a killed process
    loses nothing, a power cut at most the last trials, whose points the store has.

    Args:
        optuna: the module.
        place: URL, or file of an SQLite database; a file is opened by its path, as a URL would give
            ``?``, ``#`` and braces of a folder's name a meaning.
        opened: closes its connections.
    """
    from sqlalchemy import event
    from sqlalchemy.pool import QueuePool

    if isinstance(place, Path):
        options = {
            "creator": lambda: sqlite3.connect(place, timeout=60.0, check_same_thread=False),
            "poolclass": QueuePool,
        }
        storage = optuna.storages.RDBStorage("sqlite://", engine_kwargs=options)
    else:
        storage = optuna.storages.RDBStorage(place)
    opened.callback(storage.engine.dispose)
    opened.callback(storage.remove_session)
    if storage.engine.dialect.name == "sqlite":

        @event.listens_for(storage.engine, "connect")
        def set_pragmas(connection: Any, _: Any) -> None:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")

        # Connections of the pool are older than the listener.
        storage.engine.dispose()
    return storage


def _fail_orphans(study: Any, alone: bool) -> None:
    """Give up trials of searches that were killed, so that samplers do not wait for their values.

    Args:
        study: the study.
        alone: no other search can be at work on it; else only trials of dead processes of this
            machine are given up.
    """
    states = _optuna().trial.TrialState
    for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
        host, _, process = trial.user_attrs.get("owner", "").rpartition(":")
        if alone or (host == socket.gethostname() and not _runs(process)):
            study.tell(trial.number, state=states.FAIL, skip_if_finished=True)


def _runs(process: str) -> bool:
    """Whether a process of this machine is alive, by its number."""
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


class _Search:
    """One process at work on a study."""

    def __init__(
        self, plan: Plan, config: SearchConfig, store: Store, study: Any, on_point: OnPoint
    ) -> None:
        self.plan, self.config, self.store, self.study = plan, config, store, study
        self.on_point = on_point
        self.objectives = [name for name, goal in config.metrics.items() if goal != "report"]
        self.known = {row["key"]: row for row in store.rows()}
        self.waiting: dict[str, list[tuple[Any, Settings]]] = defaultdict(list)
        self.rows: dict[str, Row] = {}
        self.checked = False

    def run(self, pool: Any, trials: int) -> None:
        """Ask, run, tell, until the study has ``trials`` finished trials."""
        self.on_point(None, self._finished(), trials)
        try:
            for row in pool.run(self._proposals(trials), ahead=1):
                chosen = self.waiting[row["key"]][0][1]
                row = {**row, **chosen}
                self.store.append(row)
                self.known[row["key"]] = row
                for trial, _ in self.waiting.pop(row["key"]):
                    self._tell(trial, row, chosen)
                self.on_point(self.rows.get(row["key"], row), self._finished(), trials)
        finally:
            # Interrupted: what was proposed will not get a value.
            for trials_of_point in self.waiting.values():
                for trial, _ in trials_of_point:
                    self.study.tell(trial, state=_optuna().trial.TrialState.FAIL)

    def results(self) -> Results:
        """Return the rows of every finished trial of the study, other processes' included."""
        rows = {row["key"]: row for row in self.store.rows()}
        for trial in self.study.get_trials(deepcopy=False):
            key = trial.user_attrs.get("key")
            if key in rows and key not in self.rows:
                self.rows[key] = self._judged(rows[key], trial.user_attrs["settings"])
        return Results(
            list(self.rows.values()),
            self.plan.axes,
            dict(self.config.metrics),
            self.store.folder,
        )

    def _proposals(self, trials: int) -> Iterator[Point]:
        for _ in range(_PROPOSALS_PER_TRIAL * trials):
            if self._finished() + len(self.waiting) >= trials:
                return
            trial = self.study.ask()
            trial.set_user_attr("owner", f"{socket.gethostname()}:{os.getpid()}")
            chosen = {"source": self.plan.sources[0]}
            for number, axis in enumerate(self.config.axes):
                chosen |= _suggest(trial, axis, f"zip {number}")
            chosen = self.plan.complete(chosen)
            try:
                point = self.plan.resolve(chosen) if self.plan.allowed(chosen) else None
            except AccelsimError as error:
                trial.set_user_attr("error", str(error))
                point = None
            if point is None:
                self._refuse(trial, chosen)
                continue
            trial.set_user_attr("key", point.key)
            trial.set_user_attr("settings", chosen)
            if point.key in self.known:
                self._tell(trial, self.known[point.key], chosen)
                continue
            self.waiting[point.key].append((trial, chosen))
            if len(self.waiting[point.key]) == 1:
                yield point

    def _refuse(self, trial: Any, chosen: Settings) -> None:
        """Tell the sampler that a proposal cannot be run.

        Pruned with its violations, and not failed: samplers learn nothing from failures, and would
        propose the same again.
        """
        lookup = self.plan.lookup(chosen, {})
        violations = [c.violation(lookup) for c in self.plan.constraints if c.names <= set(chosen)]
        padding = [1.0] * (len(self.plan.constraints) - len(violations))
        trial.set_user_attr("violations", [1.0, *violations, *padding])
        self.study.tell(trial, state=_optuna().trial.TrialState.PRUNED)

    def _tell(self, trial: Any, row: Row, chosen: Settings) -> None:
        row = self.rows[row["key"]] = self._judged(row, chosen)
        values = [row.get(name) for name in self.objectives]
        if row["status"] != "ok" or None in values:
            self.study.tell(trial, state=_optuna().trial.TrialState.FAIL)
            return
        lookup = self.plan.lookup(row, row)
        violations = [constraint.violation(lookup) for constraint in self.plan.constraints]
        trial.set_user_attr("violations", [0.0, *violations])
        self.study.tell(trial, values)

    def _judged(self, row: Row, chosen: Settings) -> Row:
        row = {**row, **chosen}
        if row["status"] == "ok":
            row = self.plan.finish(row)
            if not self.checked:
                self.plan.check_measured([row])
                self.checked = True
        return row

    def _finished(self) -> int:
        states = _optuna().trial.TrialState
        return len(self.study.get_trials(deepcopy=False, states=(states.COMPLETE,)))


def _suggest(trial: Any, axis: Axis, label: str) -> Settings:
    """Let Optuna choose a value of one axis."""
    span = axis.span
    if axis.key is None or span is None:
        levels = axis.levels()
        index: int = trial.suggest_categorical(axis.key or label, list(range(len(levels))))
        return levels[index]
    if span.count is not None:
        # The number of the value: what a library makes of decimal steps may miss the last one.
        levels = axis.levels()
        number: int = trial.suggest_int(axis.key, 0, len(levels) - 1)
        return levels[number]
    log = axis.log_range is not None
    if axis.is_integer:
        return {axis.key: trial.suggest_int(axis.key, *axis.whole_ends, log=log)}
    value = trial.suggest_float(axis.key, span.start, span.stop, log=log)
    return {axis.key: float(f"{value:.12g}")}
