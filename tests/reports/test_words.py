"""The sentences under a table say what the numbers say."""

from __future__ import annotations

from types import SimpleNamespace

from accelsim.reports._words import in_words


def result(cycles, reads, modules, accuracy=None):
    metrics = {"latency_cycles": cycles, "latency_s": cycles * 1e-9, "dram_read_bytes": reads}
    return SimpleNamespace(metrics=metrics, modules=modules, accuracy=accuracy)


def busy(cycles, **stalls):
    return {"busy_cycles": cycles, "stall_cycles": stalls}


def test_cost_loss_and_the_block_that_holds_back():
    dense = result(1000, 4000, {"qk_unit": busy(600, no_keys=300, idle=100), "topk": busy(0)})
    pruned = result(
        1500, 2000,
        {"qk_unit": busy(100, no_keys=200, softmax_full=700, idle=500), "topk": busy(900)},
        {"relative_output_error": 0.125},
    )  # fmt: skip
    assert in_words({"dense": dense, "pruned": pruned}) == [
        "dense: 1.00 µs; the query x key unit is the busiest block, 60 % of the time.",
        "pruned: 1.50 µs, 1.5 times slower, 2 times fewer DRAM reads, output error 12.5 % (open "
        "loop); the value top-k is the busiest block, 60 % of the time; the query x key unit waits "
        "46.7 % of it (softmax_full).",
    ]


def test_equal_runs_faster_runs_and_machines_without_such_blocks():
    one = result(1000, 0, {})
    engine = {"engine": busy(250)}
    words = in_words({"a": one, "b": result(1001, 0, engine), "c": result(500, 0, engine)})
    assert words[0] == "a: 1.00 µs; no block was observed."
    assert words[1].startswith("b: 1.00 µs, as fast, as many DRAM reads; engine is the busiest")
    assert words[2].startswith("c: 500 ns, 2 times faster, as many DRAM reads; engine")
