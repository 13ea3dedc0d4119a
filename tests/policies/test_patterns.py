"""Rules of blocks, lines and heads, against plain readings of their papers and code."""

from __future__ import annotations

import math

import numpy as np
import pytest
from deciding import Sequence, best, sequence
from numpy.typing import NDArray

from accelsim.errors import ConfigError
from accelsim.policies import Policy, load_policy, why_closed_loop_not
from accelsim.policies.selector import Shape, selector_for

PROMPT = 32


@pytest.mark.parametrize("share", ["query_head", "kv_head"])
@pytest.mark.parametrize("rows", [1 << 20, 5])
def test_moba_takes_its_own_block_and_the_best_before(share: str, rows: int) -> None:
    at = sequence(2)
    kept = at.decide({"kind": "moba", "block_tokens": 4, "blocks": 3, "share": share}, rows)[0]
    for head in range(4):
        asking = [head] if share == "query_head" else [head // 2 * 2, head // 2 * 2 + 1]
        for i in range(40):
            own = i // 4
            gate = []
            for b in range(own):
                mean = at.key[0][head // 2, 4 * b : 4 * b + 4].mean(axis=0)
                gate.append(sum(float(at.query[0][h, i] @ mean) for h in asking))
            blocks = best(np.array(gate), 2) | {own}
            expected = {j for j in range(i + 1) if j // 4 in blocks}
            assert set(np.flatnonzero(kept[head, i]).tolist()) == expected


def test_moba_reads_means_once_in_a_prompt_and_always_in_decode() -> None:
    at = sequence()
    at.decide({"kind": "moba", "block_tokens": 4, "blocks": 3}, rows=7)
    read = np.concatenate([d.metadata_vectors for d in at.decisions[0]], axis=1)
    written = np.concatenate([d.written_vectors for d in at.decisions[0]], axis=1)
    assert (written == ((np.arange(40) + 1) % 4 == 0)).all()
    assert read[:, :PROMPT].sum(axis=1).tolist() == [8, 8]
    assert read[0, PROMPT:].tolist() == [8] * 4 + [9] * 4
    at.decide({"kind": "moba", "block_tokens": 16, "blocks": 3})
    assert not any(d.metadata_vectors.any() for d in at.decisions[0])


@pytest.mark.parametrize("least", [20, 100])
def test_moba_is_dense_below_min_keys(least: int) -> None:
    at = sequence()
    kept = at.decide({"kind": "moba", "block_tokens": 4, "blocks": 2, "min_keys": least})[0]
    dense = np.tri(40, dtype=bool)
    assert (kept[:, : least - 1] == dense[: least - 1]).all()
    assert least > 40 or not kept[:, least - 1].all(axis=0)[:least].all()


def test_duo_attention_gives_listed_heads_everything() -> None:
    at = sequence(layers=2)
    rule = {"kind": "duo_attention", "sinks": 3, "recent": 5}
    kept = at.decide({**rule, "retrieval_heads_by_layer": [[1], []]})
    dense = np.tri(40, dtype=bool)
    i, j = np.indices((40, 40))
    streams = dense & ((j < 3) | (j > i - 5))
    for layer, head in np.ndindex(2, 4):
        full = layer == 0 and head // 2 == 1
        np.testing.assert_array_equal(kept[layer, head], dense if full else streams)


@pytest.mark.parametrize("rows", [1 << 20, 3])
def test_duo_attention_finds_heads_that_would_miss_most(rows: int) -> None:
    at = sequence(4, heads=8, kv_heads=4)
    rule = {"kind": "duo_attention", "sinks": 2, "recent": 4, "window": 6}
    kept = at.decide({**rule, "retrieval_fraction": 0.5}, rows)[0]
    dense, probabilities = np.tri(40, dtype=bool), at.dense(0)
    missed = [
        sum(
            probabilities[h, i, 2 : i - 3].sum()
            for i in range(26, 32)
            for h in (2 * kv, 2 * kv + 1)
        )
        for kv in range(4)
    ]
    assert (kept[:, :PROMPT] == dense[:PROMPT]).all()
    for head in range(8):
        full = (kept[head, PROMPT:] == dense[PROMPT:]).all()
        assert full == (head // 2 in best(np.array(missed), 2))
        assert full or kept[head, PROMPT:].sum(axis=1).tolist() == [6] * 8


def test_duo_attention_says_what_it_cannot_know() -> None:
    shape = Shape(2, 4, 2, 8, 40, 32)
    with pytest.raises(ValueError, match="give one of 'retrieval_heads_by_layer'"):
        Policy.model_validate({"selection": {"kind": "duo_attention"}})
    rule = {"kind": "duo_attention", "retrieval_heads_by_layer": [[0], [2]]}
    with pytest.raises(ConfigError, match="KV head 2 in layer 1; expected 0 to 1"):
        selector_for(Policy.model_validate({"selection": rule}), shape)
    assert "has 2 entries; expected 3" in why_closed_loop_not(
        Policy.model_validate({"selection": rule}), causal=True, num_layers=3
    )
    unread = sequence(prompt=0)
    with pytest.raises(ConfigError, match="finds its heads in the prompt"):
        unread.decide({"kind": "duo_attention", "retrieval_fraction": 0.5})


def lines(at: Sequence, head: int, window: int) -> tuple[list[float], list[float]]:
    """Probabilities of the last queries of the prompt, by key and by distance."""
    dense = at.dense(0)[head]
    columns, distances = [0.0] * PROMPT, [0.0] * PROMPT
    for i in range(PROMPT - window, PROMPT):
        for j in range(i + 1):
            columns[j] += dense[i, j]
            distances[i - j] += dense[i, j]
    return columns, distances


@pytest.mark.parametrize("tile", [1, 4, 8])
@pytest.mark.parametrize("rows", [1 << 20, 6])
@pytest.mark.parametrize("seed", range(3))
def test_vertical_slash_scores_columns_and_tiles_of_distances(
    tile: int, rows: int, seed: int
) -> None:
    at = sequence(seed)
    rule = {
        "kind": "vertical_slash", "vertical": 5, "slash": 4, "window": 7, "first": 2, "recent": 1,
        "block_tokens": tile,
    }  # fmt: skip
    kept = at.decide(rule, rows)[0]
    for head in range(4):
        columns, distances = lines(at, head, 7)
        vertical = best(np.array([np.inf] * 2 + columns[2:]), 5)
        slash = best(np.array([np.inf, *distances[1:]]), 4)
        for i in range(PROMPT):
            expected = {j for j in range(i + 1) if j in vertical or i - j in slash}
            found = set(np.flatnonzero(kept[head, i]).tolist())
            if tile == 1:
                assert found == expected
            assert expected <= found
            assert found == {j for j in range(i + 1) if j in vertical | tiles(slash, i, tile)}
        assert (kept[head, PROMPT:] == np.tri(40, dtype=bool)[PROMPT:]).all()


def tiles(slash: set[int], position: int, tile: int) -> set[int]:
    """Keys that the released kernel gives the block of a query for its distances."""
    end = (position // tile + 1) * tile
    ends = sorted({max(end - d, tile) for d in slash if d < end})
    ranges = [[ends[0] - tile, ends[0]]]
    for stop in ends[1:]:
        if stop > ranges[-1][1] + tile:
            ranges.append([stop - tile, stop])
        elif stop > ranges[-1][1]:
            ranges[-1][1] += tile
    return {j for low, high in ranges for j in range(low, high)}


def test_vertical_slash_pays_for_its_look() -> None:
    at = sequence()
    rule = {"kind": "vertical_slash", "vertical": 5, "slash": 4, "window": 3, "first": 2,
            "recent": 1, "block_tokens": 4}  # fmt: skip
    at.decide(rule, rows=10)
    read = np.concatenate([d.metadata_vectors for d in at.decisions[0]], axis=1)
    updates = np.concatenate([d.score_updates for d in at.decisions[0]], axis=1)
    assert read.sum(axis=1).tolist() == [PROMPT] * 2
    # Two query heads, two sums, three queries of 30, 31 and 32 keys.
    assert updates.sum(axis=1).tolist() == [2 * 2 * 93] * 2
    work = at.decisions[0][0].work[:, 0]
    assert (work["size"] == PROMPT).all()
    assert (work["passes"] >= 4).all()
    with pytest.raises(ValueError, match="'first' up to 'vertical'"):
        at.decide({**rule, "vertical": 1})


def test_a_whole_prompt_is_no_place_for_predictions() -> None:
    policy = load_policy("vertical-slash")
    explain = why_closed_loop_not(policy, causal=True, prompt_tokens=32, skip=8)
    assert "have seen later tokens" in explain
    assert not why_closed_loop_not(policy, causal=True, prompt_tokens=32, skip=31)
    assert "expected a prompt length" in why_closed_loop_not(policy, causal=True)


def test_a_rule_that_knows_no_sinks_stays_out_of_models_with_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = load_policy("moba")
    assert not why_closed_loop_not(policy, causal=True, prompt_tokens=4, sinks=True)
    explain = why_closed_loop_not(policy, causal=True, prompt_tokens=4, both_ways=True)
    assert explain == "policy 'moba' reads a prompt in one direction, the model in both"
    monkeypatch.setattr(type(policy.selection), "follows", frozenset())
    explain = why_closed_loop_not(policy, causal=True, prompt_tokens=4, sinks=True)
    assert explain == "policy 'moba' does not support the sinks of the model"


SIZES = [(32, 8, 4, 0.25), (29, 8, 4, 0.25), (32, 4, 8, 0.5), (30, 8, 8, 0.3), (32, 8, 4, 0.9)]


def block_mask(
    at: Sequence, mode: str, prompt: int, head: int, size: tuple[int, int], density: float
) -> NDArray[np.bool_]:
    """Blocks that a query head scores, read from the paper's code: [query blocks, key blocks]."""
    asks, holds = size
    unit = math.lcm(*size)
    tokens = -(-prompt // unit) * unit
    query, key = np.zeros((2, tokens, 8))
    query[:prompt], key[:prompt] = at.query[0][head, :prompt], at.key[0][head // 2, :prompt]
    rows, columns = tokens // asks, tokens // holds
    budget = max(1, int(density * columns))
    mean_q = np.array([query[r * asks : (r + 1) * asks].mean(axis=0) for r in range(rows)])
    mean_k = np.array([key[c * holds : (c + 1) * holds].mean(axis=0) for c in range(columns)])
    mask = np.zeros((rows, columns), dtype=bool)
    if mode in ("topk", "a"):
        points = mean_q @ mean_k.T
    elif mode == "vsb":
        last = mean_q[-1] @ mean_k.T * at.scale
        upright, leaning = best(last, budget // 2), best(last, budget - budget // 2)
    else:
        by_key, by_distance = np.zeros((2, tokens))
        for i in range(tokens - asks, tokens):
            scores = np.exp(at.scale * (key[: i + 1] @ query[i]))
            scores /= scores.sum()
            by_key[: i + 1] += scores
            by_distance[: i + 1] += scores[::-1]
        half = budget * holds // 2
        upright, leaning = best(by_key, half), best(by_distance, budget * holds - half)
    for r in range(rows):
        newest, start = ((r + 1) * asks - 1) // holds, r * asks // holds
        if mode == "topk":
            mask[r, list(best(points[r], budget))] = True
            continue
        whole = mode != "a" and (r == rows - 1 or r < math.ceil(budget * holds / asks))
        if whole or newest + 1 <= budget:
            mask[r, : newest + 1] = True
            continue
        forced = {0, newest} if mode != "vsb" else {0, *range(start, newest + 1)}
        value = np.full(columns, -np.inf)
        for c in range(1, newest):
            if mode == "a":
                value[c] = points[r, c]
            elif mode == "vs":
                value[c] = sum(by_key[j] for j in upright if j // holds == c)
                for away in leaning:
                    met = {
                        (i - away) // holds for i in range(r * asks, (r + 1) * asks) if i >= away
                    }
                    value[c] += by_distance[away] * (c in met)
            else:
                value[c] = last[c] * (c in upright)
                for column in leaning:
                    away = columns - 1 - column
                    value[c] += last[column] * (start - away <= c <= newest - away)
        left = max(min(budget - len(forced), newest - 1), 0)
        mask[r, list(forced | best(value, left))] = True
    return mask


@pytest.mark.parametrize("mode", ["topk", "a", "vs", "vsb"])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("rows", [1 << 20, 7])
def test_dhsa_blocks_by_its_four_modes(
    mode: str, sizes: tuple[int, int, int, float], rows: int
) -> None:
    prompt, asks, holds, density = sizes
    at = sequence(6, prompt=prompt)
    rule = {"kind": "dhsa_blocks", "mode": mode, "query_block": asks, "key_block": holds,
            "density": density}  # fmt: skip
    kept = at.decide(rule, rows)[0]
    for head in range(4):
        mask = block_mask(at, mode, prompt, head, (asks, holds), density)
        for i in range(prompt):
            expected = [j for j in range(i + 1) if mask[i // asks, j // holds]]
            assert np.flatnonzero(kept[head, i]).tolist() == expected, (head, i)
    assert (kept[:, prompt:] == np.tri(40, dtype=bool)[prompt:]).all()
