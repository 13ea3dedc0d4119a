"""How large a machine is, in the units that leakage and area grow with."""

from __future__ import annotations

from accelsim.hardware.config import AcceleratorConfig, SpattenConfig


def machine_sizes(machine: AcceleratorConfig | None) -> dict[str, float]:
    """Return size by name of ``_table.SIZES``; empty without a machine.

    A size that an accelerator does not have is absent, and entries that grow with it then stand for
    the machine that the table was made for.
    """
    if machine is None:
        return {}
    sizes = {
        "machine": 1.0,
        "multiplier": float(machine.multiplier_count),
        "buffer_byte": machine.buffer_bytes,
        "dram_channel": float(machine.channels),
    }
    if isinstance(machine, SpattenConfig):
        sizes["fetch_channel"] = machine.fetch_channels
        sizes["softmax_lane"] = machine.softmax_parallelism
        sizes["topk_comparator"] = machine.topk.parallelism * machine.topk.engines
    return sizes
