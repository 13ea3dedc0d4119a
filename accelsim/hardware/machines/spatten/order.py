"""Order and dependencies: when a layer may ask for keys and read its queries (sections 3 and 7)."""

from __future__ import annotations

import simpy

from accelsim.hardware.blocks.top_k import TopK
from accelsim.hardware.machines.spatten.items import Layer, Row
from accelsim.hardware.machines.spatten.pipeline import GIVEN, OUT, SIZE
from accelsim.hardware.machines.spatten.plan import Plan
from accelsim.hardware.machines.spatten.rows import Group
from accelsim.hardware.machines.spatten.tracks import Tracks
from accelsim.hardware.timeline import NO_ITEM


def _ahead(before: Group, group: Group) -> bool:
    """Whether keys of a group may be fetched before the group before it is done (section 3)."""
    return group.late and before.late and group.step == before.step


class LayerOrder:
    """Tells layers when to start, from rows that were read and rows that are done.

    Args:
        env: clock.
        plan: of the run.
        selector: top-k engine that selects tokens and heads of the next layer.
        tracks: of the timeline.

    Attributes:
        completions: cycle of the last output of each row.
        finished: the event that all outputs are known, and all tiles through.
    """

    def __init__(self, env: simpy.Environment, plan: Plan, selector: TopK, tracks: Tracks) -> None:
        self._plan, self._selector, self._tracks = plan, selector, tracks
        self._rows_left = len(plan.items)
        self.completions = [0] * plan.workload.rows
        self.finished = env.event()

    def begin(self) -> None:
        """Start the first layer; in a streamed run all of them."""
        if self._plan.causal:
            self._start(self._plan.layers[0], 0)
            return
        for layer in self._plan.layers:
            layer.start.announce(0)
            layer.keys.announce(0)

    def row_read(self, row: Row) -> None:
        """All queries of a row are read out of the softmax."""
        layer = row.layer
        layer.unread -= 1
        following = layer.following
        if layer.unread or following is None:
            return
        group = following.group
        at_end = group.once or self._plan.config.token_selection == "per-layer"
        if at_end and group.token_cycles:
            last = self._plan.latest(row, GIVEN, SIZE)
            self._search(last - 1, group.token_cycles)
        if not self._plan.causal:
            return
        if _ahead(layer.group, group) and group.token_cycles and not group.head_cycles:
            following.keys.announce(max(self._tokens_known(group), layer.step_start))

    def row_done(self, row: Row) -> None:
        """All outputs of a row are known."""
        done = self._plan.latest(row, OUT)
        self.completions[row.index] = max(
            self.completions[row.index], done + self._plan.config.reset_cycles
        )
        layer = row.layer
        layer.done = max(layer.done, done)
        layer.undone -= 1
        if not layer.undone and layer.following is not None:
            self._layer_done(layer, layer.following)

    def row_gone(self, row: Row) -> None:
        """All its tiles are through, those that no query uses too; keys and values on their own."""
        if row.unused:
            row.unused = False
            return
        # A row and its tiles hold one another.
        row.slots.clear()
        self._rows_left -= 1
        if not self._rows_left:
            self._search_waiting()
            self.finished.succeed()

    def _layer_done(self, layer: Layer, following: Layer) -> None:
        group = following.group
        if not self._plan.causal:
            if group.head_cycles:
                # Nobody waits for it, and others may have been asked for before.
                self._search_waiting()
                state = self._selector.state[0]
                state["asked"], state["waiting"] = layer.done, group.head_cycles
            return
        start = max(layer.done, self._tokens_known(group))
        if group.head_cycles:
            start = max(start, self._search(layer.done, group.head_cycles))
        following.step_start = layer.step_start
        if group.step != layer.group.step:
            following.step_start = start
        if not following.keys.known and _ahead(layer.group, group):
            # Which heads are left is known before all outputs are needed.
            keys = max(self._tokens_known(group), start if group.head_cycles else 0)
            following.keys.announce(max(keys, layer.step_start))
        self._start(following, start)

    def _start(self, layer: Layer, cycle: int) -> None:
        """A layer starts; keys of layers behind it that are known by then may be asked for."""
        layer.start.announce(cycle)
        if not layer.keys.known:
            layer.keys.announce(cycle)
        behind = layer.following
        while behind is not None and _ahead(layer.group, behind.group):
            behind.step_start = layer.step_start
            group = behind.group
            if group.token_cycles or group.head_cycles or behind.keys.known:
                break
            behind.keys.announce(layer.step_start)
            layer, behind = behind, behind.following

    def _search(self, ready: int, cycles: int) -> int:
        """One search of the selector; the cycle after it."""
        state = self._selector.state[0]
        if state["asked"] < ready:
            self._search_waiting()
        before = self._tracks.look()
        begin = max(int(state["free"]), ready)
        state["no_scores"] += begin - state["free"]
        state["busy"] += cycles
        state["free"] = begin + cycles
        self._tracks.add(before, NO_ITEM)
        return begin + cycles

    def _search_waiting(self) -> None:
        """Do the search for heads that waits for its turn, if there is one."""
        state = self._selector.state[0]
        asked, cycles = int(state["asked"]), int(state["waiting"])
        state["waiting"] = 0
        if cycles:
            self._search(asked, cycles)

    def _tokens_known(self, group: Group) -> int:
        return int(self._selector.state[0]["free"]) if group.token_cycles else 0
