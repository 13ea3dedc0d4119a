"""Processor time and memory of policies over a long recorded prompt and 64 decoded tokens.

    python benchmarks/long_policies.py [--tokens 32768] [--at-once 1] [POLICY ...]

Each runs in a process of its own, over a synthetic trace of one query head of 64 elements, and
prints a row: layers, seconds of one core, largest resident memory, and that before the run (Python,
libraries and kernels). Time grows with the square of the tokens: half a minute a policy at 32,768,
six to sixteen minutes at 131,072.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

POLICIES = (
    "tova", "streaming-llm", "keydiff", "snapkv", "pyramidkv", "quest:selection.dense_layers=0",
    "spatten-full",
)  # fmt: skip
LAYERS = {"pyramidkv": 2}
"""Its budgets fall from layer to layer; of the others one layer is as any other."""


def main() -> None:
    """Run the policies that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=32_768, help="of the prompt and decoded")
    parser.add_argument("--at-once", type=int, default=1, help="processes")
    parser.add_argument("--one", action="store_true", help="in this process")
    parser.add_argument("policies", nargs="*", default=POLICIES)
    options = parser.parse_args()
    if options.one:
        one(options.policies[0], options.tokens)
        return
    print(
        "| policy | layers | one core, s | peak, MB | before, MB |\n|---|---|---|---|---|",
        flush=True,
    )
    own = [sys.executable, __file__, "--one", "--tokens", str(options.tokens)]
    with ThreadPoolExecutor(options.at_once) as pool:
        runs = [pool.submit(subprocess.run, [*own, spec], check=True) for spec in options.policies]
        for run in runs:
            run.result()


def one(spec: str, tokens: int) -> None:
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
    trace = synthetic_trace(prefill_tokens=tokens - 64, decode_tokens=64, **size)
    before, start = peak(), time.process_time()
    run_policy(trace, policy)
    seconds = time.process_time() - start
    print(f"| `{spec}` | {size['num_layers']} | {seconds:.0f} | {peak()} | {before} |", flush=True)


def peak() -> int:
    """Largest resident memory so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
