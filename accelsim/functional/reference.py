"""Plain float64 NumPy, written to be read: what the kernels must agree with."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Softmax over the last axis, float64."""
    shifted = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def top_k(values: NDArray[np.float64], k: int) -> NDArray[np.bool_]:
    """Mark the ``k`` largest of ``values``; equal ones in input order."""
    mask = np.zeros(len(values), dtype=bool)
    mask[np.argsort(-values, kind="stable")[: max(k, 0)]] = True
    return mask


def attention_row(
    query: NDArray[np.float64],
    coarse_keys: NDArray[np.float64],
    full_keys: NDArray[np.float64],
    values: NDArray[np.float64],
    threshold: float,
    value_keep: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_], bool]:
    """One query of one head over the surviving tokens.

    Args:
        query: scaled query [dim].
        coarse_keys: keys of the first fetch [tokens, dim].
        full_keys: keys after the second fetch [tokens, dim].
        values: values [tokens, dim].
        threshold: refetch if the largest probability is below.
        value_keep: share of tokens whose values are used.

    Returns:
        (output [dim], probabilities [tokens], values used [tokens] bool, LSBs fetched).
    """
    probabilities = softmax(coarse_keys @ query)
    refetch = bool(probabilities.max() < threshold)
    if refetch:
        probabilities = softmax(full_keys @ query)
    used = top_k(probabilities, math.ceil(round(value_keep * len(values), 9)))
    return (probabilities * used) @ values, probabilities, used, refetch
