"""Vertical-slash prefill of MInference: columns and diagonals that the last queries draw."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import pydantic
from numpy.typing import NDArray

from accelsim.jit import kernel
from accelsim.policies._base import Count, Positive
from accelsim.policies._selection import FROM_PROBABILITIES, Needs, SelectionPart
from accelsim.policies.selections._pattern import (
    PatternSelector,
    columns_and_distances,
    largest,
    no_work,
)
from accelsim.policies.selections._prompt import Cost, probabilities
from accelsim.policies.selector import Prompt, Selector, Shape

Lines = tuple[NDArray[np.bool_], NDArray[np.int64]]
"""Columns [query_heads, prompt], and distances [query_heads, slashes], the largest first."""


class VerticalSlash(SelectionPart):
    """MInference's vertical-slash pattern (Jiang et al., NeurIPS 2024, algorithm 2, and its code).

    The last ``window`` queries of a prompt attend densely; their probabilities are summed by key
    and by distance. Each query head then scores, in the whole prompt, the ``vertical`` best keys
    and the ``slash`` best distances; the first keys and the shortest distances are among them. As
    in the released kernel, ``block_tokens`` queries share what any of them needs: a distance covers
    a tile of as many keys, and tiles that overlap are widened by a whole one; 1 gives the lines
    alone. Decode is dense. The paper chooses sizes (and two other patterns) for each head by a
    search on data; here they are those of the settings. Under a mask of the model a query scores
    those of them that it sees, and the last queries vote for what they see (ours).

    Asks of the hardware: a pass over the keys of the prompt and two top-ks before it, then tiles of
    keys and a gather of columns for each block of queries.

    Attributes:
        vertical: keys of a head that every query scores.
        slash: distances.
        window: queries that decide.
        first: first keys that are always among the columns.
        recent: shortest distances that are always among the distances.
        block_tokens: queries that share their keys, and keys of a tile.
    """

    kind: Literal["vertical_slash"]
    vertical: Positive = 1000
    slash: Positive = 6096
    window: Positive = 64
    first: Count = 30
    recent: Positive = 100
    block_tokens: Positive = 64
    in_prompt: ClassVar[bool] = True
    foresees: ClassVar[bool] = True
    needs: ClassVar[Needs] = Needs(selection="once", updates=True, metadata=True, permanent=False)
    follows: ClassVar[frozenset[str]] = FROM_PROBABILITIES

    @pydantic.model_validator(mode="after")
    def _check_sizes(self) -> VerticalSlash:
        if self.first > self.vertical or self.recent > self.slash:
            raise ValueError("expected 'first' up to 'vertical', and 'recent' up to 'slash'")
        return self

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return VerticalSlashSelector(self, shape, seed)


class VerticalSlashSelector(PatternSelector[VerticalSlash, Lines]):
    """Lines of each query head."""

    def find(self, prompt: Prompt, seed: int) -> tuple[Lines, Cost] | None:
        """Let the last queries choose, by what they give to the keys that they see."""
        heads, tokens, _ = prompt.query.shape
        if max(self.rule.vertical, self.rule.slash) >= tokens:
            return None
        rule, work, every = self.rule, no_work(heads), np.arange(tokens)
        weights, seen = probabilities(prompt, every[-rule.window :], every)
        columns, distances = columns_and_distances(weights)
        columns[:, : rule.first] = np.inf
        distances[:, : rule.recent] = np.inf
        vertical = largest(columns, rule.vertical, seed, work)
        slash = largest(distances, rule.slash, seed + heads, work)
        descending = np.array([np.flatnonzero(own)[::-1] for own in slash], dtype=np.int64)
        read = int(seen.any(axis=0).sum())
        return (vertical, descending), Cost(work, read, 2 * int(seen.sum()))

    def keep(self, pattern: Lines, positions: NDArray[np.int64], kept: NDArray[np.bool_]) -> None:
        """Columns, and the tiles of each block of queries."""
        vertical, slash = pattern
        _keep_lines(vertical, slash, self.rule.block_tokens, positions, kept)


@kernel
def _keep_lines(
    vertical: NDArray[np.bool_],
    slash: NDArray[np.int64],
    size: int,
    positions: NDArray[np.int64],
    kept: NDArray[np.bool_],
) -> None:
    context = kept.shape[2]
    inside = np.zeros(context, dtype=np.bool_)
    for h in range(len(slash)):
        known = -1
        for r in range(len(positions)):
            own = positions[r] // size
            if own != known:
                known = own
                inside[:] = False
                stop = (own + 1) * size
                low, high = 0, 0
                for distance in slash[h]:
                    if distance >= stop:
                        continue  # before the first token
                    end = max(stop - distance, size)
                    if high == 0 or end > high + size:
                        inside[low : min(high, context)] = True
                        low, high = end - size, end
                    elif end > high:
                        high += size
                inside[low : min(high, context)] = True
            for j in range(context):
                kept[h, r, j] = inside[j] or vertical[h, j]
