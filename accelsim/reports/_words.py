"""What a result says, in a sentence: what it costs, against what, and what holds it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from accelsim.units import percent, si

_BLOCKS = {
    "qk_unit": "the query x key unit",
    "pv_unit": "the probability x value unit",
    "softmax": "softmax",
    "topk": "the value top-k",
    "selector": "token and head selection",
    "fetcher": "the fetcher",
    "allocator": "the key allocator",
    "value_fork": "the value fork",
}
"""Blocks of SpAtten as a sentence names them; others go by their own names."""
_SLOWER = 1.005
"""Ratios nearer to 1 than this are no difference."""


class Told(Protocol):
    """What a sentence is about: a result, or what was read of one."""

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Scalars by name."""

    @property
    def accuracy(self) -> Mapping[str, Any] | None:
        """Errors by name, where there are any."""

    @property
    def modules(self) -> Mapping[str, Mapping[str, Any]]:
        """Busy and stalled cycles by block."""


def in_words(results: Mapping[str, Told]) -> list[str]:
    """Return one sentence for each result, the first being what the others are compared with."""
    first = next(iter(results.values()))
    return [
        f"{name}: {_cost(result, first)}{_loss(result)}; {bound_of(result)}."
        for name, result in results.items()
    ]


def _cost(result: Told, first: Told) -> str:
    cost = f"{si(result.metrics['latency_s'], 's')}"
    if result is first:
        return cost
    time = result.metrics["latency_cycles"] / first.metrics["latency_cycles"]
    reads = max(result.metrics["dram_read_bytes"], 1) / max(first.metrics["dram_read_bytes"], 1)
    return f"{cost}, {times(time, 'faster', 'slower')}, {times(reads, 'fewer', 'more')} DRAM reads"


def times(ratio: float, less: str, more: str) -> str:
    """How a cost compares: ``1.66 times slower``."""
    if 1 / _SLOWER < ratio < _SLOWER:
        return "as fast" if less == "faster" else "as many"
    return f"{ratio:.3g} times {more}" if ratio > 1 else f"{1 / ratio:.3g} times {less}"


def _loss(result: Told) -> str:
    error = (result.accuracy or {}).get("relative_output_error")
    if not isinstance(error, (int, float)):
        return ""
    return f", output error {percent(error)} (open loop)"


def bound_of(result: Told) -> str:
    """The busiest block, and what the block behind it waits for."""
    cycles = result.metrics["latency_cycles"]
    modules = result.modules
    if not modules or not cycles:
        return "no block was observed"
    busiest = max(modules, key=lambda name: modules[name]["busy_cycles"])
    said = (
        f"{_BLOCKS.get(busiest, busiest)} is the busiest block, "
        f"{percent(modules[busiest]['busy_cycles'] / cycles)} of the time"
    )
    unit = modules.get("qk_unit")
    if unit is None or busiest == "qk_unit":
        return said
    reasons = {reason: n for reason, n in unit["stall_cycles"].items() if reason != "idle"}
    if not any(reasons.values()):
        return said
    reason = max(reasons, key=lambda name: reasons[name])
    waits = percent(reasons[reason] / cycles)
    return f"{said}; {_BLOCKS['qk_unit']} waits {waits} of it ({reason})"
