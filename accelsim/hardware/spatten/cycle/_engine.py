"""Build the machine for a workload, run it, and read out what it did."""

from __future__ import annotations

import numpy as np

from accelsim.errors import ConfigError, SimulationError, WorkloadError
from accelsim.hardware.activity import Activity
from accelsim.hardware.config import MemoryConfig, SpattenConfig
from accelsim.hardware.memories._channel import new_channels
from accelsim.hardware.memories._timing import organisation
from accelsim.hardware.spatten._random import index_table
from accelsim.hardware.spatten._requests import Requests, requests
from accelsim.hardware.spatten.cycle import _state as c
from accelsim.hardware.spatten.cycle._clock import run
from accelsim.hardware.spatten.cycle._diagnosis import describe_stall
from accelsim.hardware.timeline import Recorder
from accelsim.workloads import Workload

WATCHDOG_CYCLES = 200_000
_FOREVER = 1 << 62


class CycleMachine:
    """The released SpAtten with a workload in front of it, after reset."""

    def __init__(self, workload: Workload, config: SpattenConfig, memory: MemoryConfig) -> None:
        _check(workload, config)
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
        return bool(self.state.s[c.RESPONSES] == self.requests.rows)

    @property
    def completion_cycles(self) -> list[int]:
        """Cycle of each response, in row order, as the test bench reports it (after reset)."""
        done = self.state.requests[:, c.Q_DONE] + self.config.reset_cycles
        return [int(cycle) for cycle in done]


def simulate(
    workload: Workload,
    config: SpattenConfig,
    memory: MemoryConfig,
    recorder: Recorder | None = None,
) -> Activity:
    """Run a workload through one SpAtten, cycle by cycle.

    With a recorder it is slower, and the activity also has the time of each module.

    Raises:
        ConfigError: a configuration that is not of the released family.
        WorkloadError: rows that the machine refuses, or that would hang it.
        SimulationError: the machine stopped.
    """
    from accelsim.hardware.spatten.cycle._activity import activity_of

    machine = CycleMachine(workload, config, memory)
    if recorder is None:
        machine.run()
        return activity_of(machine)
    from accelsim.hardware.spatten.cycle._record import run_recorded

    run_recorded(machine.state, WATCHDOG_CYCLES, recorder)
    activity = activity_of(machine)
    activity.modules = recorder.finish(
        workload, config.frequency_hz, activity.cycles, config.reset_cycles
    )
    return activity


def _check(workload: Workload, config: SpattenConfig) -> None:
    """Refuse what the released hardware does not have."""
    released = {
        "requant_bits": "forced",
        "buffer_banks": 1,
        "key_prefetch_depth": 0,
        "softmax_latency": 0,
        "query_traffic": False,
        "output_traffic": False,
    }
    for name, value in released.items():
        if getattr(config, name) != value:
            raise ConfigError(
                f"the cycle engine models SpAtten as released: accelerator key '{name}' is "
                f"{getattr(config, name)!r}; expected {value!r} (use --engine event)"
            )
    if config.index_pattern == "workload":
        raise ConfigError(
            "the cycle engine models SpAtten as released: accelerator key 'index_pattern' is "
            "'workload'; expected 'random-table' or 'sequential' (use --engine event)"
        )
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


def _check_rounding(workload: Workload, config: SpattenConfig, rows: Requests) -> None:
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


def _build(config: SpattenConfig, rows: Requests, memory: MemoryConfig) -> c.Machine:
    scores, lines = config.vectors_per_line, config.buffer_lines
    channels, fetch = config.channels, config.fetch_channels
    row_beats = fetch // scores
    table = _request_table(rows)
    rotates = config.index_pattern == "random-table"
    if rotates:
        indexes = index_table(lines, fetch, scores * lines).ravel()
    else:
        indexes = np.arange(scores * lines, dtype=np.int64)
    s = np.zeros(c.N_STATE, np.int64)
    s[c.P_SCORES], s[c.P_LINES], s[c.P_CHANNELS], s[c.P_FETCH] = scores, lines, channels, fetch
    s[c.P_ROW_BEATS], s[c.P_ROTATION] = row_beats, rotates
    s[c.P_LOG_SCORES] = scores.bit_length() - 1
    s[c.P_CHANNEL_BITS] = channels.bit_length() - 1
    s[c.P_REQUESTS] = rows.rows
    for register in _EMPTY_REGISTERS:
        s[register] = -1
    s[c.FETCH_LAST] = 1
    depths = {
        c.INFLIGHT: 16,
        c.REISSUES: 2,
        c.DECISION: lines,
        c.ORDER: 16 * lines,
        c.TOPK: lines,
        c.SCORES: 16 * row_beats,
    }
    first = 0
    for queue, depth in depths.items():
        s[queue], s[queue + 1], s[queue + 4] = first, depth, -1
        first += depth
    for buffer in range(2):
        s[c.ALLOCATORS + buffer * c.A_COLUMNS + c.A_LAST_FREE] = -1
        s[c.READERS + buffer * c.R_COLUMNS + c.R_MERGE_LOCK] = -1
        writer = c.WRITERS + buffer * c.W_COLUMNS
        s[writer + c.W_BANK_0 : writer + c.W_BANK_1 + 1] = -1
        s[writer + c.W_LAST_0 : writer + c.W_LAST_1 + 1] = 1
    fetchers = np.zeros((fetch, c.N_FETCH_COLUMNS), np.int64)
    fetchers[:, [c.F_DESTINATION, c.F_SERVED, c.F_HOLDER]] = -1
    ports = np.zeros((channels, c.N_PORT_COLUMNS), np.int64)
    ports[:, [c.D_PARKED, c.D_OFFERED, c.D_LOCK]] = -1
    org = organisation(memory)
    return c.Machine(
        s,
        table,
        np.zeros((first, 2), np.int64),
        fetchers,
        ports,
        np.zeros((c.BEATS_IN_FLIGHT, c.B_CHANNELS + 2 * fetch), np.int64),
        np.ascontiguousarray(indexes, np.int64),
        *new_channels(channels, org),
        org,
    )


_EMPTY_REGISTERS = (
    c.ALLOCATED,
    c.ARBITER_LOCK,
    c.FORK,
    c.BROADCAST,
    c.MAXIMUM,
    c.DECIDED,
    c.MERGE_LOCK,
    c.MERGED,
    c.REBATCHED,
    c.RELOAD_1,
    c.RELOAD_2,
    c.TOPK_SINCE,
    c.VALUE_FORK,
    c.VALUE_ROW_1,
    c.VALUE_ROW_2,
    c.KEY_ROW_1,
    c.KEY_ROW_2,
    c.FETCH_LOCK,
    c.FRAGMENT,
    c.SPLIT,
    c.REALIGNED,
    c.CONVERTED,
)


def _request_table(rows: Requests) -> c.Ints:
    table = np.zeros((rows.rows, c.N_REQUEST_COLUMNS), np.int64)
    for column, values in (
        (c.Q_KEYS, rows.keys),
        (c.Q_VALUES, rows.values),
        (c.Q_KEY_BITS, rows.key_bits),
        (c.Q_VALUE_BITS, rows.value_bits),
        (c.Q_REQUANT, rows.requant),
        (c.Q_KEY_PART, rows.key_part),
        (c.Q_VALUE_PART, rows.value_part),
        (c.Q_KEY_FUSED, rows.key_fused),
        (c.Q_VALUE_FUSED, rows.value_fused),
        (c.Q_TOPK_WAIT, rows.topk_cycles),
    ):
        table[:, column] = values
    return table
