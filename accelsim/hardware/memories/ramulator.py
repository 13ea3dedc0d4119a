"""Export of a run's DRAM requests to Ramulator 2: a load/store trace and its configuration.

One pair of files per channel, with channel-local addresses, because that is how SpAtten's release
drives Ramulator (one complete memory system per channel), and because one system of several
channels would not put an address where the accelerator does: Ramulator's RoBaRaCoCh map takes the
channel from the bits above one column access (16 bytes for its HBM2), the accelerator from the bits
above a 32-byte transaction.

A trace has one access a line, ``LD 0x…`` for a read and ``ST 0x…`` for a write, two words separated
by one space, as the LoadStoreTrace front end of Ramulator 2 reads them (CMU-SAFARI/ramulator2,
src/frontend/impl/memory_trace/loadstore_trace.cpp). It has no times: the front end offers one
access a clock and waits where the controller refuses. The configuration is a YAML file in the form
of Ramulator 2.0; Ramulator 2.1 reads the same trace, and is configured from Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from accelsim import configs
from accelsim.errors import ConfigError
from accelsim.hardware.config import MemoryConfig

_NO_REFRESH_INTERVAL = (1 << 30) - 1
"""Ramulator 2.0 has no way to switch refresh off; this puts the first one out of reach."""


def check_exportable(memory: MemoryConfig) -> None:
    """Refuse a memory that no preset of Ramulator 2.0 describes.

    Raises:
        ConfigError: naming the memories that can be exported.
    """
    if memory.ramulator is not None:
        return
    known = [
        name
        for name in configs.preset_names("memories")
        if configs.load(MemoryConfig, name, "memories").ramulator is not None
    ]
    raise ConfigError(
        "memory: no key 'ramulator', so its request stream cannot be exported; no device of "
        f"Ramulator 2.0 describes it (memories that can be exported: {', '.join(known)})"
    )


def ramulator_files(
    memory: MemoryConfig, frequency_hz: float, requests: Sequence[NDArray[np.int64]]
) -> dict[str, str]:
    """Return the files of an export, by name.

    Args:
        memory: one channel.
        frequency_hz: of the accelerator, which offers one request a cycle to each channel.
        requests: for each channel the accepted requests in order, channel-local byte address << 1
            | 1 for a write.

    Returns:
        ``channel-NN.trace`` and ``channel-NN.yaml`` for each channel that was asked for anything.
        Address bits above the capacity of a channel, which the memory ignores, are left out.

    Raises:
        ConfigError: see :func:`check_exportable`.
    """
    check_exportable(memory)
    files = {}
    capacity = capacity_bytes(memory)
    for channel, log in enumerate(requests):
        if not len(log):
            continue
        name = f"channel-{channel:02d}"
        lines = (
            f"{'ST' if entry & 1 else 'LD'} {(entry >> 1) % capacity:#x}\n"
            for entry in log.tolist()
        )
        files[f"{name}.trace"] = "".join(lines)
        files[f"{name}.yaml"] = _configuration(memory, frequency_hz, f"{name}.trace")
    return files


def capacity_bytes(memory: MemoryConfig) -> int:
    """Bytes of one channel that the address map reaches."""
    banks = memory.pseudochannels * memory.bankgroups * memory.banks
    return banks * memory.rows * memory.row_bytes


def _configuration(memory: MemoryConfig, frequency_hz: float, trace: str) -> str:
    device = memory.ramulator
    assert device is not None
    ratio = Fraction(frequency_hz / memory.clock_hz).limit_denominator(64)
    timing: dict[str, Any] = {"preset": device.timing}
    if not memory.refresh:
        timing["nREFI"] = _NO_REFRESH_INTERVAL
    document = {
        "Frontend": {
            "impl": "LoadStoreTrace",
            "clock_ratio": ratio.numerator,
            "path": trace,
        },
        "MemorySystem": {
            "impl": "GenericDRAM",
            "clock_ratio": ratio.denominator,
            "DRAM": {
                "impl": device.dram,
                "org": {**device.organisation, "channel": 1},
                "timing": timing,
            },
            "Controller": {
                "impl": "Generic",
                "Scheduler": {"impl": "FRFCFS"},
                "RefreshManager": {"impl": "AllBank"},
                "RowPolicy": {"impl": "OpenRowPolicy"},
                "plugins": None,
            },
            "AddrMapper": {"impl": "RoBaRaCoCh"},
        },
    }
    head = "# Ramulator 2.0: run it in this folder, ramulator2 -f FILE\n"
    if memory.interleave_bytes:
        head += (
            f"# accelsim moves on to the next bank group every {memory.interleave_bytes} bytes; "
            "RoBaRaCoCh does so after a whole row.\n"
        )
    return head + yaml.safe_dump(document, sort_keys=False)
