"""Rules that select once after the prompt, against plain readings of their papers and code."""

from __future__ import annotations

import numpy as np
import pytest
from deciding import Sequence, best, sequence
from numpy.typing import NDArray

from accelsim.policies.selections.expected_attention import mean_rotation, rotated
from accelsim.policies.selections.snapkv import pyramid_budget

PROMPT = 32


def prompt_sets(kept: NDArray[np.bool_], at: Sequence) -> list[set[int]]:
    """Tokens of the prompt that each KV head reads at the first query after it."""
    heads = kept[0, :: at.shape.group, PROMPT, :PROMPT]
    return [set(np.flatnonzero(head).tolist()) for head in heads]


def is_dense_before_and_grows_after(kept: NDArray[np.bool_]) -> bool:
    """Whether the prompt is dense, and later queries read what the first read and all since."""
    tokens = kept.shape[2]
    dense = np.tri(tokens, dtype=bool)
    after = kept[:, :, PROMPT:]
    same = (after[..., :PROMPT] == after[:, :, :1, :PROMPT]).all()
    new = (after[..., PROMPT:] == dense[PROMPT:, PROMPT:]).all()
    return bool((kept[:, :, :PROMPT] == dense[:PROMPT]).all() and same and new)


@pytest.mark.parametrize("damping", [0.0, 0.15, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_centrality_is_a_personalised_page_rank(seed: int, damping: float) -> None:
    at = sequence(seed)
    rule = {"kind": "centrality", "budget_tokens": 18, "damping": damping}
    kept = at.decide(rule)
    assert is_dense_before_and_grows_after(kept)
    for head, found in enumerate(prompt_sets(kept, at)):
        keys = at.key[0][head, :PROMPT]
        length = np.linalg.norm(keys, axis=1)
        graph = (1 + keys @ keys.T / np.outer(length, length)) / 2
        start = np.exp(-length) / np.exp(-length).sum()
        rank = start.copy()
        for _ in range(3):
            spread = graph @ rank
            rank = damping * spread / spread.sum() + (1 - damping) * start
        middle = best(rank[4 : PROMPT - 8], 18 - 12)
        assert found == {0, 1, 2, 3, *range(PROMPT - 8, PROMPT), *(j + 4 for j in middle)}


def test_centrality_without_neighbours_is_the_norm() -> None:
    at = sequence(5)
    plain = {"budget_tokens": 12, "sinks": 0, "recent": 1, "damping": 0.0}
    kept = prompt_sets(at.decide({"kind": "centrality", **plain}), at)
    for head, found in enumerate(kept):
        norms = np.linalg.norm(at.key[0][head, : PROMPT - 1], axis=1)
        assert found == best(-norms, 11) | {PROMPT - 1}


def test_what_a_pass_over_the_keys_costs() -> None:
    at = sequence()
    at.decide({"kind": "centrality", "budget_tokens": 18, "iterations": 5})
    prompt, after = at.decisions[0]
    assert not prompt.metadata_vectors.any()
    assert after.metadata_vectors[:, 0].tolist() == [6 * PROMPT] * 2
    assert after.score_updates[:, 0].tolist() == [5 * PROMPT] * 2
    assert not after.metadata_vectors[:, 1:].any()
    # Where everything fits, nothing is ranked.
    at.decide({"kind": "centrality", "budget_tokens": PROMPT})
    assert not any(d.metadata_vectors.any() or d.work["size"].any() for d in at.decisions[0])


@pytest.mark.parametrize("covariance", [True, False])
@pytest.mark.parametrize("share", ["kv_head", "query_head"])
@pytest.mark.parametrize("rows", [1 << 20, 7])
def test_expected_attention_takes_queries_back_and_turns_them_on(
    covariance: bool, share: str, rows: int
) -> None:
    at = sequence(3)
    rule = {
        "kind": "expected_attention", "budget_tokens": 14, "rope_base": 50.0, "rope_factor": 2.0,
        "future_tokens": 20, "sinks": 3, "covariance": covariance, "share": share,
    }  # fmt: skip
    kept = at.decide(rule, rows)
    assert is_dense_before_and_grows_after(kept)

    def turn(position: int) -> NDArray[np.float64]:
        matrix = np.zeros((8, 8))
        for i in range(4):
            angle = position / 2.0 * 50.0 ** (-i / 4)
            matrix[i, i] = matrix[i + 4, i + 4] = np.cos(angle)
            matrix[i + 4, i], matrix[i, i + 4] = np.sin(angle), -np.sin(angle)
        return matrix

    ahead = np.mean([turn(p) for p in range(PROMPT, PROMPT + 20)], axis=0)
    expected = np.zeros((4, PROMPT - 3))
    for head in range(4):
        past = np.array([turn(p).T @ at.query[0][head, p] for p in range(3, PROMPT)])
        mean = ahead @ past.mean(axis=0)
        cov = ahead @ np.cov(past.T, bias=True) @ ahead.T
        for j in range(3, PROMPT):
            k = at.key[0][head // 2, j]
            expected[head, j - 3] = at.scale * mean @ k
            if covariance:
                expected[head, j - 3] += at.scale**2 * k @ cov @ k / 2
    expected = np.exp(expected)
    expected /= expected.sum(axis=1, keepdims=True)
    expected *= np.linalg.norm(np.repeat(at.value[0], 2, axis=0)[:, 3:PROMPT], axis=2)
    if share == "kv_head":
        expected = np.repeat(expected.reshape(2, 2, -1).mean(axis=1), 2, axis=0)
    for head in range(4):
        found = set(np.flatnonzero(kept[0, head, PROMPT, :PROMPT]).tolist())
        assert found == {0, 1, 2, *(j + 3 for j in best(expected[head], 11))}


def test_rotations_are_each_others_inverse_and_keep_scores() -> None:
    rng = np.random.default_rng(0)
    vectors, positions = rng.normal(size=(2, 5, 6)), np.arange(5)
    turned = rotated(vectors, positions, 100.0)
    np.testing.assert_allclose(rotated(turned, -positions, 100.0), vectors, atol=1e-12)
    # A product depends on the distance alone.
    first, second = (rotated(vectors[:, :1], np.array([p]), 100.0) for p in (7, 12))
    third = rotated(vectors[:, 1:2], np.array([0]), 100.0)
    moved = rotated(vectors[:, 1:2], np.array([5]), 100.0)
    np.testing.assert_allclose((first * third).sum(), (second * moved).sum(), atol=1e-12)
    matrix = mean_rotation(6, np.array([7]), 100.0)
    np.testing.assert_allclose(vectors[:, 0] @ matrix.T, first[:, 0], atol=1e-12)


@pytest.mark.parametrize("kind", ["centrality", "expected_attention", "snapkv"])
def test_heads_may_share_the_budget_of_a_layer(kind: str) -> None:
    at = sequence(8)
    at.key[0][1] *= 0.3
    at.value[0][1] *= 3
    rule: dict[str, object] = {"kind": kind, "budget_tokens": 12, "share": "kv_head"}
    rule |= {"window": 4, "kernel": 1} if kind == "snapkv" else {"sinks": 2}
    rule |= {"rope_base": 100.0} if kind == "expected_attention" else {}
    own = at.decide(rule)[0, ::2, PROMPT, :PROMPT].sum(axis=1)
    kept = at.decide({**rule, "head_floor": 0.25})[0, ::2, PROMPT, :PROMPT].sum(axis=1)
    assert own.tolist() == [12, 12]
    assert kept.sum() == 24
    assert (kept >= 3).all()
    assert kept[0] != kept[1]


@pytest.mark.parametrize(
    ("budget", "prompt", "layers", "expected"),
    [
        # 20 layers' worth of 100: 195 falls to 5, but a window of 4 must fit.
        (100, 400, 5, [195, 148, 100, 52, 5]),
        # The first would have more than the prompt without its window: it has that, and the last
        # what then is left.
        (100, 154, 3, [150, 100, 50]),
        # The last would have less than the window: all have the same.
        (60, 400, 4, [60] * 4),
        (100, 400, 1, [195]),
    ],
)
def test_a_pyramid_falls_linearly(
    budget: int, prompt: int, layers: int, expected: list[int]
) -> None:
    found = [pyramid_budget(budget, 20, 4, prompt, layer, layers) for layer in range(layers)]
    assert found == expected


def test_pyramidkv_is_snapkv_with_a_budget_a_layer() -> None:
    at = sequence(1, layers=3)
    rule = {"kind": "snapkv", "window": 2, "kernel": 3}
    budgets = [pyramid_budget(10, 4, 2, PROMPT, layer, 3) for layer in range(3)]
    assert len(set(budgets)) == 3
    kept = at.decide({**rule, "budget_tokens": 10, "pyramid": 4})
    listed = at.decide({**rule, "budget_tokens_by_layer": budgets})
    np.testing.assert_array_equal(kept, listed)
