"""A policy inside SmolLM2 against the dense NumPy forward, one 512-token window, in one run.

    python benchmarks/closed_loop.py

Kernels are compiled before. "dense" is the plain forward, without a policy. Best of three.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from accelsim.functional.closed_loop import load_model, policy_attention, shipped_windows
from accelsim.policies import Policy, load_policy
from accelsim.traces.capture import dense_attention

POLICIES = (
    "streaming-llm",
    "h2o",
    "tova",
    "scissorhands",
    "spatten-tokens",
    "quest",
    "dhsa",
    "ems",
)
REPEATS = 3


def best(function: Callable[[], object]) -> float:
    function()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def run(model: Any, ids: list[int], policy: Policy) -> None:
    model.forward(ids, policy_attention(policy, model.shape, len(ids), causal=True))


def main() -> None:
    model = load_model("smollm2")
    ids = shipped_windows()["w0"]
    plain = dense_attention(model.shape.scale, True)
    dense = best(lambda: model.forward(ids, plain))
    print(f"{'dense, no policy':20s} {dense:6.2f} s")
    for name in POLICIES:
        seconds = best(partial(run, model, ids, load_policy(name)))
        print(f"{name:20s} {seconds:6.2f} s   {seconds / dense:5.2f} x dense")


if __name__ == "__main__":
    main()
