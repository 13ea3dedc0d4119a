"""One block of query rows under a selector: the step that open and closed loop share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.kernels import WORK
from accelsim.attention.look import PLAIN, Look
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


class Fetches:
    """What the rows of a layer read, added up block by block.

    A row of a decode stage is one fetch of the union over the query heads of each KV head; all rows
    of a prompt or an encoder share one.

    Args:
        shape: of the model and the run.
        context: tokens that the last row sees.
        rows: positions of a decode stage, [rows]; ``None``: a prompt or an encoder.

    Attributes:
        keys: [kv_heads, fetches, context], tokens whose keys are read.
        values: likewise.
    """

    def __init__(self, shape: Shape, context: int, rows: NDArray[np.int64] | None = None) -> None:
        self._shape, self._decoding = shape, rows is not None
        self._contexts = np.array([context]) if rows is None else rows + 1
        size = (shape.num_kv_heads, len(self._contexts))
        self.keys: Mask = np.zeros((*size, context), dtype=np.bool_)
        self.values: Mask = np.zeros((*size, context), dtype=np.bool_)
        self._refetched = np.zeros(size, dtype=np.bool_)
        self._metadata, self._written, self._index, self._products = np.zeros(
            (4, *size), dtype=np.int64
        )
        self._policy: Policy | None = None

    def add(self, part: Attended) -> None:
        """Take in a block: of a prompt one of several, of a decode stage all of its rows."""
        heads = (self._shape.num_kv_heads, self._shape.group)
        seen, decision = slice(part.block.scores.shape[2]), part.decision
        self._policy = part.policy
        for whole, mask in (
            (self.keys[..., seen], decision.kept),
            (self.values[..., seen], part.used),
            (self._refetched, decision.refetched),
        ):
            rows = np.asarray(mask.reshape(*heads, *mask.shape[1:]).any(axis=1))
            whole |= rows if self._decoding else rows.any(axis=1, keepdims=True)
        for total, count in (
            (self._metadata, decision.metadata_vectors),
            (self._written, decision.written_vectors),
            (self._index, decision.index_bytes),
            (self._products, decision.index_products),
        ):
            total += count if self._decoding else count.sum(axis=1, keepdims=True)

    def columns(self) -> dict[str, NDArray[Any]]:
        """Columns of the workload, each [kv_heads, fetches]."""
        assert self._policy is not None
        return requested(
            self._policy, self._shape.head_dim, self.keys, self.values, self._contexts,
            self._decoding, self._refetched, self._metadata, self._written, self._shape.value_dim,
            self._index, self._products,
        )  # fmt: skip


def fetches_of(part: Attended, shape: Shape) -> Fetches:
    """What one block reads: rows of a decode stage, or a whole encoder."""
    positions, context = part.block.positions, part.block.scores.shape[2]
    decoding = stage_of(positions, shape) == "decode"
    found = Fetches(shape, context, positions if decoding else None)
    found.add(part)
    return found


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
    look: Look = PLAIN,
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
        look: masks of the layer, and what changes its scores.
    """
    shape = selector.shape
    ends = look.ends
    if ends is not None:
        context = int(ends.max())
    else:
        context = int(positions[-1]) + 1 if shape.causal else shape.tokens
    scores, both = stored.scores(query, positions, context, scale)
    for found in (scores,) if both is scores else (scores, both):
        look.apply(found, positions)
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
        look,
    )
    decision = selector.run(block)
    if policy.selection is not None:
        _check_declared(policy.selection, decision)
    if look.hidden is not None:
        decision.kept &= ~look.hidden
    kept, weights = decision.kept, block.scores
    used, topk = kept, np.zeros(kept.shape[:2], dtype=WORK)
    if policy.values is not None:
        used = np.zeros_like(kept)
        # Pivots go by position, so that they are the same wherever rows are cut into blocks.
        prune_values(weights, kept, budgets, seed + int(positions[0]), used, topk)
        weights = np.where(used, weights, 0.0)
    output = decision.output
    if output is None:
        output = stored.output(weights, positions, decision.refetched)
    selector.learn(block, output)
    return Attended(policy, block, decision, used, topk, output)


def _check_declared(rule: SelectionPart, decision: Decision) -> None:
    """Refuse a rule that asks the hardware for what it does not declare.

    Raises:
        ConfigError: names the rule and the need.
    """
    asks = {
        "updates": decision.score_updates,
        "metadata": decision.metadata_vectors + decision.index_bytes,
        "products": decision.index_products,
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


def cut(
    positions: NDArray[np.int64],
    shape: Shape,
    rows: int,
    scores: int | None = None,
    ends: NDArray[np.int64] | None = None,
) -> Iterator[NDArray[np.int64]]:
    """Cut query rows into blocks that do not mix the prompt with what follows it.

    An encoder is one block: its rule sees the attention of all queries at once.

    Args:
        positions: ascending.
        shape: of the model and the run.
        rows: most rows of a block.
        scores: most scores of a block of several rows; any number if ``None``.
        ends: [rows], one past the last key that each may see; its own if ``None``.
    """
    if not shape.causal:
        yield positions
        return
    prompt = positions < shape.prompt_tokens
    contexts = positions + 1 if ends is None else ends
    for part in (prompt, ~prompt):
        half, longest = positions[part], contexts[part]
        start = 0
        while start < len(half):
            size = min(rows, len(half) - start)
            if scores is not None:
                context = int(longest[start + size - 1])
                size = min(size, max(scores // (shape.num_query_heads * context), 1))
            yield half[start : start + size]
            start += size
