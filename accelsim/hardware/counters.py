"""Counters: what a machine counts of its work. A block or machine declares its own.

Energy is counted work times a table, so a table names counters, and is checked against those that
the machine declares (:attr:`accelsim.hardware.Accelerator.counters`). The words that several
machines share stand here, so that they mean the same; a counter of one machine stands with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from accelsim.errors import ConfigError


@dataclass(frozen=True)
class Counter:
    """One counter.

    Attributes:
        name: key in ``Activity.counters`` and in energy tables; ends in its unit where that is
            bytes or bits.
        unit: what one is, a noun: ``byte``, ``bit``, ``MAC``, ``comparison`` … The ``unit`` of an
            entry of an energy table begins with it.
        counts: what it counts.
        charged: it has a price of its own; off for what other counters charge already, or what only
            classifies.
    """

    name: str
    unit: str
    counts: str
    charged: bool = True


class Size(NamedTuple):
    """How much of something a machine has; leakage, background power and area may grow with it.

    Attributes:
        amount: of the unit.
        unit: what one is.
    """

    amount: float
    unit: str


DRAM = (
    Counter("dram_activations", "activation", "DRAM row activations, each with its precharge"),
    Counter(
        "dram_posted_activations",
        "activation",
        "row activations of what takes no turn on the simulated channels (writes, spilled reads), "
        "one for each row's worth of bytes",
    ),
    Counter("dram_read_bits", "bit", "bits moved by DRAM read bursts"),
    Counter("dram_write_bits", "bit", "bits moved by DRAM write bursts"),
    Counter("dram_io_bits", "bit", "bits through the DRAM interface, read or written"),
    Counter("dram_precharges", "precharge", "DRAM precharges", charged=False),
    Counter("dram_reads", "burst", "DRAM read bursts", charged=False),
    Counter("dram_writes", "burst", "DRAM write bursts", charged=False),
    Counter("dram_refreshes", "refresh", "DRAM refresh commands", charged=False),
    Counter("row_hits", "request", "requests whose row was open", charged=False),
    Counter("row_misses", "request", "requests that found their bank closed", charged=False),
    Counter("row_conflicts", "request", "requests that found another row open", charged=False),
)
"""Every machine has a memory. Bits follow from the bytes of an Activity and are not stored in it;
bursts are charged by their bits, refreshes are part of the background power."""

QK_MACS = Counter("qk_macs", "MAC", "multiply-accumulates of the query-key unit")
PV_MACS = Counter("pv_macs", "MAC", "multiply-accumulates of the probability-value unit")
EXPONENTIALS = Counter("exponentials", "exponential", "exponentials of the softmax")
DIVISIONS = Counter("divisions", "division", "divisions of the softmax")
SCORE_COMPARISONS = Counter(
    "score_comparisons", "comparison", "comparisons of a score, or its weight, with a threshold"
)
QUERY_REGISTERS = Counter(
    "query_register_bytes",
    "byte",
    "bytes of queries written to registers, once for each pass over a tile or chunk of keys",
)
ATTENTION = (QK_MACS, PV_MACS, EXPONENTIALS, DIVISIONS)
"""Arithmetic of attention."""
BUFFERS = tuple(
    Counter(f"{name}_sram_{access}_bytes", "byte", f"bytes {way} the {name} buffer")
    for name in ("key", "value")
    for access, way in (("read", "read from"), ("write", "written to"))
)
"""Buffers of keys and of values."""


def by_name(counters: Iterable[Counter]) -> dict[str, Counter]:
    """Counters by name.

    Raises:
        ConfigError: two of one name that do not count the same.
    """
    found: dict[str, Counter] = {}
    for counter in counters:
        if found.setdefault(counter.name, counter) != counter:
            raise ConfigError(
                f"counter '{counter.name}' is declared twice, as '{found[counter.name].counts}' "
                f"and as '{counter.counts}'"
            )
    return found
