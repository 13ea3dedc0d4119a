"""Build the machine for a workload, run it, and read out what it did."""

from __future__ import annotations

import numpy as np

from accelsim.errors import ConfigError, SimulationError, WorkloadError
from accelsim.hardware.activity import Activity
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.machines.spatten_rtl.config import SpattenRtlConfig
from accelsim.hardware.machines.spatten_rtl.cycle import _state as c
from accelsim.hardware.machines.spatten_rtl.cycle._clock import run
from accelsim.hardware.machines.spatten_rtl.cycle._diagnosis import describe_stall
from accelsim.hardware.machines.spatten_rtl.facts import INFLIGHT, SCORE_ROWS
from accelsim.hardware.machines.spatten_rtl.java_random import index_table
from accelsim.hardware.machines.spatten_rtl.requests import Requests, requests
from accelsim.hardware.memories.channel import new_channels
from accelsim.hardware.memories.timing import organisation
from accelsim.hardware.timeline import Recorder
from accelsim.workloads import Workload

WATCHDOG_CYCLES = 200_000
_FOREVER = 1 << 62


class CycleMachine:
    """The released SpAtten with a workload in front of it, after reset."""

    def __init__(self, workload: Workload, config: SpattenRtlConfig, memory: MemoryConfig) -> None:
        _check(workload)
        if memory.clock_hz != config.frequency_hz:
            raise ConfigError(
                f"the cycle engine ticks the memory once a core cycle: memory clock_hz is "
                f"{memory.clock_hz:g}, expected {config.frequency_hz:g} (use --engine event)"
            )
        self.workload, self.config = workload, config
        self.requests = requests(workload, config)
        _check_rounding(workload, config, self.requests)
        self.state = _build(config, self.requests, memory)

    def run(self, until: int = _FOREVER) -> bool:
        """Run to the last response, or to clock cycle ``until``; true when all responses are out.

        Raises:
            SimulationError: no progress; says which block waits for which.
        """
        if not run(*self.state, until, WATCHDOG_CYCLES):
            raise SimulationError(describe_stall(self.state, WATCHDOG_CYCLES))
        return bool(self.state.s[0]["responses"] == self.requests.rows)

    @property
    def completion_cycles(self) -> list[int]:
        """Cycle of each response, in row order, as the test bench reports it (after reset)."""
        done = self.state.requests["done"] + self.config.reset_cycles
        return [int(cycle) for cycle in done]


def simulate(
    workload: Workload,
    config: SpattenRtlConfig,
    memory: MemoryConfig,
    recorder: Recorder | None = None,
) -> Activity:
    """Run a workload through one SpAtten, cycle by cycle.

    With a recorder it is slower, and the activity also has the time of each module.

    Raises:
        ConfigError: a memory of another clock.
        WorkloadError: rows that the machine refuses, or that would hang it.
        SimulationError: the machine stopped.
    """
    from accelsim.hardware.machines.spatten_rtl.cycle._activity import activity_of

    machine = CycleMachine(workload, config, memory)
    if recorder is None:
        machine.run()
        return activity_of(machine)
    from accelsim.hardware.machines.spatten_rtl.cycle._record import run_recorded

    run_recorded(machine.state, WATCHDOG_CYCLES, recorder)
    activity = activity_of(machine)
    activity.modules = recorder.finish(
        workload, config.frequency_hz, activity.cycles, config.reset_cycles
    )
    return activity


def _check(workload: Workload) -> None:
    """Refuse what the released hardware does not take."""
    if workload.head_dim != 64:
        raise WorkloadError(
            f"workload '{workload.name}': head_dim {workload.head_dim}; the released SpAtten is "
            "built for 64 (use --engine event)"
        )
    if int(workload["queries"].max()) > 1:
        raise WorkloadError(
            f"workload '{workload.name}': a row with several queries; the released SpAtten takes "
            "one query a request (use --engine event)"
        )


def _check_rounding(workload: Workload, config: SpattenRtlConfig, rows: Requests) -> None:
    """Refuse what leaves a half-filled fetch beat behind (specification section 6.2)."""
    step = int(np.lcm(config.fetch_channels, 2 * config.vectors_per_line))
    for what in ("keys", "values"):
        counts = getattr(rows, what)
        bad = np.flatnonzero(counts % step)
        if bad.size:
            row = int(bad[0])
            raise WorkloadError(
                f"workload '{workload.name}': row {row} fetches {counts[row]} {what} after "
                f"rounding to {config.rounding}; the released fetcher would hang on what is not a "
                f"multiple of {step} (fetch_channels and multipliers/32): set rounding to {step}"
            )


def _build(config: SpattenRtlConfig, rows: Requests, memory: MemoryConfig) -> c.Machine:
    scores, lines = config.vectors_per_line, config.buffer_lines
    channels, fetch = config.channels, config.fetch_channels
    row_beats = fetch // scores
    table = _request_table(rows)
    rotates = config.index_pattern == "random-table"
    if rotates:
        indexes = index_table(lines, fetch, scores * lines).ravel()
    else:
        indexes = np.arange(scores * lines, dtype=np.int64)
    state = np.zeros(1, c.MACHINE)
    s = state[0]
    for name, value in {
        "line_scores": scores,
        "buffer_lines": lines,
        "channels": channels,
        "fetch_channels": fetch,
        "row_beats": row_beats,
        "rotates": rotates,
        "log_scores": scores.bit_length() - 1,
        "channel_bits": channels.bit_length() - 1,
        "count": rows.rows,
        "fetch_last": 1,
    }.items():
        s[name] = value
    for register in _EMPTY_REGISTERS:
        s[register] = -1
    depths = {
        c.INFLIGHT: INFLIGHT,
        c.LSB_PASSES: 2,
        c.DECISION: lines,
        c.ORDER: 16 * lines,
        c.TOPK: lines,
        c.SCORES: SCORE_ROWS * row_beats,
    }
    first = 0
    for queue, depth in depths.items():
        entry = s["queues"][queue]
        entry["first"], entry["depth"], entry["popped"] = first, depth, -1
        first += depth
    s["allocators"]["last_free"] = s["readers"]["merge_lock"] = s["writers"]["bank"] = -1
    s["writers"]["last"] = 1
    fetchers = np.zeros(fetch, c.FETCH_CHANNEL)
    fetchers["destination"] = fetchers["served"] = fetchers["holder"] = -1
    ports = np.zeros(channels, c.PORT)
    ports["parked"] = ports["offered"] = ports["lock"] = -1
    org = organisation(memory)
    return c.Machine(
        state,
        table,
        np.zeros(first, c.ENTRY),
        fetchers,
        ports,
        np.zeros(c.BEATS_IN_FLIGHT, c.BEAT),
        np.zeros((c.BEATS_IN_FLIGHT, fetch), c.ADDRESS),
        np.ascontiguousarray(indexes, np.int64),
        *new_channels(channels, org),
        org,
    )


_EMPTY_REGISTERS = (
    "allocated",
    "arbiter_lock",
    "fork",
    "broadcast",
    "maximum",
    "decided",
    "merge_lock",
    "merged",
    "rebatched",
    "reload_1",
    "reload_2",
    "topk_since",
    "value_fork",
    "value_row_1",
    "value_row_2",
    "key_row_1",
    "key_row_2",
    "fetch_lock",
    "fragment",
    "split",
    "realigned",
    "converted",
)


def _request_table(rows: Requests) -> c.Records:
    table = np.zeros(rows.rows, c.REQUEST)
    for name in c.GIVEN:
        table[name] = getattr(rows, name)
    table["topk_wait"] = rows.topk_cycles
    return table
