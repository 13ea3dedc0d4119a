"""The block diagram of the published SpAtten: which block gives what to which, and how deep.

Its blocks work ahead of simulated time (docs/accelerators/spatten-published.md), so its arrows are
written down here and not found in queues of the simulation (the ports of ``machine.py`` have no
depth); a test holds them against the modules and queues of a result.
"""

from __future__ import annotations

from collections.abc import Callable

from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.machines.spatten.config import SpattenConfig
from accelsim.hardware.machines.spatten.units import SEARCHES
from accelsim.hardware.simulation import Wire

Depth = Callable[[SpattenConfig], float]

WIRING: tuple[tuple[str, str, str, Depth | None], ...] = (
    ("allocator", "fetcher", "address_fifo", lambda c: c.address_fifo),
    ("allocator", "fetcher", "key_matrices", lambda c: 1 + c.key_prefetch_depth),
    ("value_fork", "fetcher", "value_matrices", lambda c: 1 + c.value_prefetch_depth),
    ("fetcher", "DRAM", "addresses", None),
    ("DRAM", "fetcher", "response_fifo", lambda c: c.response_fifo),
    ("fetcher", "qk_unit", "key_buffer", lambda c: c.buffer_lines),
    ("fetcher", "pv_unit", "value_buffer", lambda c: c.buffer_lines),
    ("qk_unit", "softmax", "softmax_fifo", lambda c: c.softmax_fifo),
    ("softmax", "allocator", "LSB passes", None),
    ("softmax", "topk", "topk_rows", lambda c: c.topk.rows),
    ("softmax", "selector", "selector_rows", lambda c: SEARCHES),
    ("selector", "allocator", "kept tokens and heads", None),
    ("topk", "value_fork", "kept values", None),
    ("topk", "pv_unit", "probabilities", None),
    ("pv_unit", "DRAM", "outputs", None),
)
"""Source, target, queue as in results (or what goes there), and its depth."""


def wiring(config: SpattenConfig, memory: MemoryConfig) -> list[Wire]:
    """The arrows of a configuration."""
    return [
        Wire(source, target, name, None if depth is None else depth(config))
        for source, target, name, depth in WIRING
    ]
