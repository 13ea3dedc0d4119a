"""What every rule decides on three small traces, and with how much work, written down.

    python tests/policies/pin.py

writes ``pins.json`` anew. Do so on purpose only: the file says what moved, run by run. A column is
written as its sum; the tokens that are read, and which request asked for how much, as a digest.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from accelsim.configs import preset_names
from accelsim.functional import run_policy
from accelsim.hardware import accelerator_of, load_accelerator
from accelsim.policies import Policy, applicable, load_policy
from accelsim.policies import load_policy_spec as spec
from accelsim.traces import AttentionTrace, synthetic_trace

PINS = Path(__file__).with_name("pins.json")
SHAPE: dict[str, Any] = {"num_layers": 3, "num_query_heads": 6, "num_kv_heads": 2, "head_dim": 8}
# Groups of three query heads: what goes by group, head or KV head differs.
TRACES = {
    "decoder": synthetic_trace(seed=3, prefill_tokens=40, decode_tokens=40, **SHAPE),
    "stream": synthetic_trace(seed=4, prefill_tokens=0, decode_tokens=64, **SHAPE),
    "encoder": synthetic_trace(seed=5, prefill_tokens=40, decode_tokens=0, causal=False, **SHAPE),
}
# Beside the presets, settings that their defaults switch off.
SPECS = (
    "h2o:selection.share=kv_head,selection.taper=0.5",
    "h2o:selection.share=query_head,selection.floor_tokens=9",
    "tova:selection.recent_tokens=3",
    "keydiff:selection.anchor=older",
    "snapkv:selection.pooling=max,selection.window=5,selection.kernel=4",
    "scissorhands:selection.history=4,selection.drop=3",
    "ems:selection.history=5,selection.similarity=0.2",
    "quest:selection.page_tokens=4,selection.dense_layers=1",
    "quest:selection.share=kv_head",
    "dhsa:selection.share=layer",
    "dhsa:selection.chunk_tokens=5,selection.local=3,selection.sinks=2",
    "zero-tprune:selection.after_layers=[0.4],selection.protect_first=3",
    "spatten-tokens:tokens.importance=paper,tokens.per_query=true",
    "spatten-tokens:tokens.floor_tokens=30",
    "spatten-full:heads.accumulate=layers,tokens.accumulate=layers",
    "kivi-4:quantization.group_tokens=8,quantization.residual_tokens=8",
)


def policies() -> Iterator[tuple[str, Policy]]:
    """Name and policy of every run."""
    # Tuned presets are other settings of rules that are here.
    names = (name for name in preset_names("policies") if not name.endswith("-1pct"))
    yield from ((name, load_policy(name)) for name in names)
    yield from ((name, spec(name)) for name in SPECS)


def pin(run: Any) -> dict[str, Any]:
    """Return what is written down of a run."""
    work, found = run.workload, hashlib.sha256()
    columns = {**work.columns, **{f"query.{n}": v for n, v in vars(work.query_table).items()}}
    for name, column in columns.items():
        found.update(name.encode() + np.asarray(column, dtype=np.int64).tobytes())
    for tokens in (*(work.key_indices or ()), *(work.value_indices or ())):
        found.update(np.asarray(tokens, dtype=np.int64).tobytes() + b";")
    places = ("step", "layer", "head", "context_tokens")
    sums = {name: int(np.asarray(column).sum()) for name, column in columns.items()}
    own = {
        name: sum(int(np.asarray(each).sum()) for each in lists)
        for name, lists in getattr(work, "counts", {}).items()
    }
    sums = {name: total for name, total in {**sums, **own}.items() if total and name not in places}
    error = run.accuracy["relative_output_error"]
    return {**sums, "relative_output_error": f"{error:.6e}", "all": found.hexdigest()[:16]}


def everything(trace_name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and pin of every run on a trace."""
    trace: AttentionTrace = TRACES[trace_name]
    for name, policy in policies():
        if applicable(policy, trace):
            yield f"{trace_name} {name}", pin(run_policy(trace, policy))
    for name in preset_names("accelerators"):
        machine = load_accelerator(name)
        decide = accelerator_of(machine.kind).decide
        if decide is not None:
            yield f"{trace_name} {name}", pin(decide(trace, machine))


def main() -> None:
    """Write the file anew, and say what moved."""
    before = json.loads(PINS.read_text(encoding="utf-8")) if PINS.exists() else {}
    found = dict(one for name in TRACES for one in everything(name))
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(one)}" for name, one in found.items())
    PINS.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    moved = [name for name in found if before.get(name) != found[name]]
    sys.stdout.write(f"{len(found)} runs, moved: {', '.join(moved) or 'none'}\n")


if __name__ == "__main__":
    main()
