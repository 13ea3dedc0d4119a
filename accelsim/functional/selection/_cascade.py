"""SpAtten's cascade as a stream of queries inside a causal model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from accelsim.functional.selection._base import Block, Decision, Floats, Selector, Shape
from accelsim.functional.selection._kernels import softmax_kept
from accelsim.jit import kernel
from accelsim.policies import CascadeHeads, Policy


class CascadeSelector(Selector):
    """Cascade token and head pruning, layer after layer, every position on its own.

    The importance of token j for the query at position i of layer l is the sum of the probabilities
    over the layers before l, all heads, and the queries up to i; the kept set of a position is
    nested over the layers and shared by the heads. So a layer can run all its positions at once and
    nothing leaks from later queries. (A decoder that runs token by token also knows the later
    layers of earlier steps: that reading is what the open loop follows.) Heads: the same with the
    absolute output.

    The layers must be visited in order, and each with all positions before the next. Positions of
    the prompt follow the policy of the prefill, later ones that of decode.
    """

    def __init__(self, policy: Policy, shape: Shape, seed: int = 0) -> None:
        super().__init__(shape, seed)
        self._stages = policy.by_stage()
        self._counts_heads = any(p.heads is not None for p in self._stages.values())
        size, query_heads = shape.tokens, shape.num_query_heads
        self._layer = -1
        self._survivors = np.tri(size, dtype=np.bool_)
        self._received = np.zeros((size, size), dtype=np.float32)
        self._importance = np.zeros(size)
        self._alive = np.ones(size, dtype=np.bool_)
        self._heads_alive = np.ones((size, query_heads), dtype=np.bool_)
        self._head_received = np.zeros((size, query_heads))
        self._head_importance = np.zeros(query_heads)

    def run(self, block: Block) -> Decision:
        """Select, attend, and note what each token received."""
        if block.layer != self._layer:
            self._layer = block.layer
            self._importance[:] = 0.0
            self._head_importance[:] = 0.0
            self._alive[:] = True
        decision = Decision.empty(block, self.shape.num_kv_heads)
        policy = self._stages[self.stage(block)]
        self._select_heads(block, policy.heads)
        tokens = policy.tokens
        layers, counts = self.shape.num_layers, range(self.shape.tokens + 1)
        if tokens is None:
            budgets, first, recent, by_age, permanent = list(counts), 0, 0, False, True
        else:
            budgets = [tokens.budget(block.layer, layers, n) for n in counts]
            first, recent = tokens.protected_ranges()
            by_age, permanent = tokens.per_query, tokens.permanent
        _cascade_rows(
            block.scores, block.both, block.threshold, block.positions,
            np.array(budgets, dtype=np.int64), first, max(recent, 1), by_age, permanent,
            self._survivors,
            self._alive, self._received, self._importance, self._heads_alive,
            decision.kept, decision.refetched,
        )  # fmt: skip
        return decision

    def learn(self, block: Block, output: Floats) -> None:
        """Note the absolute output of each head."""
        if self._counts_heads:
            self._head_received[block.positions] += np.abs(output).sum(axis=2).T

    def _select_heads(self, block: Block, rule: CascadeHeads | None) -> None:
        if not self._counts_heads:
            return
        heads = self.shape.num_query_heads
        budget = heads if rule is None else rule.budget(block.layer, self.shape.num_layers, heads)
        least = 0 if rule is None else rule.min_keys
        for position in block.positions:
            self._head_importance += self._head_received[position]
            alive = np.flatnonzero(self._heads_alive[position])
            if len(alive) > budget and position + 1 >= least:
                order = np.argsort(-self._head_importance[alive], kind="stable")
                self._heads_alive[position, alive[order[budget:]]] = False


@kernel
def _cascade_rows(
    scores: NDArray[np.float64],
    both: NDArray[np.float64],
    threshold: float,
    positions: NDArray[np.int64],
    budgets: NDArray[np.int64],
    first: int,
    recent: int,
    by_age: bool,
    permanent: bool,
    survivors: NDArray[np.bool_],
    alive: NDArray[np.bool_],
    received: NDArray[np.float32],
    importance: NDArray[np.float64],
    heads_alive: NDArray[np.bool_],
    kept: NDArray[np.bool_],
    refetched: NDArray[np.bool_],
) -> None:
    candidates = np.empty(len(alive), dtype=np.int64)
    values = np.empty(len(alive))
    for r in range(len(positions)):
        position = positions[r]
        seen = position + 1
        mine = survivors[position]
        size, forced = 0, 0
        for j in range(seen):
            importance[j] += received[position, j]
            if not (mine[j] and alive[j]):
                mine[j] = False
            elif j < first or j >= seen - recent:
                forced += 1
            else:
                candidates[size] = j
                values[size] = importance[j] / (seen - j) if by_age else importance[j]
                size += 1
        target = max(budgets[seen] - forced, 0)
        if target < size:
            # Stable order: among equals the lower index stays.
            order = np.argsort(-values[:size], kind="mergesort")
            for c in range(target, size):
                mine[candidates[order[c]]] = False
        if permanent:
            alive[:seen] = mine[:seen]
        for h in range(scores.shape[0]):
            if heads_alive[position, h]:
                kept[h, r, :seen] = mine[:seen]
            row = scores[h, r]
            refetched[h, r] = softmax_kept(row, both[h, r], threshold, kept[h, r], seen)
            for j in range(seen):
                received[position, j] += row[j]
