"""Selectors: the rules of the policies at work on scores, one contract for open and closed loop."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, get_args

from accelsim.errors import ConfigError
from accelsim.functional.selection._base import (
    Block,
    Decision,
    KeepAll,
    Selector,
    Shape,
    Staged,
    stage_of,
)
from accelsim.functional.selection._blocks import DHSASelector, QuestSelector
from accelsim.functional.selection._cascade import CascadeSelector
from accelsim.functional.selection._encoder import EncoderCascadeSelector, ZeroTPruneSelector
from accelsim.functional.selection._eviction import (
    H2OSelector,
    ScissorhandsSelector,
    TOVASelector,
)
from accelsim.functional.selection._merging import EMSSelector
from accelsim.functional.selection._positional import SnapKVSelector, StreamingLLMSelector
from accelsim.policies import Policy, Selection, SelectionPart, register_selection

__all__ = [
    "Block",
    "Decision",
    "Selector",
    "Shape",
    "register_selector",
    "selector_for",
    "stage_of",
]

_SELECTORS: dict[str, Callable[[Any, Shape, int], Selector]] = {
    "dhsa": DHSASelector,
    "ems": EMSSelector,
    "h2o": H2OSelector,
    "quest": QuestSelector,
    "scissorhands": ScissorhandsSelector,
    "snapkv": SnapKVSelector,
    "streaming_llm": StreamingLLMSelector,
    "tova": TOVASelector,
    "zero_tprune": ZeroTPruneSelector,
}
"""Selector of each ``kind`` of :data:`accelsim.policies.Selection`."""
_BUILTIN = frozenset(_SELECTORS)


def register_selector(
    part: type[SelectionPart], selector: Callable[[Any, Shape, int], Selector]
) -> None:
    """Make a selection rule from outside the package known to this process.

    Policies can then name it, and it runs open loop, closed loop and through the accelerators.

    Args:
        part: its settings; the only value of its field ``kind`` is its name.
        selector: (settings, shape, seed) to the rule at work.

    Raises:
        ConfigError: a part without a single ``kind``, or one with the name of a rule of accelsim.
    """
    names = get_args(part.model_fields["kind"].annotation) if "kind" in part.model_fields else ()
    if len(names) != 1:
        raise ConfigError(f"{part.__name__}: expected a field kind: Literal['its-name']")
    kind = str(names[0])
    if kind in _BUILTIN:
        raise ConfigError(f"selection '{kind}' is one of accelsim's; choose another name")
    register_selection(kind, part)
    _SELECTORS[kind] = selector


def selector_for(policy: Policy, shape: Shape, seed: int = 0) -> Selector:
    """Return a selector for one sequence.

    Args:
        policy: what to keep.
        shape: of the model and the run.
        seed: of the pivots of the top-k engine; changes pass counts, never decisions.
    """
    stages = policy.by_stage()
    taking_place = list(stages.values()) if shape.causal else [stages["prefill"]]
    if any(p.selection is not None for p in taking_place):
        if not shape.causal:
            return _selector(stages["prefill"].selection, shape, seed)
        return _staged(stages["prefill"].selection, stages["decode"].selection, shape, seed)
    if all(p.tokens is None and p.heads is None for p in taking_place):
        return KeepAll(shape, seed)
    if not shape.causal:
        return EncoderCascadeSelector(policy, shape, seed)
    return CascadeSelector(policy, shape, seed)


def _selector(rule: Selection | None, shape: Shape, seed: int) -> Selector:
    return KeepAll(shape, seed) if rule is None else _SELECTORS[rule.kind](rule, shape, seed)


def _staged(
    prefill: Selection | None, decode: Selection | None, shape: Shape, seed: int
) -> Selector:
    rule = prefill if decode is None else decode
    assert rule is not None
    if prefill == decode or not rule.in_prompt:
        # Such a rule sees the prompt to learn from it, and leaves it dense.
        return _selector(decode, shape, seed)
    if prefill is None:
        # Not acting, it still keeps up what it stores beside the keys for the queries to come.
        prefill = rule.model_copy(update={"min_keys": sys.maxsize})
    return Staged(_selector(prefill, shape, seed), _selector(decode, shape, seed))
