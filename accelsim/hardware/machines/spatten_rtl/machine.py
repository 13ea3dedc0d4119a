"""SpAtten as released, wired::

    requests -> key fork ------ asks ------> fetcher <------ asks ------ value fork <--+
                 ^  |                        |     |                       |           |
                 |  |                   keys |     | values                |           |
                 |  |                        v     v                       |           |
                 |  +----------------> query x key   probability x value <-+           |
                 |                           |                |                        |
                 |                           v                v                        |
                 |                        softmax         responses                    |
                 |                           |                                         |
                 |                           v                                         |
                 +------ LSB passes ----- decision --> merge --> top-k stand-in -------+

One pass over keys at a time is between key fork and query x key, and the values of one request at a
time between value fork and probability x value; the two sides overlap, and share the fetcher.

SimPy processes are what asks DRAM for something, and DRAM: there the order of events decides. All
other blocks follow from what they are given; their times are worked out as soon as that is known,
which is before they come. What happens inside an item is computed by compiled functions (the fetch
through crossbar and DRAM, the quick-select passes). Sections: docs/accelerators/spatten.md.
"""

from __future__ import annotations

import math

from accelsim.errors import SimulationError
from accelsim.hardware.activity import Activity
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.machines._spatten import count_dram
from accelsim.hardware.machines.spatten_rtl.addresses import AddressMap
from accelsim.hardware.machines.spatten_rtl.config import SpattenRtlConfig
from accelsim.hardware.machines.spatten_rtl.counts import count_requests
from accelsim.hardware.machines.spatten_rtl.decision import Decision
from accelsim.hardware.machines.spatten_rtl.fetcher import MatrixFetcher
from accelsim.hardware.machines.spatten_rtl.items import KeyPass
from accelsim.hardware.machines.spatten_rtl.key_fork import KeyFork
from accelsim.hardware.machines.spatten_rtl.merge import Merge
from accelsim.hardware.machines.spatten_rtl.requests import requests
from accelsim.hardware.machines.spatten_rtl.score_unit import ScoreUnit
from accelsim.hardware.machines.spatten_rtl.softmax import Softmax
from accelsim.hardware.machines.spatten_rtl.top_k import TopKStandIn
from accelsim.hardware.machines.spatten_rtl.value_fork import ValueFork
from accelsim.hardware.machines.spatten_rtl.value_unit import WeightedSumUnit
from accelsim.hardware.memories.channel import counters
from accelsim.hardware.simulation import Clock, Follower, Port
from accelsim.hardware.timeline import Recorder
from accelsim.workloads import Workload

MODULES = (
    "allocator", "fetcher", "qk_unit", "softmax", "decision", "topk", "value_fork", "pv_unit",
)  # fmt: skip
"""As in results, and from top to bottom in a timeline."""


class Spatten:
    """One run of the released SpAtten on one workload.

    Args:
        workload: what to run.
        config: of the machine.
        memory: behind it.
        recorder: takes the timeline, if given.
        looks_up: whether fetches that were simulated before may be looked up.

    Raises:
        WorkloadError: rows that the machine refuses.
    """

    def __init__(
        self,
        workload: Workload,
        config: SpattenRtlConfig,
        memory: MemoryConfig,
        recorder: Recorder | None = None,
        looks_up: bool = True,
    ) -> None:
        self.workload, self.config = workload, config
        self.env = env = Clock()
        self.requests = table = requests(workload, config)
        self.addresses = addresses = AddressMap(workload, config, table)
        rows, lines = table.rows, config.buffer_lines
        log_width = config.vectors_per_line.bit_length() - 1
        if recorder is not None:
            for name in MODULES:
                recorder.module(name)

        # Arrows. They carry what is known ahead of time.
        lsb_passes: Port[KeyPass] = Port(env, "a request has one, and keeps its handle")
        passes: Port[KeyPass] = Port(env, "one: the key fork waits for its last line")
        decided: Port[KeyPass] = Port(env, "a pass that is decided keeps its handle until then")
        merged: Port[KeyPass] = Port(env, "FIFO of the stand-in, and registers of the merge")

        # Blocks, as in the diagram.
        self.fetcher = fetcher = MatrixFetcher(env, config, memory, recorder, looks_up)
        self.key_fork = KeyFork(
            env, table.each(), lines, addresses, fetcher, lsb_passes, passes, recorder
        )
        self.softmax = softmax = Softmax(env, recorder)
        self.decision = decision = Decision(env, log_width, softmax, lsb_passes, decided, recorder)
        self.score_unit = ScoreUnit(env, log_width, passes, decision, recorder)
        self.merge = Merge(rows, lines, decided, merged)
        self.top_k = top_k = TopKStandIn(env, recorder)
        self.weighted_sum_unit = unit = WeightedSumUnit(env, log_width, rows, recorder)
        self.value_fork = ValueFork(
            env, config, rows, workload.head_dim, addresses, fetcher, merged, top_k, unit, recorder
        )

    def run(self) -> Activity:
        """Simulate to the last response.

        Raises:
            SimulationError: the blocks wait for one another, or a matrix is too large.
        """
        env, name = self.env, self.workload.name
        followers = {
            "query x key": Follower(self.score_unit.run()),
            "merge": Follower(self.merge.run()),
        }
        processes = [self.key_fork.run(), self.fetcher.run(), self.value_fork.run()]
        running = [env.process(process) for process in processes]
        try:
            env.run(until=running[-1])
        except SimulationError as error:
            raise SimulationError(f"workload '{name}': {error}") from None
        except RuntimeError:
            if env.peek() < math.inf:
                raise
            waiting = ["key fork", *(name for name, it in followers.items() if it.is_alive)]
            done = sum(cycle > 0 for cycle in self.weighted_sum_unit.responses)
            raise SimulationError(
                f"workload '{name}': no progress after cycle {env.now}, {done} of "
                f"{self.requests.rows} requests done; waiting: {', '.join(waiting)}"
            ) from None
        # What runs holds the blocks, and they it: let go, all is freed without a search for cycles.
        env.clear()
        for process in processes:
            process.close()
        for follower in followers.values():
            follower.close()
        return self._activity()

    def _activity(self) -> Activity:
        """Close the books."""
        reset = self.config.reset_cycles
        responses = [cycle + reset for cycle in self.weighted_sum_unit.responses]
        activity = Activity(max(responses), self.config.frequency_hz, completion_cycles=responses)
        count_requests(activity, self.workload, self.requests, self.addresses.bytes)
        count_dram(activity, counters(self.fetcher.dram[0]))
        modules = (
            self.key_fork, self.fetcher, self.score_unit, self.softmax, self.decision, self.top_k,
            self.value_fork, self.weighted_sum_unit,
        )  # fmt: skip
        activity.modules = {module.name: module.finish(activity.cycles) for module in modules}
        return activity


def simulate(
    workload: Workload,
    config: SpattenRtlConfig,
    memory: MemoryConfig,
    recorder: Recorder | None = None,
) -> Activity:
    """Run a workload through the released SpAtten with the event engine.

    Raises:
        WorkloadError: rows that the machine refuses.
        SimulationError: the blocks wait for one another, or a matrix is too large.
    """
    machine = Spatten(workload, config, memory, recorder)
    activity = machine.run()
    fetcher = machine.fetcher
    if recorder is not None and fetcher.watch is not None:
        fetcher.watch.finish(fetcher.state, fetcher.dram[0])
        recorder.finish(workload, config.frequency_hz, activity.cycles, config.reset_cycles)
    return activity
