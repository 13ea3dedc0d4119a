"""SnapKV: one selection after the prompt."""

from __future__ import annotations

from typing import ClassVar, Literal

from accelsim.policies._base import Positive
from accelsim.policies._selection import Budgeted, Needs


class SnapKV(Budgeted):
    """SnapKV (Li et al., NeurIPS 2024).

    Score: probabilities that the last ``window`` queries of the prompt give to a key, summed, then
    pooled over ``kernel`` neighbours. Budget: counted on the prompt; the best keys and the last
    ``window`` stay when the prompt ends. Nothing leaves in decode, and new tokens stay.

    Asks of the hardware: ``window`` score rows and one top-k per head and layer, once; a gather of
    single tokens.

    Attributes:
        window: queries of the prompt that vote; their keys stay.
        kernel: width of the pooling.
        pooling: mean or maximum over the neighbours.
    """

    kind: Literal["snapkv"]
    window: Positive = 32
    kernel: Positive = 5
    pooling: Literal["mean", "max"] = "mean"
    needs: ClassVar[Needs] = Needs(score="prompt_window", selection="once", gather="tokens")
