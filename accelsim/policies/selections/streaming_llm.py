"""StreamingLLM: attention sinks and a window."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from accelsim.policies._base import Count
from accelsim.policies._selection import (
    FROM_PROBABILITIES,
    IN_BOTH_DIRECTIONS,
    Budgeted,
    Needs,
    Sharing,
)
from accelsim.policies.selector import Block, Decision, Selector, Shape


class StreamingLLM(Budgeted):
    """StreamingLLM (Xiao et al., ICLR 2024): the first tokens and the newest ones.

    Score: none, the position decides. Budget: ``sinks`` first tokens, the rest the newest. The
    paper numbers positions inside the cache; here they stay those of the text, which is the same
    while a text fits the model's context.

    Asks of the hardware: a ring buffer; two contiguous ranges a fetch, no gather, no top-k.

    Attributes:
        sinks: first tokens that always stay.
    """

    kind: Literal["streaming_llm"]
    sinks: Count = 4
    share: Sharing = "layer"
    needs: ClassVar[Needs] = Needs(selection="none")
    follows: ClassVar[frozenset[str]] = FROM_PROBABILITIES | IN_BOTH_DIRECTIONS

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return StreamingLLMSelector(self, shape, seed)


class StreamingLLMSelector(Selector):
    """Sinks and a window."""

    def __init__(self, rule: StreamingLLM, shape: Shape, seed: int = 0) -> None:
        super().__init__(shape, seed)
        self.rule = rule

    @property
    def prompt_rows(self) -> int:
        """None: the position decides."""
        return 0

    def run(self, block: Block) -> Decision:
        """Keep the first tokens and the newest."""
        decision = Decision.empty(block, self.shape.num_kv_heads)
        seen = block.visible
        window = np.array([max(self.rule.budget(int(c)) - self.rule.sinks, 1) for c in seen])
        window = np.where(seen <= self.shape.prompt_tokens, seen, window)
        token = np.arange(block.scores.shape[2])[None, :]
        inside = (token < self.rule.sinks) | (token >= (seen - window)[:, None])
        decision.kept[:] = inside & (token < seen[:, None])
        self.attend(block, decision)
        return decision
