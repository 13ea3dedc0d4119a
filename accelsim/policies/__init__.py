"""Policies: which tokens, heads, values and bits are kept. Declarations only, no tensors."""

from accelsim.policies._base import PolicyPart
from accelsim.policies._policy import Policy, load_policy
from accelsim.policies._schedule import LayerSchedule
from accelsim.policies.heads import CascadeHeads
from accelsim.policies.quantization import ProgressiveQuantization, StaticQuantization
from accelsim.policies.tokens import CascadeTokens, Protect
from accelsim.policies.values import LocalValues

__all__ = [
    "CascadeHeads",
    "CascadeTokens",
    "LayerSchedule",
    "LocalValues",
    "Policy",
    "PolicyPart",
    "ProgressiveQuantization",
    "Protect",
    "StaticQuantization",
    "load_policy",
]
