"""Seeded random workloads of every shape that the published SpAtten takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.workloads import QueryTable, Workload
from accelsim.workloads.benchmarks import quick_select_work

_MOST_SCORES = 400_000
"""Scores of all queries of a workload: a fraction of a second in the cycle engine."""
_LONGEST = 8192


def random_published_workload(seed: int) -> Workload:
    """Draw a workload: an encoder, a prompt with causal queries, decoding, or prompt and decoding.

    Head dimension 32 to 256; one to four layers, with and without token selection, whose heads may
    become fewer; one to eight query heads a key head; one to 8,192 keys; any stored width, with and
    without an LSB plane, metadata and residuals; values pruned or not; token indexes recorded or
    not. The same seed gives the same workload.
    """
    return _Drawing(seed).workload()


class _Drawing:
    def __init__(self, seed: int) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.seed = seed
        self.kind = str(rng.choice(["encoder", "prompt", "decode", "generation"]))
        self.dim = int(rng.choice([32, 64, 64, 128, 256]))
        self.layers = int(rng.integers(1, 5))
        self.heads = int(rng.integers(1, 5))
        self.group = int(rng.choice([1, 1, 2, 4, 8]))
        self.key_bits = int(rng.choice([4, 6, 8, 8, 10, 12]))
        self.value_bits = int(rng.choice([4, 6, 8, 8, 12]))
        self.plane = bool(rng.random() < 0.4)
        self.refetch = float(rng.choice([0.0, 0.1, 0.5, 1.0])) if self.plane else 0.0
        self.keep = float(rng.choice([1.0, 1.0, 0.8, 0.5, 0.2]))
        self.tokens = float(rng.choice([1.0, 1.0, 0.9, 0.6]))
        self.fewer_heads = bool(rng.random() < 0.3)
        self.indexed = bool(rng.random() < 0.5)
        self.beside = bool(rng.random() < 0.2)
        self.columns: dict[str, list[int]] = {}
        self.details: list[dict[str, NDArray[Any]]] = []
        self.key_indices: list[NDArray[np.int32]] = []
        self.value_indices: list[NDArray[np.int32]] = []

    def workload(self) -> Workload:
        rng = self.rng
        if self.kind == "encoder":
            length = self._length(self.layers * self.heads * self.group, square=True)
            self._step(0, length, length, causal=False)
        if self.kind in ("prompt", "generation"):
            share = 2 if self.kind == "generation" else 1
            rows = self.layers * self.heads * self.group * share
            if rng.random() < 0.3:
                # The last tokens of a long prompt whose first ones are in the cache.
                new = int(rng.integers(1, 17))
                length = max(new, self._length(rows * new))
            else:
                new = length = self._length(rows, square=True)
            self._step(0, length, new, causal=True)
        if self.kind in ("decode", "generation"):
            steps = int(rng.integers(1, 4))
            length = self._length(2 * steps * self.layers * self.heads * self.group)
            for step in range(steps):
                self._step(step + 1, length + step, 1, causal=True)
        table = QueryTable.join(self.details)
        return Workload.from_columns(
            self.columns,
            head_dim=self.dim,
            name=f"published-{self.kind}-{self.seed}",
            key_indices=tuple(self.key_indices) if self.indexed else None,
            value_indices=tuple(self.value_indices) if self.indexed else None,
            query_table=table,
        )

    def _length(self, rows: int, square: bool = False) -> int:
        """Tokens, evenly over the decades, so that the workload has few enough scores."""
        most = _MOST_SCORES / rows
        most = min(_LONGEST, most**0.5 if square else most)
        return int(np.exp(self.rng.uniform(0, np.log(most + 1))))

    def _step(self, step: int, context: int, new: int, causal: bool) -> None:
        rng = self.rng
        kept = np.arange(context)
        alive = np.arange(self.heads)
        group = self.group
        for layer in range(self.layers):
            before = len(kept)
            if layer and self.tokens < 1:
                count = max(1, int(before * self.tokens))
                kept = np.sort(rng.choice(kept, count, replace=False))
                # Somebody is left to ask.
                kept[-1] = context - 1
            if layer and self.fewer_heads:
                if len(alive) > 1 and rng.random() < 0.5:
                    alive = np.sort(rng.choice(alive, len(alive) - 1, replace=False))
                elif group > 1:
                    group -= 1
            select = (before, len(kept)) if len(kept) < before else (0, 0)
            for head in alive.tolist():
                self._row(step, layer, int(head), context, new, causal, kept, group, select)
                select = (0, 0)

    def _row(
        self,
        step: int,
        layer: int,
        head: int,
        context: int,
        new: int,
        causal: bool,
        kept: NDArray[np.int64],
        group: int,
        select: tuple[int, int],
    ) -> None:
        rng, n = self.rng, len(kept)
        asking = np.flatnonzero(kept >= context - new)
        position = np.repeat(kept[asking], group)
        keys = np.repeat(asking + 1 if causal else np.full(len(asking), n), group)
        values = np.maximum(1, np.ceil(self.keep * keys)).astype(np.int64)
        refetch = rng.random(len(keys)) < self.refetch
        passes, beats, elements = np.zeros((3, len(keys)), np.int64)
        for query in np.flatnonzero(values < keys).tolist():
            work = quick_select_work(int(keys[query]), int(values[query]), 1, rng)
            passes[query], elements[query], beats[query] = (int(number[0]) for number in work)
        fetched = n
        if (values < keys).any():
            # Between the values of the largest query and all that the queries may have together.
            low, high = int(values.max()), int(min(n, values.sum()))
            fetched = int(rng.integers(low, high + 1))
        chosen = quick_select_work(*select, 1, rng)
        row = {
            "step": step,
            "layer": layer,
            "head": head,
            "context_tokens": context,
            "keys": n,
            "values": fetched,
            "key_bits": self.key_bits,
            "key_lsb_bits": 4 if self.plane else 0,
            "value_bits": self.value_bits,
            "topk_elements": int(elements.sum()),
            "select_size": select[0],
            "select_target": select[1],
            "select_passes": int(chosen[0][0]),
            "select_elements": int(chosen[1][0]),
            "select_beats": int(chosen[2][0]),
            "metadata_bytes": int(rng.integers(0, 500)) if self.beside else 0,
            "residual_bytes": int(rng.integers(0, 500)) if self.beside else 0,
        }
        for name, number in row.items():
            self.columns.setdefault(name, []).append(number)
        self.details.append(
            {
                "position": position,
                "keys": keys,
                "values": values,
                "refetch": refetch,
                "topk_passes": passes,
                "topk_beats": beats,
            }
        )
        self.key_indices.append(kept.astype(np.int32))
        some = kept if fetched == n else np.sort(rng.choice(kept, fetched, replace=False))
        self.value_indices.append(some.astype(np.int32))
