"""SpAtten's cascade of tokens and heads at work (HPCA 2021, Algorithm 2), in its two readings.

The settings are :class:`~accelsim.policies.CascadeTokens` and
:class:`~accelsim.policies.CascadeHeads`. Both readings rank and cut alike; they differ in what a
token (or head) has received when a layer ranks it, ``accumulate`` in the settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.kernels import WORK, filter_top, quick_select
from accelsim.attention.rows import softmax_kept
from accelsim.errors import SimulationError
from accelsim.jit import kernel
from accelsim.policies._selection import Stage
from accelsim.policies.selector import (
    Block,
    Decision,
    Floats,
    Selector,
    Shape,
    updates_by_kv_head,
)
from accelsim.policies.tokens import CascadeTokens

if TYPE_CHECKING:
    from accelsim.policies._policy import Policy


def cascade_selector(policy: Policy, shape: Shape, seed: int = 0) -> Selector:
    """Return the cascade of a policy; in an encoder both readings are the same."""
    stages = policy.by_stage().values()
    parts = [part for p in stages for part in (p.tokens, p.heads) if part is not None]
    by_layer = shape.causal and any(part.accumulate == "layers" for part in parts)
    return LayerCascade(policy, shape, seed) if by_layer else StepCascade(policy, shape, seed)


class _Cascade(Selector):
    """What the readings share: rules by stage, and their budgets as tables."""

    def __init__(self, policy: Policy, shape: Shape, seed: int = 0) -> None:
        super().__init__(shape, seed)
        self._stages = policy.by_stage()

    def accumulates(self, stage: Stage) -> bool:
        """Whether a stage or a later one of the run ranks tokens by what they received."""
        # An encoder has no prompt, or is one as a whole.
        shape = self.shape
        later = shape.prompt_tokens < shape.tokens and (shape.causal or shape.prompt_tokens > 0)
        names: tuple[Stage, ...] = ("prefill", "decode") if later else ("prefill",)
        ranks = [self._stages[name].tokens is not None for name in names]
        return ranks[-1] or (stage == "prefill" and ranks[0])

    def updates(self, block: Block, decision: Decision) -> NDArray[np.int64]:
        """Accumulators of tokens touched, [kv_heads, rows]."""
        some, hidden = self.accumulates(self.stage(block)), block.look.hidden
        seen = decision.kept if hidden is None else decision.kept & ~hidden
        return updates_by_kv_head(seen, self.shape.at(block.layer)) * int(some)

    def seed_of(self, layer: int, context: int) -> int:
        """Seed of the pivots of one selection."""
        return self.seed + 1 + layer * 104729 + context * 31


class StepCascade(_Cascade):
    """As a decoder runs: a step knows what all layers of all earlier steps gave.

    A prompt (or an encoder) is one step, whose tokens are ranked once a layer by what all its
    queries gave in the layers before; what leaves has no query any more. Then each token is a step.
    The layers of a step must be visited in order, and each with all of its rows.

    Attributes:
        token_importance: [tokens] probabilities received so far.
        head_importance: [query_heads] absolute output so far.
        tokens: [tokens], alive at the layer that was chosen last.
        heads: [query_heads], likewise.
    """

    by_step = True

    def __init__(self, policy: Policy, shape: Shape, seed: int = 0) -> None:
        super().__init__(policy, shape, seed)
        layers, tokens, heads = shape.num_layers, shape.tokens, shape.num_query_heads
        self.token_importance: NDArray[np.float64] = np.zeros(tokens)
        self.head_importance: NDArray[np.float64] = np.zeros(heads)
        self.tokens: NDArray[np.bool_] = np.ones(tokens, dtype=np.bool_)
        self.heads: NDArray[np.bool_] = np.ones(heads, dtype=np.bool_)
        self._tokens_alive = np.ones((layers, tokens), dtype=np.bool_)
        self._heads_alive = np.ones((layers, heads), dtype=np.bool_)
        self._heads_selected: set[Any] = set()
        self._work = np.zeros(1, dtype=WORK)

    def choose(self, layer: int, stage: Stage, context: int, ranks: bool = True) -> NDArray[Any]:
        """Prune tokens and heads of a layer in one step.

        Args:
            layer: where; 0 begins a step.
            stage: whose rules hold.
            context: tokens so far. The last one always survives, but in an encoder.
            ranks: whether the layer ranks tokens; one that attends to another sequence takes those
                that are left, and only prunes heads.

        Returns:
            [1] of :data:`~accelsim.attention.kernels.WORK`.
        """
        if layer == 0:
            self.tokens = np.arange(self.shape.tokens) < context
            self.heads = np.ones(self.shape.num_query_heads, dtype=np.bool_)
        self.tokens = self.tokens & self._tokens_alive[layer]
        self.heads = self.heads & self._heads_alive[layer]
        self._work = np.zeros(1, dtype=WORK)
        rules = self._stages[stage]
        if rules.tokens is not None and ranks:
            self._prune_tokens(rules.tokens, layer, stage, context)
        heads = rules.heads
        # Once a layer and rule, the first time that it acts; later steps repeat it.
        acts = heads is not None and context >= heads.min_keys
        if heads is not None and acts and (layer, heads) not in self._heads_selected:
            self._heads_selected.add((layer, heads))
            budget = heads.budget(layer, self.shape.num_layers, len(self.heads))
            keep_heads(self.head_importance, self.heads, budget)
            self._heads_alive[layer] = self.heads
        return self._work

    def _prune_tokens(self, rule: CascadeTokens, layer: int, stage: Stage, context: int) -> None:
        first, recent = rule.protected_ranges()
        before = self.tokens.copy()
        # Queries that see later tokens are in no order, and none of them is the newest.
        ordered = (self.shape.causal and not self.shape.both_ways) or stage == "decode"
        keep_tokens(
            self.tokens, self.token_importance, context,
            rule.budget(layer, self.shape.num_layers, context), first,
            max(recent, 1) if ordered else recent, rule.per_query and ordered,
            self.seed_of(layer, context), self._work[0],
        )  # fmt: skip
        if rule.permanent:
            self._tokens_alive[layer, before & ~self.tokens] = False

    def rows(self, layer: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Prune the layer; positions of the queries that are left.

        Raises:
            SimulationError: several tokens after the prompt: the layers to come have not seen them.
        """
        prompt = not self.shape.causal or positions[0] < self.shape.prompt_tokens
        whole = self.shape.prompt_tokens if self.shape.causal else self.shape.tokens
        if len(positions) != (whole if prompt else 1):
            raise SimulationError(
                "a cascade that accumulates over steps runs token by token after the prompt; "
                "expected one query, or accumulate: layers"
            )
        stage: Stage = "prefill" if prompt else "decode"
        self.choose(layer, stage, int(positions[-1]) + 1)
        return positions[self.tokens[positions]]

    def run(self, block: Block) -> Decision:
        """Attend to what is left, and add up what tokens receive."""
        decision = Decision.empty(block, self.shape.at(block.layer).num_kv_heads)
        context = block.scores.shape[2]
        seen = np.arange(context)[None, :] < block.visible[:, None]
        decision.kept[self.heads] = seen & self.tokens[:context]
        self.attend(block, decision)
        self.token_importance[:context] += block.scores.sum(axis=(0, 1))
        decision.score_updates = self.updates(block, decision)
        decision.work[0, 0] = self._work[0]
        self._work = np.zeros(1, dtype=WORK)
        return decision

    def learn(self, block: Block, output: Floats) -> None:
        """Add up the absolute output of the heads."""
        self.head_importance += np.abs(output).sum(axis=(1, 2))


class _Tile:
    """What some positions have received in the layers so far, and who is left of their keys.

    Args:
        positions: contiguous, [rows].
        heads: query heads.

    Attributes:
        start: first position.
        survivors: [rows, context], context = last position + 1.
        received: likewise.
        heads_alive: [rows, heads].
        head_received: likewise.
        finished: the last layer has been asked.
    """

    def __init__(self, positions: NDArray[np.int64], heads: int) -> None:
        rows, self.start = len(positions), int(positions[0])
        context = self.start + rows
        self.survivors = np.ones((rows, context), dtype=np.bool_)
        self.received = np.zeros((rows, context), dtype=np.float32)
        self.heads_alive = np.ones((rows, heads), dtype=np.bool_)
        self.head_received = np.zeros((rows, heads))
        self.finished = False

    def holds(self, position: int) -> bool:
        """Whether a position is one of its rows."""
        return self.start <= position < self.start + len(self.survivors)


class LayerCascade(_Cascade):
    """Layer by layer: every query on its own, by what the layers before it gave.

    The importance of token j for the query at position i of layer l is the sum of the probabilities
    over the layers before l, all heads, and the queries up to i; the kept set of a position is
    nested over the layers and shared by the heads. So a model can run all positions of a layer at
    once and nothing leaks from later queries. Heads: the same with the absolute output.

    Positions may come in tiles: the layers must be visited in order for each tile, and the tiles of
    a layer in the order of their positions. Whether all tiles of a layer come before the next layer
    or all layers of a tile before the next tile changes no decision; the latter holds one tile at a
    time. Positions of the prompt follow the policy of the prefill, later ones that of decode.

    Attributes:
        last_layer: that is asked, where others follow that attend to another sequence: those are
            left whole, and nothing in them counts.
    """

    STATE_BYTES = 5
    """Of a position and a key before it, in a tile."""

    def __init__(self, policy: Policy, shape: Shape, seed: int = 0) -> None:
        super().__init__(policy, shape, seed)
        self._counts_heads = any(p.heads is not None for p in self._stages.values())
        self.last_layer = shape.num_layers - 1
        layers, size = shape.num_layers, shape.tokens
        self._tiles: list[_Tile] = []
        self._budgets: dict[tuple[int, Stage], NDArray[np.int64]] = {}
        self._importance = np.zeros((layers, size))
        self._alive = np.ones((layers, size), dtype=np.bool_)
        self._head_importance = np.zeros((layers, shape.num_query_heads))

    def rows(self, layer: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """All positions: they are a tile, new with its first layer."""
        if not any(tile.holds(int(positions[0])) for tile in self._tiles):
            self._tiles = [tile for tile in self._tiles if not tile.finished]
            self._tiles.append(_Tile(positions, self.shape.num_query_heads))
        return positions

    def run(self, block: Block) -> Decision:
        """Select, attend, and note what each token received."""
        decision = Decision.empty(block, self.shape.at(block.layer).num_kv_heads)
        policy, layer, tile = self._stages[self.stage(block)], block.layer, self._tile(block)
        self._select_heads(block, policy, tile)
        tokens, budgets = policy.tokens, self._budgets_of(layer, self.stage(block))
        first, recent, by_age, permanent = 0, 0, False, True
        if tokens is not None:
            first, recent = tokens.protected_ranges()
            by_age, permanent = tokens.per_query, tokens.permanent
        _cascade_rows(
            block.scores, block.both, block.threshold, block.sinks, block.positions, tile.start,
            budgets, first, max(recent, 1), by_age, permanent,
            self.seed_of(layer, 0), tile.survivors, self._alive[layer], tile.received,
            self._importance[layer], tile.heads_alive, decision.kept, decision.refetched,
            decision.work[0],
        )  # fmt: skip
        decision.score_updates = self.updates(block, decision)
        return decision

    def learn(self, block: Block, output: Floats) -> None:
        """Note the absolute output of each head."""
        tile = self._tile(block)
        if self._counts_heads:
            tile.head_received[block.positions - tile.start] += np.abs(output).sum(axis=2).T
        last = block.positions[-1] - tile.start == len(tile.survivors) - 1
        tile.finished = bool(last) and block.layer == self.last_layer

    def _budgets_of(self, layer: int, stage: Stage) -> NDArray[np.int64]:
        """Tokens kept of each number of tokens, [tokens + 1]."""
        if (layer, stage) not in self._budgets:
            tokens, counts = self._stages[stage].tokens, range(self.shape.tokens + 1)
            kept = list(counts)
            if tokens is not None:
                kept = [tokens.budget(layer, self.shape.num_layers, n) for n in counts]
            self._budgets[layer, stage] = np.array(kept, dtype=np.int64)
        return self._budgets[layer, stage]

    def _tile(self, block: Block) -> _Tile:
        first = int(block.positions[0])
        return next(tile for tile in self._tiles if tile.holds(first))

    def _select_heads(self, block: Block, policy: Policy, tile: _Tile) -> None:
        if not self._counts_heads:
            return
        heads, rule = self.shape.num_query_heads, policy.heads
        layers = self.shape.num_layers
        budget = heads if rule is None else rule.budget(block.layer, layers, heads)
        least = 0 if rule is None else rule.min_keys
        importance = self._head_importance[block.layer]
        for position in block.positions:
            row = position - tile.start
            importance += tile.head_received[row]
            if position + 1 >= least:
                keep_heads(importance, tile.heads_alive[row], budget)


def keep_heads(importance: Floats, alive: NDArray[np.bool_], budget: int) -> None:
    """Let all but the ``budget`` most important living heads go; among equals the lower one stays.

    Args:
        importance: [query_heads].
        alive: [query_heads], updated.
        budget: heads that may stay.
    """
    living = np.flatnonzero(alive)
    order = np.argsort(-importance[living], kind="stable")
    alive[living[order[budget:]]] = False


@kernel
def keep_tokens(
    alive: NDArray[np.bool_],
    importance: NDArray[np.float64],
    context: int,
    budget: int,
    first: int,
    recent: int,
    by_age: bool,
    seed: int,
    work: Any,
) -> None:
    """Let all but the ``budget`` most important living tokens go; among equals the lower one stays.

    Args:
        alive: [tokens], updated.
        importance: [tokens], received so far.
        context: tokens so far.
        budget: tokens that may stay; protected ones are counted, and stay if they are more.
        first, recent: tokens at either end of the context that are protected.
        by_age: rank by the mean over the queries that saw a token, from its own on.
        seed: of the pivots of the top-k engine.
        work: one record of :data:`~accelsim.attention.kernels.WORK`, written.
    """
    candidates = np.empty(context, dtype=np.int64)
    values = np.empty(context)
    size, forced = 0, 0
    for j in range(context):
        if alive[j]:
            if j < first or j >= context - recent:
                forced += 1
            else:
                candidates[size] = j
                values[size] = importance[j] / (context - j) if by_age else importance[j]
                size += 1
    target = max(budget - forced, 0)
    if size <= target:
        return
    stays = np.zeros(size, dtype=np.bool_)
    if target > 0:
        kth, equal, passes, elements, beats = quick_select(values[:size], target, seed)
        filter_top(values[:size], kth, equal, stays)
        work.size, work.target = size, target
        work.passes, work.elements, work.beats = passes, elements, beats
    for c in range(size):
        if not stays[c]:
            alive[candidates[c]] = False


@kernel
def _cascade_rows(
    scores: NDArray[np.float64],
    both: NDArray[np.float64],
    threshold: float,
    sinks: NDArray[np.float64],
    positions: NDArray[np.int64],
    start: int,
    budgets: NDArray[np.int64],
    first: int,
    recent: int,
    by_age: bool,
    permanent: bool,
    seed: int,
    survivors: NDArray[np.bool_],
    alive: NDArray[np.bool_],
    received: NDArray[np.float32],
    importance: NDArray[np.float64],
    heads_alive: NDArray[np.bool_],
    kept: NDArray[np.bool_],
    refetched: NDArray[np.bool_],
    work: NDArray[Any],
) -> None:
    for r in range(len(positions)):
        row = positions[r] - start
        seen = positions[r] + 1
        mine, got = survivors[row], received[row]
        for j in range(seen):
            importance[j] += got[j]
            mine[j] = mine[j] and alive[j]
        keep_tokens(
            mine, importance, seen, budgets[seen], first, recent, by_age, seed + seen * 31, work[r]
        )
        if permanent:
            alive[:seen] = mine[:seen]
        for h in range(scores.shape[0]):
            if heads_alive[row, h]:
                kept[h, r, :seen] = mine[:seen]
            own = scores[h, r]
            refetched[h, r] = softmax_kept(own, both[h, r], threshold, sinks[h], kept[h, r], seen)
            for j in range(seen):
                got[j] += own[j]
