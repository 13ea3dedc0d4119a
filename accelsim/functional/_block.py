"""One block of query rows under a selector: the step that open and closed loop share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.kernels import WORK
from accelsim.attention.rows import prune_values
from accelsim.errors import ConfigError
from accelsim.functional._requests import Mask, requested
from accelsim.functional._stored import Stored
from accelsim.policies import Policy, SelectionPart
from accelsim.policies.selector import Block, Decision, Selector, Shape, stage_of


@dataclass
class Attended:
    """What a block gave.

    Attributes:
        policy: of its stage and layer.
        block: its rows; ``scores`` are probabilities now.
        decision: of the selector.
        used: [query_heads, rows, context], values that are multiplied.
        topk: [query_heads, rows] of :data:`~accelsim.attention.kernels.WORK`, local value pruning.
        output: [query_heads, rows, head_dim].
    """

    policy: Policy
    block: Block
    decision: Decision
    used: NDArray[np.bool_]
    topk: NDArray[Any]
    output: NDArray[np.float64]


class Fetches(NamedTuple):
    """Fetches of one layer.

    Attributes:
        keys: [kv_heads, fetches, context], tokens whose keys are read.
        values: likewise.
        columns: of the workload, each [kv_heads, fetches].
    """

    keys: Mask
    values: Mask
    columns: dict[str, NDArray[Any]]


def fetches_of(parts: list[Attended], shape: Shape) -> Fetches:
    """What blocks of one layer read.

    A row of a decode stage is one fetch of the union over the query heads of each KV head; all rows
    of a prompt or an encoder share one.

    Args:
        parts: the blocks of a prompt or encoder, or one block after it.
        shape: of the model and the run.
    """
    last = parts[-1]
    decoding = stage_of(last.block.positions, shape) == "decode"
    context = last.block.scores.shape[2]
    heads = (shape.num_kv_heads, shape.group)
    size = (shape.num_kv_heads, len(last.block.positions) if decoding else 1)
    keys, values = np.zeros((2, *size, context), dtype=np.bool_)
    refetched = np.zeros(size, dtype=np.bool_)
    metadata, written = np.zeros((2, *size), dtype=np.int64)
    for part in parts:
        seen, decision = slice(part.block.scores.shape[2]), part.decision
        for whole, mask in (
            (keys[..., seen], decision.kept),
            (values[..., seen], part.used),
            (refetched, decision.refetched),
        ):
            rows = np.asarray(mask.reshape(*heads, *mask.shape[1:]).any(axis=1))
            whole |= rows if decoding else rows.any(axis=1, keepdims=True)
        for total, count in (
            (metadata, decision.metadata_vectors),
            (written, decision.written_vectors),
        ):
            total += count if decoding else count.sum(axis=1, keepdims=True)
    contexts = last.block.positions + 1 if decoding else np.array([context])
    columns = requested(
        last.policy, shape.head_dim, keys, values, contexts, decoding, refetched, metadata, written
    )
    return Fetches(keys, values, columns)


def attend_block(
    selector: Selector,
    policy: Policy,
    stored: Stored,
    layer: int,
    query: NDArray[Any],
    positions: NDArray[np.int64],
    scale: float,
    budgets: NDArray[np.int64],
    seed: int,
) -> Attended:
    """Let a selector decide for rows of one layer, and compute what follows.

    Args:
        selector: rule at work.
        policy: of the stage and layer.
        stored: keys and values as they read back.
        layer: where.
        query: [query_heads, rows, head_dim].
        positions: [rows], of one stage.
        scale: of the scores.
        budgets: values used of n kept keys, indexed by n.
        seed: of the pivots of local value pruning.
    """
    shape = selector.shape
    context = int(positions[-1]) + 1 if shape.causal else shape.tokens
    scores, both = stored.scores(query, positions, context, scale)
    block = Block(
        layer,
        positions,
        query.astype(np.float64, copy=False),
        stored.key_both[:, :context].astype(np.float64, copy=False),
        stored.value[:, :context].astype(np.float64, copy=False),
        scores,
        both,
        stored.threshold,
        shape.causal,
        scale,
    )
    decision = selector.run(block)
    if policy.selection is not None:
        _check_declared(policy.selection, decision)
    kept, weights = decision.kept, block.scores
    used, topk = kept, np.zeros(kept.shape[:2], dtype=WORK)
    if policy.values is not None:
        used = np.zeros_like(kept)
        prune_values(weights, kept, budgets, seed, used, topk)
        weights = np.where(used, weights, 0.0)
    output = decision.output
    if output is None:
        output = stored.output(weights, positions)
    selector.learn(block, output)
    return Attended(policy, block, decision, used, topk, output)


def _check_declared(rule: SelectionPart, decision: Decision) -> None:
    """Refuse a rule that asks the hardware for what it does not declare.

    Raises:
        ConfigError: names the rule and the need.
    """
    asks = {
        "updates": decision.score_updates,
        "metadata": decision.metadata_vectors,
        "write_backs": decision.written_vectors,
    }
    undeclared = [name for name, asked in asks.items() if asked.any() > getattr(rule.needs, name)]
    if rule.needs.selection == "none" and decision.work["passes"].any():
        undeclared.append("selection")
    if decision.output is not None and not rule.needs.merges:
        undeclared.append("merges")
    if undeclared:
        raise ConfigError(
            f"selection '{rule.kind}' asks for {', '.join(undeclared)}; expected it in its 'needs'"
        )


def cut(positions: NDArray[np.int64], shape: Shape, rows: int) -> Iterator[NDArray[np.int64]]:
    """Cut query rows into blocks that do not mix the prompt with what follows it.

    An encoder is one block: its rule sees the attention of all queries at once.
    """
    if not shape.causal:
        yield positions
        return
    prompt = positions < shape.prompt_tokens
    for half in (positions[prompt], positions[~prompt]):
        for start in range(0, len(half), rows):
            yield half[start : start + rows]
