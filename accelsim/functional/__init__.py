"""Functional models: what a policy does to real tensors, to the token and to the bit."""

from accelsim.functional._run import PolicyRun, run_policy

__all__ = ["PolicyRun", "run_policy"]
