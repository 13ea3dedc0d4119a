"""Policies: which tokens, heads, values and bits are kept; settings and rules.

What is imported here is read from YAML and loads no kernel; rules at work come with their files.
"""

from accelsim.policies._base import PolicyPart
from accelsim.policies._policy import (
    Policy,
    applicable,
    beside,
    by_layer,
    load_policy,
    load_policy_spec,
    split_policy,
    why_closed_loop_not,
    why_not,
)
from accelsim.policies._registry import register_selection, selection_kinds
from accelsim.policies._schedule import LayerSchedule
from accelsim.policies._selection import (
    FROM_PROBABILITIES,
    IN_BOTH_DIRECTIONS,
    Budgeted,
    ByHead,
    Needs,
    Recent,
    SelectionPart,
    Stage,
)
from accelsim.policies._stages import (
    STAGES,
    Quantization,
    Selection,
    StageParts,
)
from accelsim.policies.heads import CascadeHeads
from accelsim.policies.kivi import KiviQuantization
from accelsim.policies.quantization import ProgressiveQuantization, StaticQuantization
from accelsim.policies.tokens import CascadeTokens, Protect
from accelsim.policies.values import LocalValues

__all__ = [
    "FROM_PROBABILITIES",
    "IN_BOTH_DIRECTIONS",
    "STAGES",
    "Budgeted",
    "ByHead",
    "CascadeHeads",
    "CascadeTokens",
    "KiviQuantization",
    "LayerSchedule",
    "LocalValues",
    "Needs",
    "Policy",
    "PolicyPart",
    "ProgressiveQuantization",
    "Protect",
    "Quantization",
    "Recent",
    "Selection",
    "SelectionPart",
    "Stage",
    "StageParts",
    "StaticQuantization",
    "applicable",
    "beside",
    "by_layer",
    "load_policy",
    "load_policy_spec",
    "register_selection",
    "selection_kinds",
    "split_policy",
    "why_closed_loop_not",
    "why_not",
]
