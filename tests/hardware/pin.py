"""Cycles, bytes and counts of every engine, written down: ``python tests/hardware/pin.py``.

A change of a machine moves numbers. Here that is a change of ``pins.json`` in the same commit, seen
by whoever reads it; a number that moves unseen fails ``test_pins.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelsim.configs import load, preset_names
from accelsim.functional import run_policy
from accelsim.hardware import DEPENDENCIES, accelerator_of, load_accelerator, simulate
from accelsim.hardware.activity import Activity
from accelsim.hardware.config import MemoryConfig
from accelsim.policies import load_policy
from accelsim.traces import synthetic_trace
from accelsim.validation import validate
from accelsim.validation._published_workloads import random_published_workload

PINS = Path(__file__).parent / "pins.json"
POLICIES = ("dense", "spatten-pruned", "spatten-full", "streaming-llm")
WORKLOADS = range(24)


def presets() -> Iterator[tuple[str, Any]]:
    """A small trace on every preset, in every order that it knows."""
    trace = synthetic_trace(seed=1, num_layers=2, head_dim=64, prefill_tokens=24, decode_tokens=4)
    for name in preset_names("accelerators"):
        kind = accelerator_of(load_accelerator(name).kind)
        overrides = {"model": "gpt2-small"} if load_accelerator(name).kind == "spatten-e2e" else {}
        machine = load_accelerator(name, overrides)
        memory = load(MemoryConfig, machine.memory, "memories")
        for policy in POLICIES[: 1 if kind.decide else None]:
            decide = kind.decide
            work = (
                run_policy(trace, load_policy(policy)).workload
                if decide is None
                else decide(trace, machine).workload
            )
            for order in kind.dependencies:
                activity = simulate(work, machine, memory, dependencies=order)
                counted = {name: number for name, number in activity.counters.items() if number}
                yield (
                    f"{name}, {policy}, {order}",
                    [*_counts(activity), dict(sorted(counted.items()))],
                )


def random() -> Iterator[tuple[str, Any]]:
    """Random workloads on the published SpAtten, either engine."""
    machine = load_accelerator("spatten-paper")
    memory = load(MemoryConfig, machine.memory, "memories")
    for seed in WORKLOADS:
        work, order = random_published_workload(seed), DEPENDENCIES[seed % 2]
        for engine in ("event", "cycle"):
            activity = simulate(work, machine, memory, engine, dependencies=order)
            yield f"{work.name}, {engine}, {order}", _counts(activity)


def rtl() -> Iterator[tuple[str, Any]]:
    """The event engine on the authors' cases; the cycle engine equals their RTL."""
    for case in validate("timing", "event").cases:
        yield f"rtl, {case.id}", case.simulated


def _counts(activity: Activity) -> list[int]:
    counters = activity.counters
    macs = counters.get("qk_macs", 0) + counters.get("pv_macs", 0)
    return [activity.cycles, sum(activity.dram_read_bytes.values()), macs]


FAMILIES = {"random": random, "rtl": rtl, "presets": presets}
"""Cases by name and what each counts, the fastest to run first."""


def family_of(name: str) -> str:
    """The family that a case is of."""
    first = name.split(",")[0]
    return "rtl" if first == "rtl" else "random" if first.startswith("published-") else "presets"


def main() -> None:
    """Write the file."""
    found = {family: dict(cases()) for family, cases in FAMILIES.items()}
    lines = [
        f"  {json.dumps(name)}: {json.dumps(counts)}"
        for family in ("presets", "random", "rtl")
        for name, counts in found[family].items()
    ]
    PINS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
