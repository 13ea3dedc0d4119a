"""``accelsim replay``: one source, one policy, one accelerator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from accelsim.cli._options import (
    check_json,
    chosen_baselines,
    emit_json,
    hardware_options,
    json_option,
    overrides,
    remark,
    shape_options,
    stages,
)


@click.command("replay")
@click.argument("source")
@click.option(
    "--policy",
    metavar="NAME|FILE[:KEY=VALUE,...]",
    help="Pruning and quantization policy of a trace or shape (default: dense; see "
    "'accelsim presets list policies'). A workload file holds its decisions already.",
)
@click.option(
    "--group",
    type=click.Choice(["encoder", "decoder", "vision", "language"]),
    help="Of a trace with several stacks, the only one to run, as a model of its own (default: all "
    "of them, one after another; the policy prunes the decoder or language model).",
)
@shape_options
@hardware_options
@json_option
@click.option("--out", metavar="DIR", help="Also write result.json and report.html there.")
@click.option(
    "--streamed", is_flag=True, help="Also run it streamed, and report the cycles beside."
)
@click.option(
    "--by-stage",
    "by_stage",
    is_flag=True,
    help="Also tell energy and power of prompt and decoding apart (simulates the prompt alone "
    "beside the whole run; causal runs only).",
)
@click.option(
    "--export-ramulator",
    "ramulator",
    metavar="DIR",
    help="Also write the DRAM requests there as load/store traces and configurations of "
    "Ramulator 2, a pair of files per channel (simulates twice).",
)
@click.option(
    "--timeline",
    metavar="FILE",
    help="Write what every module and DRAM channel did: a Chrome trace for ui.perfetto.dev "
    "(.json), or a picture of the first requests (.svg, .png).",
)
@click.option(
    "--timeline-window",
    "window",
    metavar="START:END",
    help="Cycles to keep in the timeline (default: all).",
)
def command(
    source: str,
    policy: str | None,
    group: str | None,
    accelerator: str,
    engine: str,
    dependencies: str | None,
    settings: tuple[str, ...],
    baselines: tuple[str, ...],
    guessed: bool,
    json_file: str | None,
    out: str | None,
    streamed: bool,
    by_stage: bool,
    ramulator: str | None,
    timeline: str | None,
    window: str | None,
    **keys: Any,
) -> None:
    """Run SOURCE through one accelerator under one policy.

    SOURCE is an attention trace (.safetensors), a workload (.csv with SpAtten's 17 columns,
    .parquet), the name of a benchmark, or a shape, which needs no tensors (shape:MODEL, see
    'accelsim presets list models'). Prints time, DRAM traffic by tensor and bit plane, energy
    by part, output error and ratios against GPU and CPU baselines.

    \b
    Examples:
      accelsim replay traces/smollm2-64p-32d.safetensors --policy spatten-full
      accelsim replay traces/minilm-128.safetensors --set channels=8 --json -
      accelsim replay traces/spatten-gpt2/small.csv --accelerator spatten-rtl-eighth
      accelsim replay bert-base-cola --baseline titan-xp
      accelsim replay shape:llama-3-8b --context 32768 --decode 1 --policy spatten-full
      accelsim replay traces/spatten-gpt2/small.csv --set memory=hbm2-spatten \\
        --export-ramulator runs/ramulator
      accelsim replay bert-base-cola --timeline cola.json --timeline-window 0:5000
    """
    from accelsim.exploration import replay
    from accelsim.reports import (
        prepare_folder,
        render,
        svg_text,
        timeline_figure,
        to_text,
        write_text,
        write_timeline,
    )
    from accelsim.traces import load_trace
    from accelsim.workloads.shapes import is_shape

    folder = None if out is None else prepare_folder(out)
    traces = None if ramulator is None else prepare_folder(ramulator)
    cycles = _window(timeline, window)
    name = source if is_shape(source) else Path(source).stem
    title = f"{name} on {accelerator}, {engine} engine"
    with stages(name) as on_stage:
        result = replay(
            source if group is None else load_trace(source).of_group(group),
            accelerator,
            policy,
            engine,
            overrides(settings),
            chosen_baselines(baselines, guessed),
            on_stage,
            record_dram=traces is not None,
            timeline=cycles,
            dependencies=dependencies,
            streamed=streamed,
            stages=by_stage,
            **keys,
        )
    if json_file != "-":
        to_text({policy or name: result})
    for warning in result.warnings:
        remark(f"note: {warning}")
    if json_file:
        emit_json(result.to_json(), json_file)
    if timeline is not None and result.timeline is not None:
        write_timeline(timeline, result.timeline, result.manifest, title)
        remark(f"wrote {timeline} ({len(result.timeline.spans):,} spans)")
    if folder is not None:
        write_text(folder / "result.json", result.to_json() + "\n")
        plots = {}
        if result.timeline is not None:
            plots["The first requests, module by module"] = svg_text(
                timeline_figure(result.timeline, title)
            )
        page = render({policy or name: result}, f"accelsim: {name}", plots)
        write_text(folder / "report.html", page)
        remark(f"wrote {folder / 'report.html'} and {folder / 'result.json'}")
    if traces is not None:
        for file, text in result.ramulator_files.items():
            write_text(traces / file, text)
        remark(f"wrote {len(result.ramulator_files)} files to {traces}")


def _window(timeline: str | None, window: str | None) -> tuple[int | None, int | None] | None:
    """Check the options of the timeline before any work is done."""
    from accelsim.errors import AccelsimError
    from accelsim.hardware.timeline import Recorder, parse_window
    from accelsim.reports import PICTURES

    if timeline is None:
        if window is not None:
            raise AccelsimError("--timeline-window needs --timeline FILE")
        return None
    known = (".json", *PICTURES)
    if Path(timeline).suffix.lower() not in known:
        raise AccelsimError(f"{timeline}: expected a name that ends in {', '.join(known)}")
    check_json(timeline)
    cycles = (None, None) if window is None else parse_window(window)
    Recorder(cycles)
    return cycles
