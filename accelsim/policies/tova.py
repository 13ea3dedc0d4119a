"""TOVA: what the latest query attends to."""

from __future__ import annotations

from typing import ClassVar, Literal

from accelsim.policies._selection import Budgeted, Needs, Sharing


class TOVA(Budgeted):
    """Token omission via attention (Oren et al., EMNLP 2024).

    Score: probability that the latest query gives to a key, averaged over the heads of the layer.
    Budget: a cache of fixed size; the key of lowest score leaves for good. No protection of recent
    tokens but the query's own, which has no score yet.

    Asks of the hardware: a mean over heads, one arg-min per layer and step, one list of indexes per
    layer.
    """

    kind: Literal["tova"]
    share: Sharing = "layer"
    needs: ClassVar[Needs] = Needs(score="last_row", selection="one_per_step", gather="tokens")
