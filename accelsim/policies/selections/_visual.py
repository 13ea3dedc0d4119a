"""What rules that drop visual tokens from a layer of a prompt on share."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pydantic
from numpy.typing import NDArray

from accelsim.attention.kernels import WORK
from accelsim.attention.topk import topk_engine
from accelsim.errors import ConfigError
from accelsim.policies._base import ROUNDING_GUARD, Fraction, Layers
from accelsim.policies._selection import FROM_PROBABILITIES, IN_BOTH_DIRECTIONS, SelectionPart
from accelsim.policies.selections._prompt import Cost
from accelsim.policies.selector import Block, Decision, Floats, Prompt, Selector, Shape
from accelsim.traces import IMAGE, OTHER_HEADS, OTHER_KV_HEADS, OTHER_WIDTHS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from accelsim.traces import AttentionTrace


class Visual(SelectionPart):
    """Base of the rules that drop tokens of images (and videos) in the prompt.

    From a layer on, the visual tokens that are not kept have no key, no value and no query any
    more, in the prompt and in decode; all heads share the choice, and what left never comes back.
    Everything else attends densely. Positions stay those of the text.

    Attributes:
        layers: where, ascending.
        keep: parts of the image tokens of the prompt that are left after each of them.
    """

    layers: tuple[Layers, ...]
    keep: tuple[Fraction, ...]
    in_prompt: ClassVar[bool] = True
    foresees: ClassVar[bool] = True
    drops_queries: ClassVar[bool] = True
    # One set of tokens that are left goes through all layers.
    follows: ClassVar[frozenset[str]] = (FROM_PROBABILITIES | IN_BOTH_DIRECTIONS) - {
        OTHER_HEADS,
        OTHER_KV_HEADS,
        OTHER_WIDTHS,
    }
    before: ClassVar[bool]
    """Whether tokens leave before the layer that ranks them, or after it."""
    at_least: ClassVar[int] = 0
    """Visual tokens that stay in any case."""

    @pydantic.model_validator(mode="after")
    def _check_layers(self) -> Visual:
        if len(self.layers) != len(self.keep) or not self.layers:
            raise ValueError("expected as many 'layers' as parts to 'keep', at least one")
        if list(self.layers) != sorted(set(self.layers)):
            raise ValueError("expected ascending 'layers'")
        return self

    def count(self, keep: float, tokens: int) -> int:
        """Visual tokens that are left of those of the prompt."""
        return max(int(keep * tokens + ROUNDING_GUARD), self.at_least)

    def made_of(self, leaving: int) -> int:
        """New tokens that are made of those that leave; none but where a rule merges."""
        return 0

    def missing(self, shape: Shape) -> str:
        """Say what the rule needs that a model and a run have not, or return an empty string."""
        least = max(self.layers) + (1 if self.before else 2)
        if shape.num_layers < least:
            return (
                f"policy '{self.kind}' prunes {'before' if self.before else 'after'} layer "
                f"{max(self.layers)}, counted from 0; expected {least} layers or more, found "
                f"{shape.num_layers}"
            )
        if not visual_tokens(shape).any():
            return (
                f"policy '{self.kind}' prunes tokens of images; expected a trace whose "
                "'token_type' says that its prompt has some"
            )
        return ""

    def why_not(self, trace: AttentionTrace) -> str:
        """Say what is missing, or return an empty string."""
        return self.missing(
            Shape(
                trace.num_layers, trace.num_query_heads, trace.num_kv_heads, trace.head_dim,
                trace.tokens, trace.prefill_tokens, token_type=trace.token_type,
                scores=trace.scores, recorded=trace,
            )
        )  # fmt: skip

    def why_not_text(self, token_ids: Sequence[int], prompt_tokens: int) -> str:
        """Say that a text has no images."""
        return f"policy '{self.kind}' prunes tokens of images; expected a trace that has some"


class VisualTokens(Selector):
    """Which visual tokens are left, layer by layer.

    Raises:
        ConfigError: what the rule needs is not there.
    """

    def __init__(self, rule: Visual, shape: Shape, seed: int = 0) -> None:
        super().__init__(shape, seed)
        self.rule = rule
        explain = rule.missing(shape)
        if explain:
            raise ConfigError(explain)
        self.visual = visual_tokens(shape)
        self._gone: dict[int, NDArray[np.bool_]] = {}
        self._costs: dict[int, Cost] = {}

    @abstractmethod
    def choose(
        self, prompt: Prompt, target: int, alive: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], Cost]:
        """Visual tokens that stay, at most ``target`` of them, and what finding them takes.

        Args:
            prompt: of the layer.
            target: how many may stay, fewer than there are.
            alive: tokens of the prompt that are left, ascending.
        """

    def alive(self, layer: int) -> NDArray[np.bool_]:
        """Tokens [tokens] that are left in a layer."""
        left: NDArray[np.bool_] = np.ones(self.shape.tokens, dtype=np.bool_)
        for first, gone in self._gone.items():
            if first <= layer:
                left &= ~gone
        return left

    @property
    def question(self) -> NDArray[np.int64]:
        """Tokens of the prompt behind its last visual one; the last one if there is none."""
        prompt = self.shape.prompt_tokens
        first = int(np.flatnonzero(self.visual)[-1]) + 1
        return np.arange(min(first, prompt - 1), prompt)

    def sees_all(self, prompt: Prompt) -> bool:
        """Whether it is shown the whole prompt, and that is long enough for the rule to act."""
        return self.rule.min_keys <= len(prompt.positions) == self.shape.prompt_tokens

    def foresee(self, prompt: Prompt) -> None:
        """Rank the visual tokens of a prompt, where this layer does."""
        tokens, rule, layer = self.shape.prompt_tokens, self.rule, prompt.layer
        if layer not in rule.layers or not self.sees_all(prompt):
            return
        alive = self.alive(layer)
        places = np.flatnonzero(alive & self.visual)
        keep = rule.keep[rule.layers.index(layer)]
        target = rule.count(keep, int(self.visual.sum()))
        target += rule.made_of(len(places) - target) if target < len(places) else 0
        if target >= len(places):
            return
        stay, cost = self.choose(prompt, target, np.flatnonzero(alive[:tokens]))
        gone = np.zeros(self.shape.tokens, dtype=np.bool_)
        gone[places] = True
        gone[stay] = False
        self._gone[layer + (not rule.before)] = gone
        self._costs[layer] = cost

    def rows(self, layer: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions whose token is left."""
        return positions[self.alive(layer)[positions]]

    def run(self, block: Block) -> Decision:
        """Attend to what is left."""
        decision = Decision.empty(block, self.shape.num_kv_heads)
        token = np.arange(block.scores.shape[2])
        decision.kept[:] = self.alive(block.layer)[token] & (token < block.visible[:, None])
        cost = self._costs.pop(block.layer, None) if self.stage(block) == "prefill" else None
        if cost is not None:
            cost.charge(decision, self.shape)
        self.attend(block, decision)
        return decision


class VisualSelector(VisualTokens):
    """Visual tokens by a score: the largest stay."""

    @abstractmethod
    def rank(self, prompt: Prompt, alive: NDArray[np.int64]) -> tuple[Floats, int, int]:
        """Scores [visual tokens alive] of the tokens that may leave.

        Args:
            prompt: of the layer.
            alive: tokens of the prompt that are left, ascending.

        Returns:
            The scores, the keys that a KV head reads for them, and the additions to accumulators of
            a query head.
        """

    def choose(
        self, prompt: Prompt, target: int, alive: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], Cost]:
        """The best by their scores."""
        scores, reads, updates = self.rank(prompt, alive)
        places = alive[self.visual[alive]]
        work = np.zeros(1, dtype=WORK)
        if not target:
            return places[:0], Cost(work, reads, updates)
        top = topk_engine(scores, target, self.seed + prompt.layer * 977)
        work[0] = (len(places), target, top.passes, top.elements, top.beats)
        return places[top.indices], Cost(work, reads, updates)


def visual_tokens(shape: Shape) -> NDArray[np.bool_]:
    """Tokens of images and videos in the prompt, [tokens]; none where nothing tells them."""
    if shape.token_type is None:
        return np.zeros(shape.tokens, dtype=np.bool_)
    found: NDArray[np.bool_] = shape.token_type >= IMAGE
    return found & (np.arange(shape.tokens) < shape.prompt_tokens)


def unit_vectors(vectors: NDArray[np.float32]) -> Floats:
    """The same [rows, width] with norm 1, for cosines; those of norm 0 stay."""
    wide = vectors.astype(np.float64)
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-8))


def missing_tensor(kind: str, name: str, more: str = "") -> str:
    """Say that a trace lacks a tensor."""
    return f"policy '{kind}' ranks by tensor '{name}'; expected it in the trace{more}"
