"""Perplexity of a causal model with a policy inside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import TraceError
from accelsim.files import read_text
from accelsim.functional.closed_loop._attend import forward, policy_attention, why_not_inside
from accelsim.policies import Policy

_RESAMPLES = 2000
_BLOCK = 16
"""Neighbouring tokens are not independent: the bootstrap draws runs of this many (our choice)."""


@dataclass(frozen=True)
class Perplexity:
    """Result of one policy over some windows.

    Attributes:
        perplexity: exp of the mean negative log-likelihood of all scored tokens.
        low, high: 95 % interval, block bootstrap over the scored tokens.
        by_window: perplexity of each window.
        windows: how many.
        tokens: scored tokens of all windows.
        kept_key_fraction: query-key pairs scored, of those dense attention scores.
        dram_bytes: traffic of keys and values of all windows, as decoding them one by one.
        nll: negative log-likelihoods in nats, [tokens], in order.
    """

    perplexity: float
    low: float
    high: float
    by_window: list[float]
    windows: int
    tokens: int
    kept_key_fraction: float
    dram_bytes: int
    nll: NDArray[np.float64]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "mode": "closed-loop",
            "perplexity": self.perplexity,
            "interval_95": [self.low, self.high],
            "interval_method": f"block bootstrap over tokens, blocks of {_BLOCK}",
            "by_window": self.by_window,
            "windows": self.windows,
            "tokens": self.tokens,
            "kept_key_fraction": self.kept_key_fraction,
            "dram_bytes": self.dram_bytes,
        }


def perplexity(
    model: Any,
    windows: Sequence[Sequence[int]],
    policy: Policy | Sequence[Policy],
    *,
    skip: int = 64,
    prompt_tokens: int = 0,
    on_window: Callable[[int, int], None] = lambda done, total: None,
) -> Perplexity:
    """Run ``policy`` inside a model and score every token after ``skip``.

    A query sees only keys that the policy keeps at its position; nothing leaks from later ones. A
    cascade that accumulates over steps runs the model token by token after the prompt; the others
    run a text at once.

    Args:
        model: a :class:`~accelsim.traces.capture.GgufModel` or
            :class:`~accelsim.functional.closed_loop.TransformersModel`.
        windows: token ids, each window on its own.
        policy: what to keep; or one for each window, of recorded decisions.
        skip: predictions from positions ``skip`` on are scored (of tokens ``skip + 1`` on).
        prompt_tokens: first tokens that attend densely, as a prompt; 0 streams from the start.
            Policies that select once after the prompt (SnapKV) need one.
        on_window: told how many windows are done.

    Raises:
        TraceError: no window, one too short or too long, or a policy that does not apply.
    """
    if not windows:
        raise TraceError("no window of text; expected at least one")
    policies = [policy] * len(windows) if isinstance(policy, Policy) else list(policy)
    for own, ids in zip(policies, windows, strict=True):
        explain = why_not_inside(
            own, model.shape, causal=True, prompt_tokens=prompt_tokens, skip=skip, token_ids=ids
        )
        if explain:
            raise TraceError(explain)
    losses, kept, visible, moved = [], 0, 0, 0
    for number, (own, ids) in enumerate(zip(policies, windows, strict=True)):
        if not skip + 2 <= len(ids) <= model.shape.context_tokens:
            raise TraceError(
                f"window {number} has {len(ids)} tokens; expected {skip + 2} (skip + 2) to "
                f"{model.shape.context_tokens} (the model's context)"
            )
        attend = policy_attention(
            own, model.shape, len(ids), causal=True, prompt_tokens=prompt_tokens
        )
        logits = forward(model, ids, attend, prompt_tokens)
        losses.append(negative_log_likelihood(logits[skip:-1], np.asarray(ids)[skip + 1 :]))
        kept, visible = kept + attend.kept_keys, visible + attend.visible_keys
        moved += attend.dram_bytes
        on_window(number + 1, len(windows))
    nll = np.concatenate(losses)
    low, high = bootstrap_interval(nll)
    return Perplexity(
        float(np.exp(nll.mean())),
        low,
        high,
        [float(np.exp(loss.mean())) for loss in losses],
        len(windows),
        len(nll),
        kept / visible,
        moved,
        nll,
    )


def log_probabilities(logits: NDArray[Any]) -> NDArray[np.float32]:
    """Return the logarithms of the probabilities, [rows, vocabulary] float32."""
    found = logits.astype(np.float32)
    found -= found.max(axis=1, keepdims=True)
    found -= np.log(np.exp(found).sum(axis=1, keepdims=True, dtype=np.float64)).astype(np.float32)
    return found


def negative_log_likelihood(
    logits: NDArray[Any], targets: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Nats of each target [rows] under the logits [rows, vocabulary]."""
    top = logits.max(axis=1, keepdims=True)
    total = np.exp(logits - top).sum(axis=1, dtype=np.float64)
    chosen = logits[np.arange(len(targets)), targets].astype(np.float64)
    return np.asarray(np.log(total) + top[:, 0] - chosen)


def bootstrap_interval(nll: NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """95 % interval of the perplexity: resample blocks of neighbouring tokens with replacement."""
    low, high = np.exp(np.percentile(block_means(nll, seed), [2.5, 97.5]))
    return float(low), float(high)


def block_means(values: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """Means [resamples] of blocks of neighbouring values, drawn with replacement."""
    block = min(_BLOCK, len(values))
    starts = np.random.default_rng(seed).integers(
        0, len(values) - block + 1, size=(_RESAMPLES, -(-len(values) // block))
    )
    sums = np.concatenate(([0.0], np.cumsum(values)))
    means = (sums[starts + block] - sums[starts]).sum(axis=1) / (starts.shape[1] * block)
    return np.asarray(means)


def cut_windows(ids: Sequence[int], windows: int, window_tokens: int) -> dict[str, list[int]]:
    """Cut token ids into windows that follow each other.

    Raises:
        TraceError: the text is shorter than asked.
    """
    if len(ids) < windows * window_tokens:
        raise TraceError(
            f"the text has {len(ids)} tokens; expected at least {windows * window_tokens} "
            f"({windows} windows of {window_tokens})"
        )
    starts = range(0, windows * window_tokens, window_tokens)
    return {f"text{i}": list(ids[s : s + window_tokens]) for i, s in enumerate(starts)}


def shipped_windows(*, held_out: bool = False) -> dict[str, list[int]]:
    """Token ids of 512-token windows of Wikipedia (CC BY-SA 4.0, see ``data/NOTICE.md``).

    Args:
        held_out: also return the four windows of other articles, which nothing is tuned on, behind
            the two that are scored by default.
    """
    found: dict[str, list[int]] = {}
    for name in ("windows", "held_out") if held_out else ("windows",):
        text = resources.files("accelsim.functional.closed_loop").joinpath(f"data/{name}.json")
        record = json.loads(text.read_text(encoding="utf-8"))
        found |= {title: list(ids) for title, ids in record["windows"].items()}
    return found


def read_windows(path: str | Path) -> dict[str, list[int]]:
    """Read token ids from a JSON file ``{"windows": {"name": [ids, ...], ...}}``.

    Raises:
        TraceError: not such a file.
    """
    try:
        windows = json.loads(read_text(path, TraceError))["windows"]
        wrong = [n for n, ids in windows.items() if not all(type(i) is int for i in ids)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TraceError(
            f'{path}: expected JSON {{"windows": {{"name": [token ids], ...}}}} ({error})'
        ) from None
    if wrong or not windows:
        raise TraceError(f"{path}: window '{wrong[0] if wrong else ''}': expected token ids")
    return {str(name): list(ids) for name, ids in windows.items()}
