"""The contract of every policy, and what only some of the family promise."""

from __future__ import annotations

import numpy as np
import pytest

from accelsim.configs import preset_names
from accelsim.errors import ConfigError, SimulationError, TraceError
from accelsim.functional import run_policy
from accelsim.functional.closed_loop import policy_attention
from accelsim.policies import Needs, applicable, load_policy, load_policy_spec
from accelsim.testing import PolicyContract
from accelsim.testing._policies import _decoder, _encoder, _indexed, _seeing
from accelsim.traces import AttentionTrace
from accelsim.traces.capture import ModelShape

DECODER, ENCODER, SEEING, INDEXED = _decoder(), _encoder(), _seeing(), _indexed()
# Tuned presets are other settings of rules that are here, for longer contexts than these.
NAMES = [n for n in preset_names("policies") if not n.endswith(("-1pct", "-needle"))]
SHORT = {
    "dsa-indexer": "top_k=7",
    "dhsa-blocks": "query_block=8,selection.key_block=4,selection.density=0.3",
    "vertical-slash": "vertical=6,selection.slash=8,selection.recent=4,selection.block_tokens=4",
}
"""Sizes that act in traces of 64 tokens, where those of a preset are for long ones."""
FAMILY = [
    f"{n}:selection.{SHORT[n]}" if n in SHORT else n
    for n in NAMES
    if load_policy(n).selection is not None
]
LAYERS = "heads.accumulate=layers,tokens.accumulate=layers"
EVERY = [
    *FAMILY,
    "h2o:selection.head_floor=0.2",
    "knorm:selection.head_floor=0.2",
    "keydiff:selection.head_floor=0.2",
    "kivi-4",
    "per-token-4",
    "spatten-tokens",
    "spatten-tokens-paper-rule",
    "spatten-heads",
    "spatten-full",
    "spatten-encoder",
    "spatten-pruned:tokens.permanent=false,tokens.per_query=true,values.min_keys=9",
    "spatten-tokens:tokens.accumulate=layers",
    "spatten-heads:heads.accumulate=layers",
    f"spatten-full:{LAYERS}",
    f"spatten-pruned:{LAYERS},tokens.permanent=false,tokens.per_query=true",
]


class TestEveryPolicy(PolicyContract):
    """The contract, policy by policy."""

    @pytest.fixture(autouse=True, params=EVERY)
    def _name(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(type(self), "policy", request.param, raising=False)


@pytest.mark.parametrize("name", FAMILY)
def test_the_amounts_are_those_of_the_needs(name: str) -> None:
    policy = load_policy_spec(name)
    assert policy.selection is not None
    needs = policy.selection.needs
    trace = next(t for t in (DECODER, ENCODER, SEEING, INDEXED) if applicable(policy, t))
    w = run_policy(trace, policy).workload
    assert (w["write_back_bytes"].sum() > 0) == needs.write_backs or needs.merges
    assert (w["metadata_bytes"].sum() > 0) == needs.metadata
    assert (w["score_updates"].sum() > 0) == needs.updates
    assert (w["index_products"].sum() > 0) == needs.products
    assert (w["select_size"].max() > 0) == (needs.selection != "none")


@pytest.mark.parametrize("name", ["h2o", "scissorhands", "snapkv", "quest", "dhsa"])
def test_grouped_heads_pay_for_the_union(name: str) -> None:
    w = run_policy(DECODER, load_policy(name)).workload
    decode = w["step"] > 0
    assert (w["queries"][decode] == DECODER.group).all()
    assert (w["keys"] * DECODER.group >= w["query_keys"])[decode].all()
    assert (w["keys"] * DECODER.group > w["query_keys"])[decode].any()


def test_the_readings_of_the_cascade_differ() -> None:
    by_step, by_layer = (
        run_policy(DECODER, load_policy_spec(f"spatten-tokens:tokens.accumulate={reading}"))
        for reading in ("steps", "layers")
    )
    assert int(by_step.workload["query_keys"].sum()) == 40668
    assert int(by_layer.workload["query_keys"].sum()) == 43260
    # By step, what left the prompt has no query any more.
    assert by_step.accuracy["kept_query_fraction"] < 1 == by_layer.accuracy["kept_query_fraction"]
    assert by_layer.workload["select_passes"].sum() > 0


def test_a_cascade_by_step_refuses_many_tokens_at_once() -> None:
    attend = policy_attention(
        load_policy("spatten-tokens"), ModelShape(4, 6, 2, 8, 512), 64, causal=True
    )
    tensors = DECODER.query(0), DECODER.key(0), DECODER.value(0)
    with pytest.raises(SimulationError, match="token by token"):
        attend(0, *tensors, np.arange(DECODER.tokens))


@pytest.mark.parametrize("name", [*FAMILY, "kivi-4"])
def test_what_does_not_apply_is_refused(name: str) -> None:
    policy = load_policy_spec(name)
    other: AttentionTrace = ENCODER if applicable(policy, DECODER) else DECODER
    with pytest.raises(TraceError, match="expected"):
        run_policy(other, policy)


@pytest.mark.parametrize(
    ("name", "need"),
    [("h2o", "updates"), ("quest", "write_backs"), ("ems", "updates, merges")],
)
def test_a_rule_that_asks_for_more_than_it_declares_is_refused(
    name: str, need: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_policy(name)
    monkeypatch.setattr(type(policy.selection), "needs", Needs(selection="every_step"))
    with pytest.raises(ConfigError, match=f"selection '{name}' asks for {need}; expected"):
        run_policy(DECODER, policy)
