"""EMS: evict, then merge."""

from __future__ import annotations

from typing import ClassVar, Literal

from accelsim.policies._base import Fraction, Positive
from accelsim.policies._selection import Needs, Recent


class EMS(Recent):
    """Evict-then-merge (arXiv 2412.08521, 2024).

    Score: probabilities received in all (global) and in the last ``history`` queries (local), each
    divided by its mean over the cache, added. Budget: the best keys and the newest. A key that
    leaves is merged into the kept key that is most similar (mean cosine of keys and values) if the
    similarity reaches ``similarity``; otherwise it is evicted. Merging averages the directions of
    keys and their norms separately, and the values, weighted by the attention received.

    Asks of the hardware: two accumulators per key, an arg-min a step, a cosine of the leaving key
    with every kept one, and a write of one key and one value per merge.

    Attributes:
        history: queries of the local score.
        similarity: least mean cosine for a merge, in [0, 1].
        share: merging changes stored keys, so the heads of a KV head decide together.
    """

    kind: Literal["ems"]
    history: Positive = 32
    similarity: Fraction = 0.6
    recent_fraction: Fraction = 0.25
    share: Literal["kv_head"] = "kv_head"
    needs: ClassVar[Needs] = Needs(
        score="accumulated", selection="one_per_step", gather="tokens", writes_back=True
    )
