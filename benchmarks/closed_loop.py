"""A policy inside SmolLM2 against the dense NumPy forward, one 512-token window, in one run.

    python benchmarks/closed_loop.py

"dense" is the plain forward, without a policy. Processor time, best of three rounds, after one that
compiles.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from accelsim.functional.closed_loop import (
    PolicyAttention,
    forward,
    load_model,
    policy_attention,
    shipped_windows,
)
from accelsim.policies import load_policy_spec
from accelsim.traces.capture import Attend, dense_attention

POLICIES = (
    "streaming-llm",
    "h2o",
    "tova",
    "scissorhands",
    "spatten-tokens:tokens.accumulate=layers",
    "spatten-tokens",
    "quest",
    "dhsa",
    "ems",
    "knorm",
    "keydiff",
    "kivi-4",
)


def run(model: Any, ids: list[int], attend: Callable[[], Attend]) -> float:
    start, function = time.process_time(), attend()
    if isinstance(function, PolicyAttention):
        forward(model, ids, function)
    else:
        model.forward(ids, function)
    return time.process_time() - start


def main() -> None:
    model = load_model("smollm2")
    ids = shipped_windows()["w0"]
    variants: dict[str, Callable[[], Attend]] = {
        "dense, no policy": lambda: dense_attention(model.shape.scale, True)
    }
    for name in POLICIES:
        variants[name] = partial(
            policy_attention, load_policy_spec(name), model.shape, len(ids), causal=True
        )
    # Rounds over all of them, so that other load on the machine meets all alike.
    rounds = [{name: run(model, ids, make) for name, make in variants.items()} for _ in range(4)]
    best = {name: min(times[name] for times in rounds[1:]) for name in variants}
    for name, seconds in best.items():
        print(f"{name:40s} {seconds:6.2f} s   {seconds / best['dense, no policy']:5.2f} x dense")


if __name__ == "__main__":
    main()
