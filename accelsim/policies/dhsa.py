"""DHSA: chunks by the similarity of their means."""

from __future__ import annotations

from typing import ClassVar, Literal

from accelsim.policies._base import Count, Positive
from accelsim.policies._selection import Budgeted, Needs


class DHSA(Budgeted):
    """Dynamic hierarchical sparse attention (Xiong et al., arXiv 2510.24606, 2025).

    Score: product of the query with a chunk vector, ``sqrt(|C|)`` times the mean of the keys of the
    chunk; every token of a chunk has the score of its chunk. Budget: the best tokens of each query
    up to the budget, in prompt and decode; the first and the newest tokens stay and are counted.
    Nothing is evicted. The paper finds chunk boundaries with a small trained predictor; this uses
    chunks of equal length.

    Asks of the hardware: a vector read per full chunk and written when it fills, a small dense
    product, a top-k over chunks each query and head, a gather of runs.

    Attributes:
        chunk_tokens: keys of a chunk.
        sinks: first tokens that always stay.
        local: newest tokens that always stay, the query's own among them.
    """

    kind: Literal["dhsa"]
    chunk_tokens: Positive = 8
    sinks: Count = 4
    local: Positive = 8
    in_prompt: ClassVar[bool] = True
    needs: ClassVar[Needs] = Needs(
        score="means", selection="every_step", gather="chunks", metadata="means", permanent=False
    )
