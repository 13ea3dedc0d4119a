"""``accelsim inspect``: what is in a trace."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from accelsim.cli._options import emit_json, json_option, remark, stages

if TYPE_CHECKING:
    from accelsim.traces import AttentionTrace, LayerSkew


_ENTRY_CHARACTERS = 160


@click.command("inspect")
@click.argument("file")
@click.option("--plot", metavar="FILE.svg|.png", help="Also draw the skew of each layer.")
@json_option
def command(file: str, plot: str | None, json_file: str | None) -> None:
    """Check every number of trace FILE; print its shape, provenance and skew of attention.

    \b
    Examples:
      accelsim inspect traces/smollm2-64p-32d.safetensors
      accelsim inspect traces/minilm-128.safetensors --plot skew.svg --json -
    """
    import dataclasses

    from accelsim.traces import layer_skew, load_trace, validate_trace

    if plot:
        from accelsim.reports.trace_plot import check_plot_target, plot_skew

        check_plot_target(plot)
    with stages("inspect") as on_stage:
        trace = load_trace(file)
        validate_trace(trace, lambda layer: on_stage(f"numbers of layer {layer}"))
        skew = []
        for layer in range(trace.num_layers):
            on_stage(f"skew of layer {layer}")
            skew.append(layer_skew(trace, layer))
    facts = _facts(trace)
    if json_file != "-":
        _print(facts, skew)
    if json_file:
        document = {
            "schema": "accelsim.inspect/1",
            "trace": facts,
            "layers": [dataclasses.asdict(record) for record in skew],
        }
        emit_json(json.dumps(document, indent=2, allow_nan=False), json_file)
    if plot:
        plot_skew(skew, trace.model, plot)
        remark(f"wrote {plot}")


def _facts(trace: AttentionTrace) -> dict[str, Any]:
    from accelsim.traces import TOKEN_TYPES

    names = (
        "path model source recorded_under num_layers num_query_heads num_kv_heads head_dim causal "
        "prefill_tokens decode_tokens scale proof_error tokens_sha256 text"
    )
    facts = {name: getattr(trace, name) for name in names.split()}
    kinds, frame = trace.token_type, trace.frame
    if kinds is not None:
        found = {name: int((kinds == i).sum()) for i, name in enumerate(TOKEN_TYPES)}
        facts["token_type"] = {name: count for name, count in found.items() if count}
    if frame is not None:
        facts["frames"] = len(set(frame[frame >= 0].tolist()))
    if trace.further:
        names = "prefill_tokens decode_tokens proof_error tokens_sha256 text"
        facts["sequences"] = [
            {name: getattr(own, name) for name in names.split()} for own in trace.sequences
        ]
    if trace.layers:
        facts["layers"] = [
            entry.model_dump(exclude_none=True, exclude_defaults=True) for entry in trace.layers
        ]
    return facts


def _lines(name: str, value: Any) -> list[str]:
    if name == "layers":
        alike: dict[str, list[str]] = {}
        for index, entry in enumerate(value):
            alike.setdefault(json.dumps(entry)[:_ENTRY_CHARACTERS], []).append(str(index))
        return [f"{', '.join(indexes)}: {text}" for text, indexes in alike.items()]
    if name == "sequences":
        return [f"{own['prefill_tokens']} + {own['decode_tokens']} tokens" for own in value]
    if name == "token_type":
        return [", ".join(f"{count} {kind}" for kind, count in value.items())]
    if name == "text":
        return [ascii(value)[:100]]
    return str(value).splitlines() or [""]


def _print(facts: dict[str, Any], skew: list[LayerSkew]) -> None:
    from rich.table import Table

    from accelsim.reports import plain_console

    width = max(len(name) for name in facts)
    for name, value in facts.items():
        lines = _lines(name, value)
        for index, line in enumerate(lines):
            click.echo(f"{name if index == 0 else '':{width}}  {line}")
    click.echo(f"{'numbers':{width}}  all finite\n")
    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    for title in (
        "layer",
        "mass on top 10 % of keys, %",
        "queries with largest p < 0.1, %",
        "mass on first token, %",
    ):
        table.add_column(title, justify="right")
    rows = [[r.top_mass, r.flat_fraction, r.first_token_mass] for r in skew]
    labels = [str(r.layer) for r in skew] + ["mean"]
    rows.append([sum(column) / len(skew) for column in zip(*rows, strict=True)])
    for label, values in zip(labels, rows, strict=True):
        table.add_row(label, *(f"{100 * value:.1f}" for value in values))
    plain_console(width=100).print(table)
