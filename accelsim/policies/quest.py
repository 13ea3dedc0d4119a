"""Quest: pages by an upper bound of their scores."""

from __future__ import annotations

from typing import ClassVar, Literal

from accelsim.policies._base import Layers, Positive
from accelsim.policies._selection import Budgeted, Needs


class Quest(Budgeted):
    """Quest (Tang et al., ICML 2024): query-aware selection of pages, nothing evicted.

    Score of a page of ``page_tokens`` keys for a query q: ``sum_i max(q_i m_i, q_i M_i)`` with m
    and M the channel-wise minimum and maximum of its keys, an upper bound of every score in it.
    Budget: ``max(1, floor(budget / page_tokens))`` pages each decode step; the page being filled is
    always one of them. The first ``dense_layers`` layers read everything, and so does the prompt.

    Asks of the hardware: two rows of metadata read per full page and written when it fills, a
    top-k over pages each step and head, whole pages in one run.

    Attributes:
        page_tokens: keys of a page.
        dense_layers: first layers without selection.
    """

    kind: Literal["quest"]
    page_tokens: Positive = 16
    dense_layers: Layers = 2
    needs: ClassVar[Needs] = Needs(
        score="bounds", selection="every_step", gather="pages", metadata="bounds", permanent=False
    )
