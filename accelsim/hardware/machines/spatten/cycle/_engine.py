"""Build the machine for a workload, run it, and read out what it did."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from accelsim.errors import ConfigError, InvariantError, SimulationError
from accelsim.hardware.activity import Activity, ModuleActivity, QueueActivity
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.machines.spatten.config import SpattenConfig
from accelsim.hardware.machines.spatten.counts import count_work, finish
from accelsim.hardware.machines.spatten.cycle import _state as c
from accelsim.hardware.machines.spatten.cycle._clock import run
from accelsim.hardware.machines.spatten.cycle._diagnosis import describe_stall
from accelsim.hardware.machines.spatten.cycle._plan import ATOM, Plan, make_plan
from accelsim.hardware.machines.spatten.rows import rows_of
from accelsim.hardware.memories.channel import (
    ACT,
    CONFLICTS,
    HITS,
    MISSES,
    PRE,
    PREA,
    RD,
    REFAB,
    counters,
    new_channels,
)
from accelsim.hardware.memories.timing import organisation
from accelsim.workloads import Workload

Dependencies = Literal["causal", "streamed"]

WATCHDOG_CYCLES = 100_000
_FOREVER = 1 << 62
_MODULES = {
    "fetcher": "busy_fetcher",
    "qk_unit": "busy_qk",
    "softmax": "busy_softmax",
    "topk": "busy_topk",
    "filter": "busy_filter",
    "selector": "busy_selector",
    "pv_unit": "busy_pv",
}
_QUEUES = (
    ("address_fifo", "address_fifo", "address_most", "addresses of a port"),
    ("response_fifo", "response_fifo", "response_most", "responses of a port"),
    ("softmax_fifo", "softmax_fifo", "fifo_most", "beats"),
    ("key_buffer", "lines", "key_most", "lines"),
    ("value_buffer", "lines", "value_most", "lines"),
)


class CycleMachine:
    """The published SpAtten with a workload in front of it.

    Args:
        workload: what it is asked to do.
        config: of the machine.
        memory: of one DRAM channel.
        dependencies: ``causal``: no layer begins before the one before is done; ``streamed``: rows
            follow each other as fast as the machine takes them.

    Raises:
        ConfigError: a memory that cannot be ticked once a core cycle.
        WorkloadError: what the machine does not take, with the row.
    """

    def __init__(
        self,
        workload: Workload,
        config: SpattenConfig,
        memory: MemoryConfig,
        dependencies: Dependencies = "causal",
    ) -> None:
        if memory.clock_hz != config.frequency_hz:
            raise ConfigError(
                f"the cycle engine ticks the memory once a core cycle: memory clock_hz is "
                f"{memory.clock_hz:g}, expected {config.frequency_hz:g} (use --engine event)"
            )
        if memory.transaction_bytes != ATOM:
            raise ConfigError(
                f"memory: transaction_bytes is {memory.transaction_bytes}; the fetcher takes {ATOM}"
            )
        self.workload, self.config = workload, config
        self.plan = make_plan(workload, config, memory)
        self.state = _build(workload, config, memory, self.plan, dependencies)

    def run(self, until: int = _FOREVER) -> bool:
        """Run to the last output, or to clock cycle ``until``; true when all is done.

        Raises:
            SimulationError: no progress; says which block waits for what.
        """
        m = self.state
        arrays = (*m[1:8], *m.queues, *m.fetch)
        if not run(m.s, *arrays, until, WATCHDOG_CYCLES):
            raise SimulationError(describe_stall(m, WATCHDOG_CYCLES))
        return bool(m.s[0]["outputs"] == m.s[0]["all_outputs"])


def simulate(
    workload: Workload,
    config: SpattenConfig,
    memory: MemoryConfig,
    dependencies: Dependencies = "causal",
) -> Activity:
    """Run a workload through the published SpAtten, cycle by cycle.

    Raises:
        ConfigError: a memory that cannot be ticked once a core cycle.
        WorkloadError: what the machine does not take, with the row.
        SimulationError: the machine stopped.
    """
    machine = CycleMachine(workload, config, memory, dependencies)
    machine.run()
    return activity_of(machine)


def activity_of(machine: CycleMachine) -> Activity:
    """What a machine that has finished did."""
    m, plan, config = machine.state, machine.plan, machine.config
    s = m.s[0]
    cycles = int(s["last_output"]) + config.reset_cycles
    done = [int(cycle) + config.reset_cycles for cycle in m.queues.outputs]
    activity = Activity(cycles, config.frequency_hz)
    workload = machine.workload
    rows = rows_of(workload, config)
    own = plan.counters
    spilled = own.get("spill_read_bytes", 0), own.get("spill_write_bytes", 0)
    count_work(activity, workload, rows, config, plan.bytes, spilled)
    activity.count("refetched_bytes", own.get("refetched_bytes", 0))
    for name, amount in own.items():
        if activity.counters.get(name, 0) != amount:
            raise InvariantError(
                f"workload '{workload.name}': the cycle engine counts {amount} {name}; the rows "
                f"say {activity.counters.get(name, 0)}"
            )
    commands = counters(m.fetch.dram)
    for name, code in (
        ("dram_reads", RD),
        ("dram_activations", ACT),
        ("dram_precharges", PRE),
        ("dram_refreshes", REFAB),
        ("row_hits", HITS),
        ("row_misses", MISSES),
        ("row_conflicts", CONFLICTS),
    ):
        activity.count(name, int(commands[code]))
    activity.count("dram_precharges", int(commands[PREA]))
    for name, column in _MODULES.items():
        busy = min(int(s[column]), cycles)
        activity.modules[name] = ModuleActivity(busy, {"idle": cycles - busy})
    for name, macs in (("qk_unit", "qk_macs"), ("pv_unit", "pv_macs")):
        activity.modules[name].operations = activity.counters[macs]
        activity.modules[name].peak_operations_per_cycle = config.multipliers
    activity.queues = {
        name: QueueActivity(int(s[depth]), int(s[most]), unit)
        for name, depth, most, unit in _QUEUES
    }
    finish(activity, rows, done)
    return activity


def _build(
    workload: Workload,
    config: SpattenConfig,
    memory: MemoryConfig,
    plan: Plan,
    dependencies: Dependencies,
) -> c.Machine:
    org = organisation(memory, writes=False)
    channels, ports = config.channels, config.fetch_channels
    # Of a mixed workload the trees are as deep as its widest, and its most vectors, need.
    widest, narrowest = int(workload.key_dims.max()), int(workload.key_dims.min())
    scores = min(config.multipliers // narrowest, config.scores_per_cycle)
    # A port asks for no more than the address FIFOs, the memory and the response FIFOs hold.
    per_channel = int(memory.inflight_limit) + 4
    ring = 1 << (config.address_fifo + config.response_fifo + channels * per_channel).bit_length()
    state = np.zeros(1, c.MACHINE)
    s = state[0]
    log_dim = (widest - 1).bit_length()
    pipeline = 2 + log_dim + c.EXPONENT
    for name, value in {
        "streamed": dependencies == "streamed",
        "log_scores": (scores - 1).bit_length(),
        "log_dim": log_dim,
        "parallelism": config.softmax_parallelism,
        "softmax_fifo": config.softmax_fifo,
        "key_depth": config.key_prefetch_depth,
        "value_depth": config.value_prefetch_depth,
        "lines": config.buffer_lines,
        "topk_rows": config.topk.rows,
        "ports": ports,
        "channels": channels,
        "channel_bits": channels.bit_length() - 1,
        "address_fifo": config.address_fifo,
        "response_fifo": config.response_fifo,
        "ring_mask": ring - 1,
        "query_traffic": config.query_traffic,
        "all_outputs": int(plan.jobs["output"].sum()),
        "first_passes": int((plan.matrices["lsb"] == 0).sum()),
        "early_tiles": len(plan.early_tiles),
        "barrier": -1,
        "qk_job": -1,
        "read_extra": -1,
        "last_filter": -1,
        "last_decided": -c.REFETCH_DELAY,
        "current": -1,
    }.items():
        s[name] = value
    fetch_ports = np.zeros(ports, c.PORT)
    fetch_ports["destination"] = fetch_ports["served"] = -1
    dram_ports = np.zeros(channels, c.DRAM_PORT)
    dram_ports["parked"] = dram_ports["offered"] = dram_ports["lock"] = -1
    dram, banks = new_channels(channels, org)
    s["dram_next"] = dram["next_event"].min()
    matrices, tiles = len(plan.matrices), len(plan.tiles)
    jobs, pieces, groups = len(plan.jobs), len(plan.pieces), len(plan.groups)

    def queue(length: int, entry: DTypeLike = np.int64) -> NDArray[Any]:
        return np.zeros(length + 1, entry)

    queues = c.Queues(
        lsb=queue(matrices, c.REFETCH),
        asked=queue(len(plan.rows)),
        key_ring=queue(matrices),
        value_pool=queue(config.value_prefetch_depth + 1),
        qk=queue(matrices),
        pipe=np.zeros(pipeline, c.SCORE_BEAT),
        sequence=queue(jobs),
        out=np.zeros(c.DIVIDE, c.PROBABILITY_BEAT),
        decide=queue(jobs, c.DECISION),
        topk=queue(jobs),
        buffers=np.zeros(config.topk.rows, np.int64),
        token=queue(jobs + groups, c.SEARCH),
        heads=queue(groups, c.SEARCH),
        slots=queue(pieces),
        asks=queue(config.value_prefetch_depth + 2),
        value_jobs=plan.value_jobs,
        early_tiles=plan.early_tiles,
        weighted=queue(plan.weighted, c.WEIGHING),
        key_requests=queue(matrices + len(plan.rows)),
        value_requests=queue(tiles),
        outputs=np.zeros(workload.rows, np.int64),
    )
    fetch = c.Fetch(
        plan.transactions,
        plan.vectors,
        np.full(plan.beats + 1, c.NEVER, np.int64),
        np.zeros(ring, c.BEAT),
        fetch_ports,
        dram_ports,
        dram,
        banks,
        org,
    )
    return c.Machine(
        state,
        plan.groups,
        plan.rows,
        plan.matrices,
        plan.pieces,
        plan.tiles,
        plan.jobs,
        plan.requests,
        queues,
        fetch,
    )
