"""Rules that drop image tokens, against plain readings of their code; what they ask of a trace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from deciding import Sequence, best, masked, sequence
from hypothesis import given as given_by
from hypothesis import settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from accelsim.errors import TraceError
from accelsim.functional import run_policy
from accelsim.policies import Policy, load_policy, why_closed_loop_not, why_not
from accelsim.policies.selections.sparse_vlm import SparseVLM
from accelsim.policies.selections.todre import ToDRE
from accelsim.policies.selections.visual_score import VisualScore
from accelsim.traces import (
    IMAGE,
    SYSTEM,
    TEXT,
    VIDEO,
    AttentionTrace,
    MemoryTensors,
    load_trace,
    save_trace,
    synthetic_trace,
    validate_trace,
)

PROMPT, LAYERS = 32, 5
KINDS = np.full(40, TEXT, dtype=np.int8)
KINDS[:3], KINDS[3:13], KINDS[15:25] = SYSTEM, IMAGE, VIDEO
IMAGES = np.flatnonzero(KINDS >= IMAGE).tolist()
QUESTION = list(range(25, PROMPT))


class Recorded:
    """Random numbers of what a trace may hold beside queries, keys and values."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed + 200)
        self.embedding = rng.normal(size=(40, 6)).astype(np.float32)
        self._hidden = rng.normal(size=(LAYERS, 40, 6)).astype(np.float32)
        self._moved = rng.uniform(0, 1, (LAYERS, 2, 40, 2)).astype(np.float32)
        self._class = {n: rng.random((3, 20)).astype(np.float32) for n in (4, 7)}

    def index(self, layer: int) -> None:
        return None

    def hidden(self, layer: int) -> NDArray[np.float32]:
        return np.asarray(self._hidden[layer])

    def transition(self, layer: int) -> NDArray[np.float32]:
        return np.asarray(self._moved[layer])

    def class_attention(self) -> dict[int, NDArray[np.float32]]:
        return self._class


def seeing(seed: int) -> Sequence:
    scores = np.random.default_rng(seed + 100).random((LAYERS, 40)).astype(np.float32)
    return sequence(
        seed, layers=LAYERS, token_type=KINDS, scores={"transition": scores, "own": scores},
        recorded=Recorded(seed),
    )  # fmt: skip


def given(at: Sequence, layer: int, i: int, alive: list[int]) -> NDArray[Any]:
    """Probabilities [heads, tokens] that a query gives to what is left, zero elsewhere."""
    found = np.zeros((4, 40))
    seen = [j for j in alive if j <= i]
    for head in range(4):
        weights = np.exp(at.scale * at.key[layer][head // 2, seen] @ at.query[layer][head, i])
        found[head, seen] = weights / weights.sum()
    return found


def cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    a, b = a.astype(float), b.astype(float)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def least_alike(at: Sequence, images: list[int], count: int) -> set[int]:
    """ToDRE: one after the other, the image token least like those before."""
    found = at.shape.recorded
    assert found is not None
    assert found.embedding is not None
    looked = found.class_attention()[7].mean(axis=0)
    chosen = [max(images, key=lambda j: looked[IMAGES.index(j)])]
    while len(chosen) < count:
        like = {
            j: sum(cosine(found.embedding[j], found.embedding[k]) for k in chosen)
            for j in images
            if j not in chosen
        }
        chosen.append(min(like, key=lambda j: like[j]))
    return set(chosen)


def shares(at: Sequence, layer: int, alive: list[int]) -> tuple[float, float]:
    """ToDRE, equation 8: of what texts give, the part of images, and the other way round."""
    kinds = at.shape.token_type
    assert kinds is not None
    images = [j for j in alive if kinds[j] >= IMAGE]
    system = [j for j in alive if kinds[j] == SYSTEM]
    texts = [j for j in alive if kinds[j] == TEXT]
    if not system:
        first = int(np.flatnonzero(kinds >= IMAGE)[0])
        texts = [j for j in texts if j > first]
        system = [j for j in alive if kinds[j] == TEXT and j < first]
    if not texts or not images:
        return 1.0, 1.0  # a part of nothing is below nothing
    row = {i: at.gives(layer, i, alive).mean(axis=0) for i in images + texts}

    def part(rows: list[int], keys: list[int]) -> float:
        return float(
            sum(row[i][j] for i in rows for j in keys)
            / sum(row[i][j] for i in rows for j in system + images + texts)
        )

    return part(texts, images), part(images, texts)


def unlike_pivots(at: Sequence, layer: int, rule: dict[str, Any], images: list[int]) -> set[int]:
    """DART: pivots, and what each of them takes."""
    found = at.shape.recorded
    assert found is not None
    hidden = found.hidden(layer)
    assert hidden is not None
    pivots = rule["pivots"]
    size = {j: float(np.abs(at.key[layer - 1][:, j]).sum()) for j in range(PROMPT)}
    of_images = sorted(images, key=lambda j: -size[j])[:pivots]
    of_text = sorted(QUESTION, key=lambda j: -size[j])[:pivots]
    each = int(len(IMAGES) * rule["keep"][0] / (2 * pivots))
    left, stay = [j for j in images if j not in of_images], set(of_images)
    for pivot in of_images + of_text:
        taken = sorted(left, key=lambda j: cosine(hidden[j], hidden[pivot]))[:each]
        stay |= set(taken)
        left = [j for j in left if j not in taken]
    return stay


def raters(at: Sequence) -> list[int]:
    """SparseVLM: the tokens of the question that the images have to do with."""
    found = at.shape.recorded
    assert found is not None
    assert found.embedding is not None
    own = found.embedding.astype(float)
    given = np.zeros(len(QUESTION))
    for j in IMAGES:
        weights = np.exp([own[j] @ own[i] for i in QUESTION])
        given += weights / weights.sum() / len(IMAGES)
    return [i for i, weight in zip(QUESTION, given, strict=True) if weight > given.mean()]


def rated(at: Sequence, layer: int, rule: dict[str, Any], alive: list[int]) -> NDArray[Any]:
    """SparseVLM: what the raters give; its second version corrects it, and asks some heads."""
    own = {i: at.gives(layer, i, alive) for i in raters(at)}
    if "rope_base" in rule:
        half = at.shape.head_dim // 2

        def turned(position: int) -> NDArray[Any]:
            found = np.ones(2 * half)
            for pair in range(half):
                angle = position / rule["rope_base"] ** (pair / half)
                found[pair] = np.cos(angle) - np.sin(angle)
                found[pair + half] = np.cos(angle) + np.sin(angle)
            return found

        for i, row in own.items():
            for j in range(40):
                row[:, j] /= turned(i) @ turned(j) / np.sqrt(2 * half)
    images = [j for j in alive if j in IMAGES]
    sums = [sum(row[head, images].sum() for row in own.values()) for head in range(4)]
    heads = sorted(best(np.array(sums), rule.get("heads", 4)))
    return np.mean([row[heads].mean(axis=0) for row in own.values()], axis=0)


def moved_by(at: Sequence, layer: int, tokens: list[int]) -> NDArray[Any]:
    """TransPrune: transitions of a layer, of the tokens that it had."""
    found = at.shape.recorded
    assert found is not None
    changes = found.transition(layer)
    assert changes is not None
    total = np.zeros(PROMPT)
    for module in changes.astype(float):
        weights = np.exp([1 - module[j, 1] for j in tokens])
        for j, weight in zip(tokens, weights / weights.sum(), strict=True):
            total[j] += module[j, 0] * weight
    return total


def expected(at: Sequence, rule: dict[str, Any]) -> list[list[int]]:
    """Tokens of the prompt that each layer has, read from the codes of the rules."""
    kind, alive, found = rule["kind"], list(range(PROMPT)), []
    had: list[list[int]] = []
    stages = dict(zip(rule.get("layers", [0]), rule["keep"], strict=True))
    for layer in range(LAYERS):
        left = alive
        if layer in stages:
            images = [j for j in alive if j in IMAGES]
            last = given(at, layer, PROMPT - 1, alive).mean(axis=0)
            asked = np.array([given(at, layer, i, alive) for i in QUESTION])
            if kind in ("fastv", "pyramid_drop"):
                score = last[images]
            elif kind == "focus_sec":
                score = asked.max(axis=(0, 1))[images]
            elif kind == "visual_score":
                score = at.shape.scores["own"][layer][images]
            elif kind == "sparse_vlm":
                score = rated(at, layer, rule, alive)[images]
            elif kind in ("todre", "dart"):
                score = np.zeros(0)
            elif "score" in rule:
                first, end = rule["accumulate"]
                moved = sum(
                    moved_by(at, k, had[k])[images] for k in range(first, min(end, layer - 1) + 1)
                )
                looked = asked.mean(axis=(0, 1))[images]
                score = moved / (moved.sum() + 1e-8) + looked / (looked.sum() + 1e-8)
            else:
                first, end = rule["accumulate"]
                moved = sum(
                    at.shape.scores["transition"][k][images].astype(float)
                    for k in range(first, min(end, layer - 1) + 1)
                )
                score = moved / (moved.sum() + 1e-8)
                if rule.get("attention", True):
                    looked = asked.mean(axis=(0, 1))[images]
                    score = score + looked / (looked.sum() + 1e-8)
            count = int(stages[layer] * len(IMAGES) + 1e-9)
            count = max(count, 1) if kind == "focus_sec" else count
            if rule.get("recycle"):
                recycled = int((int((len(images) - count) * 0.3) + 1) / 10) + 1
                count += recycled
            if kind == "todre":
                stay = least_alike(at, images, count)
            elif kind == "dart":
                stay = unlike_pivots(at, layer, rule, images)
            else:
                stay = {images[k] for k in best(score, count)}
            left = [j for j in alive if j not in IMAGES or j in stay]
        before = kind not in ("fastv", "focus_sec", "sparse_vlm")
        had.append(left if before else alive)
        found.append(left if before else alive)
        alive = left
        late = kind == "todre" and layer in rule.get("check_after", [7 * LAYERS // 8 - 1])
        if late and max(shares(at, layer, alive)) < rule.get("threshold", 0.1):
            alive = [j for j in alive if j not in IMAGES]
    return found


RULES: list[dict[str, Any]] = [
    {"kind": "fastv", "layers": [1], "keep": [0.5]},
    {"kind": "fastv", "layers": [0, 2], "keep": [0.6, 0.0]},
    {"kind": "pyramid_drop", "layers": [1, 2, 4], "keep": [0.5, 0.25, 0.125]},
    {"kind": "focus_sec", "layers": [0, 1, 3], "keep": [0.4, 0.3, 0.01]},
    {"kind": "transprune", "layers": [2, 3], "keep": [0.8, 0.3], "accumulate": [1, 3]},
    {"kind": "transprune", "layers": [2, 4], "keep": [0.8, 0.3], "accumulate": [0, 1],
     "attention": False},
    {"kind": "visual_score", "score": "own", "layers": [0, 3], "keep": [0.5, 0.2]},
    {"kind": "transprune", "layers": [2, 4], "keep": [0.8, 0.3], "accumulate": [0, 3],
     "score": "not there"},
    {"kind": "sparse_vlm", "layers": [0, 2], "keep": [0.6, 0.25]},
    {"kind": "todre", "layers": [0], "keep": [0.3]},
    {"kind": "dart", "layers": [2], "keep": [0.45], "pivots": 2},
    {"kind": "sparse_vlm", "layers": [0, 2], "keep": [0.6, 0.2], "recycle": True},
    {"kind": "sparse_vlm", "layers": [0, 2], "keep": [0.6, 0.25], "heads": 2},
    {"kind": "sparse_vlm", "layers": [1], "keep": [0.4], "rope_base": 1e6},
    {"kind": "sparse_vlm", "layers": [1, 3], "keep": [0.6, 0.4], "heads": 1, "rope_base": 5e4},
    {"kind": "todre", "keep": [0.3], "threshold": 0.9},
    {"kind": "todre", "keep": [0.7], "threshold": 0.4, "check_after": [0, 3]},
    {"kind": "todre", "layers": [1], "keep": [0.7], "threshold": 0.9, "check_after": [2, 3]},
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["kind"])
@pytest.mark.parametrize("rows", [1 << 20, 9])
@pytest.mark.parametrize("seed", range(2))
def test_image_tokens_leave_as_the_code_says(rule: dict[str, Any], rows: int, seed: int) -> None:
    at = seeing(seed)
    kept = at.decide(rule, rows)
    layers = expected(at, rule)
    assert len(layers[-1]) < PROMPT
    for layer, alive in enumerate(layers):
        for i in range(40):
            after = list(range(PROMPT, i + 1))
            tokens = [j for j in alive if j <= i] + after if i in alive or i >= PROMPT else []
            for head in range(4):
                assert np.flatnonzero(kept[layer, head, i]).tolist() == tokens, (layer, i)


@given_by(
    kinds=st.lists(st.sampled_from([SYSTEM, TEXT, IMAGE, VIDEO]), min_size=2, max_size=14),
    threshold=st.floats(0.02, 0.98),
    seed=st.integers(0, 99),
    only_text=st.booleans(),
    mask=st.sampled_from(["plain", "none", "window", "random", "prefix"]),
)
@settings(max_examples=200, deadline=None)
def test_images_leave_where_two_shares_are_small(
    kinds: list[int], threshold: float, seed: int, only_text: bool, mask: str
) -> None:
    """Any order of system, text and images, under masks, biases and sinks; text is decoded."""
    own = np.full(40, TEXT, dtype=np.int8)
    own[: len(kinds)] = [TEXT if only_text and kind == SYSTEM else kind for kind in kinds]
    hypothesis.assume((own >= IMAGE).any())
    at = sequence(seed, layers=3, prompt=len(kinds), token_type=own)
    if mask == "prefix":
        inside = np.arange(40) < len(kinds)
        at = replace(at, seen=at.shown | inside[:, None] & inside)
    elif mask != "plain":
        at = masked(at, seed, mask)
    rule = {"kind": "todre", "keep": [1.0], "threshold": threshold, "check_after": [1]}
    kept = at.decide(rule)
    both = shares(at, 1, list(range(len(kinds))))
    hypothesis.assume(abs(max(both) - threshold) > 1e-9)
    leave = max(both) < threshold
    hypothesis.event("leave" if leave else "stay")
    left = at.shown[-1] & (not leave or own < IMAGE)
    assert (kept[2, :, -1] == left).all()
    assert (kept[:2, :, -1] == at.shown[-1]).all()
    texts = [j for j in range(len(kinds)) if own[j] == TEXT]
    if not (own == SYSTEM).any():
        texts = [j for j in texts if j > np.flatnonzero(own >= IMAGE)[0]]
    images = [j for j in range(len(kinds)) if own[j] >= IMAGE]
    pairs = [(i, j) for i in texts for j in images] + [(i, j) for i in images for j in texts]
    added = sum(int(at.shown[i, j]) for i, j in pairs)
    first = at.decisions[1][0]
    assert (first.score_updates[:, 0] == (2 * added if texts else 0)).all()
    assert not first.work["size"].any()


def test_settings_of_the_second_stage() -> None:
    at = seeing(0)
    at.decide({"kind": "todre", "keep": [0.3]})
    updates = [[int(d.score_updates.sum()) for d in at.decisions[k]] for k in range(LAYERS)]
    assert [k for k, own in enumerate(updates) if any(own)] == [3]  # 7/8 of five layers end there
    at.decide({"kind": "todre", "keep": [0.3], "threshold": 0.0})
    assert not any(d.score_updates.any() for k in range(LAYERS) for d in at.decisions[k])
    found = {n: ToDRE(kind="todre").checks(n) for n in (1, 2, 7, 8, 28, 32, 40)}
    assert found == {1: (0,), 2: (0,), 7: (5,), 8: (6,), 28: (23,), 32: (27,), 40: (34,)}


def test_what_the_stages_of_todre_need(tmp_path: Path) -> None:
    plain = trace_with(tmp_path, token_type=KINDS)

    def explain(trace: AttentionTrace, **changes: Any) -> str:
        rule = {"kind": "todre", "keep": [0.3]} | changes
        return why_not(Policy.model_validate({"selection": rule}), trace)

    assert "'embedding'" in explain(plain)
    assert explain(plain, keep=[1.0]) == ""  # the second stage needs nothing beside
    told = trace_with(tmp_path, token_type=KINDS, embedding=np.eye(40, 6, dtype=np.float32))
    assert "of 20 patches, or 'pivot: random'" in explain(told)
    assert explain(told, pivot="random") == ""
    late = "looks after layer 4, counted from 0; expected 6 layers or more, found 5"
    assert late in explain(told, pivot="random", check_after=[4])
    assert explain(told, pivot="random", check_after=[4], threshold=0.0) == ""
    rule = {"kind": "todre", "keep": [0.3], "pivot": "random", "threshold": 0.0}
    w = run_policy(told, Policy.model_validate({"selection": rule})).workload
    assert w.key_indices is not None
    assert len(set(w.key_indices[0].tolist()) & set(IMAGES)) == 6


def test_what_ranking_costs() -> None:
    at = seeing(0)

    def cost(rule: dict[str, Any], layer: int) -> tuple[int, int, int, int]:
        at.decide(rule, rows=10)
        first, *others = at.decisions[layer]
        assert not any(d.work["size"].any() or d.score_updates.any() for d in others)
        assert not first.work["size"][1:].any()  # one selection of the layer
        work = first.work[0, 0]
        reads, updates = first.metadata_vectors[:, 0], first.score_updates[:, 0]
        assert reads[0] == reads[1]
        assert updates[0] == updates[1]
        return int(work["size"]), int(work["target"]), int(reads[0]), int(updates[0])

    # Twenty images; two query heads a KV head; seven tokens behind the last image.
    assert cost(RULES[0], 1) == (20, 10, 0, 2 * 20)
    assert cost(RULES[2], 1) == (20, 10, PROMPT, 2 * 20)
    assert cost(RULES[2], 2) == (10, 5, PROMPT - 10, 2 * 10)
    assert cost(RULES[3], 0) == (20, 8, 0, 2 * 20 * 7)
    assert cost(RULES[4], 2) == (20, 16, PROMPT, 2 * 20 * (1 + 7))
    assert cost(RULES[6], 0) == (20, 10, 0, 2 * 20)
    assert cost(RULES[7], 2) == (20, 16, PROMPT, 2 * 20 * (2 + 7))
    assert cost(RULES[8], 0) == (20, 12, 0, 2 * 20 * len(raters(at)))
    assert cost(RULES[9], 0) == (20, 6, 0, 0)
    # Twenty images for two pivots, seven tokens for two, then 18, 16, 14 and 12 for two each.
    assert cost(RULES[10], 2) == (20, 2, PROMPT, 0)


def test_sparse_vlm_counts_what_its_first_version_recycles() -> None:
    """576 image tokens: 300, 200 and 110 stay, and 9, 4 and 3 are made of those that leave."""
    rule = SparseVLM(kind="sparse_vlm", recycle=True)
    left, found = 576, []
    for keep in rule.keep:
        count = rule.count(keep, 576)
        left = count + rule.made_of(left - count)
        found.append((count, left))
    assert found == [(300, 309), (200, 204), (110, 113)]
    assert SparseVLM(kind="sparse_vlm").made_of(276) == 0


def test_presets_keep_as_many_of_729_or_576_as_their_codes() -> None:
    """VFlowOpt rounds what leaves of what is left, by its parts of 25 %; SparseVLM+ has a list."""
    left, found = 729, []
    for part in (0.2651026358526424, 0.9833433139039235, 0.8773258179532721):
        left -= round(left * (1 - part))
        found.append(left)
    rule = load_policy("vflowopt").selection
    assert isinstance(rule, VisualScore)
    assert [rule.count(keep, 729) for keep in rule.keep] == found == [193, 190, 167]
    plus = load_policy("sparse-vlm-plus").selection
    assert isinstance(plus, SparseVLM)
    assert [plus.count(keep, 576) for keep in plus.keep] == [300, 200, 118]


def test_sparse_vlm_plus_needs_its_heads(tmp_path: Path) -> None:
    at = seeing(0)
    at.decide({"kind": "sparse_vlm", "layers": [0], "keep": [0.6], "heads": 2})
    of_two = at.decisions[0][0].work[0, 0]
    at.decide({"kind": "sparse_vlm", "layers": [0], "keep": [0.6], "heads": 4})
    of_all = at.decisions[0][0].work[0, 0]
    assert of_two["size"] == of_all["size"] == 20
    assert of_two["passes"] > of_all["passes"]  # a search among four heads
    trace = trace_with(tmp_path, token_type=KINDS, embedding=np.eye(40, 6, dtype=np.float32))
    rule = {"kind": "sparse_vlm", "layers": [0], "keep": [0.6], "heads": 5}
    explain = why_not(Policy.model_validate({"selection": rule}), trace)
    assert "asks 5 heads; expected a model that has them, found 4" in explain


@pytest.mark.parametrize("least", [PROMPT, PROMPT + 1])
def test_a_short_prompt_keeps_its_images(least: int) -> None:
    kept = seeing(0).decide({"kind": "fastv", "layers": [1], "keep": [0.5], "min_keys": least})
    assert kept[-1, :, -1].all() == (least > PROMPT)


def trace_with(tmp_path: Path, **tensors: NDArray[Any]) -> AttentionTrace:
    trace = synthetic_trace(num_layers=LAYERS, prefill_tokens=PROMPT, decode_tokens=8)
    own = {name: trace.tensors.read(name) for name in trace.tensors.names()}
    trace = replace(trace, tensors=MemoryTensors(own | tensors))
    save_trace(trace, tmp_path / "t.safetensors", dtype=np.float32)
    found = load_trace(tmp_path / "t.safetensors")
    validate_trace(found)
    return found


def test_bytes_fall_in_prompt_and_decode_from_a_layer_on(tmp_path: Path) -> None:
    trace = trace_with(tmp_path, token_type=KINDS)
    policy = Policy.model_validate({"selection": RULES[0]})
    run, dense = run_policy(trace, policy), run_policy(trace, load_policy("dense"))
    w, d = run.workload, dense.workload
    for step in (0, 8):
        for layer in range(LAYERS):
            here = (w["layer"] == layer) & (w["step"] == step)
            there = (d["layer"] == layer) & (d["step"] == step)
            fewer = 10 if layer > 1 else 0
            assert (d["keys"][there] - w["keys"][here] == fewer).all()
            lost = trace.group * fewer if step == 0 else 0
            assert (d["queries"][there] - w["queries"][here] == lost).all()
    assert run.accuracy["kept_query_fraction"] == 1 - 3 * 10 / (LAYERS * 40)


def test_imported_scores_are_of_the_trace(tmp_path: Path) -> None:
    score = np.random.default_rng(0).random((LAYERS, 40)).astype(np.float32)
    trace = trace_with(tmp_path, token_type=KINDS, **{"score.own": score})
    np.testing.assert_array_equal(trace.scores["own"], score)
    rule = {"kind": "visual_score", "score": "mine", "layers": [0], "keep": [0.5]}
    explain = why_not(Policy.model_validate({"selection": rule}), trace)
    assert "'score.mine'; expected it in the trace, has own" in explain
    policy = Policy.model_validate({"selection": {**rule, "score": "own"}})
    w = run_policy(trace, policy).workload
    assert w.key_indices is not None
    stay = {IMAGES[k] for k in best(score[0][IMAGES], 10)}
    assert set(w.key_indices[0].tolist()) & set(IMAGES) == stay
    with pytest.raises(TraceError, match=r"'score\.own': expected float32 \[5, 40\]"):
        trace_with(tmp_path, **{"score.own": score[:2]})
    with pytest.raises(TraceError, match=r"'score\.own' holds NaN or infinity"):
        trace_with(tmp_path, **{"score.own": np.full_like(score, np.nan)})


@pytest.mark.parametrize("name", ["fastv", "pyramid-drop", "focus-sec", "transprune", "vtc-cls"])
def test_a_text_has_no_images(name: str, tmp_path: Path) -> None:
    policy = load_policy(name)
    text = trace_with(tmp_path)
    assert "expected" in why_not(policy, text)
    explain = why_closed_loop_not(policy, causal=True, prompt_tokens=4, token_ids=[1, 2, 3, 4, 5])
    assert "prunes tokens of images" in explain
    late = np.full(40, TEXT, dtype=np.int8)
    late[PROMPT + 1] = IMAGE
    fitting = Policy.model_validate({"selection": RULES[0]})
    assert "its prompt has some" in why_not(fitting, trace_with(tmp_path, token_type=late))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": [1, 2]}, "as many 'layers' as parts to 'keep'"),
        ({"layers": [2, 1], "keep": [0.5, 0.5]}, "ascending 'layers'"),
        ({"keep": [1.5]}, "less than or equal to 1"),
        ({"kind": "transprune", "layers": [2], "keep": [0.5], "accumulate": [2, 3]},
         "'accumulate' to begin before"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Policy.model_validate(
            {"selection": {"kind": "fastv", "layers": [1], "keep": [0.5]} | change}
        )


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["kind"])
@pytest.mark.parametrize(("prefill", "decode"), [(1, 0), (1, 3), (2, 1), (5, 2)])
@pytest.mark.parametrize("all_images", [True, False])
def test_short_prompts(rule: dict[str, Any], prefill: int, decode: int, all_images: bool) -> None:
    trace = synthetic_trace(num_layers=LAYERS, prefill_tokens=prefill, decode_tokens=decode)
    kinds = np.full(trace.tokens, TEXT, dtype=np.int8)
    kinds[: prefill if all_images else max(prefill - 1, 1)] = IMAGE
    scores = np.ones((LAYERS, trace.tokens), dtype=np.float32)
    own = {name: trace.tensors.read(name) for name in trace.tensors.names()}
    images = int((kinds[:prefill] == IMAGE).sum())
    own |= {"token_type": kinds, "score.own": scores, "score.transition": scores}
    own |= {"score.not there": scores, "embedding": scores.T.copy()}
    own |= {f"layer.{n}.hidden": scores.T.copy() for n in range(LAYERS)}
    own |= {"vision.layer.0.cls": np.ones((2, images), dtype=np.float32)}
    trace = replace(trace, tensors=MemoryTensors(own))
    policy = Policy.model_validate({"selection": rule})
    if why_not(policy, trace):
        assert not decode
        return
    w = run_policy(trace, policy).workload
    assert w.key_indices is not None
    for step, context, keys in zip(w["step"], w["context_tokens"], w.key_indices, strict=True):
        assert not step or context - 1 in keys.tolist()
