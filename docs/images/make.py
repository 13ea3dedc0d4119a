"""Draw the pictures of the README from real runs: ``python docs/images/make.py``."""

from pathlib import Path

from accelsim.configs import preset_names
from accelsim.exploration import compare
from accelsim.policies import applicable, load_policy
from accelsim.reports import policy_figure, write_text
from accelsim.traces import load_trace

SOURCE = "traces/smollm2-64p-32d.safetensors"


def main() -> None:
    """Run every policy that applies to SmolLM2's trace and plot error against DRAM traffic."""
    trace = load_trace(SOURCE)
    names = [n for n in preset_names("policies") if applicable(load_policy(n), trace)]
    target = Path(__file__).parent / "policies.svg"
    results = compare(SOURCE, names, baselines=())
    points = {
        name: (r.metrics["dram_read_bytes"], 100 * r.accuracy["relative_output_error"])
        for name, r in results.items()
        if r.accuracy
    }
    write_text(target, policy_figure(points, "relative output error, %, open loop") + "\n")
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
