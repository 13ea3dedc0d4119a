"""What one run of the published SpAtten did, counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from accelsim.hardware.activity import Activity, ModuleActivity, QueueActivity
from accelsim.hardware.blocks.matrix_fetcher import TRANSACTION_BYTES
from accelsim.hardware.machines._spatten import (
    BITS_ON_CHIP,
    count_dram,
    importance_additions,
    score_fifo_bytes,
)
from accelsim.hardware.machines.spatten.config import SpattenConfig
from accelsim.hardware.machines.spatten.rows import Rows
from accelsim.hardware.memories.channel import counters
from accelsim.workloads import Workload

if TYPE_CHECKING:
    from accelsim.hardware.machines.spatten.machine import Spatten


def count_work(
    activity: Activity,
    workload: Workload,
    rows: Rows,
    config: SpattenConfig,
    read_bytes: Mapping[str, int],
    spilled: tuple[int, int],
) -> None:
    """Add the work that follows from the rows, whichever engine timed them.

    Args:
        activity: added to.
        workload, rows: what was run.
        config: of the machine.
        read_bytes: bytes of vectors as they were fetched, by tensor.
        spilled: bytes of scores and partial results read and written.
    """
    dims, value_dims = rows.key_dims, rows.value_dims
    line, value_line = dims * BITS_ON_CHIP // 8, value_dims * BITS_ON_CHIP // 8
    queries = np.diff(rows.start)
    again = np.where(rows.query_refetch > 0, rows.query_keys, 0)
    row_scored = np.add.reduceat(rows.query_keys + again, rows.start[:-1])
    row_weighted = np.add.reduceat(rows.query_values, rows.start[:-1])
    scored = int(row_scored.sum())
    selected, passes = selection_work(workload, rows, config)
    elements = int(rows.elements.sum()) + selected
    refetched = (rows.refetches > 0).astype(np.int64)
    read, written = spilled
    for name, amount in {
        "query_register_bytes": int((query_loads(rows, config) * line).sum()),
        "softmax_fifo_bytes": score_fifo_bytes(scored),
        "importance_additions": importance_additions(workload),
        "qk_macs": int((row_scored * dims).sum()),
        "pv_macs": int((row_weighted * value_dims).sum()),
        "exponentials": scored,
        "divisions": scored,
        "topk_passes": int(rows.passes.sum()) + passes,
        "topk_comparisons": 2 * elements,
        "topk_fifo_bytes": 4 * elements,
        "key_sram_write_bytes": int((rows.keys * (1 + refetched) * line).sum()),
        "key_sram_read_bytes": int((row_scored * line).sum()),
        "value_sram_write_bytes": int((rows.values * value_line).sum()),
        "value_sram_read_bytes": int((row_weighted * value_line).sum()),
        "fetcher_bytes": 2 * sum(read_bytes.values()),
        "spill_read_bytes": read,
        "spill_write_bytes": written,
    }.items():
        activity.count(name, amount)
    activity.dram_read_bytes = dict(read_bytes)
    # Spilled bytes are charged, and take no turn on the simulated channels.
    bursts = -(-read // TRANSACTION_BYTES)
    if read:
        activity.dram_read_bytes["spill"] = bursts * TRANSACTION_BYTES
        activity.count("dram_reads", bursts)
    out = int(workload["write_back_bytes"].sum()) + written
    if config.output_traffic:
        out += int((queries * value_line).sum())
    activity.dram_write_bytes = -(-out // TRANSACTION_BYTES) * TRANSACTION_BYTES
    activity.count("dram_writes", activity.dram_write_bytes // TRANSACTION_BYTES)


def query_loads(rows: Rows, config: SpattenConfig) -> NDArray[np.int64]:
    """Times that queries of each row are written to the registers: once a pass over their keys,
    first or LSB.

    Where all queries pass over a tile before the next one (``key-outer``, early rows), once a tile.
    """
    stays = np.repeat(rows.late, np.diff(rows.start)) | (config.loop_order == "query-outer")
    tiles = -(-rows.query_keys // np.repeat(rows.tiles(config), np.diff(rows.start)))
    passes = np.where(stays, rows.query_keys > 0, tiles) * (1 + (rows.query_refetch > 0))
    return np.asarray(np.add.reduceat(passes, rows.start[:-1]))


def selection_work(workload: Workload, rows: Rows, config: SpattenConfig) -> tuple[int, int]:
    """Elements read, and passes, of all selections of tokens and heads.

    A workload records the search whose result counts; ``per-query`` searches after every query of
    the group before, each with the work of that one, unless the rows hold all searches there are.
    """
    size, read, made = (
        workload[f"select_{name}"].tolist() for name in ("size", "elements", "passes")
    )
    starts = rows.start.tolist()
    elements = passes = before = 0
    for group in rows.groups:
        chosen = [row for row in range(group.first, group.end) if size[row] > 0]
        if chosen and before:
            searched = chosen if group.once else chosen[:1]
            each = config.token_selection == "per-query" and not group.once
            times = before if each else 1
            elements += times * sum(read[row] for row in searched)
            passes += times * sum(made[row] for row in searched)
        elements += group.head_work[0]
        passes += group.head_work[1]
        before = starts[group.end] - starts[group.first]
    return elements, passes


def partial_bytes(rows: Rows, config: SpattenConfig) -> int:
    """Bytes of partial results written by early rows of one pass; as many are read back."""
    if config.loop_order != "key-outer":
        return 0
    counts, tile = np.diff(rows.start), rows.tiles(config)
    long = (~rows.late) & (rows.keys > tile) & ~rows.prunes & (rows.lsb_bits == 0)
    mine = np.repeat(long, counts)
    tiles = -(-rows.query_keys[mine] // np.repeat(tile, counts)[mine])
    each = np.repeat(config.partial_size(rows.value_dims), counts)[mine]
    return int((np.maximum(tiles - 1, 0) * each).sum())


def activity_of(machine: Spatten) -> Activity:
    """Close the books of one run of the event engine."""
    plan, order, kept = machine.plan, machine.order, machine.kept_scores
    config, rows, workload = plan.config, plan.rows, plan.workload
    total = max(order.completions)
    activity = Activity(total, config.frequency_hz)
    partial = partial_bytes(rows, config)
    spilled = kept.spilled_reads + partial, kept.spilled_writes + partial
    count_work(activity, workload, rows, config, machine.requests.bytes, spilled)
    activity.count("refetched_bytes", machine.requests.refetched_bytes())
    count_dram(activity, counters(machine.fetcher.channels))
    operations = {
        "qk_unit": activity.counters["qk_macs"],
        "softmax": activity.counters["exponentials"],
        "topk": 2 * int(rows.elements.sum()),
        "selector": 2 * selection_work(workload, rows, config)[0],
        "pv_unit": activity.counters["pv_macs"],
    }
    for name, unit in machine.units.by_name.items():
        state = unit.state[0]
        activity.modules[name] = ModuleActivity(
            int(state["busy"]),
            {reason: int(state[reason]) for reason in unit.stalls if state[reason]},
            operations[name],
            float(unit.peak_operations_per_cycle),
        )
    # One matrix a cycle leaves each fork.
    for module, most in (
        (machine.key_fork, 1),
        (machine.fetcher, machine.fetcher.peak_operations_per_cycle),
        (machine.value_fork, 1),
    ):
        activity.modules[module.name] = module.activity
        module.activity.operations = module.operations
        module.activity.peak_operations_per_cycle = float(most)
    _cut(activity.modules["selector"], total)
    if _fetches_for_nobody(rows):
        _cut(activity.modules["fetcher"], total)
        for fork in (machine.key_fork, machine.value_fork):
            _cut(activity.modules[fork.name], total, waits=True)
    for module_activity in activity.modules.values():
        spent = module_activity.busy_cycles + sum(module_activity.stall_cycles.values())
        if spent < total:
            module_activity.stall_cycles["idle"] = total - spent
    activity.queues = _queues(machine)
    finish(activity, rows, order.completions)
    return activity


def _cut(module: ModuleActivity, total: int, waits: bool = False) -> None:
    """Leave out what goes on after the last output.

    A streamed run ends before its last selections, and may end before tiles are fetched that no
    query uses. No other module goes on; what it has too many is a broken book, and is refused.

    Args:
        module: which.
        total: cycles of the run.
        waits: the last of it is a wait; else it is a search, and the wait for its scores before.
    """
    over = max(module.busy_cycles + sum(module.stall_cycles.values()) - total, 0)
    searched = 0 if waits else min(over, module.busy_cycles)
    module.busy_cycles -= searched
    for reason, cycles in module.stall_cycles.items():
        waited = min(over - searched, cycles)
        module.stall_cycles[reason] -= waited
        searched += waited
    peak = module.peak_operations_per_cycle
    if over and module.operations is not None and peak is not None:
        module.operations = min(module.operations, module.busy_cycles * int(peak))


def _fetches_for_nobody(rows: Rows) -> bool:
    """Whether query heads keep keys together of which none has the last ones."""
    most = np.maximum.reduceat(rows.query_keys, rows.start[:-1])
    return bool((rows.keys > most).any())


def finish(activity: Activity, rows: Rows, completions: list[int]) -> None:
    """Tell prompts from decoding.

    Args:
        activity: to be completed.
        rows: what was run.
        completions: cycle of the last output of each row.
    """
    activity.completion_cycles = completions
    steps = {group.step: group.prefill for group in rows.groups}
    early = [group for group in rows.groups if group.prefill]
    if early:
        activity.prefill_cycles = max(max(completions[g.first : g.end]) for g in early)
    activity.decode_steps = sum(not prefill for prefill in steps.values())


def _queues(machine: Spatten) -> dict[str, QueueActivity]:
    found = {
        name: QueueActivity(depth, mark, "beats")
        for name, (depth, mark) in machine.fetcher.queues().items()
    }
    units = machine.units
    soft, topk, selector = (u.state[0] for u in (units.softmax, units.top_k, units.selector))
    found["softmax_fifo"] = QueueActivity(int(soft["depth"]), int(soft["high_water"]), "beats")
    found["topk_rows"] = QueueActivity(units.top_k.rows, int(topk["high_water"]), "rows")
    searches = units.selector.rows
    waiting = min(int(selector["rows"]), searches)
    found["selector_rows"] = QueueActivity(searches, waiting, "rows")
    for name, fork in (("key", machine.key_fork), ("value", machine.value_fork)):
        buffer = fork.buffer
        found[f"{name}_buffer"] = QueueActivity(buffer.lines, buffer.high_water, "lines")
        found[f"{name}_matrices"] = QueueActivity(buffer.matrices, buffer.most_matrices, "matrices")
    return found
