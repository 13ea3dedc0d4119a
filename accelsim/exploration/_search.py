"""Search: Optuna proposes points, the same executors run them, the same store keeps them."""

from __future__ import annotations

import os
import socket
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from accelsim import configs
from accelsim.errors import AccelsimError, ConfigError
from accelsim.exploration._executors import open_executor
from accelsim.exploration._finalists import (
    Finalist,
    FinalistsConfig,
    ask_finalists,
    open_evaluator,
)
from accelsim.exploration._point import Point, Row
from accelsim.exploration._results import Results
from accelsim.exploration._space import Axis, Settings
from accelsim.exploration._store import Store
from accelsim.exploration._sweep import OnPoint
from accelsim.exploration._sweep_file import Plan, SpaceConfig, SweepConfig, load_file

_PROPOSALS_PER_TRIAL = 20
_FINALISTS = 5


class SearchConfig(SpaceConfig):
    """A search; its objectives are the metrics that are minimized or maximized."""

    kind: Literal["search"]
    trials: Annotated[int, Field(ge=1)] = 100
    """Finished trials of the study, those of earlier runs included."""
    sampler: Literal["tpe", "nsga2", "nsga3", "random", "qmc"] = "tpe"
    """Optuna's sampler. ``random`` and ``qmc`` do not learn from constraints."""
    seed: Annotated[int, Field(ge=0)] = 0
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
    with Store(folder) as store:
        url = storage or f"sqlite:///{(folder / 'study.db').absolute()}"
        shared = len(store.writers()) > 1
        study = _open_study(plan, config, url, shared)
        _fail_orphans(study, alone=storage is None and not shared)
        run = _Search(plan, config, store, study, on_point)
        pool = open_executor(executor, workers, scheduler, point_timeout_s)
        try:
            run.run(pool, trials or config.trials)
        finally:
            pool.close()
        results = run.results()
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


def _open_study(plan: Plan, config: SearchConfig, url: str, shared: bool) -> Any:
    optuna = _optuna()
    import warnings

    try:
        storage = _open_storage(optuna, url)
        known = {s.study_name: s.n_trials for s in optuna.get_all_study_summaries(storage)}
    except Exception as error:
        detail = " ".join(str(error).split())[:200]
        raise AccelsimError(f"{url}: the study cannot be opened ({detail})") from None
    # A sampler that starts again with the same seed would propose the same points again.
    seed = config.seed + known.get(plan.name, 0) + (os.getpid() if shared else 0)

    # The first element says whether there is a configuration at all.
    count = 1 + len(plan.constraints)

    def violations(trial: Any) -> list[float]:
        known: list[float] = trial.user_attrs.get("violations", [1.0] * count)
        return known

    samplers = optuna.samplers
    options: dict[str, Any] = {"constraints_func": violations}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler = {
            "tpe": lambda: samplers.TPESampler(seed=seed, constant_liar=True, **options),
            "nsga2": lambda: samplers.NSGAIISampler(seed=seed, **options),
            "nsga3": lambda: samplers.NSGAIIISampler(seed=seed, **options),
            "random": lambda: samplers.RandomSampler(seed=seed),
            "qmc": lambda: samplers.QMCSampler(seed=seed, scramble=True),
        }[config.sampler]()
    return optuna.create_study(
        study_name=plan.name,
        storage=storage,
        sampler=sampler,
        directions=[goal for goal in config.metrics.values() if goal != "report"],
        load_if_exists=True,
    )


def _open_storage(optuna: Any, url: str) -> Any:
    """Open the database of a study.

    Optuna commits some twenty times a trial, and SQLite by default waits for the disk each time.
    With a write-ahead log and NORMAL synchronization it waits at checkpoints only: a killed process
    loses nothing, a power cut at most the last trials, whose points the store has.
    """
    storage = optuna.storages.RDBStorage(url)
    if storage.engine.dialect.name == "sqlite":
        from sqlalchemy import event

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
            if not self.checked:
                self.plan.check_metrics(row)
                self.checked = True
            row["feasible"] = self.plan.feasible(row)
        return row

    def _finished(self) -> int:
        states = _optuna().trial.TrialState
        return len(self.study.get_trials(deepcopy=False, states=(states.COMPLETE,)))


def _suggest(trial: Any, axis: Axis, label: str) -> Settings:
    """Let Optuna choose a value of one axis."""
    span = axis.span
    if axis.key is not None and span is not None and span.points is None:
        log = axis.log_range is not None
        if axis.is_integer:
            step = max(int(span.step or 1), 1)
            low, high = int(span.start), int(span.stop)
            return {axis.key: trial.suggest_int(axis.key, low, high, step=step, log=log)}
        value = trial.suggest_float(axis.key, span.start, span.stop, step=span.step, log=log)
        return {axis.key: float(f"{value:.12g}")}
    levels = axis.levels()
    index: int = trial.suggest_categorical(axis.key or label, list(range(len(levels))))
    return levels[index]
