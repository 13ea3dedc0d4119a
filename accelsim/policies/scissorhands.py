"""Scissorhands: persistence of importance."""

from __future__ import annotations

from typing import ClassVar, Literal

from accelsim.policies._base import Positive
from accelsim.policies._selection import Needs, Recent


class Scissorhands(Recent):
    """Scissorhands (Liu et al., NeurIPS 2023).

    Score: in how many of the last ``history`` steps the key's probability was low. Budget: fixed;
    when it is full the ``drop`` keys that were low most often leave for good; the newest stay.

    Asks of the hardware: a comparison per key and step, a counter over a window of flags, a top-k
    every ``drop`` steps, a gather of single tokens.

    Attributes:
        history: steps that are looked back on.
        drop: keys that leave together.
    """

    kind: Literal["scissorhands"]
    history: Positive = 32
    drop: Positive = 8
    needs: ClassVar[Needs] = Needs(score="history", selection="batch", gather="tokens")
