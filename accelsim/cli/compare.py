"""``accelsim compare``: several policies on one source, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from accelsim.cli._options import (
    chosen_baselines,
    emit_json,
    hardware_options,
    json_option,
    overrides,
    remark,
    shape_options,
    stages,
)
from accelsim.errors import AccelsimError, shorten

if TYPE_CHECKING:
    from accelsim.exploration import Comparison

_PRUNED = ("spatten-pruned", "spatten-full")


@click.command("compare")
@click.argument("source")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="NAME|FILE[:KEY=VALUE,...]",
    help="Policy to run (repeatable); the first is what the others are compared with "
    "(default: dense, spatten-pruned, spatten-full).",
)
@click.option(
    "--policies",
    "family",
    callback=lambda context, option, value: _family(value),
    metavar="all",
    help="all: dense, then every other preset that applies to the trace.",
)
@shape_options
@hardware_options
@json_option
@click.option("--out", metavar="DIR", help="Also write report.html and compare.json there.")
def command(
    source: str,
    policies: tuple[str, ...],
    family: str | None,
    accelerator: str,
    engine: str,
    dependencies: str | None,
    settings: tuple[str, ...],
    baselines: tuple[str, ...],
    guessed: bool,
    json_file: str | None,
    out: str | None,
    **keys: Any,
) -> None:
    """Run a trace or shape under several policies and print them side by side.

    \b
    Examples:
      accelsim compare traces/smollm2-64p-32d.safetensors --out runs/demo
      accelsim compare traces/minilm-128.safetensors --policy dense --policy static-8
      accelsim compare traces/smollm2-64p-32d.safetensors --policy tova
        --policy tova:selection.budget_fraction=0.5
      accelsim compare traces/smollm2-64p-32d.safetensors --policies all --out runs/all
      accelsim compare shape:llama-3-8b --context 8192 --decode 1
    """
    from accelsim.exploration import DEFAULT_POLICY, compare
    from accelsim.reports import prepare_folder, render, to_text, write_text

    folder = None if out is None else prepare_folder(out)
    chosen = [*policies, *(_applicable(source) if family else ())]
    with stages("compare") as on_stage:
        results = compare(
            source,
            chosen or (DEFAULT_POLICY, *_PRUNED),
            accelerator,
            engine,
            overrides(settings),
            chosen_baselines(baselines, guessed),
            on_stage,
            dependencies,
            **keys,
        )
    text = results.to_json()
    if json_file != "-":
        to_text(results)
    for warning in dict.fromkeys(text for r in results.values() for text in r.warnings):
        remark(f"note: {warning}")
    if json_file:
        emit_json(text, json_file)
    if folder is not None:
        title = f"accelsim: {Path(source).stem} on {accelerator}"
        extra = _figures(results)
        write_text(folder / "compare.json", text + "\n")
        write_text(folder / "report.html", render(results, title, extra))
        remark(f"wrote {folder / 'report.html'} and {folder / 'compare.json'}")


def _family(value: str | None) -> str | None:
    if value not in (None, "all"):
        raise AccelsimError(
            f"--policies {shorten(str(value), 80)}: expected 'all'; for some, repeat --policy, as "
            "in --policy dense --policy static-8"
        )
    return value


def _figures(results: Comparison) -> dict[str, str]:
    """Accuracy against each cost, where the policies ran on tensors."""
    from accelsim.reports import policy_figure

    known = {name: result for name, result in results.items() if result.accuracy}
    figures: dict[str, str] = {}
    for title, key, cost, scale in (
        ("DRAM traffic", "dram_read_bytes", "DRAM reads, MB", 1e6),
        ("latency", "latency_s", "latency, µs", 1e-6),
        ("energy", "energy_j", "energy, µJ", 1e-6),
    ):
        points = {
            name: (result.metrics[key], (result.accuracy or {})["relative_output_error"])
            for name, result in known.items()
        }
        if points:
            metric = "relative output error (open loop)"
            figure = policy_figure(points, metric, cost=cost, scale=scale)
            figures[f"Accuracy against {title}"] = figure
    return figures


def _applicable(source: str) -> list[str]:
    """Name the policy presets that apply to a trace, dense first."""
    from accelsim.configs import preset_names
    from accelsim.errors import TraceError
    from accelsim.exploration import DEFAULT_POLICY
    from accelsim.policies import applicable, load_policy
    from accelsim.traces import load_trace
    from accelsim.workloads import benchmark_names
    from accelsim.workloads.shapes import is_shape

    if is_shape(source):
        raise TraceError(f"{source}: has no tensors; --policies is for traces, repeat --policy")
    if source.endswith((".csv", ".parquet")) or source in benchmark_names():
        raise TraceError(f"{source}: holds a policy's decisions; --policies is for traces")
    trace = load_trace(source)
    names = [n for n in preset_names("policies") if applicable(load_policy(n), trace)]
    return sorted(names, key=lambda name: name != DEFAULT_POLICY)
