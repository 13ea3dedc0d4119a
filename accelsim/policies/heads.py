"""Cascade head pruning."""

from __future__ import annotations

from accelsim.policies._base import Fraction, MinKeys
from accelsim.policies._schedule import Accumulate, LayerSchedule


class CascadeHeads(LayerSchedule):
    """Cascade head pruning (SpAtten, HPCA 2021, Algorithm 2, sections III-B and V-A).

    Scores: absolute attention output of a query head, summed over features, queries and layers.
    Budget: ``round(r_l * heads)``, at least one, selected once a layer; a pruned head stays pruned
    in later layers. Under grouped-query attention a KV head is fetched while any of its query heads
    lives.

    Asks of the hardware: an accumulator per head and the top-k engine of the tokens.

    Attributes:
        accumulate: as of the tokens.
        min_keys: no head is pruned before the context, counted without any pruning, has this many
            tokens; the first step that has them selects.
    """

    front: Fraction = 0.30
    accumulate: Accumulate = "steps"
    min_keys: MinKeys = 0

    def budget(self, layer: int, num_layers: int, heads: int) -> int:
        """Query heads that ``layer`` keeps; halves round to even, as Python's ``round``."""
        return max(1, round(self.keep_ratio(layer, num_layers) * heads))
