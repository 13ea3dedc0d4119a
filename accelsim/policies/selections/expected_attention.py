"""Expected attention: what future queries will give to a key, from the statistics of past ones."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import pydantic
from numpy.typing import NDArray

from accelsim.configs import Unit
from accelsim.policies._base import Count, Positive
from accelsim.policies._selection import (
    FROM_PROBABILITIES,
    IN_BOTH_DIRECTIONS,
    Needs,
    Sharing,
)
from accelsim.policies.selections._once import Once, OnceSelector
from accelsim.policies.selector import Block, Decision, Floats, Selector, Shape


class ExpectedAttention(Once):
    """Expected attention (Devoto et al. 2025, arXiv 2510.00636; kvpress's ExpectedAttentionPress).

    Score: the queries of the prompt before rotation have a mean m and a covariance C; R is the mean
    rotation of the ``future_tokens`` positions after the prompt. With the scale s of the scores,
    a key k is expected to draw ``exp(s * (R m) k + s^2 / 2 * k (R C R^T) k)``; normalised over the
    keys, averaged over the query heads that decide together, times the norm of its value. Budget:
    counted on the prompt, once when it ends; the ``sinks`` first tokens stay, and neither they nor
    their queries take part.

    A trace holds queries after rotation, so the rotation is part of the settings: pairs are element
    i and i + head_dim / 2, as in Llama and its relatives. What is expected is of all keys of the
    prompt, whatever mask, cap or bias the layer has (ours).

    Asks of the hardware: a sum of queries and of their outer products per query head, a product of
    head_dim x head_dim with each key of the prompt, read once more; norms of values; one top-k.

    Attributes:
        rope_base: base of the wavelengths of the model's rotation.
        rope_factor: what positions are divided by before it (linear scaling).
        future_tokens: positions whose rotation is averaged.
        sinks: first tokens that stay.
        covariance: whether the second term is there.
        value_norm: whether scores are multiplied with the norms of the values.
    """

    kind: Literal["expected_attention"]
    share: Sharing = "kv_head"
    rope_base: Annotated[float, pydantic.Field(gt=1.0, le=1e12), Unit("as a base")]
    rope_factor: Annotated[float, pydantic.Field(gt=0.0, le=1e6), Unit("times the positions")] = 1.0
    future_tokens: Positive = 512
    sinks: Count = 4
    covariance: bool = True
    value_norm: bool = True
    needs: ClassVar[Needs] = Needs(selection="once", metadata=True)
    follows: ClassVar[frozenset[str]] = FROM_PROBABILITIES | IN_BOTH_DIRECTIONS

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return ExpectedAttentionSelector(self, shape, seed)


class ExpectedAttentionSelector(OnceSelector[ExpectedAttention]):
    """Sums of queries while the prompt is read; one ranking when it ends."""

    def __init__(self, rule: ExpectedAttention, shape: Shape, seed: int = 0) -> None:
        super().__init__(rule, shape, seed)
        self._sums: dict[int, tuple[Floats, Floats]] = {}

    @property
    def free(self) -> slice:
        """All but the first tokens."""
        return slice(min(self.rule.sinks, self.shape.prompt_tokens), self.shape.prompt_tokens)

    def watch(self, block: Block, decision: Decision, rows: NDArray[np.bool_]) -> None:
        """Add up queries before rotation, and their outer products."""
        counted = rows & (block.positions >= self.rule.sinks)
        rule, dim = self.rule, self.shape.head_dim
        plain = rotated(
            block.query[:, counted], -block.positions[counted], rule.rope_base, rule.rope_factor
        )
        if block.layer not in self._sums:
            heads = self.shape.num_query_heads
            self._sums[block.layer] = np.zeros((heads, dim)), np.zeros((heads, dim, dim))
        first, second = self._sums[block.layer]
        first += plain.sum(axis=1)
        second += plain.transpose(0, 2, 1) @ plain

    def score(self, block: Block) -> Floats:
        """What each key is expected to draw."""
        rule, prompt, group = self.rule, self.shape.prompt_tokens, self.shape.group
        first, second = (total / self.size for total in self._sums[block.layer])
        future = np.arange(prompt, prompt + rule.future_tokens)
        turn = mean_rotation(self.shape.head_dim, future, rule.rope_base, rule.rope_factor)
        keys = np.repeat(block.key[:, :prompt][:, self.free], group, axis=0)
        scores = block.scale * np.einsum("hkd,hd->hk", keys, first @ turn.T)
        if rule.covariance:
            centred = second - first[:, :, None] * first[:, None, :]
            turned = turn @ centred @ turn.T
            scores += block.scale**2 / 2 * ((keys @ turned) * keys).sum(axis=2)
        scores -= scores.max(axis=1, keepdims=True)
        expected = np.exp(scores)
        expected /= expected.sum(axis=1, keepdims=True)
        if rule.value_norm:
            norms = np.linalg.norm(block.value[:, :prompt][:, self.free], axis=2)
            expected *= np.repeat(norms, group, axis=0)
        return self.by_group(expected)

    def charge(self, decision: Decision, row: int) -> None:
        """The keys that may leave are read to be scored; norms of values were kept."""
        decision.metadata_vectors[:, row] = self.size


def rotated(
    vectors: Floats, positions: NDArray[np.int64], base: float, factor: float = 1.0
) -> Floats:
    """Rotate vectors [heads, rows, head_dim] by their positions [rows]; negative ones back."""
    half = vectors.shape[2] // 2
    angles = _angles(half, positions, base, factor)
    cosine, sine = np.cos(angles), np.sin(angles)
    low, high = vectors[..., :half], vectors[..., half:]
    return np.concatenate([low * cosine - high * sine, high * cosine + low * sine], axis=2)


def mean_rotation(
    dim: int, positions: NDArray[np.int64], base: float, factor: float = 1.0
) -> Floats:
    """Mean of the rotations of positions, a matrix [dim, dim] that stands left of a vector."""
    half = dim // 2
    angles = _angles(half, positions, base, factor)
    cosine, sine = (np.diag(turn(angles).mean(axis=0)) for turn in (np.cos, np.sin))
    return np.block([[cosine, -sine], [sine, cosine]])


def _angles(half: int, positions: NDArray[np.int64], base: float, factor: float) -> Floats:
    wavelength = base ** -(np.arange(half) / half)
    return np.asarray(positions[:, None] / factor * wavelength)
