"""DuoAttention: some heads see everything, the others sinks and a window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
import pydantic
from numpy.typing import NDArray

from accelsim.configs import Unit
from accelsim.errors import ConfigError
from accelsim.policies._base import Count, Fraction, Positive
from accelsim.policies._selection import (
    FROM_PROBABILITIES,
    IN_BOTH_DIRECTIONS,
    Needs,
    SelectionPart,
)
from accelsim.policies.selector import Block, Decision, Selector, Shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from accelsim.traces import AttentionTrace

Head = Annotated[int, pydantic.Field(ge=0, le=65535), Unit("head index")]


class DuoAttention(SelectionPart):
    """DuoAttention (Xiao et al., ICLR 2025): retrieval heads and streaming heads.

    Retrieval heads attend to everything; streaming heads, in prompt and decode, to the ``sinks``
    first tokens and the ``recent`` last ones. A head is a KV head: its query heads go with it. The
    paper finds retrieval heads by training a gate for each head; here they are listed, or (ours)
    found in the prompt, which then is dense: of each layer those heads are retrieval heads whose
    last ``window`` queries give most probability to tokens that a streaming head has not.

    Asks of the hardware: a ring buffer for streaming heads, two contiguous ranges a fetch; heads of
    a layer hold caches of different length.

    Attributes:
        retrieval_heads_by_layer: KV heads of each layer that are retrieval heads.
        retrieval_fraction: the same as a part of each layer's KV heads, rounded, found in the
            prompt; give one of the two.
        sinks: first tokens that a streaming head keeps.
        recent: newest tokens that it keeps, the query's own among them.
        window: queries of the prompt that are looked at.
    """

    kind: Literal["duo_attention"]
    retrieval_heads_by_layer: tuple[tuple[Head, ...], ...] | None = None
    retrieval_fraction: Fraction | None = None
    sinks: Count = 128
    recent: Positive = 256
    window: Positive = 32
    in_prompt: ClassVar[bool] = True
    needs: ClassVar[Needs] = Needs(selection="none")
    follows: ClassVar[frozenset[str]] = FROM_PROBABILITIES | IN_BOTH_DIRECTIONS

    @pydantic.model_validator(mode="after")
    def _check_heads(self) -> DuoAttention:
        if (self.retrieval_heads_by_layer is None) == (self.retrieval_fraction is None):
            raise ValueError("give one of 'retrieval_heads_by_layer' and 'retrieval_fraction'")
        return self

    def why_not(self, trace: AttentionTrace) -> str:
        """Say that there is no prompt to find heads in, or return an empty string."""
        return self._no_prompt(trace.prefill_tokens)

    def why_not_text(self, token_ids: Sequence[int], prompt_tokens: int) -> str:
        """Say that there is no prompt to find heads in, or return an empty string."""
        return self._no_prompt(prompt_tokens)

    def _no_prompt(self, prompt_tokens: int) -> str:
        if prompt_tokens or self.retrieval_fraction is None:
            return ""
        return (
            "policy 'duo_attention' finds its heads in the prompt; expected one, or "
            "'retrieval_heads_by_layer'"
        )

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence.

        Raises:
            ConfigError: a head that the model has not.
        """
        return DuoAttentionSelector(self, shape, seed)


class DuoAttentionSelector(Selector):
    """Two kinds of heads."""

    def __init__(self, rule: DuoAttention, shape: Shape, seed: int = 0) -> None:
        super().__init__(shape, seed)
        self.rule = rule
        self._retrieval: dict[int, NDArray[np.bool_]] = {}
        self._missed: dict[int, NDArray[np.float64]] = {}
        for layer, heads in enumerate(rule.retrieval_heads_by_layer or ()):
            if max(heads, default=0) >= shape.num_kv_heads:
                raise ConfigError(
                    f"selection 'duo_attention': key 'retrieval_heads_by_layer' has KV head "
                    f"{max(heads)} in layer {layer}; expected 0 to {shape.num_kv_heads - 1}"
                )
            self._retrieval[layer] = np.isin(np.arange(shape.num_kv_heads), heads)

    @property
    def prompt_rows(self) -> int:
        """None where heads are listed; else those that are looked at."""
        return 0 if self.rule.retrieval_fraction is None else self.rule.window

    def run(self, block: Block) -> Decision:
        """Give each head what it sees."""
        shape, rule = self.shape, self.rule
        decision = Decision.empty(block, shape.num_kv_heads)
        token, seen = np.arange(block.scores.shape[2]), block.visible[:, None]
        # What a query of a prefix sees behind itself is newer than the window.
        newest = block.positions[:, None] + 1 - rule.recent
        streams = (token < rule.sinks) | (token >= newest) | (seen < rule.min_keys)
        finds = rule.retrieval_fraction is not None
        if finds and self.stage(block) == "prefill":
            decision.kept[:] = token < seen
            self.attend(block, decision)
            self._look(block, streams)
            return decision
        full = self._heads(block.layer)
        whole = np.repeat(full, shape.group)[:, None, None]
        decision.kept[:] = (streams | whole) & (token < seen)
        self.attend(block, decision)
        return decision

    def _look(self, block: Block, streams: NDArray[np.bool_]) -> None:
        """Add up the probability that streaming heads would not see."""
        rows = block.positions >= self.shape.prompt_tokens - self.rule.window
        if rows.any():
            missed = (block.scores[:, rows] * ~streams[rows]).sum(axis=(1, 2))
            by_head = missed.reshape(self.shape.num_kv_heads, -1).sum(axis=1)
            self._missed[block.layer] = self._missed.get(block.layer, 0.0) + by_head

    def _heads(self, layer: int) -> NDArray[np.bool_]:
        """Retrieval heads of a layer, [kv_heads]."""
        if layer not in self._retrieval:
            missed = self._missed.get(layer)
            if missed is None:
                raise ConfigError(
                    "selection 'duo_attention' finds its heads in the prompt; expected a prompt "
                    "that it reads, or 'retrieval_heads_by_layer'"
                )
            assert self.rule.retrieval_fraction is not None
            count = round(self.rule.retrieval_fraction * len(missed))
            found = np.zeros(len(missed), dtype=np.bool_)
            found[np.argsort(-missed, kind="stable")[:count]] = True
            self._retrieval[layer] = found
        return self._retrieval[layer]
