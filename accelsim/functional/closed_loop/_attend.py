"""A policy as the attention function of a running model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.functional._stored import Stored, value_budgets
from accelsim.functional.closed_loop._traffic import traffic_bytes
from accelsim.functional.selection import Block, Shape, selector_for, stage_of
from accelsim.functional.selection._kernels import WORK, prune_values
from accelsim.policies import Policy
from accelsim.traces.capture import Attend, Floats

_ROWS_PER_BLOCK = 128
"""Query rows handled together: their scores stay in cache, and memory is bounded by one layer."""


class PolicyAttention:
    """Attention of one sequence under a policy; call it as the model's ``attend``.

    Keys and values of a whole call are quantized together, so a per-tensor scale is that of the
    text as a whole: a static scale, as calibrated hardware would hold.

    Args:
        policy: what to keep.
        shape: of the model and the sequence.
        scale: of the scores.
        seed: of the pivots of the top-k engine.

    Attributes:
        kept_keys: query-key pairs that were scored.
        visible_keys: pairs that dense attention would score.
        fetched_keys: keys that the rows fetch, the union over the query heads of each KV head.
        dram_bytes: traffic of keys, values and metadata; see
            :func:`~accelsim.functional.closed_loop._traffic.traffic_bytes`.
        alive: [tokens], tokens that an encoder policy left in the last layer.
    """

    def __init__(self, policy: Policy, shape: Shape, scale: float, seed: int = 0) -> None:
        self._policies, self._shape, self._scale = policy.by_stage(), shape, scale
        self._selector = selector_for(policy, shape, seed)
        self._budgets = {
            stage: value_budgets(own, shape.num_layers, shape.tokens)
            for stage, own in self._policies.items()
        }
        self.kept_keys = 0
        self.visible_keys = 0
        self.fetched_keys = 0
        self.dram_bytes = 0
        self.alive: NDArray[np.bool_] = np.ones(shape.tokens, dtype=np.bool_)

    def __call__(
        self, layer: int, query: Floats, key: Floats, value: Floats, positions: NDArray[np.int64]
    ) -> Floats:
        """Return the output [query_heads, new, head_dim] of one layer; see ``Attend``."""
        shape = self._shape
        stored: Stored | None = None
        policy = self._policies["prefill"]
        rows = self._selector.rows(layer, positions)
        self.alive[:] = False
        self.alive[rows] = True
        self.visible_keys += self._visible(positions)
        output = np.zeros(query.shape, dtype=np.float32)
        for part in self._blocks(rows):
            place = part - positions[0]
            stage = stage_of(part, shape)
            here = self._policies[stage].at_layer(layer, shape.num_layers)
            if stored is None or here.quantization != policy.quantization:
                stored = Stored(here, key, value, shape.prompt_tokens, np.float32)
            policy = here
            output[:, place] = self._run(
                policy, layer, query[:, place], stored, part, key.shape[1],
                self._budgets[stage][layer],
            )  # fmt: skip
        return output

    def _blocks(self, rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Cut rows into blocks that do not mix the prompt with what follows it."""
        if not self._shape.causal:
            # An encoder's rule sees the attention of all queries at once.
            yield rows
            return
        prompt = self._shape.prompt_tokens
        for half in (rows[rows < prompt], rows[rows >= prompt]):
            for start in range(0, len(half), _ROWS_PER_BLOCK):
                yield half[start : start + _ROWS_PER_BLOCK]

    def _visible(self, positions: NDArray[np.int64]) -> int:
        seen = positions + 1 if self._shape.causal else np.full(len(positions), self._shape.tokens)
        return int(seen.sum()) * self._shape.num_query_heads

    def _run(
        self,
        policy: Policy,
        layer: int,
        query: Floats,
        stored: Stored,
        positions: NDArray[np.int64],
        context: int,
        budgets: NDArray[np.int64],
    ) -> NDArray[Any]:
        shape = self._shape
        if shape.causal:
            context = int(positions[-1]) + 1
        scores, both = stored.scores(query, positions, context, self._scale)
        block = Block(
            layer,
            positions,
            query.astype(np.float64),
            stored.key_both[:, :context].astype(np.float64),
            stored.value[:, :context].astype(np.float64),
            scores,
            both,
            stored.threshold,
            shape.causal,
            self._scale,
        )
        decision = self._selector.run(block)
        weights, kept = block.scores, decision.kept
        self.kept_keys += int(np.count_nonzero(kept))
        union = kept.reshape(shape.num_kv_heads, shape.group, *kept.shape[1:]).any(axis=1)
        self.fetched_keys += int(np.count_nonzero(union))
        used = kept
        if decision.output is not None:
            output = decision.output
        else:
            if policy.values is not None:
                used = np.zeros_like(kept)
                work = np.zeros((*kept.shape[:2], len(WORK)), dtype=np.int64)
                prune_values(weights, kept, budgets, 1, used, work)
                weights = np.where(used, weights, 0.0)
            output = stored.output(weights, positions)
        self.dram_bytes += traffic_bytes(policy, shape, block, decision, used)
        self._selector.learn(block, output)
        return output


def policy_attention(
    policy: Policy, shape: Any, tokens: int, *, causal: bool, prompt_tokens: int = 0
) -> PolicyAttention:
    """Return the attention of one sequence.

    Args:
        policy: what to keep.
        shape: the model's :class:`~accelsim.traces.capture.ModelShape`.
        tokens: length of the sequence.
        causal: whether a query sees only keys up to its own position.
        prompt_tokens: first tokens that are read as a prompt.
    """
    return PolicyAttention(
        policy,
        Shape(
            shape.num_layers,
            shape.num_query_heads,
            shape.num_kv_heads,
            shape.head_dim,
            tokens,
            prompt_tokens,
            causal,
        ),
        shape.scale,
    )


__all__ = ["Attend", "PolicyAttention", "policy_attention"]
