"""Exploration: one run, many runs. A point is a source, a policy and an accelerator."""

from accelsim.exploration._replay import DEFAULT_ACCELERATOR, DEFAULT_POLICY, replay
from accelsim.exploration._result import RunResult

__all__ = ["DEFAULT_ACCELERATOR", "DEFAULT_POLICY", "RunResult", "replay"]
