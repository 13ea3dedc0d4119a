"""Second fidelity of a search: the policies of the best points, inside the running model."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from accelsim.configs import Config, Unit
from accelsim.errors import ConfigError
from accelsim.exploration._store import Store
from accelsim.exploration._stored_points import Results

Finalist = Callable[[str, str], dict[str, Any]]
"""(trace path, policy as JSON) to figures of higher fidelity, e.g. closed-loop accuracy."""
_MODEL = "SmolLM2-135M"


class FinalistsConfig(Config):
    """Which points are evaluated again, and by what."""

    evaluate: Literal["smollm2-perplexity"]
    """``smollm2-perplexity``: the policy inside SmolLM2-135M (closed loop), scored on the windows
    of docs/accuracy.md; for traces of that model."""
    count: Annotated[int, Field(ge=1, le=1000), Unit("points")] = 5
    """Points of the Pareto set, spread evenly over it in the order of the first metric."""
    windows: Annotated[int, Field(ge=1, le=4)] = 1
    """Shipped windows to score."""
    window_tokens: Annotated[int, Field(ge=32, le=512)] = 512
    """First tokens of each window that are run."""
    skip: Annotated[int, Field(ge=0, le=512), Unit("tokens")] = 64
    """First positions of a window that are not scored."""
    prompt_tokens: Annotated[int, Field(ge=0, le=512), Unit("tokens")] = 0
    """First tokens that attend densely, as a prompt."""


class SmolLM2Perplexity:
    """Perplexity of SmolLM2 under a policy; the model is loaded with the first one."""

    def __init__(self, config: FinalistsConfig) -> None:
        self.config = config
        self._model: Any = None

    def __call__(self, source: str, policy_text: str) -> dict[str, Any]:
        """Score one policy.

        Raises:
            AccelsimError: the model's package is missing, or the policy cannot run in a loop.
        """
        from accelsim.configs import validate
        from accelsim.functional.closed_loop import perplexity, shipped_windows
        from accelsim.policies import Policy
        from accelsim.traces.capture import load_smollm2

        if self._model is None:
            self._model = load_smollm2()
        limit = self.config.window_tokens
        chosen = list(shipped_windows().values())[: self.config.windows]
        score = perplexity(
            self._model,
            [ids[:limit] for ids in chosen],
            validate(Policy, json.loads(policy_text), "policy"),
            skip=self.config.skip,
            prompt_tokens=self.config.prompt_tokens,
        )
        return {
            "perplexity": score.perplexity,
            "perplexity_low": score.low,
            "perplexity_high": score.high,
            "scored_tokens": score.tokens,
            "kept_key_fraction": score.kept_key_fraction,
        }


_EVALUATORS: dict[str, type[SmolLM2Perplexity]] = {"smollm2-perplexity": SmolLM2Perplexity}


def open_evaluator(config: FinalistsConfig, source: str, where: str) -> Finalist:
    """Return the evaluator that a search file names, for its source.

    Raises:
        ConfigError: the source is not a trace of the evaluator's model.
    """
    from accelsim.exploration._resolve import TRACE_SUFFIXES, existing_source
    from accelsim.traces import load_trace

    path = existing_source(source)
    model = load_trace(path).model if path.name.endswith(TRACE_SUFFIXES) else "a workload"
    if _MODEL not in model:
        raise ConfigError(
            f"{where}: key 'finalists.evaluate': {config.evaluate} needs a trace of {_MODEL}, and "
            f"{source} is of {model}"
        )
    return _EVALUATORS[config.evaluate](config)


def ask_finalists(
    results: Results, store: Store, count: int, finalist: Finalist, settings: str
) -> None:
    """Evaluate some of the Pareto set again; figures become columns ``finalist.*`` in the store.

    Args:
        results: rows are updated in place.
        store: where the rows are kept; those that it holds with the same settings are not asked
            for again.
        count: how many points.
        finalist: the evaluator; asked once for equal policies.
        settings: names the evaluator and its parameters.
    """
    first = next(iter(results.goals))
    known: dict[tuple[str, str], dict[str, Any]] = {}
    for row in _spread(sorted(results.pareto(), key=lambda r: r[first]), count):
        if row.get("finalist.settings") == settings:
            continue
        question = row["source_path"], row.get("config.policy", "{}")
        if question not in known:
            known[question] = finalist(*question)
        row.update({f"finalist.{name}": value for name, value in known[question].items()})
        row["finalist.settings"] = settings
        row["revision"] = row.get("revision", 0) + 1
        store.append({name: value for name, value in row.items() if name != "feasible"})


def _spread(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return ``count`` rows at equal distances, both ends included."""
    if len(rows) <= count:
        return rows
    if count == 1:
        return [rows[len(rows) // 2]]
    return [rows[round(i * (len(rows) - 1) / (count - 1))] for i in range(count)]
