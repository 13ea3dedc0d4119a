"""``tune`` inside a model: the cheapest policy whose measured loss stays within a limit.

Three stages, each of whose figures is kept in a store and never computed twice:

1. *Table*, open loop over one recorded sample: each knob at each step in all layers gives the
   output error of every layer and what the step saves.
2. *Weights*, inside the model: a third of the layers at one step of one knob gives the damage to
   the model's output, and so what an error there is worth. Squared errors times weights predict the
   damage of any settings.
3. *Search*, inside the model: for a predicted damage, the cheapest settings follow exactly (one
   Lagrange multiplier; a cascade's nesting by dynamic programming). They are measured, and the
   damage that is aimed at moves until the limit is met. What the weights of the knobs get wrong
   against each other is tried out by changing them.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import AccelsimError, TraceError
from accelsim.exploration._manifest import code_sha256, command_line
from accelsim.exploration._resolve import DEFAULT_ACCELERATOR, Library, resolve
from accelsim.exploration._store import Store
from accelsim.exploration._stored_points import pareto_front
from accelsim.exploration._tune import policy_yaml
from accelsim.exploration._tune_space import Family, Settings, families
from accelsim.policies import Policy, load_policy_spec, why_closed_loop_not, why_not

if TYPE_CHECKING:
    from accelsim.functional.closed_loop import ClosedLoop, Loss
    from accelsim.traces import AttentionTrace
    from accelsim.workloads import Workload

Minimize = Literal["dram", "latency", "energy"]
Bound = Literal["upper", "estimate"]
Progress = Callable[[str, int, int], None]

_GROUPS = 10
"""Neighbouring layers are tuned together so that a model has about this many groups (ours)."""
_REGIONS = 3
"""Parts of the depth in which a knob is probed: front, middle and back (ours)."""
_AIMS = 4
"""Evaluations of a family by layer, and half as many in each round before (ours)."""
_COSTS = {"dram": "dram_bytes", "latency": "cycles", "energy": "energy_j"}


@dataclass(frozen=True)
class Cost:
    """What decoding costs on a machine, over the recorded sample.

    Attributes:
        dram_bytes: bytes of keys, values and metadata read for a decoded token (of an encoder:
            for the sample), as the policy decides them.
        cycles: cycles for the same.
        energy_j: joules for the same.
    """

    dram_bytes: float
    cycles: float
    energy_j: float


@dataclass(frozen=True)
class TunedPoint:
    """A policy that ran inside the model.

    Attributes:
        name: its family, or the preset.
        policy: what is kept.
        loss: on the texts to tune on.
        cost: on the machine.
        held_out: loss on the other texts, where it was asked for.
    """

    name: str
    policy: Policy
    loss: Loss
    cost: Cost
    held_out: Loss | None = None


@dataclass(frozen=True)
class Tuning:
    """What a tuning found.

    Attributes:
        best: cheapest point within the limit.
        points: every policy that was measured, in order.
        dense: cost of 12-bit dense attention.
        max_loss: the limit.
        bound: what had to be within it: the ``upper`` end of the 95 % interval, or the
            ``estimate``.
        minimize: what was minimized.
        metric: ``perplexity``, ``pearson`` or the name of a task.
        unit: of a hundred times a loss, ``%`` or ``points``.
        probes: evaluations that set the weights.
    """

    best: TunedPoint
    points: list[TunedPoint]
    dense: Cost
    max_loss: float
    bound: Bound
    minimize: Minimize
    metric: str
    unit: str
    probes: int

    def front(self) -> list[TunedPoint]:
        """Points that no other one beats in both loss and what was minimized, cheapest first."""
        values = [(p.loss.loss, _cost_of(p, self.minimize)) for p in self.points]
        front = [self.points[at] for at in pareto_front(values)]
        return sorted(front, key=lambda p: _cost_of(p, self.minimize))

    def rows(self) -> list[dict[str, Any]]:
        """One flat row a point, for a CSV file; ratios are dense over policy."""
        front = {id(p) for p in self.front()}
        rows = []
        for point in self.points:
            other = point.held_out
            rows.append(
                {
                    "name": point.name,
                    "loss": point.loss.loss,
                    "loss_low": point.loss.low,
                    "loss_high": point.loss.high,
                    self.metric: point.loss.score,
                    "held_out_loss": None if other is None else other.loss,
                    "held_out_low": None if other is None else other.low,
                    "held_out_high": None if other is None else other.high,
                    "dram_reduction": point.loss.reduction,
                    "dram_bytes_per_token": point.cost.dram_bytes,
                    "cycles_per_token": point.cost.cycles,
                    "energy_j_per_token": point.cost.energy_j,
                    "speedup": self.dense.cycles / point.cost.cycles,
                    "energy_ratio": self.dense.energy_j / point.cost.energy_j,
                    "front": id(point) in front,
                    "policy": policy_text(point.policy),
                }
            )
        return rows

    def to_csv(self) -> str:
        """Return :meth:`rows` as the text of a CSV file."""
        text = io.StringIO()
        rows = self.rows()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: _short(v) for k, v in row.items()})
        return text.getvalue()

    def to_yaml(self, model: str) -> str:
        """Return the best policy as the text of a policy file that states its losses.

        Args:
            model: what it was tuned for.
        """
        best, words = (
            self.best,
            [f"Tuned for {model}, {self.metric}: {self._stated(self.best.loss)}"],
        )
        if best.held_out is not None:
            words.append(f"held out {self._stated(best.held_out)}")
        saved = f"{best.loss.reduction:.2f} times less DRAM traffic"
        time = f"{best.cost.cycles / self.dense.cycles:.2f} times the cycles"
        energy = f"{best.cost.energy_j / self.dense.energy_j:.2f} times the energy"
        description = "; ".join([*words, f"{saved}, {time} and {energy} of 12-bit dense."])
        source = command_line()
        return policy_yaml(
            best.policy.model_copy(update={"description": description, "source": source})
        )

    def _stated(self, loss: Loss) -> str:
        """A loss with its interval and what it was measured on."""
        low, high = 100 * loss.low, 100 * loss.high
        return (
            f"loss {100 * loss.loss:.2f} {self.unit} (95 %: {low:.2f} to {high:.2f}) over "
            f"{loss.samples} samples"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the ``accelsim.tune/1`` document: plain JSON values."""
        best = self.best
        return {
            "schema": "accelsim.tune/1",
            "mode": "closed-loop",
            "loss": best.loss.loss,
            "max_loss": self.max_loss,
            "evaluations": len(self.points),
            "policy": best.policy.model_dump(mode="json", exclude_none=True),
            "bound": self.bound,
            "minimize": self.minimize,
            "metric": self.metric,
            "unit": self.unit,
            "probes": self.probes,
            "tuned_on": best.loss.to_dict(),
            "held_out": None if best.held_out is None else best.held_out.to_dict(),
            "cost": {"dense": asdict(self.dense), "tuned": asdict(best.cost)},
            "points": self.rows(),
        }


def tune_model(
    loop: ClosedLoop,
    max_loss: float,
    store: str | Path,
    *,
    minimize: Minimize = "dram",
    bound: Bound = "upper",
    accelerator: str = DEFAULT_ACCELERATOR,
    rules: Sequence[str] = (),
    beside: Sequence[str] = (),
    evaluations: int = 40,
    layers_per_group: int | None = None,
    on_progress: Progress = lambda stage, done, total: None,
) -> Tuning:
    """Find the cheapest policy whose loss inside a model stays within a limit.

    Deterministic; with the same store it goes on where it was stopped.

    Args:
        loop: a :class:`~accelsim.functional.closed_loop.PerplexityLoss` or
            :class:`~accelsim.functional.closed_loop.LeeLoss`.
        max_loss: largest loss, in (0, 1).
        store: folder for what was measured, created if missing.
        minimize: DRAM traffic inside the model, or cycles or joules of decoding on the machine.
        bound: what must be within the limit: the ``upper`` end of the paired 95 % interval or the
            ``estimate``.
        accelerator: preset or YAML file on which policies are replayed.
        rules: see :data:`accelsim.exploration._tune_space.CAUSAL_RULES`, tried if none are named.
        beside: policies (``NAME|FILE[:KEY=VALUE,...]``) that are measured, too.
        evaluations: policies of the search that are measured inside the model, at most.
        layers_per_group: neighbouring layers that share their settings; a tenth of the model if
            not given.
        on_progress: told stage, evaluations done and evaluations expected of the stage.

    Raises:
        AccelsimError: a limit that makes no sense, an unknown rule, or no policy within the limit.
    """
    if not 0 < max_loss < 1:
        raise AccelsimError(f"max loss {max_loss:g}: expected more than 0 and less than 1 (100 %)")
    if evaluations < 1:
        raise AccelsimError(f"evaluations {evaluations}: expected at least 1")
    chosen = families(rules, causal=loop.causal, tokens=loop.tokens, prompt=loop.prompt_tokens > 0)
    known = {spec: load_policy_spec(spec) for spec in dict.fromkeys(beside)}
    with Store(store) as opened:
        bench = _Bench(loop, opened, accelerator)
        size = layers_per_group or -(-bench.layers // _GROUPS)
        if not 1 <= size <= bench.layers:
            raise AccelsimError(
                f"layers per group {size}: expected 1 to {bench.layers} (layers of the model)"
            )
        search = _Search(bench, chosen, max_loss, minimize, bound, size, evaluations, on_progress)
        return search.run(known)


class _Bench:
    """Measures policies, each figure once."""

    def __init__(self, loop: ClosedLoop, store: Store, accelerator: str) -> None:
        from accelsim.traces import load_trace, save_trace

        self.loop, self._store = loop, store
        self._known = {row["key"]: row for row in store.rows()}
        self._path = store.folder / f"trace-{loop.identity[:12]}.safetensors"
        library = Library()
        # Read before the model runs for the first time, so that a mistake is told at once.
        library.load("accelerator", accelerator, "accelerators", {})
        if not self._path.exists():
            save_trace(loop.trace(), self._path, np.float32)
        self._setup = resolve(self._path, accelerator, None, "event", {}, library)
        if "policy" not in self._setup.parts:
            raise TraceError(f"{accelerator}: has a pruning rule of its own; expected one without")
        self.trace: AttentionTrace = load_trace(self._path)
        self.layers = self.trace.num_layers
        self._machine = {n: p.sha256 for n, p in self._setup.parts.items() if n != "policy"}

    def why_not(self, policy: Policy) -> str:
        """Say why a policy cannot be measured, or return an empty string."""
        return why_closed_loop_not(
            policy,
            causal=self.loop.causal,
            prompt_tokens=self.loop.prompt_tokens,
            num_layers=self.layers,
        ) or why_not(policy, self.trace)

    def loss(self, policy: Policy) -> Loss:
        """Loss on the texts to tune on."""
        from accelsim.functional.closed_loop import Loss

        return Loss(**self._once("loss", policy, lambda: self.loop.measure(policy).to_dict()))

    def held_out(self, policy: Policy) -> Loss | None:
        """Loss on the other texts."""
        from accelsim.functional.closed_loop import Loss

        def measured() -> dict[str, Any]:
            found = self.loop.held_out(policy)
            return {} if found is None else found.to_dict()

        found = self._once("held-out", policy, measured)
        return Loss(**found) if found else None

    def damage(self, policy: Policy) -> float:
        """Damage to the model's output."""
        found = self._once("damage", policy, lambda: {"damage": self.loop.damage(policy)})
        return float(found["damage"])

    def open_loop(self, policy: Policy) -> tuple[NDArray[np.float64], float]:
        """Squared relative output error of every layer, and bytes read, over the sample."""
        from accelsim.functional import run_policy

        def measured() -> dict[str, Any]:
            run = run_policy(self.trace, policy, indices=False)
            layers = [layer["relative_output_error"] for layer in run.per_layer]
            moved = sum(self._counted(run.workload).policy_bytes().values())
            return {"errors": json.dumps(layers), "bytes": moved}

        found = self._once("open-loop", policy, measured)
        return np.array(json.loads(found["errors"]), dtype=np.float64) ** 2, float(found["bytes"])

    def cost(self, policy: Policy) -> Cost:
        """Cost of decoding the recorded sample (of an encoder, of all of it)."""

        def measured() -> dict[str, Any]:
            return asdict(self._replayed(policy))

        return Cost(**self._once("cost", policy, measured, self._machine))

    def _replayed(self, policy: Policy) -> Cost:
        from accelsim.energy import evaluate
        from accelsim.functional import run_policy
        from accelsim.hardware import simulate

        workload = self._counted(run_policy(self.trace, policy).workload)
        parts: Any = {name: part.config for name, part in self._setup.parts.items()}
        machine, memory = parts["accelerator"], parts["memory"]
        activity = simulate(workload, machine, memory, "event", None, "causal")
        energy = evaluate(activity, parts["energy"], machine, memory)
        moved = sum(workload.policy_bytes().values())
        per = max(self.trace.decode_tokens, 1)
        return Cost(moved / per, activity.cycles / per, energy.total_j / per)

    def _counted(self, workload: Workload) -> Workload:
        """Decoded tokens alone: the prompt, dense under every cache policy, hides what differs."""
        return workload.select(workload["step"] > 0) if self.trace.decode_tokens else workload

    def _once(
        self, what: str, policy: Policy, measured: Callable[[], Mapping[str, Any]], *more: Any
    ) -> dict[str, Any]:
        facts = [code_sha256(), self.loop.identity, what, policy_text(policy), *more]
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        if key not in self._known:
            row = {
                "key": key,
                "status": "ok",
                "what": what,
                "policy": policy_text(policy),
                **measured(),
            }
            self._store.append(row)
            self._known[key] = row
        beside = ("key", "status", "what", "policy")
        return {name: value for name, value in self._known[key].items() if name not in beside}


@dataclass(frozen=True)
class _Table:
    """What the settings of a family are predicted to cost and to damage, for each group.

    Attributes:
        family: whose knobs.
        cost: knob to what each step costs, in all layers, of what nothing costs; [steps].
        damage: knob to the damage [groups, steps].
    """

    family: Family
    cost: dict[str, NDArray[np.float64]]
    damage: dict[str, NDArray[np.float64]]

    def solve(self, aim: float, weights: Mapping[str, float]) -> list[dict[str, int]]:
        """Return the cheapest settings of the groups whose damage is at most ``aim``.

        Args:
            aim: predicted damage.
            weights: factor on the damage of a knob; 1 where not given.
        """
        knobs = [knob for knob in self.cost if knob != "keep"]
        rest = list(product(*(range(len(self.cost[knob])) for knob in knobs)))
        kept = self.cost.get("keep", np.ones(1))
        extra = np.array([sum(self.cost[k][s] - 1 for k, s in zip(knobs, r, strict=True))
                          for r in rest])  # fmt: skip
        spent = kept[:, None] * (1 + extra)[None, :]
        groups = len(next(iter(self.damage.values())))
        own = np.zeros((groups, len(rest)))
        for at, steps in enumerate(rest):
            for knob, step in zip(knobs, steps, strict=True):
                own[:, at] += weights.get(knob, 1.0) * self.damage[knob][:, step]
        lost = np.zeros((groups, len(kept), 1)) + own[:, None, :]
        if "keep" in self.damage:
            lost += weights.get("keep", 1.0) * self.damage["keep"][:, :, None]

        def at_price(price: float) -> tuple[float, list[tuple[int, int]]]:
            """Settings that are best where damage costs ``price``, and their damage."""
            whole = spent[None] + price * lost
            best, value = whole.argmin(axis=2), whole.min(axis=2)
            chosen = self._path(value)
            picks = [(k, int(best[g, k])) for g, k in enumerate(chosen)]
            return sum(float(lost[g, k, r]) for g, (k, r) in enumerate(picks)), picks

        low, high = -20.0, 40.0
        found = at_price(math.exp(high))[1]
        for _ in range(50):
            middle = (low + high) / 2
            total, picks = at_price(math.exp(middle))
            if total <= aim:
                high, found = middle, picks
            else:
                low = middle
        settings = []
        for keep, at in found:
            chosen = dict(zip(knobs, rest[at], strict=True))
            settings.append(chosen | ({"keep": keep} if "keep" in self.cost else {}))
        return settings

    def promise(self, aim: float) -> float:
        """Predicted cost of the cheapest settings, layers alike, of what nothing costs."""
        tied = self.tied()
        steps = tied.solve(aim, {})[0]
        extra = sum(self.cost[knob][step] - 1 for knob, step in steps.items() if knob != "keep")
        return float((self.cost["keep"][steps["keep"]] if "keep" in steps else 1.0) * (1 + extra))

    def tied(self) -> _Table:
        """Return the same with all layers alike: what a few numbers can say is less luck."""
        whole = {knob: rows.sum(axis=0, keepdims=True) for knob, rows in self.damage.items()}
        return replace(self, damage=whole)

    def _path(self, value: NDArray[np.float64]) -> list[int]:
        """Step of ``keep`` of each group of least total value [groups, steps]."""
        if not self.family.nested:
            return [int(step) for step in value.argmin(axis=1)]
        total, came = value[0].copy(), []
        for row in value[1:]:
            # A later group keeps as much as the one before, or less.
            best = np.minimum.accumulate(total)
            first = np.array([int(np.argmin(total[: k + 1])) for k in range(len(total))])
            came.append(first)
            total = best + row
        path = [int(np.argmin(total))]
        for first in reversed(came):
            path.append(int(first[path[-1]]))
        return path[::-1]


class _Search:
    """The three stages of :func:`tune_model`."""

    def __init__(
        self,
        bench: _Bench,
        chosen: Sequence[Family],
        limit: float,
        minimize: Minimize,
        bound: Bound,
        size: int,
        evaluations: int,
        on_progress: Progress,
    ) -> None:
        self.bench, self.families, self.limit = bench, chosen, limit
        self.minimize, self.bound, self.size = minimize, bound, size
        self.evaluations, self.tell = evaluations, on_progress
        self.groups = -(-bench.layers // size)
        self.points: dict[str, TunedPoint] = {}
        self.searched = self.probes = 0

    def run(self, beside: Mapping[str, Policy]) -> Tuning:
        """Measure what stands beside, then search."""
        dense = self.bench.cost(Policy())
        # Before all else: where dense attention fails a task, there is nothing to lose.
        self.add("dense", Policy())
        tables = self.tables()
        for number, (name, policy) in enumerate(beside.items()):
            self.tell("beside", number, len(beside))
            if not self.bench.why_not(policy):
                self.add(name, policy)
        self.search(tables)
        # Dense attention loses nothing, so there always is one.
        within = [p for p in self.points.values() if self.within(p)]
        best = min(within, key=lambda p: _cost_of(p, self.minimize))
        found = Tuning(
            best, list(self.points.values()), dense, self.limit, self.bound, self.minimize,
            self.bench.loop.metric, self.bench.loop.unit, self.probes,
        )  # fmt: skip
        return self.with_others(found)

    def with_others(self, found: Tuning) -> Tuning:
        """State the loss of the best, and of the front up to twice the limit, on other texts."""
        near = [p for p in found.front() if p.policy != Policy() and p.loss.loss <= 2 * self.limit]
        wanted = {id(p): p for p in (found.best, *near)}
        others = {}
        for done, (key, point) in enumerate(wanted.items()):
            self.tell("held out", done, len(wanted))
            others[key] = replace(point, held_out=self.bench.held_out(point.policy))
        points = [others.get(id(point), point) for point in found.points]
        return replace(found, best=others[id(found.best)], points=points)

    def tables(self) -> list[_Table]:
        """Stages 1 and 2."""
        total = sum(len(f.ladders) for f in self.families)
        tables: list[_Table] = []
        for family in self.families:
            cost: dict[str, NDArray[np.float64]] = {}
            damage: dict[str, NDArray[np.float64]] = {}
            for knob, ladder in family.ladders.items():
                self.tell("weights", len(damage) + sum(len(t.damage) for t in tables), total)
                alone = _alone(family, knob)
                steps = [alone.policy(self.everywhere(alone, {knob: s}))
                         for s in range(len(ladder))]  # fmt: skip
                opened = [self.bench.open_loop(policy) for policy in steps]
                errors = np.array([layers for layers, _ in opened])
                paid = np.array([moved for _, moved in opened])
                if self.minimize != "dram":
                    paid = np.array([self.price(policy) for policy in steps])
                cost[knob] = paid / paid[0]
                damage[knob] = self.weighted(alone, knob, errors)
            tables.append(_Table(family, cost, damage))
        return tables

    def weighted(
        self, family: Family, knob: str, errors: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Damage [groups, steps] of a knob, from errors [steps, layers] and a probe a region."""
        layers, probe = self.bench.layers, min(family.probe(knob), len(errors) - 1)
        more = np.maximum(errors - errors[0], 0.0)
        size = -(-layers // _REGIONS)
        regions = [slice(start, min(start + size, layers)) for start in range(0, layers, size)]
        found = []
        for region in regions:
            steps = {name: [0] * layers for name in family.ladders}
            # What a cascade drops in one layer is gone in all layers behind; they count with it.
            last = layers if family.nested and knob == "keep" else region.stop
            steps[knob][region.start : last] = [probe] * (last - region.start)
            self.probes += 1
            found.append(self.bench.damage(family.policy(_frozen(steps))))
        own = np.array(found)
        if family.nested and knob == "keep":
            own = np.maximum(own - np.append(own[1:], 0.0), 0.0)
        worth = np.zeros(layers)
        for region, damage in zip(regions, own, strict=True):
            total = more[probe, region].sum()
            worth[region] = damage / total if total > 0 else 0.0
        by_layer = more * worth
        groups = [by_layer[:, g * self.size : (g + 1) * self.size] for g in range(self.groups)]
        # A deeper step never counts as milder, whatever one sample says.
        return np.array([np.maximum.accumulate(group.sum(axis=1)) for group in groups])

    def price(self, policy: Policy) -> float:
        """What is minimized, over the recorded sample."""
        return float(getattr(self.bench.cost(policy), _COSTS[self.minimize]))

    def everywhere(self, family: Family, steps: Mapping[str, int]) -> Settings:
        """The same steps in all layers; 0 where not given."""
        return {knob: (steps.get(knob, 0),) * self.bench.layers for knob in family.ladders}

    def search(self, tables: list[_Table]) -> None:
        """Stage 3: families by what they promise, layers alike; then the best ones by layer."""
        tied = {table.family.name: table.tied() for table in tables}
        promised = {t.family.name: t.promise(self.limit) for t in tables}
        aims = dict.fromkeys(tied, self.limit)

        def rank(table: _Table) -> tuple[float, float]:
            return self.cheapest(table.family.name), promised[table.family.name]

        # Halving: where families are many, each is tried less often, and the better ones go on.
        ranked = sorted(tables, key=rank)[: max(self.evaluations // (2 * _AIMS), 2) * 2]
        while True:
            for table in ranked:
                name = table.family.name
                aims[name] = self.aim(tied[name], {}, aims[name], _AIMS // 2)
            ranked.sort(key=rank)
            if len(ranked) <= 2:
                break
            ranked = ranked[: max(len(ranked) // 2, 2)]
        for table in ranked:
            name = table.family.name
            aims[name] = self.aim(table, {}, aims[name], _AIMS)
        ranked.sort(key=rank)
        weights: dict[str, dict[str, float]] = {t.family.name: {} for t in ranked}
        factor = 2.0
        while self.left() and factor > 1.1:
            before = self.searched
            for table in ranked[:2]:
                name = table.family.name
                for knob, up in product(table.cost, (True, False)):
                    own = weights[name]
                    trial = own | {knob: own.get(knob, 1.0) * (factor if up else 1 / factor)}
                    least = self.cheapest(name)
                    aim = self.aim(table, trial, aims[name], 2)
                    if self.cheapest(name) < least:
                        weights[name], aims[name] = trial, aim
            factor = math.sqrt(factor)
            if self.searched == before:
                break

    def aim(self, table: _Table, weights: Mapping[str, float], start: float, tries: int) -> float:
        """Move the predicted damage until the limit is met; returns the last one that met it."""
        aim, met, missed = start, 0.0, math.inf
        for _ in range(tries):
            if not self.left():
                break
            point = self.add(table.family.name, self.settled(table, aim, weights), search=True)
            found = self.bounded(point)
            if found <= self.limit:
                met = max(met, aim)
            else:
                missed = min(missed, aim)
            # Loss grows about linearly with damage; a step is at most threefold.
            factor = self.limit / found if found > 0 else 3.0
            aim *= min(max(0.97 * factor, 1 / 3), 3.0)
            if met and missed < math.inf:
                aim = math.sqrt(met * missed) if not met < aim < missed else aim
                if missed / met < 1.05:
                    break
        return met or aim

    def settled(self, table: _Table, aim: float, weights: Mapping[str, float]) -> Policy:
        """The policy of the cheapest settings for a predicted damage."""
        groups = table.solve(aim, weights)
        size = self.size if len(groups) > 1 else self.bench.layers
        layers = range(self.bench.layers)
        knobs = table.family.ladders
        return table.family.policy(
            {knob: tuple(groups[layer // size][knob] for layer in layers) for knob in knobs}
        )

    def add(self, name: str, policy: Policy, *, search: bool = False) -> TunedPoint:
        """Measure a policy, once."""
        key = policy_text(policy)
        if key not in self.points:
            if search:
                self.tell("search", self.searched, self.evaluations)
                self.searched += 1
            self.points[key] = TunedPoint(
                name, policy, self.bench.loss(policy), self.bench.cost(policy)
            )
        return self.points[key]

    def left(self) -> bool:
        """Whether evaluations are left."""
        return self.searched < self.evaluations

    def bounded(self, point: TunedPoint) -> float:
        """What must be within the limit."""
        return point.loss.high if self.bound == "upper" else point.loss.loss

    def within(self, point: TunedPoint) -> bool:
        """Whether it is."""
        return self.bounded(point) <= self.limit

    def cheapest(self, name: str) -> float:
        """Least cost of a family's points within the limit."""
        costs = [
            _cost_of(p, self.minimize)
            for p in self.points.values()
            if p.name == name and self.within(p)
        ]
        return min(costs, default=math.inf)


def _cost_of(point: TunedPoint, minimize: Minimize) -> float:
    """What is minimized; DRAM traffic is that inside the model."""
    if minimize == "dram":
        return float(point.loss.dram_bytes)
    return float(getattr(point.cost, _COSTS[minimize]))


def _short(value: Any) -> Any:
    """Six digits, as many as anything here is known to."""
    return f"{value:.6g}" if isinstance(value, float) else value


def _alone(family: Family, knob: str) -> Family:
    """The family whose knob can be turned alone, so that families share what is measured of it."""
    if knob.endswith("_bits"):
        return replace(family, rule="widths")
    return replace(family, store="static")


def _frozen(steps: Mapping[str, Sequence[int]]) -> Settings:
    return {knob: tuple(row) for knob, row in steps.items()}


def policy_text(policy: Policy) -> str:
    """A policy as JSON, without words; equal policies give equal texts."""
    words = {"description", "source", "assumptions"}
    data = policy.model_dump(mode="json", exclude=words, exclude_none=True, exclude_defaults=True)
    return json.dumps(data, sort_keys=True)
