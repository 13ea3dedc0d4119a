"""A selection rule from outside the package is a policy like any other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from accelsim.errors import ConfigError
from accelsim.functional import run_policy
from accelsim.policies import (
    Budgeted,
    Needs,
    Policy,
    SelectionPart,
    _registry,
    load_policy,
    register_selection,
    selection_kinds,
)
from accelsim.policies.selections.streaming_llm import StreamingLLM
from accelsim.policies.selector import Block, Decision, Selector, Shape
from accelsim.traces import synthetic_trace


class Window(Budgeted):
    kind: Literal["window"]
    needs: ClassVar[Needs] = Needs(selection="none")

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        return WindowSelector(self, shape, seed)


class WindowSelector(Selector):
    def __init__(self, rule: Window, shape: Shape, seed: int = 0) -> None:
        super().__init__(shape, seed)
        self.rule = rule

    def run(self, block: Block) -> Decision:
        decision = Decision.empty(block, self.shape.num_kv_heads)
        token, seen = np.arange(block.scores.shape[2]), block.visible[:, None]
        newest = np.array([[self.rule.budget(int(n))] for n in block.visible])
        newest = np.where(seen <= self.shape.prompt_tokens, seen, newest)
        decision.kept[:] = (token >= seen - newest) & (token < seen)
        self.attend(block, decision)
        return decision


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    register_selection(Window)
    yield
    _registry._REGISTERED.pop("window")


def test_it_decides_as_the_rule_of_the_package_that_it_copies(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text("selection: {kind: window, budget_tokens: 6}")
    trace = synthetic_trace(head_dim=16)
    own = run_policy(trace, load_policy(str(tmp_path / "w.yaml")))
    sinkless: dict[str, Any] = {"kind": "streaming_llm", "budget_tokens": 6, "sinks": 0}
    known = run_policy(trace, Policy.model_validate({"selection": sinkless}))
    assert own.workload.policy_bytes() == known.workload.policy_bytes()
    assert own.accuracy == known.accuracy


def test_its_settings_survive_json() -> None:
    policy = Policy.model_validate({"selection": {"kind": "window", "budget_tokens": 6}})
    text = policy.model_dump_json()
    assert '"budget_tokens":6' in text
    assert Policy.model_validate_json(text) == policy
    assert isinstance(policy.selection, Window)


def test_mistakes_are_explained(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    for text, message in (
        ("{kind: window, budget: 6}", "selection 'window': unknown key 'budget', did you mean"),
        (
            "{kind: window, budget_tokens: 0}",
            "selection 'window': key 'budget_tokens': expected greater",
        ),
        ("{kind: h2o, budget_tokens: 8, sinks: 2}", "selection 'h2o': unknown key 'sinks'"),
        ("{kind: windo, budget_tokens: 8}", "unknown selection 'windo', did you mean 'window'"),
        (
            "{budget_tokens: 8}",
            "expected a mapping with 'kind', one of centrality, dart, dhsa",
        ),
    ):
        path.write_text(f"selection: {text}")
        with pytest.raises(ConfigError) as caught:
            load_policy(str(path))
        assert f"w.yaml: key 'selection': {message}" in str(caught.value).replace("; did", ", did")
        assert len(str(caught.value).replace(str(tmp_path), "")) <= 300
    with pytest.raises(ConfigError, match="'streaming_llm' is one of accelsim's"):
        register_selection(StreamingLLM)
    with pytest.raises(ConfigError, match="expected a field kind"):
        register_selection(SelectionPart)


def test_every_kind_has_a_file_and_a_preset() -> None:
    from accelsim.configs import preset_names

    parts = [load_policy(name).selection for name in preset_names("policies")]
    shipped = {part.kind for part in parts if part is not None}
    # The rule of another package, and the one that needs a file.
    assert {*shipped, "window", "recorded"} == set(selection_kinds())
