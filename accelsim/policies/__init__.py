"""Policies: which tokens, heads, values and bits are kept. Declarations only, no tensors."""

from accelsim.policies._base import PolicyPart
from accelsim.policies._policy import (
    Policy,
    applicable,
    load_policy,
    load_policy_spec,
    why_closed_loop_not,
    why_not,
)
from accelsim.policies._schedule import LayerSchedule
from accelsim.policies._selection import Budgeted, Needs, Recent, SelectionPart
from accelsim.policies._stages import (
    STAGES,
    Quantization,
    Selection,
    Stage,
    StageParts,
    register_selection,
)
from accelsim.policies.dhsa import DHSA
from accelsim.policies.ems import EMS
from accelsim.policies.h2o import H2O
from accelsim.policies.heads import CascadeHeads
from accelsim.policies.kivi import KiviQuantization
from accelsim.policies.quantization import ProgressiveQuantization, StaticQuantization
from accelsim.policies.quest import Quest
from accelsim.policies.scissorhands import Scissorhands
from accelsim.policies.snapkv import SnapKV
from accelsim.policies.streaming_llm import StreamingLLM
from accelsim.policies.tokens import CascadeTokens, Protect
from accelsim.policies.tova import TOVA
from accelsim.policies.values import LocalValues
from accelsim.policies.zero_tprune import ZeroTPrune

__all__ = [
    "DHSA",
    "EMS",
    "H2O",
    "STAGES",
    "TOVA",
    "Budgeted",
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
    "Quest",
    "Recent",
    "Scissorhands",
    "Selection",
    "SelectionPart",
    "SnapKV",
    "Stage",
    "StageParts",
    "StaticQuantization",
    "StreamingLLM",
    "ZeroTPrune",
    "applicable",
    "load_policy",
    "load_policy_spec",
    "register_selection",
    "why_closed_loop_not",
    "why_not",
]
