"""Closed loop: perplexity and task scores with the policy inside the running model."""
