"""Closed loop: perplexity and task scores with the policy inside the running model."""

from accelsim.functional.closed_loop._attend import PolicyAttention, policy_attention
from accelsim.functional.closed_loop._perplexity import Perplexity, perplexity, shipped_windows

__all__ = [
    "Perplexity",
    "PolicyAttention",
    "perplexity",
    "policy_attention",
    "shipped_windows",
]
