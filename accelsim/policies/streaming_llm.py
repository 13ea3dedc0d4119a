"""StreamingLLM: attention sinks and a window."""

from __future__ import annotations

from typing import ClassVar, Literal

from accelsim.policies._base import Count
from accelsim.policies._selection import Budgeted, Needs, Sharing


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
    needs: ClassVar[Needs] = Needs(score="none", selection="none", gather="ranges")
