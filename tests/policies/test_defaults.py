"""What a policy does where its YAML is silent: a default that moves, moves the results of others.

The settings of the papers, as in the docstrings of the rules and in docs/policies.md.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pydantic
import pytest

from accelsim.policies import heads, kivi, quantization, selector, tokens, values
from accelsim.policies._registry import every_selection
from accelsim.policies.a3 import A3Rule
from accelsim.policies.mnnfast import MnnFastRule

CACHE: dict[str, Any] = {"min_keys": 0, "taper": 0.0, "floor_tokens": 0}
SELECTIONS: dict[str, dict[str, Any]] = {
    "centrality": {
        **CACHE, "share": "kv_head", "damping": 0.15, "iterations": 3, "sinks": 4, "recent": 8
    },
    "dart": {"min_keys": 0, "layers": (5,), "keep": (0.2222,), "pivots": 4},
    "dhsa": {**CACHE, "share": "query_head", "chunk_tokens": 8, "sinks": 4, "local": 8},
    "dhsa_blocks": {
        "min_keys": 0, "mode": "vs", "query_block": 128, "key_block": 32, "density": 0.125,
        "vertical_share": 0.5,
    },
    "dsa_indexer": {"min_keys": 0, "top_k": 2048, "index_bits": 8, "scale_bits": 32},
    "duo_attention": {"min_keys": 0, "sinks": 128, "recent": 256, "window": 32},
    "ems": {**CACHE, "share": "kv_head", "recent_fraction": 0.25, "history": 32, "similarity": 0.6},
    "expected_attention": {
        **CACHE, "share": "kv_head", "rope_factor": 1.0, "future_tokens": 512, "sinks": 4,
        "covariance": True, "value_norm": True,
    },
    "fastv": {"min_keys": 0, "layers": (1,), "keep": (0.5,)},
    "focus_sec": {
        "min_keys": 0, "layers": (3, 6, 9, 18, 26), "keep": (0.4, 0.3, 0.2, 0.15, 0.1)
    },
    "h2o": {**CACHE, "share": "query_head", "recent_fraction": 0.5},
    "keydiff": {**CACHE, "share": "kv_head", "anchor": "cache"},
    "knorm": {**CACHE, "share": "kv_head"},
    "moba": {"min_keys": 0, "block_tokens": 512, "blocks": 3, "share": "query_head"},
    "pyramid_drop": {"min_keys": 0, "layers": (8, 16, 24), "keep": (0.5, 0.25, 0.125)},
    "quest": {**CACHE, "share": "query_head", "page_tokens": 16, "dense_layers": 2},
    "scissorhands": {
        **CACHE, "share": "query_head", "recent_fraction": 0.5, "history": 32, "drop": 8
    },
    "snapkv": {**CACHE, "share": "query_head", "window": 32, "kernel": 5, "pooling": "mean"},
    "sparse_vlm": {
        "min_keys": 0, "layers": (2, 6, 15), "keep": (0.5209, 0.3473, 0.191), "recycle": False
    },
    "streaming_llm": {**CACHE, "share": "layer", "sinks": 4},
    "todre": {
        "min_keys": 0, "layers": (0,), "keep": (0.1,), "pivot": "cls", "threshold": 0.1
    },
    "tova": {**CACHE, "share": "layer", "recent_tokens": 0},
    "transprune": {
        "min_keys": 0, "score": "transition", "layers": (7, 9, 12), "keep": (0.875, 0.625, 0.125),
        "accumulate": (6, 11), "attention": True,
    },
    "visual_score": {"min_keys": 0},
    "vertical_slash": {
        "min_keys": 0, "vertical": 1000, "slash": 6096, "window": 64, "first": 30, "recent": 100,
        "block_tokens": 64,
    },
    "zero_tprune": {
        "min_keys": 0,
        "keep_importance": 0.9,
        "keep_similarity": 0.9,
        "after_layers": (0.25, 0.5, 0.75),
        "protect_first": 1,
        "iterations": 30,
        "tolerance": 1e-6,
    },
    "zero_tprune_published": {
        "min_keys": 0,
        "keep_similarity": 0.9,
        "keep_importance": 0.9,
        "after_layers": (0.25, 0.5, 0.75),
        "protect_first": 1,
        "iterations": (30, 5, 1),
    },
}  # fmt: skip
PARTS: dict[type[pydantic.BaseModel], dict[str, Any]] = {
    quantization.StaticQuantization: {"key_bits": 12, "value_bits": 12, "scale": "per_tensor"},
    quantization.ProgressiveQuantization: {
        "msb_bits": 8, "lsb_bits": 4, "threshold": 0.1, "split": "round", "scale": "per_tensor"
    },
    tokens.Protect: {"first": 4, "recent": 32},
    tokens.CascadeTokens: {
        "front": 0.15,
        "importance": "protected",
        "per_query": False,
        "permanent": True,
        "accumulate": "steps",
        "floor_tokens": 0,
        "min_keys": 0,
    },
    heads.CascadeHeads: {"front": 0.30, "accumulate": "steps", "min_keys": 0},
    values.LocalValues: {"min_keys": 0},
    kivi.KiviQuantization: {
        "key_bits": 4,
        "value_bits": 4,
        "group_tokens": 32,
        "group_channels": 32,
        "residual_tokens": 128,
    },
}  # fmt: skip


def defaults(model: type[pydantic.BaseModel]) -> dict[str, Any]:
    """Defaults of a part of a policy, but for what is absent by default."""
    found = {
        name: field.default
        for name, field in model.model_fields.items()
        if not field.is_required() and name != "kind"
    }
    return {n: v for n, v in found.items() if isinstance(v, (int, float, str, tuple))}


@pytest.mark.parametrize("part", every_selection(), ids=lambda part: part.__name__)
def test_settings_of_selections(part: Any) -> None:
    (kind,) = part.model_fields["kind"].annotation.__args__
    if kind in SELECTIONS:
        assert defaults(part) == SELECTIONS[kind]
    else:
        # Nothing but what every selection has: a file of decisions, a rule of another package.
        assert defaults(part).get("min_keys") == 0


def test_every_rule_of_a_paper_is_listed() -> None:
    here = [part for part in every_selection() if part.__module__.startswith("accelsim.")]
    kinds = {part.model_fields["kind"].annotation.__args__[0] for part in here}  # type: ignore[union-attr]
    assert kinds - {"recorded"} == set(SELECTIONS)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_settings_of_parts(part: type[pydantic.BaseModel]) -> None:
    assert defaults(part) == PARTS[part]


def test_settings_of_rivals() -> None:
    # A3: M = half of the keys, T = 5 %, 4 + 4 bits and a sign (HPCA 2020, §III-B, §VI-B).
    assert dataclasses.asdict(A3Rule()) == {
        "iterations": 0.5,
        "threshold": 0.05,
        "integer_bits": 4,
        "fraction_bits": 4,
        "range_fit": "power-of-two",
    }
    assert A3Rule().element_bits == 9
    assert dataclasses.asdict(MnnFastRule()) == {
        "threshold": 0.1,
        "chunk_rows": 64,
        "element_bits": 12,
        "fetch_skipped": True,
    }


@pytest.mark.parametrize("part", every_selection(), ids=lambda part: part.__name__)
def test_a_rule_draws_from_seed_0_if_not_told(part: Any) -> None:
    assert inspect.signature(part.selector).parameters["seed"].default == 0
    assert inspect.signature(selector.selector_for).parameters["seed"].default == 0
