"""Exploration: one run, many runs. A point is a source, a policy and an accelerator."""
