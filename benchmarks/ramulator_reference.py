"""Reference cycles of the memory presets, from your own build of Ramulator 2.1.

    python benchmarks/ramulator_reference.py RAMULATOR [MEMORY ...] [--write] [--unmodified]

RAMULATOR is a checkout in which ``libramulator.so`` has been built (see its README; the Python
bindings are not needed). Compiles ``ramulator_driver.cpp`` against it, runs read streams on the
device behind each preset, and says how far our channel is off. ``--write`` makes
``accelsim/validation/data/dram/presets.csv`` anew, which ``accelsim validate dram`` compares with.
About three minutes.

Each device runs with its own preset, except where :data:`CHANGED` says what and why; with
``--unmodified`` those too (HBM2E stays: it has no preset). Address vectors are made by the address
map of our preset, and the read queue is as deep as ours.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim import configs
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.memories.timing import MAX_ENTRIES
from accelsim.validation import dram

ROOT = Path(__file__).resolve().parents[1]
DRIVER = Path(__file__).with_name("ramulator_driver.cpp")
TARGET = ROOT / "accelsim" / "validation" / "data" / "dram" / "presets.csv"

DEVICES: dict[str, tuple[str, str, str, str, dict[str, Any]]] = {
    "hbm2-nominal": ("HBM2", "HBM2_8Gb", "HBM2_2000Mbps", "HBM12", {}),
    "hbm2e": ("HBM2", "HBM2_8Gb", "HBM2_2000Mbps", "HBM12", {}),
    "hbm3": ("HBM3", "HBM3_4Gb", "HBM3_6400Mbps", "HBM34", {}),
    "lpddr5": ("LPDDR5", "LPDDR5_16Gb_x16", "LPDDR5_6400", "LPDDR5", {}),
    "gddr6": ("GDDR6", "GDDR6_8Gb_x16", "GDDR6_14000_1350mV_double", "GenericDDR", {}),
    "ddr4": ("DDR4", "DDR4_8Gb_x8", "DDR4_3200AA", "GenericDDR", {"channel_width": 32}),
}
"""Class, organisation, timing, controller, and what makes it as wide as our channel."""
CHANGED: dict[str, dict[str, int]] = {
    # The clock of 14 Gb/s is 571.4 ps; the preset rounds it to 570, and so refreshes too rarely.
    "gddr6": {"nREFI": 3325},
    # JESD79-4: 350 ns for 8 Gb; the preset has 360.
    "ddr4": {"nRFC": 560},
}
ALWAYS_CLOCKED = {"lpddr5": {"wck_sync_mode": "always_on"}}
"""Our preset keeps the data clock on; Ramulator's default synchronises it with a CAS first."""
HBM2E_CLOCK_PS = 625
IN_CLOCKS = ("rate", "nBL", "nCCDS", "nCCDL")
HBM2_NS = {"nRRDS": 4, "nRRDL": 4, "nFAW": 15, "nRFC": 350, "nREFI": 3900}
"""What Ramulator derives from the clock of a preset, so that it does not follow ours."""

READS = (64, 1024, 2048, 8192)
PATTERNS: list[dict[str, Any]] = [
    {"pattern": "sequential", "stride_bytes": 32, "seed": 0},
    *({"pattern": "strided", "stride_bytes": n, "seed": 0} for n in (64, 256, 2048, 65536)),
    *({"pattern": "random", "seed": seed} for seed in (1, 2)),
    *(
        {"pattern": "gather", "vector_bytes": size, "keep_ratio": ratio, "seed": 1}
        for size, ratio in ((64, 0.25), (64, 0.5), (96, 0.5), (512, 0.25))
    ),
]
COLUMNS = (
    "memory", "pattern", "vector_bytes", "keep_ratio", "stride_bytes", "n_reads", "seed",
    "issue_mode", "inflight_limit", "refresh", "total_cycles",
)  # fmt: skip
Row = dict[str, str]


def rows(name: str, memory: MemoryConfig) -> Iterator[Row]:
    """Every stream of one memory, without its cycles."""
    modes = [("dpi16", n) for n in (4, 16, memory.inflight_limit)] + [("controller_only", None)]
    for refresh in ("off", "on"):
        for pattern in PATTERNS:
            for reads in READS:
                for mode, limit in modes:
                    row = {"memory": name, "refresh": refresh, "n_reads": reads, **pattern}
                    row |= {"issue_mode": mode, "inflight_limit": limit}
                    yield {c: "" if row.get(c) is None else str(row[c]) for c in COLUMNS}


def address_vectors(memory: MemoryConfig, addresses: NDArray[np.int64], levels: list[str]) -> Any:
    """Ramulator's coordinates of channel-local bytes, by our address map."""
    interleave = memory.interleave_bytes or memory.row_bytes
    block, low = np.divmod(addresses, interleave)
    place = {}
    block, place["PseudoChannel"] = np.divmod(block, memory.pseudochannels)
    block, place["BankGroup"] = np.divmod(block, memory.bankgroups)
    block, high = np.divmod(block, memory.row_bytes // interleave)
    block, place["Bank"] = np.divmod(block, memory.banks)
    place["Row"] = block % memory.rows
    place["Column"] = (high * interleave + low) // memory.transaction_bytes
    return np.stack([place.get(level, np.zeros_like(block)) for level in levels], axis=1)


def configuration(
    ramulator: Any, name: str, memory: MemoryConfig, refresh: bool, modified: bool
) -> tuple[dict[str, Any], list[str]]:
    """Expanded configuration of one channel, and the levels of its device."""
    kind, organisation, timing, controller, width = DEVICES[name]
    device = getattr(ramulator.dram, kind)
    changed = dict(width)
    if name == "hbm2e":
        clocks = {k: v for k, v in device.timing_presets[timing].items() if k[0] == "n"}
        ns = {k: v for k, v in clocks.items() if k not in IN_CLOCKS} | HBM2_NS
        changed |= {k: math.ceil(v * 1000 / HBM2E_CLOCK_PS) for k, v in ns.items()}
        changed["tCK_ps"] = HBM2E_CLOCK_PS
    if modified:
        changed |= CHANGED.get(name, {})
    managers = ramulator.refresh_manager
    channel = getattr(ramulator.controller, controller)(
        dram=device(org_preset=organisation, timing_preset=timing, **changed),
        scheduler=ramulator.scheduler.FRFCFS(),
        refresh_manager=managers.AllBank() if refresh else managers.NoRefresh(),
        row_policy=ramulator.row_policy.Open(),
        addr_mapper=ramulator.addr_mapper.PassThroughAddrMapper(),
        read_buffer_size=memory.queue_entries,
        **(ALWAYS_CLOCKED.get(name, {}) if modified else {}),
    )
    system = ramulator.memory_system.GenericDRAM(
        clock_ratio=1,
        controllers=[channel],
        channel_mapper=ramulator.channel_mapper.PassThroughChannelMapper(),
    )
    frontend = ramulator.frontend.External(clock_ratio=1)
    config = {"frontend": frontend.to_config(), "memory_system": system.to_config()}
    return config, list(device.levels)


def measure(ramulator: Any, driver: Path, name: str, modified: bool) -> list[Row]:
    """Run all streams of a memory on Ramulator."""
    memory = configs.load(MemoryConfig, name, "memories")
    found = []
    for refresh in ("off", "on"):
        lines = [row for row in rows(name, memory) if row["refresh"] == refresh]
        config, levels = configuration(ramulator, name, memory, refresh == "on", modified)
        path = driver.with_suffix(".yaml")
        path.write_text(json.dumps(config), encoding="utf-8")
        text = []
        for number, row in enumerate(lines):
            places = address_vectors(memory, dram.placement(row), levels)
            protocol = "bridge" if row["issue_mode"] == "dpi16" else "controller"
            text.append(f"{number} {protocol} {row['inflight_limit'] or MAX_ENTRIES} {len(places)}")
            text += [" ".join(map(str, place)) for place in places.tolist()]
        words = [str(driver), str(path), str(len(levels))]
        done = subprocess.run(
            words, input="\n".join(text) + "\n", capture_output=True, text=True, check=True
        )
        for answer in done.stdout.splitlines():
            number, cycles = map(int, answer.split())
            found.append(lines[number] | {"total_cycles": str(cycles)})
    return found


def compare(name: str, found: list[Row]) -> None:
    """Print how far our channel is from the reference."""
    memory = configs.load(MemoryConfig, name, "memories")
    errors = [
        abs(dram.simulate(memory, row, dram.placement(row)) / int(row["total_cycles"]) - 1)
        for row in found
    ]
    exact = sum(error == 0 for error in errors)
    print(
        f"{name}: {len(errors)} streams, {exact} exact, mean error "
        f"{100 * sum(errors) / len(errors):.3g} %, worst {100 * max(errors):.3g} %",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("ramulator", type=Path, help="checkout with libramulator.so")
    parser.add_argument("memory", nargs="*", choices=[*DEVICES, []], help="default: all")
    parser.add_argument("--write", action="store_true", help=f"write {TARGET.name}")
    parser.add_argument("--unmodified", action="store_true", help="without the named changes")
    words = parser.parse_args()
    if words.write and (words.memory or words.unmodified):
        parser.error("--write takes all memories, as named")
    folder = words.ramulator.resolve()
    sys.path.insert(0, str(folder / "python"))
    import ramulator

    found = []
    with tempfile.TemporaryDirectory() as scratch:
        driver = Path(scratch) / "driver"
        flags = ["-std=c++20", "-O2", f"-I{folder / 'src'}", f"-L{folder}", f"-Wl,-rpath,{folder}"]
        subprocess.run(["g++", *flags, str(DRIVER), "-lramulator", "-o", str(driver)], check=True)
        for name in words.memory or DEVICES:
            lines = measure(ramulator, driver, name, not words.unmodified)
            compare(name, lines)
            found += lines
    if words.write:
        with TARGET.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(found)


if __name__ == "__main__":
    main()
