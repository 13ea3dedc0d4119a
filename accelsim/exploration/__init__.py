"""Exploration: one run, many runs. A point is a source, a policy and an accelerator."""

from accelsim.exploration._replay import compare, replay
from accelsim.exploration._result import Comparison, RunResult
from accelsim.exploration._setup import DEFAULT_ACCELERATOR, DEFAULT_POLICY

__all__ = [
    "DEFAULT_ACCELERATOR",
    "DEFAULT_POLICY",
    "Comparison",
    "RunResult",
    "compare",
    "replay",
]
