"""DSA's lightning indexer: the keys that a model's own indexer ranks first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import pydantic
from numpy.typing import NDArray

from accelsim.attention.kernels import WORK, filter_top, quick_select
from accelsim.configs import Unit
from accelsim.errors import ConfigError
from accelsim.jit import kernel
from accelsim.policies._base import Positive
from accelsim.policies._selection import FROM_PROBABILITIES, Needs, SelectionPart
from accelsim.policies.selections._blocks import shown
from accelsim.policies.selector import Block, Decision, Selector, Shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from accelsim.traces import AttentionTrace, Index


class DSAIndexer(SelectionPart):
    """DeepSeek Sparse Attention (DeepSeek-V3.2-Exp report 2025, equations 1 and 2; GLM-5).

    Score of key s for query t: the sum over index heads j of ``w(t, j) * relu(q(t, j) . k(s))``,
    from the index queries, keys and weights of the trace. Each query attends to the ``top_k`` best
    keys up to its own, in the prompt too, the same for all heads; nothing is evicted. Among equals
    the first stays. In a layer that shares the choice of another (GLM-5), that choice holds.

    Keys that the model itself did not attend to stay out: with a ``top_k`` as large as the model's
    or larger, a query has exactly the model's keys, and with a smaller one the best of them.

    Asks of the hardware: an index key of each earlier token and step (of a prompt once), in a width
    of its own; products of all index heads with them; one top-k over all of them a query.

    Attributes:
        top_k: keys that a query attends to.
        index_bits: width of an element of an index key (8-bit floats in the released code).
        scale_bits: width of the scale that is stored with an index key (32 bits there).
    """

    kind: Literal["dsa_indexer"]
    top_k: Positive = 2048
    index_bits: Annotated[int, pydantic.Field(ge=1, le=32), Unit("bits")] = 8
    scale_bits: Annotated[int, pydantic.Field(ge=0, le=64), Unit("bits")] = 32
    in_prompt: ClassVar[bool] = True
    needs: ClassVar[Needs] = Needs(
        selection="every_step", metadata=True, products=True, permanent=False
    )
    follows: ClassVar[frozenset[str]] = FROM_PROBABILITIES

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return DSAIndexerSelector(self, shape, seed)

    def why_not(self, trace: AttentionTrace) -> str:
        """Say that a layer has no indexer, or return an empty string."""
        for layer in range(trace.num_layers):
            if trace.layer(layer).indexer is None:
                return (
                    f"policy '{self.kind}' ranks by index keys; layer {layer} has none; expected a "
                    "trace of a model with an indexer (DeepSeek-V3.2, GLM-5)"
                )
        return ""

    def why_not_text(self, token_ids: Sequence[int], prompt_tokens: int) -> str:
        """Say that no model of the closed loop has an indexer."""
        return f"policy '{self.kind}' ranks by index keys; expected a trace that has some"


class DSAIndexerSelector(Selector):
    """Keys by the scores of the model's indexer."""

    def __init__(self, rule: DSAIndexer, shape: Shape, seed: int = 0) -> None:
        super().__init__(shape, seed)
        self.rule = rule
        self._layer = -1
        self._index: Index | None = None

    @property
    def prompt_rows(self) -> int:
        """None: nothing is remembered from query to query."""
        return 0

    def run(self, block: Block) -> Decision:
        """Rank all keys up to each query's own."""
        rule, layer, rows = self.rule, block.layer, block.positions
        decision = Decision.empty(block, self.shape.num_kv_heads)
        index = self._of(layer)
        ranks = self._ranks(rows + 1)
        kept, work = shown(block).copy(), np.zeros(len(rows), dtype=WORK)
        scores = index.scores(rows, kept.shape[1]) if ranks.any() else np.zeros(kept.shape)
        _choose(scores, rows, ranks, rule.top_k, self.seed + index.layer, kept, work)
        decision.kept[:] = kept
        if index.layer == layer:
            heads, _, dim = index.query.shape
            decision.work[0] = work
            decision.index_products[0] = ranks * (rows + 1) * heads * (dim + 1)
            read = ranks * (rows + 1)
            if self.stage(block) == "prefill":
                # All its queries share one reading of the keys.
                read = np.full(len(rows), int(self._ranks(self.shape.prompt_tokens)))
            decision.index_bytes[0] = read * (dim * rule.index_bits + rule.scale_bits) // 8
        self.attend(block, decision)
        return decision

    def _of(self, layer: int) -> Index:
        """What ranks the keys of a layer."""
        if self._index is None or self._layer != layer:
            # One layer at a time: index queries are as large as queries.
            recorded = self.shape.recorded
            self._index = None if recorded is None else recorded.index(layer)
            self._layer = layer
        if self._index is None:
            raise ConfigError(f"policy '{self.rule.kind}': layer {layer} has no index keys")
        return self._index

    def _ranks(self, seen: Any) -> Any:
        """Whether queries with so many keys rank them."""
        return (seen > self.rule.top_k) & (seen >= self.rule.min_keys)


@kernel
def _choose(
    scores: NDArray[np.float64],
    positions: NDArray[np.int64],
    ranks: NDArray[np.bool_],
    top_k: int,
    seed: int,
    kept: NDArray[np.bool_],
    work: NDArray[Any],
) -> None:
    """Leave the best of the keys that the model attended to.

    Args:
        scores: [rows, keys] of the indexer.
        positions: of the rows.
        ranks: [rows], those that rank; the others keep all that they see.
        top_k: keys that stay.
        seed: of the pivots of the top-k engine.
        kept: [rows, keys], keys that the masks of the layer show; written.
        work: [rows] of :data:`~accelsim.attention.kernels.WORK`, written: a search among all keys
            up to the row's own, as the indexer makes it.
    """
    for r in range(len(positions)):
        seen = positions[r] + 1
        kept[r, seen:] = False
        if not ranks[r]:
            continue
        own = work[r]
        _, _, passes, elements, beats = quick_select(scores[r, :seen], top_k, seed + seen * 31)
        own.size, own.target = seen, top_k
        own.passes, own.elements, own.beats = passes, elements, beats
        there = np.flatnonzero(kept[r, :seen])
        if len(there) <= top_k:
            continue
        values = scores[r][there]
        kth, equal, _, _, _ = quick_select(values, top_k, seed)
        chosen = np.empty(len(there), dtype=np.bool_)
        filter_top(values, kth, equal, chosen)
        kept[r, :seen] = False
        kept[r][there[chosen]] = True
