"""Draw the pictures of README and docs from real runs, and the page that shows them all.

python docs/images/make.py [NAME]...      those that are named, or all: frontier, policies, pareto
python docs/images/make.py --draw         from the data files beside them: nothing is simulated
python docs/images/make.py gallery        the page alone (make gallery)
"""

from __future__ import annotations

import csv
import io
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelsim.configs import preset_names
from accelsim.exploration import Results, compare, sweep
from accelsim.policies import applicable, load_policy
from accelsim.reports import frontier_figure, pareto_figure, policy_figure, write_text
from accelsim.traces import load_trace, trace_path

SOURCE = "smollm2-512p-32d"
HERE = Path(__file__).parent
DOCS = HERE.parent
KEEP_BITS = (
    "policy.tokens.mean_keep",
    "policy.quantization.msb_bits",
    "energy_j",
    "accuracy.relative_output_error",
)


def policies() -> list[dict[str, Any]]:
    """Run every policy that applies to SmolLM2's trace: traffic and error."""
    trace = load_trace(trace_path(SOURCE))
    names = [n for n in preset_names("policies") if applicable(load_policy(n), trace)]
    results = compare(trace_path(SOURCE), names, baselines=())
    return [
        {
            "policy": name,
            "dram_read_bytes": run.metrics["dram_read_bytes"],
            "decode_policy_read_bytes": run.metrics["decode_policy_read_bytes"],
            "latency_s": run.metrics["latency_s"],
            "energy_j": run.metrics["energy_j"],
            "relative_output_error": run.accuracy["relative_output_error"],
        }
        for name, run in results.items()
        if run.accuracy
    ]


def draw_policies(rows: Sequence[Mapping[str, str]]) -> str:
    """Plot error against DRAM traffic."""
    points = {
        row["policy"]: (float(row["dram_read_bytes"]), 100 * float(row["relative_output_error"]))
        for row in rows
    }
    title = "SmolLM2, 512 + 32 tokens, spatten-paper, every preset that applies"
    return policy_figure(
        points, "relative output error, %, open loop", title=title, cost="DRAM reads, MB"
    )


def pareto() -> list[dict[str, Any]]:
    """Run the sweep of keep ratio and bit widths."""
    with tempfile.TemporaryDirectory() as store:
        results = sweep("keep-bits", store, executor="processes")
    if results.failed:
        raise SystemExit(f"keep-bits: {results.failed[0]['error']}")
    return [{name: row.get(name) for name in ("key", "status", *KEEP_BITS)} for row in results.rows]


def draw_pareto(rows: Sequence[Mapping[str, str]]) -> str:
    """Plot error against energy."""
    points = [
        {"key": row["key"], "status": row["status"]}
        | {name: float(row[name]) if row[name] else None for name in KEEP_BITS}
        for row in rows
    ]
    for point in points:
        bits = point["policy.quantization.msb_bits"]
        point["policy.quantization.msb_bits"] = None if bits is None else int(bits)
    axes, goals = list(KEEP_BITS[:2]), dict.fromkeys(KEEP_BITS[2:], "minimize")
    return pareto_figure(
        Results(points, axes, goals, None),
        "energy_j",
        "accuracy.relative_output_error",
        color="policy.quantization.msb_bits",
        label="policy.tokens.mean_keep",
        title="SmolLM2, 64 + 32 tokens, spatten-paper, error open loop\n"
        "numbers: mean share of tokens kept; colors: bits of the first key fetch",
    )


def draw_frontier(rows: Sequence[Mapping[str, str]]) -> str:
    """Plot what ``accelsim tune smollm2`` measured (``docs/tuning/smollm2.csv``; how: accuracy.md).

    The runs take most of an hour on two cores, so the picture is drawn from their table.
    """
    title = "SmolLM2-135M, windows of 512 tokens, perplexity, every point measured inside the model"
    return frontier_figure(rows, 0.01, title=title)


DRAWN = {
    "frontier": (None, draw_frontier, DOCS / "tuning" / "smollm2.csv"),
    "policies": (policies, draw_policies, HERE / "policies.csv"),
    "pareto": (pareto, draw_pareto, HERE / "pareto.csv"),
}
"""Name to what measures (``None``: too long to do here), what draws, and the table between."""


@dataclass(frozen=True)
class Picture:
    """One entry of the gallery.

    Attributes:
        file: of the picture, from ``docs``.
        title: what it shows.
        command: that makes it, in the root of a clone.
        data: file that it is drawn from, from ``docs``.
        more: page that says how to read it.
    """

    file: str
    title: str
    command: str
    data: str
    more: str


_MAKE = "python docs/images/make.py"
_REPRODUCE = "make reproduce"
_FIGURES = {
    "speedup": "Simulated and published speedup of 30 benchmarks over four platforms",
    "reductions": "Simulated and published DRAM reductions",
    "ladder": "What each technique adds, simulated and published",
    "design-space": "Comparators of the top-k engine and SRAM sizes against speed",
    "roofline": "Operations a second against operations a byte",
    "power-area": "Power and area by module",
    "e2e": "GPT-2 end to end with fully connected layers",
    "table3": "Speed and energy over platforms, Table III",
    "table4": "A3 and MNNFast, Table IV",
    "rivals": "A3, MNNFast and SpAtten on real traces",
}
_ABLATION = "python docs/accelerators/make.py"
_SPATTEN = "accelerators/spatten.md"
PICTURES = (
    Picture(
        "images/frontier.svg",
        "Measured loss of SmolLM2 against DRAM reduction, tuned and by hand",
        f"{_MAKE} frontier", "tuning/smollm2.csv", "accuracy.md#tuning",
    ),
    Picture(
        "images/policies.svg",
        "Open-loop error against DRAM reads of every preset that applies to SmolLM2",
        f"{_MAKE} policies", "images/policies.csv", "policies.md",
    ),
    Picture(
        "images/pareto.svg", "Energy against error over keep ratio and bit widths",
        f"{_MAKE} pareto", "images/pareto.csv", "exploration.md",
    ),
    Picture(
        "images/contexts.svg",
        "Latency of a decoded token and of a prompt against context, beside GPUs",
        "python benchmarks/contexts.py draw", "images/contexts.csv", "contexts.md",
    ),
    Picture(
        "accelerators/spatten-ablation.svg",
        "What each field that differs between two machines is worth",
        _ABLATION, "accelerators/spatten-ablation.csv", _SPATTEN,
    ),
    Picture(
        "accelerators/spatten-timeline.svg",
        "What every module and DRAM channel does in two layers",
        _ABLATION, "accelerators/spatten-timeline.csv", f"{_SPATTEN}#timeline",
    ),
    *(
        Picture(
            f"reproduction/{name}.svg", title, _REPRODUCE, "reproduction/reproduction.json",
            "reproduction/README.md",
        )
        for name, title in _FIGURES.items()
    ),
)  # fmt: skip


def gallery() -> str:
    """Return the page of all pictures."""
    lines = [
        "# Gallery",
        "",
        "Every picture of these pages, with the command that makes it and what it is drawn from.",
        "Made by `make gallery`; SVG, which scales in a paper. Pictures of your own runs have the",
        "same style: `accelsim report RESULT`, `accelsim compare TRACE --out DIR`.",
        "",
    ]
    for picture in PICTURES:
        lines += [
            f"## {picture.title}",
            f"![{picture.title}]({picture.file})",
            "",
            f"Command: `{picture.command}`. Data: [{Path(picture.data).name}]({picture.data}). "
            f"[How to read it]({picture.more}).",
            "",
        ]
    return "\n".join(lines)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def main() -> None:
    """Make what is named, or all."""
    words = [word for word in sys.argv[1:] if word != "--draw"]
    for name, (measure, draw, table) in DRAWN.items():
        if words and name not in words:
            continue
        if measure is not None and "--draw" not in sys.argv:
            write_text(table, _table(measure()))
        with table.open(encoding="utf-8") as file:
            text = draw(list(csv.DictReader(file)))
        write_text(HERE / f"{name}.svg", text + "\n")
        print(f"wrote {HERE / name}.svg")
    write_text(DOCS / "gallery.md", gallery())
    print(f"wrote {DOCS / 'gallery.md'}")


if __name__ == "__main__":
    main()
