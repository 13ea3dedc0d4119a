"""The event engine against the cycle engine, on seeded random workloads of both SpAttens.

The released machine runs streams of its kinds of requests; the published one runs encoders, prompts
and decoding of all shapes, causal and streamed in turn. Cycles may differ within the bars of the
event engine; bytes, read bursts, multiply-accumulates and top-k passes must not differ at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from accelsim.configs import load
from accelsim.errors import AccelsimError
from accelsim.hardware import DEPENDENCIES, load_accelerator, simulate
from accelsim.hardware.activity import Activity
from accelsim.hardware.config import AcceleratorConfig, MemoryConfig
from accelsim.validation._base import (
    Bar,
    Case,
    Failure,
    Options,
    Report,
    event_bars,
    mean_error,
    worst_error,
)
from accelsim.validation._published_workloads import random_published_workload
from accelsim.workloads import Workload

TAKES = ("count",)
_WORKLOADS = 40
"""Of each of the two machines."""
_SCALES = ("spatten-rtl-eighth", "spatten-rtl")
_EQUAL = (
    "dram_reads",
    "qk_macs",
    "pv_macs",
    "exponentials",
    "topk_passes",
    "spill_read_bytes",
    "spill_write_bytes",
    "refetched_bytes",
)


@dataclass(frozen=True)
class _Run:
    """One workload on one machine."""

    group: str
    workload: Workload
    machine: AcceleratorConfig
    dependencies: str

    @property
    def name(self) -> str:
        return f"{self.workload.name}, {self.dependencies}"


def run(options: Options) -> Report:
    """Run both engines on every workload."""
    count = options.count or _WORKLOADS
    cases, failed = [], []
    for number, each in enumerate(_runs(count)):
        options.on_case(number + 1, 2 * count, each.name)
        machine = each.machine
        memory = load(MemoryConfig, machine.memory, "memories")
        try:
            exact, event = (
                simulate(each.workload, machine, memory, engine, dependencies=each.dependencies)
                for engine in ("cycle", "event")
            )
        except AccelsimError as error:
            failed.append(Failure(each.name, str(error)))
            continue
        rows = each.workload.rows
        cases.append(Case(each.name, exact.cycles, event.cycles, rows, each.group))
        failed += [Failure(each.name, text) for text in _differences(exact, event)]
    released = [case for case in cases if case.group == "released"]
    published = [case for case in cases if case.group == "published"]
    bars = [Bar(f"released, {bar.name}", bar.value, bar.limit) for bar in event_bars(released)]
    if published:
        bars += [
            Bar("published, mean", mean_error(published) or 0.0, 0.02),
            Bar("published, worst", worst_error(published), 0.05),
        ]
    return Report("engines", "event", "cycles", cases, failed, bars)


def _runs(count: int) -> Iterator[_Run]:
    machines = [load_accelerator(name) for name in _SCALES]
    for number in range(count):
        machine = machines[number % len(machines)]
        yield _Run("released", random_workload(number), machine, "streamed")
    paper = load_accelerator("spatten-paper")
    for number in range(count):
        workload = random_published_workload(number)
        yield _Run("published", workload, paper, DEPENDENCIES[number % len(DEPENDENCIES)])


def random_workload(seed: int) -> Workload:
    """Draw one request, or a stream of 16 to 48 rows: sizes, widths, refetches, pruning.

    6-bit rows come in pairs that share their sizes, as the hardware needs; every third workload has
    rows of one size only, as a layer of a real model has.
    """
    rng = np.random.default_rng(seed)
    pairs = 1 if seed % 8 == 7 else int(rng.integers(8, 25))
    sizes = rng.integers(1, 1009, size=1 if seed % 3 == 0 else pairs)
    keys = np.resize(sizes, pairs)
    kept = rng.choice([1.0, 0.5, 0.25, 0.1], size=pairs)
    values = np.maximum(1, np.ceil(kept * keys)).astype(int)
    bits = rng.choice([4, 6, 8, 12], size=pairs, p=[0.2, 0.2, 0.4, 0.2])
    # A pair of 6-bit heads of more than half the buffer does not fit.
    bits = np.where((bits == 6) & (keys > 992), 8, bits)
    refetch = rng.random(pairs) < 0.3
    rows = 1 if seed % 8 == 7 else 2
    bits = np.where(bits == 6, 8, bits) if rows == 1 else bits
    columns = {
        "keys": np.repeat(keys, rows),
        "values": np.repeat(values, rows),
        "key_bits": np.repeat(bits, rows),
        "value_bits": np.repeat(np.where(bits == 12, 8, bits), rows),
        "refetch_lsb": np.repeat(refetch, rows),
    }
    return Workload.from_columns(columns, name=f"random-{seed}")


def _differences(exact: Activity, event: Activity) -> list[str]:
    texts = []
    read, same = (
        {tensor: size for tensor, size in each.dram_read_bytes.items() if size}
        for each in (exact, event)
    )
    if read != same:
        texts.append(f"bytes differ: {read} and {same}")
    for name in _EQUAL:
        pair = exact.counters.get(name, 0), event.counters.get(name, 0)
        if pair[0] != pair[1]:
            texts.append(f"{name} differ: {pair[0]} and {pair[1]}")
    return texts
