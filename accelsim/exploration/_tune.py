"""``tune``: the cheapest keep ratios and bit widths of each layer under a limit on the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelsim.errors import AccelsimError, TraceError
from accelsim.exploration._arguments import checked
from accelsim.exploration._resolve import DEFAULT_ACCELERATOR, Library, Resolved, resolve
from accelsim.exploration._result import RunResult
from accelsim.exploration._run import run
from accelsim.exploration._sources import Session
from accelsim.policies import Policy

if TYPE_CHECKING:
    from accelsim.traces import AttentionTrace

LADDERS: dict[str, tuple[float, ...]] = {
    "tokens": (1.0, 0.75, 0.5, 0.35, 0.25),
    "values": (1.0, 0.75, 0.5, 0.3, 0.2),
    "key_bits": (12, 10, 8, 6, 4),
    "value_bits": (12, 10, 8, 6, 4),
}
"""Settings of each knob, from nothing pruned on (our choice; the widths are the converter's)."""

_MODE = "open-loop"
_GROUPS = 10
"""Neighbouring layers are tuned together so that a model has about this many groups (ours)."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, repr=False)
class TuneResult:
    """What the tuning chose, and what it buys on one accelerator.

    Attributes:
        policy: the chosen policy.
        loss: of that policy, as measured.
        max_loss: the limit.
        mode: ``open-loop``: the loss is the relative output error on the trace.
        evaluations: policies whose loss was measured.
        before, after: 12-bit dense attention and the policy, replayed over the trace.
    """

    policy: Policy
    loss: float
    max_loss: float
    mode: str
    evaluations: int
    before: RunResult
    after: RunResult

    def __repr__(self) -> str:
        """One line: the loss, its limit, and what the policy buys."""
        return (
            f"TuneResult({self.mode} loss {self.loss:.3g} of {self.max_loss:.3g}: "
            f"{self.after!r}, before {self.before!r})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the ``accelsim.tune/1`` document: plain JSON values."""
        return {
            "schema": "accelsim.tune/1",
            "mode": self.mode,
            "loss": self.loss,
            "max_loss": self.max_loss,
            "evaluations": self.evaluations,
            "policy": self.policy.model_dump(mode="json", exclude_none=True),
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
        }

    def to_yaml(self) -> str:
        """Return the policy as the text of a policy file; equal policies give equal texts."""
        return policy_yaml(self.policy)


def policy_yaml(policy: Policy) -> str:
    """Return a policy as the text of a policy file; equal policies give equal texts."""
    import yaml

    data = policy.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    # A discriminator equal to its default is dropped with the defaults.
    data["quantization"] = {"kind": policy.quantization.kind} | data.get("quantization", {})
    text: str = yaml.safe_dump(
        data, sort_keys=False, width=96, default_flow_style=None, allow_unicode=True
    )
    return text


@checked
def tune(
    source: str | Path,
    max_loss: float,
    *,
    accelerator: str = DEFAULT_ACCELERATOR,
    layers_per_group: int | None = None,
    on_progress: Progress = lambda stage, done, total: None,
) -> TuneResult:
    """Choose keep ratios and bit widths layer by layer, by measured sensitivity.

    Open loop; :func:`tune_model` runs the policies inside a model. Greedy, in rounds. In a round
    each knob of each group of layers goes one step down alone, from the best policy so far; its
    loss and the bytes it saves are measured. Steps are ordered by loss per byte, and as many are
    taken together as the limit allows, by bisection over measured losses. Steps that did not fit
    are never tried again. Deterministic.

    Args:
        source: an attention trace with values.
        max_loss: largest relative output error over the trace allowed, in (0, 1).
        accelerator: preset or YAML file on which the result is replayed.
        layers_per_group: neighbouring layers that share their settings; a tenth of the model if
            not given.
        on_progress: told stage, evaluations done and evaluations expected of the stage.

    Raises:
        AccelsimError: a limit that makes no sense or that 12-bit dense attention breaks already.
    """
    from accelsim.traces import load_trace

    if not 0 < max_loss < 1:
        raise AccelsimError(f"max loss {max_loss:g}: expected more than 0 and less than 1 (100 %)")
    setup = resolve(source, accelerator, "dense", "event", {}, Library())
    if not setup.is_trace or "policy" not in setup.parts:
        raise TraceError(f"{source}: expected an attention trace and an accelerator without a rule")
    trace = load_trace(setup.trace_file)
    size = layers_per_group or -(-trace.num_layers // _GROUPS)
    if not 1 <= size <= trace.num_layers:
        raise AccelsimError(
            f"layers per group {size}: expected 1 to {trace.num_layers} (layers of the trace)"
        )
    search = _Search(trace, max_loss, size, on_progress)
    chosen, loss = search.run()
    policy = _policy(chosen, trace, loss, max_loss)
    session = Session()
    dense = _policy(search.dense, trace, 0.0, max_loss)
    before, after = (
        run(replace(setup, parts={**setup.parts, "policy": Resolved.of(p)}), session)
        for p in (dense, policy)
    )
    return TuneResult(policy, loss, max_loss, _MODE, search.evaluations, before, after)


Settings = dict[str, tuple[int, ...]]
"""Knob to the step on its ladder of each group of layers."""

Step = tuple[str, int]
"""Knob and group that go one step down."""


class _Search:
    """The greedy rounds of :func:`tune`."""

    def __init__(
        self,
        trace: AttentionTrace,
        max_loss: float,
        size: int,
        on_progress: Progress,
    ) -> None:
        self.trace, self.limit = trace, max_loss
        self.on_progress = on_progress
        self.groups = -(-trace.num_layers // size)
        self.dense: Settings = dict.fromkeys(LADDERS, (0,) * trace.num_layers)
        self.size = size
        self.evaluations = 0

    def run(self) -> tuple[Settings, float]:
        """Return the chosen settings and their loss."""
        settings = self.dense
        loss, moved = self.measure(settings)
        if loss > self.limit:
            raise AccelsimError(
                f"max loss {self.limit:g}: dense attention at 12 bit already loses {loss:.3g}; "
                "expected a larger limit"
            )
        frozen: set[Step] = set()
        for number in range(1, max(map(len, LADDERS.values()))):
            steps = [s for s in self.steps(settings) if s not in frozen]
            ranked = []
            for done, step in enumerate(steps):
                self.on_progress(f"round {number}", done, len(steps))
                lost, bytes_left = self.measure(self.apply(settings, [step]))
                if lost <= self.limit and bytes_left < moved:
                    ranked.append(((lost - loss) / (moved - bytes_left), step))
                else:
                    frozen.add(step)
            order = [step for _, step in sorted(ranked)]
            taken, loss, moved = self.longest(settings, order, loss, moved)
            settings = self.apply(settings, order[:taken])
            frozen |= set(order[taken:])
            if not taken:
                break
        return settings, loss

    def longest(
        self, settings: Settings, order: list[Step], loss: float, moved: int
    ) -> tuple[int, float, int]:
        """Bisect for how many steps the limit allows; returns count, loss and bytes."""
        low, high = 0, len(order)
        trial = high
        while low < high:
            lost, bytes_left = self.measure(self.apply(settings, order[:trial]))
            if lost <= self.limit:
                low, loss, moved = trial, lost, bytes_left
            else:
                high = trial - 1
            trial = (low + high + 1) // 2
        return low, loss, moved

    def steps(self, settings: Settings) -> Iterator[Step]:
        """Every step down that is left."""
        for knob, ladder in LADDERS.items():
            for group in range(self.groups):
                if settings[knob][group * self.size] + 1 < len(ladder):
                    yield knob, group

    def apply(self, settings: Settings, steps: list[Step]) -> Settings:
        """Take steps together."""
        rows = {knob: list(row) for knob, row in settings.items()}
        for knob, group in steps:
            for layer in range(self.trace.num_layers)[group * self.size :][: self.size]:
                rows[knob][layer] += 1
        return {knob: tuple(row) for knob, row in rows.items()}

    def measure(self, settings: Settings) -> tuple[float, int]:
        """Loss of the settings, and the bytes that they read over the trace."""
        from accelsim.functional import run_policy

        self.evaluations += 1
        policy = _policy(settings, self.trace, 0.0, self.limit)
        result = run_policy(self.trace, policy, indices=False)
        moved = sum(result.workload.policy_bytes().values())
        return float(result.accuracy["relative_output_error"]), moved


def _policy(settings: Settings, trace: AttentionTrace, loss: float, limit: float) -> Policy:
    """Return settings as a policy; a knob that nobody turned is left out."""
    chosen = {
        knob: [ladder[step] for step in settings[knob]]
        for knob, ladder in LADDERS.items()
        if any(settings[knob])
    }
    data: dict[str, Any] = {
        "description": f"Tuned on {trace.model}: loss {100 * loss:.3g} % ({_MODE}).",
        "source": f"accelsim tune, limit {100 * limit:g} % ({_MODE}), {trace.num_layers} layers.",
        "quantization": {"kind": "static"},
    }
    if "tokens" in chosen:
        # [CLS] of an encoder; sinks and recent tokens of a causal model (see CascadeTokens).
        protect = {"first": 4, "recent": 32} if trace.causal else {"first": 1, "recent": 0}
        data["tokens"] = {"keep_by_layer": chosen["tokens"], "protect": protect}
    if "values" in chosen:
        data["values"] = {"keep_by_layer": chosen["values"]}
    for knob in ("key_bits", "value_bits"):
        if knob in chosen:
            data["quantization"][f"{knob}_by_layer"] = chosen[knob]
    return Policy.model_validate(data)
