"""Digest of what every shipped policy decides on the shipped traces, for two states of the code.

    python benchmarks/policy_hashes.py before.json
    ... change the code ...
    python benchmarks/policy_hashes.py after.json before.json

A record holds a hash of each workload column, of the fetched indexes and of the per-query table,
and every figure of accuracy in full; the second call prints what is not equal, to the last digit.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from accelsim.configs import preset_names
from accelsim.functional import run_policy
from accelsim.hardware import accelerator_of, load_accelerator
from accelsim.policies import applicable, load_policy
from accelsim.traces import AttentionTrace, load_trace, synthetic_trace

SHIPPED = Path(__file__).parent.parent / "traces"


def traces() -> dict[str, AttentionTrace]:
    """The shipped traces, and small ones with what they lack: an odd group, no prompt."""
    small: dict[str, Any] = {
        "num_layers": 4,
        "num_query_heads": 6,
        "num_kv_heads": 2,
        "head_dim": 8,
    }
    return {path.stem: load_trace(path) for path in sorted(SHIPPED.glob("*.safetensors"))} | {
        "decoder": synthetic_trace(seed=3, prefill_tokens=40, decode_tokens=24, **small),
        "stream": synthetic_trace(seed=3, prefill_tokens=0, decode_tokens=64, **small),
        "encoder": synthetic_trace(
            seed=3, prefill_tokens=40, decode_tokens=0, causal=False, **small
        ),
    }


def digest(arrays: Any) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array, dtype=np.int64).tobytes() + b";")
    return found.hexdigest()[:16]


def record(run: Any) -> dict[str, Any]:
    work = run.workload
    entry: dict[str, Any] = {name: digest([column]) for name, column in work.columns.items()}
    for name in ("key_indices", "value_indices"):
        if getattr(work, name) is not None:
            entry[name] = digest(getattr(work, name))
    for name, values in vars(work.query_table).items():
        entry[f"query.{name}"] = digest([values])
    for name, values in getattr(work, "counts", {}).items():
        entry[f"counts.{name}"] = digest([values])
    entry |= {f"bytes.{name}": n for name, n in work.policy_bytes().items()}
    entry |= {f"accuracy.{name}": repr(n) for name, n in run.accuracy.items()}
    return entry | {"per_layer": repr(run.per_layer)}


def everything() -> dict[str, dict[str, Any]]:
    found = {}
    for trace_name, trace in traces().items():
        for name in preset_names("policies"):
            if applicable(load_policy(name), trace):
                found[f"{trace_name} {name}"] = record(run_policy(trace, load_policy(name)))
        for name in preset_names("accelerators"):
            machine = load_accelerator(name)
            decide = accelerator_of(machine.kind).decide
            if decide is not None:
                found[f"{trace_name} {name}"] = record(decide(trace, machine))
    return found


def main() -> None:
    path = Path(sys.argv[1])
    found = everything()
    path.write_text(json.dumps(found, indent=1))
    print(f"{len(found)} runs in {path}")
    if len(sys.argv) > 2:
        before = json.loads(Path(sys.argv[2]).read_text())
        for run in sorted(before.keys() | found.keys()):
            old, new = before.get(run, {}), found.get(run, {})
            moved = [n for n in {**old, **new} if old.get(n) != new.get(n)]
            if moved:
                print(f"{run}: {', '.join(moved)}")


if __name__ == "__main__":
    main()
