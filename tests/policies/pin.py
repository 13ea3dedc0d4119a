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
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from accelsim.configs import preset_names
from accelsim.functional import run_policy
from accelsim.hardware import accelerator_of, load_accelerator
from accelsim.policies import Policy, applicable, load_policy
from accelsim.policies import load_policy_spec as spec
from accelsim.policies.selections._visual import Visual
from accelsim.policies.selections.dsa_indexer import DSAIndexer
from accelsim.testing._policies import _indexed
from accelsim.traces import IMAGE, TEXT, AttentionTrace, MemoryTensors, synthetic_trace

PINS = Path(__file__).with_name("pins.json")
SHAPE: dict[str, Any] = {"num_layers": 3, "num_query_heads": 6, "num_kv_heads": 2, "head_dim": 8}
# Groups of three query heads: what goes by group, head or KV head differs.
TRACES = {
    "decoder": synthetic_trace(seed=3, prefill_tokens=40, decode_tokens=40, **SHAPE),
    "stream": synthetic_trace(seed=4, prefill_tokens=0, decode_tokens=64, **SHAPE),
    "encoder": synthetic_trace(seed=5, prefill_tokens=40, decode_tokens=0, causal=False, **SHAPE),
}


LATER = ("index_products",)
"""Columns that came after the digests were written; they count in one where they are used."""


def _seeing() -> AttentionTrace:
    """The first one, with an image in its prompt."""
    trace = TRACES["decoder"]
    tensors = {name: trace.tensors.read(name) for name in trace.tensors.names()}
    kinds = np.full(trace.tokens, TEXT, dtype=np.int8)
    kinds[5:29] = IMAGE
    rng = np.random.default_rng(8)
    beside = {
        "token_type": kinds,
        "embedding": rng.normal(size=(trace.tokens, 6)).astype(np.float32),
        "layer.1.hidden": rng.normal(size=(trace.tokens, 6)).astype(np.float32),
        "layer.0.transition": rng.random((2, trace.tokens, 2)).astype(np.float32),
        "vision.layer.3.cls": rng.random((2, 24)).astype(np.float32),
    }
    return replace(trace, tensors=MemoryTensors(tensors | beside))


TRACES["seeing"] = _seeing()
TRACES["indexed"] = _indexed()
# Beside the presets, settings that their defaults switch off.
SPECS = (
    "h2o:selection.share=kv_head,selection.taper=0.5",
    "h2o:selection.share=query_head,selection.floor_tokens=9",
    "tova:selection.recent_tokens=3",
    "keydiff:selection.anchor=older",
    "snapkv:selection.pooling=max,selection.window=5,selection.kernel=4",
    "scissorhands:selection.history=4,selection.drop=3",
    "ems:selection.history=5,selection.similarity=0.2",
    "snapkv:selection.pyramid=4,selection.window=3",
    "h2o:selection.head_floor=0.2",
    "keydiff:selection.head_floor=0.2",
    "expected-attention:selection.head_floor=0.2,selection.covariance=false",
    "centrality:selection.share=layer,selection.iterations=5",
    "moba:selection.share=kv_head,selection.block_tokens=4",
    "vertical-slash:selection.vertical=6,selection.slash=8,selection.recent=4,selection.block_tokens=4",
    *(
        f"dhsa-blocks:selection.mode={mode},selection.query_block=8,selection.key_block=4,"
        "selection.density=0.3"
        for mode in ("topk", "a", "vs", "vsb")
    ),
    "dsa-indexer:selection.top_k=7",
    "pyramid-drop:selection.layers=[1],selection.keep=[0.5]",
    "focus-sec:selection.layers=[1],selection.keep=[0.5]",
    "sparse-vlm:selection.layers=[1],selection.keep=[0.5]",
    "sparse-vlm:selection.layers=[1],selection.keep=[0.5],selection.recycle=true",
    "sparse-vlm:selection.layers=[1],selection.keep=[0.5],selection.heads=3,selection.rope_base=1e4",
    "dart:selection.layers=[1],selection.keep=[0.5],selection.pivots=2",
    "todre:selection.keep=[0.5]",
    "todre:selection.keep=[0.5],selection.threshold=0.9",
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
        if name in LATER and not column.any():
            continue
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
    # What sees no image is the same with and without one, and what reads no index keys.
    special = {"seeing": Visual, "indexed": DSAIndexer}.get(trace_name)
    for name, policy in policies():
        sees = special is None or isinstance(policy.selection, special)
        if sees and applicable(policy, trace):
            yield f"{trace_name} {name}", pin(run_policy(trace, policy))
    for name in preset_names("accelerators") if special is None else ():
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
