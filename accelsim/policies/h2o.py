"""H2O: heavy hitters and recent tokens."""

from __future__ import annotations

from typing import ClassVar, Literal

from accelsim.policies._selection import Needs, Recent


class H2O(Recent):
    """Heavy-Hitter Oracle (Zhang et al., NeurIPS 2023).

    Score: the sum of all attention probabilities a key has received, in prompt and decode, in its
    layer. Budget: heavy hitters and a window of the newest tokens, half each in the paper. When the
    budget is full, the key of lowest score outside the window leaves for good.

    Asks of the hardware: one accumulator per key and deciding head, updated by every query; an
    arg-min a step; a top-k after the prompt; a gather of single tokens.
    """

    kind: Literal["h2o"]
    needs: ClassVar[Needs] = Needs(score="accumulated", selection="one_per_step", gather="tokens")
