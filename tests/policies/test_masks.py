"""Rules under masks, soft caps, biases and sinks, against plain readings: what a query cannot see
is neither ranked nor read, and a sink takes its part of every probability."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from deciding import Sequence, best, masked, sequence
from hypothesis import given, settings
from hypothesis import strategies as st
from test_patterns import tiles
from test_visual import IMAGES, KINDS, QUESTION, seeing

from accelsim.policies.selections.ems import EMS

PROMPT = 32
BACKWARD = ("window", "chunk", "random", "none")
EVERY = (*BACKWARD, "prefix")
SETTINGS = settings(max_examples=25, deadline=None)


def drawn(seed: int, kind: str, **shape: Any) -> Sequence:
    return masked(sequence(seed, **shape), seed + 50, kind, own=seed % 2 > 0)


@given(seed=st.integers(0, 99), kind=st.sampled_from(BACKWARD), rows=st.sampled_from((5, 64)))
@SETTINGS
def test_moba_ranks_blocks_that_a_query_sees(seed: int, kind: str, rows: int) -> None:
    at = drawn(seed, kind)
    kept = at.decide({"kind": "moba", "block_tokens": 4, "blocks": 3}, rows)[0]
    read = np.concatenate([d.metadata_vectors for d in at.decisions[0]], axis=1)
    known: list[set[int]] = [set(), set()]
    for i in range(40):
        ranked: list[set[int]] = [set(), set()]
        for head in range(4):
            open_ = [b for b in range(i // 4) if at.shown[i, 4 * b : 4 * b + 4].any()]
            means = [at.key[0][head // 2, 4 * b : 4 * b + 4].mean(axis=0) for b in open_]
            gate = np.array([float(at.query[0][head, i] @ mean) for mean in means])
            blocks = {open_[k] for k in best(gate, 2)} | {i // 4}
            expected = [j for j in range(i + 1) if j // 4 in blocks and at.shown[i, j]]
            assert np.flatnonzero(kept[head, i]).tolist() == expected
            if len(open_) > 2:
                ranked[head // 2] |= set(open_)
        for kv in range(2):
            # Means of a prompt are read once, in decode by every query.
            new = ranked[kv] - known[kv] if i < PROMPT else ranked[kv]
            known[kv] |= ranked[kv]
            assert read[kv, i] == len(new)


@given(
    seed=st.integers(0, 99), kind=st.sampled_from(BACKWARD), tile=st.sampled_from((1, 4)),
    rows=st.sampled_from((6, 64)),
)  # fmt: skip
@SETTINGS
def test_vertical_slash_lets_the_last_queries_vote_for_what_they_see(
    seed: int, kind: str, tile: int, rows: int
) -> None:
    at = drawn(seed, kind)
    rule = {
        "kind": "vertical_slash", "vertical": 5, "slash": 4, "window": 7, "first": 2, "recent": 1,
        "block_tokens": tile,
    }  # fmt: skip
    kept = at.decide(rule, rows)[0]
    every = list(range(PROMPT))
    votes = {i: at.gives(0, i, every) for i in range(PROMPT - 7, PROMPT)}
    for head in range(4):
        columns, distances = np.zeros((2, PROMPT))
        for i, given_ in votes.items():
            for j in range(i + 1):
                columns[j] += given_[head, j]
                distances[i - j] += given_[head, j]
        columns[:2], distances[:1] = np.inf, np.inf
        vertical, slash = best(columns, 5), best(distances, 4)
        for i in range(PROMPT):
            near = {j for j in range(i + 1) if i - j in slash}
            near = near if tile == 1 else tiles(slash, i, tile)
            expected = [j for j in range(i + 1) if j in vertical | near and at.shown[i, j]]
            assert np.flatnonzero(kept[head, i]).tolist() == expected
        assert (kept[head, PROMPT:] == at.shown[PROMPT:]).all()
    pairs = at.shown[PROMPT - 7 : PROMPT, :PROMPT]
    first = at.decisions[0][0]
    assert first.metadata_vectors[:, 0].tolist() == [pairs.any(axis=0).sum()] * 2
    assert first.score_updates[:, 0].tolist() == [2 * 2 * pairs.sum()] * 2


def block_mask(at: Sequence, mode: str, head: int, size: tuple[int, int], density: float) -> Any:
    """Blocks that a query head scores of a prompt of whole blocks, [query blocks, key blocks]."""
    asks, holds = size
    rows, columns = PROMPT // asks, PROMPT // holds
    budget = max(1, int(density * columns))
    query, key = at.query[0][head], at.key[0][head // 2]
    mean_q = np.array([query[r * asks : (r + 1) * asks].mean(axis=0) for r in range(rows)])
    mean_k = np.array([key[c * holds : (c + 1) * holds].mean(axis=0) for c in range(columns)])
    points = mean_q @ mean_k.T
    open_ = np.array(
        [
            [
                at.shown[r * asks : (r + 1) * asks, c * holds : (c + 1) * holds].any()
                for c in range(columns)
            ]
            for r in range(rows)
        ]
    )

    def top(values: Any, among: list[int], count: int) -> set[int]:
        return {among[k] for k in best(np.array([values[c] for c in among]), count)}

    last = [c for c in range(columns) if open_[-1, c]]
    half = budget // 2
    upright, leaning = (top(points[-1] * at.scale, last, n) for n in (half, budget - half))
    by_key, by_distance = np.zeros((2, PROMPT))
    for i in range(PROMPT - asks, PROMPT):
        given_ = at.gives(0, i, list(range(PROMPT)))[head]
        for j in range(i + 1):
            by_key[j] += given_[j]
            by_distance[i - j] += given_[j]
    keys = best(by_key, budget * holds // 2)
    aways = best(by_distance, budget * holds - budget * holds // 2)
    mask = np.zeros((rows, columns), dtype=bool)
    for r in range(rows):
        newest, start = ((r + 1) * asks - 1) // holds, r * asks // holds
        if mode == "topk":
            ranked = [c for c in range(columns) if open_[r, c] or c > newest]
            mask[r, list(top(points[r], ranked, budget))] = True
            continue
        whole = mode != "a" and (r == rows - 1 or r < math.ceil(budget * holds / asks))
        if whole or open_[r].sum() <= budget:
            mask[r, : newest + 1] = True
            continue
        forced = {0, newest} if mode != "vsb" else {0, *range(start, newest + 1)}
        forced = {c for c in forced if open_[r, c]}
        value = np.zeros(columns)
        for c in range(1, newest):
            if mode == "a":
                value[c] = points[r, c]
            elif mode == "vs":
                value[c] = sum(by_key[j] for j in keys if j // holds == c)
                for away in aways:
                    met = {
                        (i - away) // holds for i in range(r * asks, (r + 1) * asks) if i >= away
                    }
                    value[c] += by_distance[away] * (c in met)
            else:
                value[c] = points[-1, c] * at.scale * (c in upright)
                for column in leaning:
                    away = columns - 1 - column
                    met_at = start - away <= c <= newest - away
                    value[c] += points[-1, column] * at.scale * met_at
        between = [c for c in range(1, newest) if open_[r, c]]
        left = max(min(budget - len(forced), newest - 1), 0)
        mask[r, list(forced | top(value, between, left))] = True
    return mask


@given(
    seed=st.integers(0, 99), kind=st.sampled_from(BACKWARD),
    mode=st.sampled_from(("topk", "a", "vs", "vsb")),
    sizes=st.sampled_from(((8, 4, 0.25), (4, 8, 0.5), (8, 2, 0.3), (4, 2, 0.2))),
    rows=st.sampled_from((7, 64)),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_dhsa_blocks_ranks_blocks_that_are_seen(
    seed: int, kind: str, mode: str, sizes: tuple[int, int, float], rows: int
) -> None:
    at = drawn(seed, kind)
    asks, holds, density = sizes
    rule = {"kind": "dhsa_blocks", "mode": mode, "query_block": asks, "key_block": holds,
            "density": density}  # fmt: skip
    kept = at.decide(rule, rows)[0]
    for head in range(4):
        mask = block_mask(at, mode, head, (asks, holds), density)
        for i in range(PROMPT):
            expected = [j for j in range(i + 1) if mask[i // asks, j // holds] and at.shown[i, j]]
            assert np.flatnonzero(kept[head, i]).tolist() == expected, (head, i)
    assert (kept[:, PROMPT:] == at.shown[PROMPT:]).all()


@given(
    seed=st.integers(0, 99), kind=st.sampled_from(EVERY),
    name=st.sampled_from(("fastv", "pyramid_drop", "focus_sec")),
)  # fmt: skip
@SETTINGS
def test_image_tokens_are_ranked_by_what_is_seen_of_them(seed: int, kind: str, name: str) -> None:
    at = masked(seeing(seed), seed + 50, kind)
    kept = at.decide({"kind": name, "layers": [1, 2], "keep": [0.5, 0.2]}, 9)
    alive, found = list(range(PROMPT)), []
    for layer in range(5):
        left = alive
        if layer in (1, 2):
            images = [j for j in alive if j in IMAGES]
            if name == "focus_sec":
                asked = [at.gives(layer, i, alive).max(axis=0) for i in QUESTION]
                score = np.max(asked, axis=0)[images]
            else:
                score = at.gives(layer, PROMPT - 1, alive).mean(axis=0)[images]
            count = int({1: 0.5, 2: 0.2}[layer] * len(IMAGES) + 1e-9)
            stay = {images[k] for k in best(score, count)}
            left = [j for j in alive if j not in IMAGES or j in stay]
        found.append(left if name == "pyramid_drop" else alive)
        alive = left
    for layer, tokens in enumerate(found):
        for i in [*tokens, *range(PROMPT, 40)]:
            expected = [j for j in [*tokens, *range(PROMPT, 40)] if at.shown[i, j]]
            assert np.flatnonzero(kept[layer][0, i]).tolist() == expected
        gone = set(range(PROMPT)) - set(tokens)
        assert not kept[layer][:, sorted(gone)].any()
    assert len(found[-1]) < PROMPT
    assert at.shape.token_type is KINDS


@given(seed=st.integers(0, 99), kind=st.sampled_from(EVERY), rows=st.sampled_from((6, 64)))
@SETTINGS
def test_h2o_adds_up_what_sinks_leave(seed: int, kind: str, rows: int) -> None:
    at = drawn(seed, kind)
    kept = at.decide({"kind": "h2o", "budget_tokens": 9}, rows)[0]
    for head in range(4):
        alive, received = list(range(PROMPT)), np.zeros(40)
        for i in range(40):
            if i >= PROMPT:
                alive.append(i)
                while len(alive) > 9:
                    free = [j for j in alive if j <= i - 4]
                    worst = min(free, key=lambda j: (received[j], -j))
                    alive.remove(worst)
            received += at.gives(0, i, alive)[head]
            expected = [j for j in alive if at.shown[i, j]]
            assert np.flatnonzero(kept[head, i]).tolist() == expected


@given(
    seed=st.integers(0, 99), kind=st.sampled_from(EVERY), rows=st.sampled_from((6, 64)),
    tabled=st.booleans(),
)  # fmt: skip
@SETTINGS
def test_ems_merges_keys_that_keep_their_place(
    seed: int, kind: str, rows: int, tabled: bool
) -> None:
    """Under caps and biases too, stored or by distance; keys, values and outputs by hand."""
    at = masked(sequence(seed), seed + 50, kind, own=True)
    assert at.softcap > 0
    assert at.bias is not None
    if tabled:
        by_distance = np.random.default_rng(seed).normal(size=(4, 81))
        i, j = np.indices((40, 40))
        at = replace(at, bias=by_distance[:, j - i + 40].astype(np.float32))
        at.table = by_distance.astype(np.float32).astype(np.float64)
    rule = EMS(kind="ems", budget_tokens=9, history=5, similarity=0.1)
    kept = at.decide(rule.model_dump(exclude_defaults=True) | {"kind": "ems"}, rows)[0]
    told = np.concatenate([d.output for d in at.decisions[0] if d.output is not None], axis=1)
    written = np.concatenate([d.written_vectors for d in at.decisions[0]], axis=1)
    assert at.bias is not None
    for g in range(2):
        key, value = at.key[0][g].astype(float), at.value[0][g].astype(float)
        alive: list[int] = []
        gave = np.zeros((40, 40))  # of each query, both heads of the KV head

        def alike(a: int, b: int, key: Any = key, value: Any = value) -> float:
            cosines = [
                float(of[a] @ of[b] / np.linalg.norm(of[a]) / np.linalg.norm(of[b]))
                for of in (key, value)
            ]
            return sum(cosines) / 2

        for i in range(40):
            end = int(at.ends(np.array([i]))[0])
            alive += [j for j in range(i, end) if j not in alive]
            merged = 0
            if i >= PROMPT and len(alive) > 9:
                sums = gave[:i, :].sum(axis=0), gave[max(i - 5, 0) : i, :].sum(axis=0)
                score = sum(of / of[alive].mean() for of in sums)
                free = [j for j in alive if j <= i - rule.recent(i + 1)]
                order = sorted(free, key=lambda j: (score[j], -j))
                leavers = sorted(order[: len(alive) - 9])
                alive = [j for j in alive if j not in leavers]
                for a in leavers:
                    near = max(alive, key=lambda j: alike(a, j))
                    if alike(a, near) < 0.1:
                        continue
                    merged += 2
                    share = sums[0][a] / (sums[0][a] + sums[0][near])
                    norms = np.linalg.norm(key[a]), np.linalg.norm(key[near])
                    middle = share * key[a] / norms[0] + (1 - share) * key[near] / norms[1]
                    length = share * norms[0] + (1 - share) * norms[1]
                    key[near] = middle / np.linalg.norm(middle) * length
                    value[near] = share * value[a] + (1 - share) * value[near]
            assert written[g, i] == merged
            for head in (2 * g, 2 * g + 1):
                scores = np.full(40, -np.inf)
                for j in alive:
                    if j < end and at.shown[i, j]:
                        score = float(at.query[0][head, i] @ key[j]) * at.scale
                        scores[j] = at.softcap * np.tanh(score / at.softcap) + at.bias[head, i, j]
                given_ = np.exp(scores)
                sink = 0.0 if at.sinks is None else float(np.exp(at.sinks[head]))
                given_ /= given_.sum() + sink
                np.testing.assert_allclose(told[head, i], given_ @ value, atol=1e-9)
                assert np.flatnonzero(kept[head, i]).tolist() == [
                    j for j in sorted(alive) if at.shown[i, j]
                ]
                gave[i] += given_


@given(seed=st.integers(0, 99), kind=st.sampled_from(EVERY), rows=st.sampled_from((6, 64)))
@SETTINGS
def test_tova_and_snapkv_rank_what_the_last_queries_give(seed: int, kind: str, rows: int) -> None:
    at = drawn(seed, kind)
    every = list(range(PROMPT))
    tova = at.decide({"kind": "tova", "budget_tokens": PROMPT}, rows)[0]
    given_ = at.gives(0, PROMPT - 1, every).mean(axis=0)[:PROMPT]
    worst = PROMPT - 1 - int(np.argmin(given_[::-1]))
    left = [j for j in range(PROMPT + 1) if j != worst and at.shown[PROMPT, j]]
    assert np.flatnonzero(tova[0, PROMPT]).tolist() == left
    rule = {"kind": "snapkv", "budget_tokens": 12, "window": 4, "kernel": 1}
    snap = at.decide(rule, rows)[0]
    for head in range(4):
        votes = sum(at.gives(0, i, every)[head] for i in range(PROMPT - 4, PROMPT))
        stays = best(votes[: PROMPT - 4], 8) | {*range(PROMPT - 4, 40)}
        for i in range(PROMPT, 40):
            expected = [j for j in range(i + 1) if j in stays and at.shown[i, j]]
            assert np.flatnonzero(snap[head, i]).tolist() == expected


@pytest.mark.parametrize("kind", EVERY)
def test_what_is_expected_of_queries_knows_no_mask(kind: str) -> None:
    plain = sequence(5)
    rule = {"kind": "expected_attention", "budget_tokens": 12, "sinks": 2, "rope_base": 1e4}
    at = masked(plain, 9, kind)
    dense = np.tri(40, dtype=bool)[PROMPT:]
    kept, same = (each.decide(rule)[0][:, PROMPT:] for each in (at, plain))
    assert (kept == (same & at.shown[PROMPT:])).all()
    assert not (same == dense).all()


@pytest.mark.parametrize("kind", EVERY)
def test_streaming_heads_keep_what_is_not_old(kind: str) -> None:
    at = masked(sequence(5), 9, kind)
    rule = {"kind": "duo_attention", "sinks": 3, "recent": 5,
            "retrieval_heads_by_layer": [[1]]}  # fmt: skip
    kept = at.decide(rule, 7)[0]
    i, j = np.indices((40, 40))
    streams = at.shown & ((j < 3) | (j > i - 5))
    for head in range(4):
        np.testing.assert_array_equal(kept[head], at.shown if head // 2 else streams)
