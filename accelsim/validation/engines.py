"""The event engine against the cycle engine, on seeded random workloads of the released SpAtten.

Cycles may differ within the bars of the event engine; bytes, read bursts, multiply-accumulates and
top-k passes must not differ at all.
"""

from __future__ import annotations

import numpy as np

from accelsim.configs import load
from accelsim.errors import AccelsimError
from accelsim.hardware import load_accelerator, simulate
from accelsim.hardware.activity import Activity
from accelsim.hardware.config import MemoryConfig
from accelsim.validation._base import Case, Failure, Options, Report, event_bars
from accelsim.workloads import Workload

TAKES = ("count",)
_WORKLOADS = 40
_SCALES = ("spatten-rtl-eighth", "spatten-rtl")
_EQUAL = ("dram_reads", "qk_macs", "pv_macs", "topk_passes")


def run(options: Options) -> Report:
    """Run both engines on every workload."""
    memory = load(MemoryConfig, "hbm2-spatten", "memories")
    machines = [load_accelerator(name) for name in _SCALES]
    total = options.count or _WORKLOADS
    cases, failed = [], []
    for number in range(total):
        workload = random_workload(number)
        options.on_case(number + 1, total, workload.name)
        machine = machines[number % len(machines)]
        try:
            exact = simulate(workload, machine, memory, engine="cycle")
            event = simulate(workload, machine, memory, engine="event")
        except AccelsimError as error:
            failed.append(Failure(workload.name, str(error)))
            continue
        cases.append(Case(workload.name, exact.cycles, event.cycles, workload.rows))
        failed += [Failure(workload.name, text) for text in _differences(exact, event)]
    return Report("engines", "event", "cycles", cases, failed, event_bars(cases))


def random_workload(seed: int) -> Workload:
    """Draw one request, or a stream of 16 to 48 rows: sizes, widths, requantization, pruning.

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
    requant = rng.random(pairs) < 0.3
    rows = 1 if seed % 8 == 7 else 2
    bits = np.where(bits == 6, 8, bits) if rows == 1 else bits
    columns = {
        "keys": np.repeat(keys, rows),
        "values": np.repeat(values, rows),
        "key_bits": np.repeat(bits, rows),
        "value_bits": np.repeat(np.where(bits == 12, 8, bits), rows),
        "refetch_lsb": np.repeat(requant, rows),
    }
    return Workload.from_columns(columns, name=f"random-{seed}")


def _differences(exact: Activity, event: Activity) -> list[str]:
    texts = []
    if exact.dram_read_bytes != event.dram_read_bytes:
        texts.append(f"bytes differ: {exact.dram_read_bytes} and {event.dram_read_bytes}")
    for name in _EQUAL:
        pair = exact.counters.get(name, 0), event.counters.get(name, 0)
        if pair[0] != pair[1]:
            texts.append(f"{name} differ: {pair[0]} and {pair[1]}")
    return texts
