"""What the runs of one process share: opened sources and functional runs."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from accelsim.baselines import AttentionShape
from accelsim.errors import AccelsimError
from accelsim.exploration._resolve import Setup
from accelsim.files import read_text
from accelsim.workloads import RivalWorkload, Workload, load_benchmark, read_csv, read_parquet
from accelsim.workloads.models import ModelShape
from accelsim.workloads.shapes import ShapeSource, is_shape, read_shape

if TYPE_CHECKING:
    from accelsim.traces import AttentionTrace

_CACHE_BYTES = 256 << 20


@dataclass(frozen=True)
class Prepared:
    """A source after its policy: what the hardware is asked to do, and what it costs in accuracy.

    Attributes:
        workload: the requests.
        shape: the dense attention of the same source, for baselines.
        accuracy: error of the policy, or ``None`` where the source has no tensors.
        per_layer: the same by layer.
        manifest: what a manifest says of the source, beside its name.
        warnings: what a reader should know of it.
    """

    workload: Workload
    shape: AttentionShape
    accuracy: dict[str, Any] | None
    per_layer: list[dict[str, Any]]
    manifest: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Memory that it holds on to."""
        table = self.workload
        lists = (table.key_indices, table.value_indices)
        # What is drawn on demand is not held.
        indices = [a for each in lists if isinstance(each, tuple) for a in each]
        return sum(a.nbytes for a in (*table.columns.values(), *table.extra.values(), *indices))

    @cached_property
    def read_bytes_by_head(self) -> list[dict[str, int]]:
        """See :meth:`Workload.policy_bytes_by_head`; empty for a foreign file."""
        return [] if self.workload.extra else self.workload.policy_bytes_by_head()


class Session:
    """Caches of one process; the least recently used functional runs are dropped first.

    Args:
        cache_bytes: memory that functional runs and workloads may take together.
    """

    def __init__(self, cache_bytes: int = _CACHE_BYTES) -> None:
        self.cache_bytes = cache_bytes
        self._digests: dict[tuple[Path, int, int], str] = {}
        self._in_memory: tuple[Workload, str] | None = None
        self._traces: dict[tuple[Path, int, int], AttentionTrace] = {}
        self._prepared: OrderedDict[tuple[object, str], Prepared] = OrderedDict()

    def source_sha256(self, source: Path | Workload) -> str:
        """SHA-256 of a source: of its file and of the shards that an index file names, or of the
        arrays of a workload in memory.

        Of a shape, that of its text, its model's sizes and the trace that it is like.
        """
        if isinstance(source, Workload):
            if self._in_memory is None or self._in_memory[0] is not source:
                self._in_memory = source, _workload_sha256(source)
            return self._in_memory[1]
        stamp = _stamp(source)
        if stamp not in self._digests:
            shape = is_shape(str(source))
            self._digests[stamp] = self._shape_sha256(source) if shape else _content_sha256(source)
        return self._digests[stamp]

    def _shape_sha256(self, path: Path) -> str:
        source = read_shape(str(path))
        shape = source.load()
        parts = (str(source), shape.model_dump_json(), self.source_sha256(_like(source, shape)))
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def prepare(self, setup: Setup, on_stage: Callable[[str], None]) -> Prepared:
        """Read the source and, for a trace, run the policy over it; once for equal policies."""
        # A machine with a pruning rule of its own decides by its own configuration.
        rule = setup.parts.get("policy", setup.parts["accelerator"])
        decided = not setup.is_trace and setup.shape is None
        policy = "" if decided else rule.sha256
        source = setup.source
        content = self.source_sha256(source) if isinstance(source, Workload) else _stamp(source)
        key = (content, policy)
        if key in self._prepared:
            self._prepared.move_to_end(key)
            return self._prepared[key]
        on_stage("reading")
        if setup.shape is not None:
            prepared = self._on_shape(setup, setup.shape, on_stage)
        else:
            prepared = self._run_policy(setup, on_stage) if setup.is_trace else _read(source)
        self._prepared[key] = prepared
        held = sum(entry.size_bytes for entry in self._prepared.values())
        while held > self.cache_bytes and len(self._prepared) > 1:
            held -= self._prepared.popitem(last=False)[1].size_bytes
        return prepared

    def _run_policy(self, setup: Setup, on_stage: Callable[[str], None]) -> Prepared:
        from accelsim.functional import run_policy
        from accelsim.hardware import accelerator_of
        from accelsim.hardware.config import AcceleratorConfig
        from accelsim.policies import Policy

        trace = self._trace(setup.trace_file)
        on_stage("policy")
        if "policy" in setup.parts:
            policy = setup.parts["policy"].config
            assert isinstance(policy, Policy)
            run = run_policy(trace, policy)
        else:
            machine = setup.parts["accelerator"].config
            assert isinstance(machine, AcceleratorConfig)
            decide = accelerator_of(machine.kind).decide
            assert decide is not None
            run = decide(trace, machine)
        shape = AttentionShape.from_trace(trace)
        said = {"sequences": len(trace.sequences)} if trace.further else {}
        return Prepared(run.workload, shape, run.accuracy, run.per_layer, said)

    def _on_shape(
        self, setup: Setup, source: ShapeSource, on_stage: Callable[[str], None]
    ) -> Prepared:
        from accelsim.functional import run_policy
        from accelsim.functional.shapes import (
            Habits,
            draws,
            shape_workload,
            why_not_without_tensors,
        )
        from accelsim.policies import Policy

        on_stage("policy")
        # A machine with a rule of its own gets everything, and prunes by it.
        policy = setup.parts["policy"].config if "policy" in setup.parts else Policy()
        assert isinstance(policy, Policy)
        model, habits = source.load(), None
        warnings: list[str] = []
        said: dict[str, Any] = source.model_dump(mode="json") | {"drawn": None}
        if draws(policy, source) and not why_not_without_tensors(policy, model, source):
            path = _like(source, model)
            trace = self._trace(path)
            run = run_policy(trace, policy)
            habits = Habits.of(run, policy, source.decode > 0)
            said["drawn"] = {
                "like": str(path),
                "like_sha256": self.source_sha256(path),
                "prefill_tokens": trace.prefill_tokens,
                "decode_tokens": trace.decode_tokens,
                "accuracy_of_trace": run.accuracy,
            }
            warnings.append(
                f"shape:{source.model}: what depends on data is drawn from {path.stem} "
                f"({trace.prefill_tokens} + {trace.decode_tokens} tokens), seed {source.seed}; "
                "another text or context may differ"
            )
        workload = shape_workload(model, source, policy, habits)
        shape = AttentionShape.from_model(model, source.context, source.decode, source.batch)
        tokens, most = source.context + source.decode, model.trained_tokens
        if most is not None and tokens > most:
            warnings.append(
                f"shape:{source.model}: {tokens:,} tokens; its configuration goes to {most:,}"
            )
        return Prepared(workload, shape, None, [], {"shape": said}, tuple(warnings))

    def _trace(self, path: Path) -> AttentionTrace:
        from accelsim.traces import load_trace

        stamp = _stamp(path)
        if stamp not in self._traces:
            self._traces[stamp] = load_trace(path)
        return self._traces[stamp]


def _like(source: ShapeSource, model: ModelShape) -> Path:
    from accelsim.functional.shapes import trace_like

    return trace_like(source, model.causal)


def _read(source: Path | Workload) -> Prepared:
    if isinstance(source, Workload):
        workload = source
    elif source.suffix == ".yaml":
        workload = load_benchmark(source.stem)
    else:
        workload = read_parquet(source) if source.suffix == ".parquet" else read_csv(source)
    return Prepared(workload, AttentionShape.from_workload(workload), None, [])


def _stamp(path: Path) -> tuple[Path, int, int]:
    """Identify a file by path, time and size, so that a changed one is read again."""
    if is_shape(str(path)):
        return path, 0, 0
    try:
        status = path.stat()
    except OSError as error:
        raise AccelsimError(f"{path}: cannot be read ({error.strerror})") from None
    return path, status.st_mtime_ns, status.st_size


def _workload_sha256(workload: Workload) -> str:
    """Hash everything that decides what a machine does with a workload; not its name."""
    table = workload.query_table
    arrays = {f"column {name}": column for name, column in workload.columns.items()}
    arrays |= {f"extra {name}": column for name, column in workload.extra.items()}
    if table is not None:
        arrays |= {f"query {name}": column for name, column in vars(table).items()}
    if isinstance(workload, RivalWorkload):
        arrays |= {f"count {name}": counts for name, counts in workload.counts.items()}
    lists = {"keys": workload.key_indices, "values": workload.value_indices}
    for name, rows in lists.items():
        if rows is not None:
            arrays |= {f"{name} of each row": np.array([len(row) for row in rows])}
            arrays |= {name: np.concatenate(rows)}
    digest = hashlib.sha256(f"head_dim {workload.head_dim}".encode())
    if workload.value_dim is not None or workload.latent or workload.layers:
        shapes = sorted(workload.layers.items())
        digest.update(f"; values {workload.value_dim} {workload.latent}; {shapes}".encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"; {name} {array.dtype.str} {len(array)}: ".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _content_sha256(path: Path) -> str:
    if not path.name.endswith(".index.json"):
        return _file_sha256(path)
    parts = (path, *_shards(path))
    return hashlib.sha256("".join(map(_file_sha256, parts)).encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise AccelsimError(f"{path}: cannot be read ({error.strerror})") from None


def _shards(path: Path) -> list[Path]:
    try:
        names = set(json.loads(read_text(path))["weight_map"].values())
        return [path.parent / str(name) for name in sorted(names)]
    except (AccelsimError, ValueError, KeyError, TypeError, AttributeError):
        # The reader of traces says what is wrong with an index file.
        return []
