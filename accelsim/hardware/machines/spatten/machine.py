"""SpAtten as published, wired::

    order -> key fork -> fetcher -> [key buffer] -> query x key -> selection -> value fork
      ^        ^   |                                               |   |            ^  |
      |        |   +------------- values of early rows ------------|---|------------+  v
      |        +----------------- LSB passes ------ decision <-----+   |            fetcher
      +-------------------------- rows read ---------------------------+               v
      +-------------------------- rows done <- probability x value <------- [value buffer]

Selection is softmax, top-k of values and top-k of tokens; early rows go on to probability x value
in the same call. Rows of two passes, whose scores are kept, take the way of :mod:`.kept_scores`.

SimPy processes are what asks DRAM for something, and DRAM: there the order of events decides. All
other blocks follow from what they are given; their times are worked out as soon as that is known,
ahead of simulated time, by :mod:`.pipeline`. Sections: docs/accelerators/spatten-published.md.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Literal

from accelsim.errors import SimulationError
from accelsim.hardware.activity import Activity
from accelsim.hardware.blocks.channel_watch import ChannelWatch
from accelsim.hardware.blocks.matrix_fetcher import MatrixFetcher, bytes_per_cycle
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.machines.spatten.config import SpattenConfig
from accelsim.hardware.machines.spatten.counts import activity_of
from accelsim.hardware.machines.spatten.decision import Decision
from accelsim.hardware.machines.spatten.foresight import Foresight
from accelsim.hardware.machines.spatten.items import Again, Keys, Row, Values
from accelsim.hardware.machines.spatten.kept_scores import KeptScores
from accelsim.hardware.machines.spatten.key_side import KeyFork, ScoreUnit
from accelsim.hardware.machines.spatten.order import LayerOrder
from accelsim.hardware.machines.spatten.plan import Plan
from accelsim.hardware.machines.spatten.requests import Requests
from accelsim.hardware.machines.spatten.selection import Selection
from accelsim.hardware.machines.spatten.tracks import Tracks
from accelsim.hardware.machines.spatten.units import Units
from accelsim.hardware.machines.spatten.value_side import ValueFork, WeightedSumUnit
from accelsim.hardware.simulation import Clock, Follower, Port
from accelsim.hardware.timeline import Recorder
from accelsim.workloads import Workload

Dependencies = Literal["causal", "streamed"]


class Spatten:
    """One run of the published SpAtten on one workload.

    Args:
        workload: what to run.
        config: of the machine.
        memory: behind it.
        dependencies: ``causal``: a layer waits for the layer before and a token for the token
            before; ``streamed``: rows follow each other as fast as the machine takes them.
        recorder: takes the timeline, if given.

    Raises:
        WorkloadError: rows that the machine refuses.
    """

    def __init__(
        self,
        workload: Workload,
        config: SpattenConfig,
        memory: MemoryConfig,
        dependencies: Dependencies = "causal",
        recorder: Recorder | None = None,
    ) -> None:
        self.env = env = Clock()
        self.plan = plan = Plan(env, workload, config, dependencies == "causal")
        self.requests = requests = Requests(env, plan)
        self.units = units = Units(config, plan.rows.widths)
        peak = bytes_per_cycle(memory, config.channels, config.frequency_hz)

        # Arrows. They carry what is known ahead of time; the queues of the hardware are in the
        # blocks at their ends.
        lsb_passes: Port[Keys] = Port(env, "a row has one LSB pass, and keeps its lines or waits")
        key_tiles: Port[Keys] = Port(env, "matrices of the key buffer, and LSB passes of them")
        room: Port[None] = Port(env, "one token, put only when none is there")
        scored: Port[tuple[Keys, int, int]] = Port(
            env, "FIFO of the softmax, and the two rows whose scores are kept"
        )
        early: Port[Values] = Port(env, "one for each key tile; the softmax waits for their values")
        kept_rows: Port[Row] = Port(env, "scores of two rows are kept at most")
        value_tiles: Port[Values | Again] = Port(
            env, "matrices of the value buffer, and LSB passes of them"
        )
        slotless: deque[Values] = deque()

        # Blocks, as in the diagram.
        self.fetcher = fetcher = MatrixFetcher(
            env,
            config.fetch_channels,
            config.channels,
            memory,
            config.frequency_hz,
            config.address_fifo,
            config.response_fifo,
            recorder,
        )
        decision = Decision(env, lsb_passes)
        foresight = Foresight(plan, units, fetcher, scored, room, decision)
        self.key_fork = KeyFork(
            env,
            plan,
            requests,
            fetcher,
            lsb_passes,
            key_tiles,
            early,
            slotless,
            foresight,
            recorder,
        )
        self.value_fork = ValueFork(
            env, plan, requests, fetcher, early, kept_rows, slotless, value_tiles, recorder
        )
        tracks = Tracks(units, recorder)
        if recorder is not None:
            fetcher.watch = ChannelWatch(recorder, fetcher)
        self.order = order = LayerOrder(env, plan, units.selector, tracks)
        self.score_unit = ScoreUnit(
            plan, units, fetcher, key_tiles, room, scored, foresight, tracks
        )
        self.kept_scores = KeptScores(plan, units, decision, kept_rows, order, peak, tracks)
        self.selection = Selection(
            env,
            plan,
            units,
            fetcher,
            scored,
            room,
            decision,
            foresight,
            self.kept_scores,
            kept_rows,
            self.value_fork,
            order,
            peak,
            tracks,
        )
        self.weighted_sum_unit = WeightedSumUnit(
            plan, units.weighted_sum, fetcher, value_tiles, self.value_fork, order, tracks
        )

    def run(self) -> Activity:
        """Simulate to the last output.

        Raises:
            SimulationError: the blocks wait for one another.
        """
        env = self.env
        self.order.begin()
        followers = {
            "query x key": Follower(self.score_unit.run()),
            "selection": Follower(self.selection.run()),
            "values of two passes": Follower(self.value_fork.place_kept()),
            "probability x value": Follower(self.weighted_sum_unit.run()),
        }
        processes = [self.key_fork.run(), self.fetcher.run(), self.value_fork.run()]
        for process in processes:
            env.process(process)
        try:
            env.run(until=self.order.finished)
            if self.requests.rest is not None and not self.requests.rest.known:
                env.run(until=self.requests.rest.announced())
        except RuntimeError:
            if env.peek() < math.inf:
                raise
            waiting = ["key fork", *(name for name, it in followers.items() if it.is_alive)]
            workload, completions = self.plan.workload, self.order.completions
            raise SimulationError(
                f"workload '{workload.name}': no progress after cycle {int(env.now)}, "
                f"{sum(cycle > 0 for cycle in completions)} of {workload.rows} requests done; "
                f"waiting: {', '.join(waiting)}"
            ) from None
        # What runs holds the blocks, and they it. Let go, all is freed here and now; as cyclic
        # garbage it would be searched for, which takes three times as long.
        env.clear()
        for process in processes:
            process.close()
        for follower in followers.values():
            follower.close()
        return activity_of(self)


def simulate(
    workload: Workload,
    config: SpattenConfig,
    memory: MemoryConfig,
    dependencies: Dependencies = "causal",
    recorder: Recorder | None = None,
) -> Activity:
    """Run a workload through the published SpAtten with the event engine.

    Raises:
        WorkloadError: rows that the machine refuses.
        SimulationError: the blocks wait for one another.
    """
    machine = Spatten(workload, config, memory, dependencies, recorder)
    activity = machine.run()
    if recorder is not None:
        machine.fetcher.watch.finish()
        recorder.finish(workload, config.frequency_hz, activity.cycles, config.reset_cycles)
    return activity
