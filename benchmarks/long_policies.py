"""Processor time and memory of policies over a long recorded prompt: 32,704 tokens and 64 decoded.

    python benchmarks/long_policies.py [POLICY ...]

Each runs in a process of its own, over a synthetic trace of one query head of 64 elements, and
prints a row: layers, seconds of one core, largest resident memory, and that before the run (Python,
libraries and kernels).
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from typing import Any

POLICIES = (
    "tova", "streaming-llm", "keydiff", "snapkv", "pyramidkv", "quest:selection.dense_layers=0",
    "spatten-full",
)  # fmt: skip
LAYERS = {"pyramidkv": 2}
"""Its budgets fall from layer to layer; of the others one layer is as any other."""


def main() -> None:
    """Run the policies that are named, or all."""
    print("| policy | layers | one core, s | peak, MB | before, MB |\n|---|---|---|---|---|")
    for spec in sys.argv[1:] or POLICIES:
        subprocess.run([sys.executable, __file__, "--one", spec], check=True)


def one(spec: str) -> None:
    """Print the row of a policy."""
    from accelsim.functional import run_policy
    from accelsim.policies import load_policy_spec
    from accelsim.traces import synthetic_trace

    size: dict[str, Any] = {
        "seed": 1, "num_layers": LAYERS.get(spec, 1), "num_query_heads": 1, "num_kv_heads": 1,
        "head_dim": 64,
    }  # fmt: skip
    policy = load_policy_spec(spec)
    run_policy(synthetic_trace(prefill_tokens=64, decode_tokens=8, **size), policy)
    trace = synthetic_trace(prefill_tokens=32_704, decode_tokens=64, **size)
    before, start = peak(), time.process_time()
    run_policy(trace, policy)
    seconds = time.process_time() - start
    print(f"| `{spec}` | {size['num_layers']} | {seconds:.0f} | {peak()} | {before} |", flush=True)


def peak() -> int:
    """Largest resident memory so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    one(sys.argv[2]) if sys.argv[1:2] == ["--one"] else main()
