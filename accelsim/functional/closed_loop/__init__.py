"""Closed loop: perplexity and task scores with the policy inside the running model."""

from accelsim.functional.closed_loop._attend import PolicyAttention, policy_attention
from accelsim.functional.closed_loop._lee import LeeScore, lee_score, read_lee
from accelsim.functional.closed_loop._perplexity import (
    Perplexity,
    cut_windows,
    perplexity,
    shipped_windows,
)

__all__ = [
    "LeeScore",
    "Perplexity",
    "PolicyAttention",
    "cut_windows",
    "lee_score",
    "perplexity",
    "policy_attention",
    "read_lee",
    "shipped_windows",
]
