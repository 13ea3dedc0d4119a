"""The export for Ramulator 2, read back by the rules of its LoadStoreTrace front end."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from accelsim.cli import main
from accelsim.configs import load, preset_names
from accelsim.errors import ConfigError
from accelsim.exploration import replay
from accelsim.hardware import load_accelerator, simulate
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.machines.spatten_rtl.addresses import AddressMap
from accelsim.hardware.machines.spatten_rtl.config import SpattenRtlConfig
from accelsim.hardware.machines.spatten_rtl.requests import requests
from accelsim.hardware.memories import read_stream, record_requests
from accelsim.hardware.memories.gather import local_addresses
from accelsim.hardware.memories.ramulator import capacity_bytes, ramulator_files
from accelsim.workloads import read_csv

SMALL_CSV = Path(__file__).parents[3] / "traces" / "spatten-gpt2" / "small.csv"
MEMORY = load(MemoryConfig, "hbm2-spatten", "memories")


def parse(text: str) -> list[tuple[str, int]]:
    """Read a trace as the front end does: two words a line, LD or ST, 0x means hexadecimal."""
    accesses = []
    for line in text.splitlines():
        words = line.split(" ")
        assert len(words) == 2
        assert words[0] in ("LD", "ST")
        assert words[1].startswith("0x")
        accesses.append((words[0], int(words[1][2:], 16)))
    return accesses


@pytest.mark.parametrize(
    ("accelerator", "engine"),
    [
        ("spatten-rtl-eighth", "cycle"),
        ("spatten-rtl-eighth", "event"),
        ("spatten-rtl", "event"),
        ("a3-base", "event"),
    ],
)
def test_every_read_is_exported_once(accelerator: str, engine: str) -> None:
    update = {"memory": "hbm2-spatten"}
    result = replay(
        SMALL_CSV, accelerator, engine=engine, overrides=update, baselines=[], record_dram=True
    )
    plain = replay(SMALL_CSV, accelerator, engine=engine, overrides=update, baselines=[])
    assert plain.metrics == result.metrics
    assert not plain.ramulator_files
    traces = {n: parse(t) for n, t in result.ramulator_files.items() if n.endswith(".trace")}
    assert 0 < len(traces) <= load_accelerator(accelerator).channels
    accesses = [access for trace in traces.values() for access in trace]
    kinds = Counter(kind for kind, _ in accesses)
    assert kinds["LD"] == result.activity.counters["dram_reads"]
    assert set(kinds) == {"LD"}  # Outputs are counted in bytes; no machine simulates them.
    assert all(address < capacity_bytes(MEMORY) for _, address in accesses)
    assert all(address % MEMORY.transaction_bytes == 0 for _, address in accesses)


def test_addresses_are_those_of_the_address_map() -> None:
    workload, config = read_csv(SMALL_CSV), load_accelerator("spatten-rtl-eighth")
    assert isinstance(config, SpattenRtlConfig)
    _, logs = record_requests(lambda: simulate(workload, config, MEMORY))
    addresses = AddressMap(workload, config, requests(workload, config))
    asked = np.concatenate([addresses.keys(0), addresses.key_lsbs(0), addresses.values(0)])
    channel, local = local_addresses(MEMORY, asked, config.channels)
    for number, log in enumerate(logs):
        assert Counter((log >> 1).tolist()) == Counter(local[channel == number].tolist())


def test_order_is_the_order_of_acceptance() -> None:
    blocks = np.random.default_rng(1).integers(0, 5000, 400) * 32
    _, (log,) = record_requests(lambda: read_stream(MEMORY, blocks))
    assert (log >> 1).tolist() == blocks.tolist()


def test_writes_are_stores_and_aliases_fold_into_the_channel() -> None:
    log = np.array([0x40 << 1, (0x60 << 1) | 1, (capacity_bytes(MEMORY) + 0x20) << 1])
    files = ramulator_files(MEMORY, 1e9, [np.array([], np.int64), log])
    assert sorted(files) == ["channel-01.trace", "channel-01.yaml"]
    assert files["channel-01.trace"] == "LD 0x40\nST 0x60\nLD 0x20\n"


@pytest.mark.parametrize(
    "name",
    [n for n in preset_names("memories") if load(MemoryConfig, n, "memories").ramulator],
)
def test_configuration_names_trace_device_and_clocks(name: str) -> None:
    memory = load(MemoryConfig, name, "memories")
    files = ramulator_files(memory, 0.8e9, [np.array([0], np.int64)])
    document = yaml.safe_load(files["channel-00.yaml"])
    frontend, system = document["Frontend"], document["MemorySystem"]
    assert frontend["impl"] == "LoadStoreTrace"
    assert frontend["path"] in files
    ratio = frontend["clock_ratio"] / system["clock_ratio"]
    assert ratio == pytest.approx(0.8e9 / memory.clock_hz)
    assert memory.ramulator is not None
    assert system["DRAM"]["impl"] == memory.ramulator.dram
    assert system["DRAM"]["org"]["channel"] == 1
    assert ("nREFI" in system["DRAM"]["timing"]) is not memory.refresh
    assert system["AddrMapper"]["impl"] == "RoBaRaCoCh"


def test_memory_without_a_device_is_refused() -> None:
    with pytest.raises(ConfigError, match="can be exported: ddr4, hbm2-spatten"):
        ramulator_files(load(MemoryConfig, "flat", "memories"), 1e9, [])


def test_command_line_writes_pairs_of_files(tmp_path: Path) -> None:
    folder = tmp_path / "ramulator"
    main(
        [
            "replay", str(SMALL_CSV), "--accelerator", "spatten-rtl-eighth",
            "--export-ramulator", str(folder), "--json", str(tmp_path / "result.json"),
        ]
    )  # fmt: skip
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"channel-0{c}.{kind}" for c in (0, 1) for kind in ("trace", "yaml")]
    reads = sum(len(parse((folder / n).read_text())) for n in names if n.endswith("trace"))
    assert reads == 5000
