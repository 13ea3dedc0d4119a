"""Draw the pictures of the README from real runs: ``python docs/images/make.py [NAME]...``."""

import csv
import sys
import tempfile
from pathlib import Path

from accelsim.configs import preset_names
from accelsim.exploration import compare, sweep
from accelsim.policies import applicable, load_policy
from accelsim.reports import frontier_figure, pareto_figure, policy_figure, write_text
from accelsim.traces import load_trace

SOURCE = "traces/smollm2-64p-32d.safetensors"


HERE = Path(__file__).parent


def policies() -> str:
    """Run every policy that applies to SmolLM2's trace and plot error against DRAM traffic."""
    trace = load_trace(SOURCE)
    names = [n for n in preset_names("policies") if applicable(load_policy(n), trace)]
    results = compare(SOURCE, names, baselines=())
    points = {
        name: (r.metrics["dram_read_bytes"], 100 * r.accuracy["relative_output_error"])
        for name, r in results.items()
        if r.accuracy
    }
    return policy_figure(points, "relative output error, %, open loop")


def pareto() -> str:
    """Run the sweep of keep ratio and bit widths and plot error against energy."""
    with tempfile.TemporaryDirectory() as store:
        results = sweep("keep-bits", store, executor="processes")
    return pareto_figure(
        results,
        "energy_j",
        "accuracy.relative_output_error",
        color="policy.quantization.msb_bits",
        label="policy.tokens.mean_keep",
        title="SmolLM2, 64 + 32 tokens, spatten-paper, error open loop\n"
        "numbers: mean share of tokens kept; colors: bits of the first key fetch",
    )


def frontier() -> str:
    """Plot what ``accelsim tune smollm2`` measured (``docs/tuning/smollm2.csv``; how: accuracy.md).

    The runs take most of an hour on two cores, so the picture is drawn from their table.
    """
    with (HERE.parent / "tuning" / "smollm2.csv").open(encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    title = "SmolLM2-135M, windows of 512 tokens, perplexity, every point measured inside the model"
    return frontier_figure(rows, 0.01, title=title)


def main() -> None:
    """Draw those that are named, or all."""
    for draw in (frontier, policies, pareto):
        if sys.argv[1:] and draw.__name__ not in sys.argv[1:]:
            continue
        target = HERE / f"{draw.__name__}.svg"
        write_text(target, draw() + "\n")
        print(f"wrote {target}")


if __name__ == "__main__":
    main()
