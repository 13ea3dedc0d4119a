"""Latency against context: SpAtten, dense and pruned, beside A100 and H100; one CSV, one picture.

python benchmarks/contexts.py run      docs/images/contexts.csv: what is in it is not run again
python benchmarks/contexts.py draw     docs/images/contexts.svg from it
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import accelsim
from accelsim.drawing import plain_figures
from accelsim.reports import svg_text, write_text

IMAGES = Path(__file__).parent.parent / "docs" / "images"
TABLE, PICTURE = IMAGES / "contexts.csv", IMAGES / "contexts.svg"
SHAPE = "shape:smollm2-135m"
ONE_PASS = {
    "policy.values": None,
    "policy.quantization": {"kind": "static", "key_bits": 8, "value_bits": 8},
}
POLICIES = {
    "dense": ("dense", {}),
    "spatten-full": ("spatten-full", {}),
    "tokens and heads; 8 bit": ("spatten-full", ONE_PASS),
}
"""Label to policy and what is changed of it. The last one leaves out what needs a second pass over
the keys; it is for decoding, as a prompt under spatten-full has 12-bit keys anyway."""
CONTEXTS = {"decode": [128 << i for i in range(11)], "prompt": [128 << i for i in range(5)]}
MODULES = ("fetcher", "qk_unit", "softmax", "topk", "selector", "pv_unit")
STALLS = (("qk_unit", "no_keys"), ("qk_unit", "softmax_full"), ("softmax", "blocked"),
          ("pv_unit", "no_probabilities"), ("pv_unit", "no_values"),
          ("allocator", "awaiting_layer"))  # fmt: skip
GPUS = ("a100", "h100")
COLOURS = dict(zip((*POLICIES, *GPUS), ("C0", "C1", "C2", "C3", "C4"), strict=True))


def measure(stage: str, context: int, policy: str) -> dict[str, Any]:
    """One run as a row of the table."""
    decode = int(stage == "decode")
    name, overrides = POLICIES[policy]
    result = accelsim.replay(
        SHAPE, policy=name, context=context - decode, decode=decode, sample="off",
        baselines=list(GPUS), overrides=overrides,
    )  # fmt: skip
    metrics, modules = result.metrics, result.modules
    cycles = metrics["latency_cycles"]
    row: dict[str, Any] = {
        "stage": stage,
        "keys": context,
        "policy": policy,
        "latency_s": metrics["latency_s"],
        "dram_read_bytes": metrics["dram_read_bytes"],
        "refetched_bytes": result.activity.counters.get("refetched_bytes", 0),
        "energy_j": metrics["energy_j"],
    }
    for name in MODULES:
        row[f"{name}_busy"] = round(modules[name]["busy_cycles"] / cycles, 4)
    for name, reason in STALLS:
        stalled = modules[name]["stall_cycles"].get(reason, 0)
        row[f"{name}_{reason}"] = round(stalled / cycles, 4)
    for gpu in GPUS:
        kernel = result.baselines[f"{gpu}/measured-kernel"]
        for end in ("", "_low", "_high"):
            row[f"{gpu}_latency{end}_s"] = kernel[f"latency{end}_s"]
        row[f"{gpu}_extrapolated"] = int(kernel["extrapolated"])
    return row


def run() -> None:
    """Measure what is not in the table yet."""
    rows = read()
    known = {(row["stage"], int(row["keys"]), row["policy"]) for row in rows}
    for stage, contexts in CONTEXTS.items():
        for context in contexts:
            for policy, (_, changes) in POLICIES.items():
                if (stage, context, policy) in known or (changes and stage == "prompt"):
                    continue
                rows.append(measure(stage, context, policy))
                lines = [",".join(rows[-1])]
                lines += [",".join(str(value) for value in row.values()) for row in rows]
                write_text(TABLE, "\n".join(lines) + "\n")
                print(stage, context, policy, rows[-1]["latency_s"], flush=True)


def read() -> list[dict[str, Any]]:
    """Rows of the table, numbers as text."""
    if not TABLE.exists():
        return []
    with TABLE.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@plain_figures()
def draw() -> None:
    """Draw latency against keys, a panel for decode and one for prompts."""
    from matplotlib.figure import Figure

    rows = sorted(read(), key=lambda row: int(row["keys"]))
    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    stages = (("decode", "one decoded token"), ("prompt", "a prompt"))
    for axes, (stage, title) in zip(panels, stages, strict=True):
        for policy in POLICIES:
            some = [r for r in rows if r["stage"] == stage and r["policy"] == policy]
            if some:
                keys = [int(r["keys"]) for r in some]
                took = [float(r["latency_s"]) for r in some]
                axes.plot(
                    keys,
                    took,
                    COLOURS[policy],
                    marker="o",
                    markersize=3,
                    label=f"SpAtten, {policy}",
                )
        some = [r for r in rows if r["stage"] == stage and r["policy"] == "dense"]
        keys = [int(r["keys"]) for r in some]
        for gpu in GPUS:
            low, middle, high = (
                [float(r[f"{gpu}_latency{end}_s"]) for r in some] for end in ("_low", "", "_high")
            )
            colour = COLOURS[gpu]
            axes.plot(keys, middle, colour, linestyle="--", label=f"{gpu.upper()}, dense")
            axes.fill_between(keys, low, high, alpha=0.2, color=colour, linewidth=0)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("keys")
        axes.set_ylabel("attention of 30 layers, s")
        axes.set_title(f"SmolLM2-135M's shape, {title}")
        axes.grid(visible=True, alpha=0.3)
    panels[0].legend(fontsize=8)
    write_text(PICTURE, svg_text(figure) + "\n")


if __name__ == "__main__":
    {"run": run, "draw": draw}[sys.argv[1]]()
