"""The contract between a selection rule and whoever runs attention, open or closed loop.

A selector is asked for blocks of query rows of one layer, in the order of their positions. For each
row it decides which keys are kept from what it saw *before* that row, turns the scores into
probabilities over the kept keys, and learns from them. So nothing leaks from later queries, and the
same object serves a recorded trace (one block per run of rows) and a running model.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.kernels import WORK
from accelsim.attention.look import PLAIN, Look
from accelsim.attention.rows import attend_rows, dense_mask
from accelsim.errors import ConfigError
from accelsim.policies._selection import Budgeted, SelectionPart, Stage

if TYPE_CHECKING:
    from accelsim.policies._policy import Policy
    from accelsim.traces import Index

Floats = NDArray[np.float64]


class Recorded(Protocol):
    """What a trace may hold beside queries, keys and values; see :class:`AttentionTrace` there."""

    @property
    def embedding(self) -> NDArray[np.float32] | None:
        """What the first layer is given of each token, [tokens, width]."""

    def index(self, layer: int) -> Index | None:
        """What ranks the keys of a layer."""

    def transition(self, layer: int) -> NDArray[np.float32] | None:
        """What attention and FFN do to each token, [2, tokens, 2]."""

    def hidden(self, layer: int) -> NDArray[np.float32] | None:
        """What a layer is given, under the model's last norm, [tokens, width]."""

    def class_attention(self) -> Mapping[int, NDArray[np.float32]]:
        """Attention of [CLS] to each patch in the layers of a vision tower, [heads, patches]."""


@dataclass(frozen=True)
class Shape:
    """What a selector must know of the model and the run.

    Attributes:
        num_layers: layers.
        num_query_heads: query heads.
        num_kv_heads: key/value heads.
        head_dim: elements of a vector.
        tokens: most tokens that will be seen.
        prompt_tokens: first tokens, which attend densely before anything is evicted.
        causal: whether a row sees only tokens up to its own.
        value_dim: elements that are moved for a value; those of a key if ``None``, 0 of a latent,
            whose values lie in the keys.
        token_type: what each token is (:attr:`accelsim.traces.AttentionTrace.token_type`), or
            ``None`` where nothing says so.
        scores: what another program gave to each token, [layers, tokens] by name.
        recorded: what a trace holds beside queries, keys and values, or ``None`` inside a model.
        both_ways: whether the queries of the prompt see later tokens of it.
        layers: where layers differ in heads or widths, the shape of each; the fields above are then
            the largest.
    """

    num_layers: int
    num_query_heads: int
    num_kv_heads: int
    head_dim: int
    tokens: int
    prompt_tokens: int
    causal: bool = True
    value_dim: int | None = None
    token_type: NDArray[np.int8] | None = field(default=None, compare=False, repr=False)
    scores: Mapping[str, NDArray[np.float32]] = field(
        default_factory=dict, compare=False, repr=False
    )
    recorded: Recorded | None = field(default=None, compare=False, repr=False)
    both_ways: bool = False
    layers: tuple[Shape, ...] = ()

    @property
    def group(self) -> int:
        """Query heads of one KV head."""
        return self.num_query_heads // self.num_kv_heads

    def at(self, layer: int) -> Shape:
        """The shape of one layer."""
        return self.layers[layer] if self.layers else self


@dataclass(frozen=True)
class Block:
    """Query rows of one layer.

    Attributes:
        layer: where.
        positions: [rows], ascending and contiguous.
        query: [query_heads, rows, head_dim].
        key: [kv_heads, context, head_dim], context = last position + 1 if causal.
        value: [kv_heads, context, head_dim].
        scores: [query_heads, rows, context], scaled; the selector writes probabilities here.
        both: the same from both bit planes; ``scores`` itself where there is one plane.
        threshold: refetch below this largest probability; 0 never.
        causal: whether a row sees only keys up to its own position.
        scale: of the scores.
        look: how the rows attend; what it hides has scores of -inf.
    """

    layer: int
    positions: NDArray[np.int64]
    query: Floats
    key: Floats
    value: Floats
    scores: Floats
    both: Floats
    threshold: float
    causal: bool
    scale: float
    look: Look = PLAIN

    @property
    def visible(self) -> NDArray[np.int64]:
        """One past the last key that each row may see, before the policy, [rows].

        Behind a row's own token in an encoder, and in a prompt that is read in both directions.
        """
        if self.look.ends is not None:
            return self.look.ends
        if self.causal:
            return self.positions + 1
        return np.full(len(self.positions), self.scores.shape[2], dtype=np.int64)

    @property
    def sinks(self) -> Floats:
        """Sink of each query head, -inf where there is none."""
        return self.look.sinks_of(len(self.scores))


@dataclass(frozen=True)
class Prompt:
    """All queries of a prompt in a layer, as a rule is shown them before its blocks.

    Attributes:
        layer: where.
        query: [query_heads, rows, head_dim].
        key: [kv_heads, tokens, head_dim] as they read back, those of the prompt first.
        positions: of the rows.
        scale: of the scores.
        look: of some positions, how they attend to the tokens of the prompt.
    """

    layer: int
    query: NDArray[Any]
    key: NDArray[Any]
    positions: NDArray[np.int64]
    scale: float
    look: Callable[[NDArray[np.int64]], Look] = lambda positions: PLAIN


@dataclass
class Decision:
    """What a selector decided for a block.

    Attributes:
        kept: [query_heads, rows, context].
        refetched: [query_heads, rows], rows computed from both bit planes.
        work: [kv_heads, rows] of :data:`~accelsim.attention.kernels.WORK`: largest selection and
            summed passes, elements and beats of the heads that a KV head answers for.
        score_updates: [kv_heads, rows], accumulators read and written.
        metadata_vectors: [kv_heads, rows], vectors of head_dim read to rank pages or chunks.
        written_vectors: [kv_heads, rows], vectors of head_dim written back.
        index_bytes: [kv_heads, rows], bytes read beside, of index keys in a width of their own.
        index_products: [kv_heads, rows], multiplications of an indexer.
        output: [query_heads, rows, head_dim] where the rule changes keys or values (EMS);
            otherwise the caller multiplies with the stored values.
    """

    kept: NDArray[np.bool_]
    refetched: NDArray[np.bool_]
    work: NDArray[Any]
    score_updates: NDArray[np.int64]
    metadata_vectors: NDArray[np.int64]
    written_vectors: NDArray[np.int64]
    index_bytes: NDArray[np.int64]
    index_products: NDArray[np.int64]
    output: Floats | None = None

    @classmethod
    def empty(cls, block: Block, kv_heads: int) -> Decision:
        """Return a decision with nothing kept and no work."""
        heads, rows, context = block.scores.shape
        none = np.zeros((5, kv_heads, rows), dtype=np.int64)
        return cls(
            np.zeros((heads, rows, context), dtype=np.bool_),
            np.zeros((heads, rows), dtype=np.bool_),
            np.zeros((kv_heads, rows), dtype=WORK),
            *none,
        )


class Selector(ABC):
    """A selection rule at work. One object lives for one run over one sequence."""

    by_step: ClassVar[bool] = False
    """Whether it needs all layers of a token before the next token: a model then runs the prompt,
    and token by token after it. Else all tokens of a layer may come at once."""

    def __init__(self, shape: Shape, seed: int = 0) -> None:
        self.shape = shape
        self.seed = seed

    @abstractmethod
    def run(self, block: Block) -> Decision:
        """Decide for a block and turn its scores into probabilities."""

    @property
    def prompt_rows(self) -> int:
        """Last rows of a dense prompt that the rule must see; fewer than all save time."""
        return self.shape.prompt_tokens

    def stage(self, block: Block) -> Stage:
        """Stage of the queries of a block; no block mixes them. An encoder is prefill."""
        return stage_of(block.positions, self.shape)

    def rows(self, layer: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions that still have a query at ``layer``; all unless the rule prunes queries.

        Called once before the blocks of ``positions``.
        """
        return positions

    def foresee(self, prompt: Prompt) -> None:  # noqa: B027
        """Be shown all queries of a prompt in a layer, before :meth:`rows` and the blocks.

        Of a causal model. Most rules need not look. A rule that decides for a prompt as a whole
        reads it here, and says so in its settings
        (:attr:`~accelsim.policies.SelectionPart.foresees`).
        """

    def learn(self, block: Block, output: Floats) -> None:  # noqa: B027
        """Be told the attention output [query_heads, rows, head_dim] of a block, after `run`."""

    def attend(self, block: Block, decision: Decision, rows: slice = slice(None)) -> None:
        """Softmax over ``decision.kept``, from both planes where the first does not suffice.

        Args:
            block: ``scores`` of the rows become probabilities.
            decision: ``refetched`` is written.
            rows: of the block. A rule whose next row depends on the probabilities of this one asks
                row by row.
        """
        attend_rows(
            block.scores[:, rows],
            block.both[:, rows],
            block.threshold,
            block.sinks,
            block.visible[rows],
            decision.kept[:, rows],
            decision.refetched[:, rows],
        )


class KeepAll(Selector):
    """Dense attention."""

    @property
    def prompt_rows(self) -> int:
        """None: nothing is remembered."""
        return 0

    def run(self, block: Block) -> Decision:
        """Keep every visible key."""
        decision = Decision.empty(block, self.shape.at(block.layer).num_kv_heads)
        decision.kept = dense_mask(len(block.scores), block.visible, block.scores.shape[2])
        self.attend(block, decision)
        return decision


class Staged(Selector):
    """Two selectors of one rule: one for the queries of the prompt, one for those after it."""

    def __init__(self, prefill: Selector, decode: Selector) -> None:
        super().__init__(prefill.shape, prefill.seed)
        self._selectors: dict[Stage, Selector] = {"prefill": prefill, "decode": decode}

    def run(self, block: Block) -> Decision:
        """Let the selector of the block's stage decide."""
        return self._selectors[self.stage(block)].run(block)

    def foresee(self, prompt: Prompt) -> None:
        """Show the selector of the prompt."""
        self._selectors["prefill"].foresee(prompt)

    def learn(self, block: Block, output: Floats) -> None:
        """Tell the selector of the block's stage."""
        self._selectors[self.stage(block)].learn(block, output)


class ByLayer(Selector):
    """One rule whose layers have budgets, heads or widths of their own: a selector for each layer.

    Raises:
        ConfigError: a rule that decides over the layers together.
    """

    def __init__(self, rule: SelectionPart, shape: Shape, seed: int = 0) -> None:
        super().__init__(shape, seed)
        layers = range(shape.num_layers)
        rules = [
            rule.at_layer(layer, shape.num_layers) if isinstance(rule, Budgeted) else rule
            for layer in layers
        ]
        self._selectors = [rules[layer].selector(shape.at(layer), seed) for layer in layers]
        if self._selectors[0].by_step:
            raise ConfigError(
                f"selection '{rule.kind}' decides over all layers of a token together; expected "
                "one budget, without lists by layer and without 'taper', and layers of one shape"
            )

    @property
    def prompt_rows(self) -> int:
        """Most that a layer must see."""
        return max(selector.prompt_rows for selector in self._selectors)

    def run(self, block: Block) -> Decision:
        """Let the selector of the block's layer decide."""
        return self._selectors[block.layer].run(block)

    def rows(self, layer: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ask the selector of the layer."""
        return self._selectors[layer].rows(layer, positions)

    def foresee(self, prompt: Prompt) -> None:
        """Show the selector of the layer."""
        self._selectors[prompt.layer].foresee(prompt)

    def learn(self, block: Block, output: Floats) -> None:
        """Tell the selector of the block's layer."""
        self._selectors[block.layer].learn(block, output)


def stage_of(positions: NDArray[np.int64], shape: Shape) -> Stage:
    """Stage of query rows that do not mix the prompt with what follows it."""
    return "prefill" if not shape.causal or positions[0] < shape.prompt_tokens else "decode"


def heads_per_decision(shape: Shape, share: str) -> int:
    """Query heads that decide together under a policy's ``share``."""
    return {"query_head": 1, "kv_head": shape.group, "layer": shape.num_query_heads}[share]


def work_by_kv_head(work: NDArray[Any], shape: Shape) -> NDArray[Any]:
    """Give the work of the deciding groups [groups, rows] to KV heads.

    Query heads that decide alone add up in their KV head (the size is that of the largest); a
    decision of the whole layer is charged to its first KV head.
    """
    groups, rows = work.shape
    result = np.zeros((shape.num_kv_heads, rows), dtype=WORK)
    if groups < shape.num_kv_heads:
        result[:groups] = work
        return result
    split = work.reshape(shape.num_kv_heads, -1, rows)
    for name in WORK.names or ():
        largest = name in ("size", "target")
        result[name] = split[name].max(axis=1) if largest else split[name].sum(axis=1)
    return result


def updates_by_kv_head(kept: NDArray[np.bool_], shape: Shape) -> NDArray[np.int64]:
    """Probabilities added to accumulators: kept keys, summed over the heads of a KV head."""
    counts = kept.sum(axis=2, dtype=np.int64)
    return np.asarray(counts.reshape(shape.num_kv_heads, shape.group, -1).sum(axis=1))


def selector_for(policy: Policy, shape: Shape, seed: int = 0) -> Selector:
    """Return a selector for one sequence.

    Args:
        policy: what to keep.
        shape: of the model and the run.
        seed: of the pivots of the top-k engine; changes pass counts, never decisions.
    """
    from accelsim.policies.cascade import cascade_selector

    stages = policy.by_stage()
    taking_place = list(stages.values()) if shape.causal else [stages["prefill"]]
    if any(p.selection is not None for p in taking_place):
        if not shape.causal:
            return _selector(stages["prefill"].selection, shape, seed)
        return _staged(stages["prefill"].selection, stages["decode"].selection, shape, seed)
    if all(p.tokens is None and p.heads is None for p in taking_place):
        return KeepAll(shape, seed)
    return cascade_selector(policy, shape, seed)


def _selector(rule: SelectionPart | None, shape: Shape, seed: int) -> Selector:
    if rule is None:
        return KeepAll(shape, seed)
    if shape.layers or (isinstance(rule, Budgeted) and rule.by_layer):
        return ByLayer(rule, shape, seed)
    return rule.selector(shape, seed)


def _staged(
    prefill: SelectionPart | None, decode: SelectionPart | None, shape: Shape, seed: int
) -> Selector:
    rule = prefill if decode is None else decode
    assert rule is not None
    if prefill == decode or not rule.in_prompt:
        # Such a rule sees the prompt to learn from it, and leaves it dense.
        return _selector(decode, shape, seed)
    if prefill is None:
        # Not acting, it still keeps up what it stores beside the keys for the queries to come.
        prefill = rule.model_copy(update={"min_keys": sys.maxsize})
    return Staged(_selector(prefill, shape, seed), _selector(decode, shape, seed))
