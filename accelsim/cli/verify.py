"""``accelsim verify``: what a policy and the fixed-point datapath do to attention."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from accelsim.cli._closed_loop import closed_loop_options
from accelsim.cli._options import emit_json, json_option, remark, stages

if TYPE_CHECKING:
    from accelsim.functional import VerifyResult


_SHOWN_HEADS = 12
"""Rows of a table that a reader can take in; the JSON has them all."""


@click.command("verify")
@click.argument("source", required=False)
@click.option(
    "--policy",
    "policies",
    metavar="NAME|FILE[:KEY=VALUE,...]",
    multiple=True,
    default=("dense",),
    show_default=True,
    help="Pruning and quantization policy (see 'accelsim presets list policies'); repeatable with "
    "--closed-loop, where 'all' is every preset that applies.",
)
@closed_loop_options
@click.option(
    "--datapath",
    metavar="NAME",
    default="published",
    show_default=True,
    help="published: full-width sums as in the paper; rtl: products keep the top 12 of 24 bits "
    "and sums wrap in 12.",
)
@click.option(
    "--rounding",
    metavar="MODE",
    default="nearest",
    show_default=True,
    help="nearest (halves up), nearest-even or floor.",
)
@click.option(
    "--all-heads",
    is_flag=True,
    help=f"Print every head; else, of more than {_SHOWN_HEADS}, those with the largest error.",
)
@json_option
@click.option(
    "--out",
    metavar="DIR",
    help="Also write verify.json there; with --closed-loop, closed-loop.json and policies.svg.",
)
def command(
    source: str | None,
    policies: tuple[str, ...],
    closed_loop: bool,
    datapath: str,
    rounding: str,
    all_heads: bool,
    json_file: str | None,
    out: str | None,
    **options: Any,
) -> None:
    """Run SOURCE through SpAtten's fixed-point datapath and compare with dense float64 attention.

    With --closed-loop the policy runs inside a model instead, and perplexity (with --lee the
    correlation with human similarity judgements, with --task the part of the answers found) is
    printed.

    SOURCE is an attention trace (.safetensors). Open loop: the recorded tensors are those of the
    unpruned model, so errors are optimistic in depth. Prints relative error, cosine, KL of the
    probabilities, kept mass, LSB refetches and saturations, per layer and head.

    \b
    Examples:
      accelsim verify traces/smollm2-64p-32d.safetensors --policy spatten-full
      accelsim verify traces/smollm2-64p-32d.safetensors --datapath rtl --rounding floor --json -
      accelsim verify --closed-loop --policy dense --policy h2o:selection.budget_fraction=0.5
      accelsim verify --closed-loop --text book.txt --windows 8 --policy dense --policy snapkv
        --prompt-tokens 256
      accelsim verify --closed-loop --task needle --examples 20 --context 1024 --policy h2o
        --store runs/needle
      accelsim verify --closed-loop --model minilm --lee gensim.whl --policy dense --policy
        spatten-encoder
    """
    if closed_loop:
        from accelsim.cli._closed_loop import run

        run(policies, options, json_file, out)
        return
    if source is None or len(policies) != 1:
        raise click.UsageError("expected one SOURCE and one --policy (or --closed-loop)")
    policy = policies[0]
    from accelsim.functional import verify_fixed_point
    from accelsim.functional.fixed_point import load_datapath
    from accelsim.policies import load_policy_spec
    from accelsim.reports import prepare_folder, write_text
    from accelsim.traces import load_trace

    chosen, path = load_policy_spec(policy), load_datapath(datapath, rounding)
    trace = load_trace(source)
    folder = None if out is None else prepare_folder(out)
    with stages(policy) as on_stage:
        steps, layers = trace.decode_tokens, trace.num_layers
        result = verify_fixed_point(
            trace,
            chosen,
            path,
            lambda step, layer: on_stage(f"step {step} of {steps}, layer {layer + 1} of {layers}"),
        )
    text = json.dumps({"source": source, "policy": policy} | result.to_dict(), indent=2)
    if json_file != "-":
        _print(result, policy, all_heads)
    if json_file:
        emit_json(text, json_file)
    if folder is not None:
        write_text(folder / "verify.json", text + "\n")
        remark(f"wrote {folder / 'verify.json'}")


_COLUMNS = (
    ("error", "relative_output_error", "%"),
    ("vs. policy", "relative_error_to_policy", "%"),
    ("cosine", "mean_cosine", ""),
    ("KL, nat", "mean_kl_nats", "g"),
    ("kept mass", "kept_mass", "%"),
    ("LSB rows", "lsb_refetch_fraction", "%"),
    ("sat. QK", "score_saturations", "n"),
    ("sat. PV", "value_saturations", "n"),
    ("sat. out", "output_saturations", "n"),
)


def _print(result: VerifyResult, policy: str, all_heads: bool) -> None:
    from rich.table import Table

    from accelsim.reports import plain_console

    table = Table(
        title=f"{policy}, datapath {result.datapath.name}, rounding {result.datapath.rounding} "
        "(open loop; error against dense float64)",
        title_justify="left",
        show_edge=False,
        pad_edge=False,
    )
    table.add_column("layer", justify="right")
    table.add_column("head", justify="right")
    for title, _, _ in _COLUMNS:
        table.add_column(title, justify="right", no_wrap=True)
    rows = result.per_head
    if not all_heads and len(rows) > _SHOWN_HEADS:
        worst = sorted(rows, key=lambda row: -(row["relative_output_error"] or 0))[:_SHOWN_HEADS]
        rows = sorted(worst, key=lambda row: (row["layer"], row["head"]))
        table.caption = f"{len(rows)} of {len(result.per_head)} heads, the worst; --all-heads"
        table.caption_justify = "left"
    layer = rows[0]["layer"] if rows else 0
    for row in rows:
        if row["layer"] != layer:
            table.add_section()
            layer = row["layer"]
        table.add_row(str(layer), str(row["head"]), *_cells(row))
    table.add_section()
    table.add_row("all", "all", *_cells(result.summary), style="bold")
    plain_console(width=120, soft_wrap=True).print(table)


def _cells(row: dict[str, float | int | None]) -> list[str]:
    from accelsim.units import percent

    shown = []
    for _, key, kind in _COLUMNS:
        value = row[key]
        if value is None:
            shown.append("–")
        elif kind == "%":
            shown.append(percent(value))
        else:
            shown.append(f"{value:,}" if kind == "n" else f"{value:{'.3g' if kind else '.6f'}}")
    return shown
