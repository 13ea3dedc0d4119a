"""``accelsim tune``: the cheapest policy under a limit on the loss, over a trace or in a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from accelsim.cli._closed_loop import task_options, text_options
from accelsim.cli._options import emit_json, file_option, json_option, remaining, remark

if TYPE_CHECKING:
    from accelsim.exploration import TuneResult, Tuning

_SCORING = (
    "score", "texts", "lee", "windows", "held_out", "window_tokens", "skip", "prompt_tokens",
    "examples", "context", "question_in_prompt", "points",
)  # fmt: skip
"""Options that say what is scored, and on what."""


@click.command("tune")
@click.argument("source")
@click.option(
    "--max-loss",
    required=True,
    metavar="N%",
    help="Largest loss allowed: increase of the perplexity over 12-bit dense attention (of an "
    "encoder: decrease of its correlation; of a task: of its score, relative as 2%, or in points "
    "as 2pt); over a trace, relative output error.",
)
@click.option(
    "--minimize",
    type=click.Choice(["dram", "latency", "energy"]),
    default="dram",
    show_default=True,
    help="DRAM traffic inside the model, or cycles or joules of decoding on --accelerator.",
)
@click.option(
    "--bound",
    type=click.Choice(["upper", "estimate"]),
    default="upper",
    show_default=True,
    help="What must be within the limit: the upper end of the loss's 95 % interval, or the loss.",
)
@click.option(
    "--score",
    default="perplexity",
    show_default=True,
    metavar="NAME",
    help="What may be lost: perplexity, or the score of a retrieval task (needle, needle-multikey, "
    "needle-multivalue, variable-tracking, common-words, frequent-words).",
)
@task_options
@text_options
@click.option(
    "--windows",
    default=2,
    show_default=True,
    type=click.IntRange(1),
    help="Windows of each text to tune on.",
)
@click.option(
    "--held-out",
    default=4,
    show_default=True,
    type=click.IntRange(0),
    help="Windows of each text behind those, on which the loss is stated.",
)
@click.option(
    "--rule",
    "rules",
    multiple=True,
    metavar="NAME",
    help="Rule to try (repeatable; default: widths, spatten, tova, h2o, streaming_llm, knorm, "
    "keydiff, snapkv, those that select once only where there is a prompt). Others: centrality, "
    "dhsa, ems, expected_attention, quest, scissorhands. An encoder has the first two.",
)
@click.option(
    "--beside",
    multiple=True,
    metavar="NAME|FILE[:KEY=VALUE,...]",
    help="Policy to measure as well (repeatable), for the figure.",
)
@click.option(
    "--evaluations",
    default=40,
    show_default=True,
    type=click.IntRange(1),
    help="Policies of the search to run inside the model, at most.",
)
@click.option(
    "--layers-per-group",
    type=click.IntRange(1),
    help="Neighbouring layers that share settings (default: a tenth of the model).",
)
@click.option(
    "--accelerator",
    default="spatten-paper",
    show_default=True,
    metavar="NAME|FILE",
    help="Hardware on which policies are replayed.",
)
@click.option(
    "--store",
    metavar="DIR",
    help="Where measurements are kept, so that a stopped run goes on, with frontier.csv and "
    "frontier.svg (default: runs/tune-MODEL).",
)
@file_option("--out", "Write the policy here, as YAML.")
@json_option
@click.pass_context
def command(context: click.Context, /, **options: Any) -> None:
    """Find the cheapest policy whose loss stays under a limit.

    SOURCE is a model (smollm2, minilm, a .gguf file, or a folder or id that transformers loads):
    candidates are ranked open loop and run inside the model, and the loss is stated on texts that
    were not tuned on, too. Or SOURCE is an attention trace (.safetensors): then all is open loop,
    and losses are optimistic in depth.

    \b
    Examples:
      accelsim tune smollm2 --max-loss 1% --out tuned.yaml
      accelsim tune smollm2 --text shipped --text news.txt --max-loss 1% --bound estimate
      accelsim tune smollm2 --score needle --max-loss 5pt --examples 20 --context 1024
      accelsim tune minilm --lee gensim.whl --max-loss 1% --minimize energy
      accelsim tune traces/smollm2-64p-32d.safetensors --max-loss 5% --out tuned.yaml
    """  # fmt: skip
    source, given = options.pop("source"), options.pop("max_loss")
    limit, options["points"] = _limit(given)
    if options["points"] and options["score"] == "perplexity":
        raise click.UsageError(f"--max-loss {given}: points go with --score TASK; expected N%")
    out, json_file = options.pop("out"), options.pop("json_file")
    if _is_model(source):
        _inside(source, limit, options, out, json_file)
        return
    for name in options:
        typed = context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE
        if typed and name not in ("layers_per_group", "accelerator"):
            flag = next(p.opts[0] for p in context.command.params if p.name == name)
            raise click.UsageError(f"{flag} goes with a model; {source} is read as a trace")
    _over_trace(source, limit, options, out, json_file)


def _limit(text: str) -> tuple[float, bool]:
    """The limit as a fraction, and whether it is in points."""
    from accelsim.errors import AccelsimError

    points = text.endswith("pt")
    try:
        value = float(text.removesuffix("%").removesuffix("pt"))
    except ValueError:
        raise AccelsimError(f"--max-loss {text}: expected a number, as 1%, 0.01 or 1pt") from None
    value = value / 100 if points or text.endswith("%") else value
    if not 0 < value < 1:
        raise AccelsimError(
            f"--max-loss {text}: expected more than 0 and less than 1 (100 %), as 1%, 0.01 or 1pt"
        )
    return value, points


def _is_model(source: str) -> bool:
    """Whether a source names a model; else it is a trace.

    Raises:
        AccelsimError: it is neither.
    """
    from accelsim.errors import AccelsimError
    from accelsim.traces import trace_names
    from accelsim.traces.capture.packages import WEIGHT_PACKAGES

    path = Path(source)
    if source.endswith((".safetensors", ".safetensors.index.json")) or source in trace_names():
        return False
    owned = "/" in source and not path.is_absolute() and not source.startswith(".")
    if source in WEIGHT_PACKAGES or path.suffix == ".gguf" or path.is_dir() or owned:
        return True
    raise AccelsimError(
        f"{source}: is neither a trace (.safetensors) nor a model; expected one, or "
        f"{', '.join(WEIGHT_PACKAGES)}, a .gguf file, a folder, or an id OWNER/NAME"
    )


def _inside(
    model: str, limit: float, options: dict[str, Any], out: str | None, json_file: str | None
) -> None:
    """Tune inside a model, and write what was found."""
    from accelsim.exploration import tune_model
    from accelsim.functional.closed_loop import open_loss
    from accelsim.reports import write_text

    store = Path(options.pop("store") or f"runs/tune-{Path(model).stem}")
    loop = open_loss(model, **{name: options.pop(name) for name in _SCORING})
    with remaining("tune") as tell:
        found = tune_model(
            loop,
            limit,
            store,
            minimize=options["minimize"],
            bound=options["bound"],
            accelerator=options["accelerator"],
            rules=options["rules"],
            beside=options["beside"],
            evaluations=options["evaluations"],
            layers_per_group=options["layers_per_group"],
            on_progress=tell,
        )
    text = found.to_yaml(model)
    if json_file != "-":
        _print_tuning(model, found)
    if json_file:
        emit_json(json.dumps(found.to_dict(), indent=2, allow_nan=False), json_file)
    write_text(store / "frontier.csv", found.to_csv())
    write_text(store / "frontier.svg", _figure(model, found) + "\n")
    if out is not None:
        write_text(out, text)
    elif json_file != "-":
        click.echo(text)
    written = [*([out] if out else []), store / "frontier.csv", store / "frontier.svg"]
    remark(f"wrote {', '.join(map(str, written))}")


def _over_trace(
    source: str, limit: float, options: dict[str, Any], out: str | None, json_file: str | None
) -> None:
    """Tune over a recorded trace, open loop."""
    from accelsim.exploration import tune
    from accelsim.reports import write_text

    with remaining("tune") as tell:
        result = tune(
            source,
            limit,
            accelerator=options["accelerator"],
            layers_per_group=options["layers_per_group"],
            on_progress=tell,
        )
    if json_file != "-":
        _print(result)
    if json_file:
        emit_json(json.dumps(result.to_dict(), indent=2, allow_nan=False), json_file)
    if out is not None:
        write_text(out, result.to_yaml())
        remark(f"wrote {out}")
    elif json_file != "-":
        click.echo(result.to_yaml())


def _ratios(rows: Sequence[tuple[str, float, float]], title: str, first: str) -> None:
    """Print what dense attention and the policy cost, and say where the policy costs more."""
    from rich.table import Table

    from accelsim.reports import plain_console

    table = Table(title=title, title_justify="left", show_edge=False)
    table.add_column(first)
    for name in ("12-bit dense", "tuned", "ratio"):
        table.add_column(name, justify="right")
    for name, before, after in rows:
        table.add_row(name, f"{before:.4g}", f"{after:.4g}", f"{before / after:.2f}x")
    plain_console().print(table)
    for name, before, after in rows:
        if after > 1.01 * before:
            what = name.partition(",")[0]
            remark(f"note: {after / before:.2f} times the {what} of 12-bit dense attention")


def _print(result: TuneResult) -> None:
    rows = [
        (title, result.before.metrics[key], result.after.metrics[key])
        for title, key in (
            ("DRAM bytes read", "dram_read_bytes"),
            ("cycles", "latency_cycles"),
            ("energy, J", "energy_j"),
        )
    ]
    _ratios(
        rows,
        f"loss {100 * result.loss:.3g} % of {100 * result.max_loss:g} % allowed "
        f"({result.mode}), {result.evaluations} policies measured",
        "per trace",
    )


def _print_tuning(model: str, found: Tuning) -> None:
    from rich.table import Table

    from accelsim.reports import plain_console

    best = found.best
    lines = [
        f"{model}: loss of {found.metric}, {found.unit}: {_percent(best.loss)} on "
        f"{best.loss.samples} samples"
    ]
    if best.held_out is not None:
        lines.append(f"{_percent(best.held_out)} on {best.held_out.samples} held out")
    rows = [
        ("DRAM bytes inside the model", best.loss.dense_bytes, best.loss.dram_bytes),
        ("DRAM bytes", found.dense.dram_bytes, best.cost.dram_bytes),
        ("cycles", found.dense.cycles, best.cost.cycles),
        ("energy, J", found.dense.energy_j, best.cost.energy_j),
    ]
    _ratios(rows, "; ".join(lines), "per decoded token")
    table = Table(
        title=f"front of {len(found.points)} policies measured inside the model "
        f"({found.probes} probes set the weights); ratios to 12-bit dense",
        title_justify="left",
        show_edge=False,
    )
    for name in (
        "policy",
        f"loss, {found.unit} (95 %)",
        f"held out, {found.unit} (95 %)",
        "DRAM",
        "cycles",
        "energy",
    ):
        table.add_column(name, justify="left" if name == "policy" else "right")
    for point in found.front():
        held = "–" if point.held_out is None else _percent(point.held_out)
        table.add_row(
            point.name,
            _percent(point.loss),
            held,
            f"{point.loss.reduction:.2f}x",
            f"{found.dense.cycles / point.cost.cycles:.2f}x",
            f"{found.dense.energy_j / point.cost.energy_j:.2f}x",
        )
    plain_console(width=110, soft_wrap=True).print(table)


def _percent(loss: Any) -> str:
    return f"{100 * loss.loss:+.2f} ({100 * loss.low:+.2f} to {100 * loss.high:+.2f})"


def _figure(model: str, found: Tuning) -> str:
    from accelsim.reports import frontier_figure

    title = f"{Path(model).name}: {found.metric}, every point measured inside the model"
    return frontier_figure(found.rows(), found.max_loss, title=title)
