"""A comparison as rows of text, shared by the terminal, the HTML report and Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelsim.energy import across_readings
from accelsim.exploration import RunResult
from accelsim.exploration.metrics import METRICS
from accelsim.units import percent, ratio, shown, si

Rows = list[tuple[str, list[str]]]
"""Label, and one text per compared run."""

TENSOR_LABELS = {
    "query": "queries",
    "key_msb": "keys, MSB plane",
    "key_lsb": "keys, LSB plane",
    "value": "values",
}
STAGES = {"prefill": "prompt", "decode": "decoding"}
_ACCURACY_ROWS = (
    ("relative_output_error", "relative output error", percent),
    ("mean_cosine", "mean cosine of outputs", lambda value: f"{value:.5f}"),
    ("mean_kl", "mean KL of probabilities", lambda value: f"{value:.3g} nat"),
    ("kept_mass", "kept probability mass", percent),
    ("lsb_refetch_fraction", "rows that refetch LSBs", percent),
)


@dataclass(frozen=True)
class Section:
    """A titled block of rows: a label, then one text per compared run."""

    title: str
    rows: Rows


def comparison(results: Mapping[str, RunResult]) -> list[Section]:
    """Return the sections of a side-by-side table, one column per result."""
    runs = list(results.values())
    return [
        Section("Time", _time(runs)),
        Section("DRAM", _dram(runs)),
        Section("Energy", _energy(runs)),
        *([Section("Energy by stage", _stages(runs))] if any(map(_stages_of, runs)) else []),
        *(
            [Section("Accuracy (open loop)", _accuracy(runs))]
            if any(r.accuracy for r in runs)
            else []
        ),
        Section("Speedup over [5…95 %] (energy ratio)", _baselines(runs)),
        *([Section("Sampled", _sampled(runs))] if any(map(_sample_of, runs)) else []),
    ]


def _time(runs: Sequence[RunResult]) -> Rows:
    first = runs[0].metrics["latency_cycles"]
    rows = _rows(runs, "time")
    seconds = ("", [si(r.metrics["latency_s"], "s") for r in runs])
    speedup = [ratio(first / r.metrics["latency_cycles"]) for r in runs]
    return [rows[0], seconds, *_beside("speedup over first column", speedup), *rows[1:]]


def _dram(runs: Sequence[RunResult]) -> Rows:
    rows = [
        (label, [si(r.dram_read_bytes_by_tensor.get(tensor, 0), "B") for r in runs])
        for tensor, label in TENSOR_LABELS.items()
    ]
    total = [r.metrics["dram_read_bytes"] for r in runs]
    all_reads, *rest = _rows(runs, "dram")
    reduction = [ratio(total[0] / max(v, 1)) for v in total]
    return [*rows, all_reads, *_beside("reduction over first column", reduction), *rest]


def _beside(label: str, texts: list[str]) -> Rows:
    """A row that compares runs; none for one."""
    return [(label, texts)] if len(texts) > 1 else []


def _energy(runs: Sequence[RunResult]) -> Rows:
    """Parts with their power, both totals with their ranges, and what is in neither."""
    parts = list(dict.fromkeys(part for r in runs for part in r.energy_j_by_part))
    rows = [(part, [_with_power(r, part) for r in runs]) for part in parts]
    ranges = {"everything": "energy_j", "accesses": "energy_accesses_j"}
    for label, cells in _rows(runs, "energy"):
        rows.append((label, cells))
        if label in ranges:
            range_row = [_range(r.metrics, ranges[label]) for r in runs]
            rows.append(("  5 to 95 %", range_row))
    readings = [r.energy.get("reading") for r in runs]
    if any(readings):
        rows.append(("reading", [reading or "–" for reading in readings]))
    note = across_readings(readings)
    if note:
        rows.append((note, ["" for _ in runs]))
    missing = list(dict.fromkeys(name for r in runs for name in r.energy.get("left_out", ())))
    if missing:
        rows.append((f"in neither total: {', '.join(missing)}", ["" for _ in runs]))
    return rows


def _stages_of(run: RunResult) -> dict[str, Any]:
    found: dict[str, Any] = run.energy.get("stages") or {}
    return found


def _stages(runs: Sequence[RunResult]) -> Rows:
    """Time, energy and power of prompt and decoding, and the power of each part."""
    known = [_stages_of(run) for run in runs]
    rows: Rows = []
    for stage in dict.fromkeys(name for each in known for name in each):
        told = [each.get(stage) for each in known]
        for name, unit, label in (
            ("latency_s", "s", STAGES.get(stage, stage)),
            ("energy_j", "J", "  everything"),
            ("energy_accesses_j", "J", "  accesses"),
            ("average_power_w", "W", "  average power"),
        ):
            rows.append((label, ["–" if each is None else si(each[name], unit) for each in told]))
        for part in dict.fromkeys(p for each in told if each for p in each["power_w_by_part"]):
            cells = [
                "–" if not each else si(each["power_w_by_part"].get(part), "W") for each in told
            ]
            rows.append((f"  {part}", cells))
    return rows


def _with_power(result: RunResult, part: str) -> str:
    watts = result.energy.get("power_w_by_part", {}).get(part)
    beside = f" ({si(watts, 'W')})" if watts is not None else ""
    return f"{si(result.energy_j_by_part.get(part), 'J')}{beside}"


def _range(metrics: Mapping[str, float], name: str) -> str:
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    return "–" if low is None or high is None else f"{si(low, 'J')} – {si(high, 'J')}"


def _rows(runs: Sequence[RunResult], section: str) -> Rows:
    """Metrics of a section that some run has, and that are not 0 in all."""
    return [
        (metric.label, [shown(r.metrics.get(metric.name), metric.unit) for r in runs])
        for metric in METRICS.values()
        if metric.section == section
        and metric.label
        and any(r.metrics.get(metric.name) for r in runs)
    ]


def _sample_of(run: RunResult) -> dict[str, Any] | None:
    found: dict[str, Any] | None = run.manifest.get("sampled")
    return found


def _sampled(runs: Sequence[RunResult]) -> Rows:
    """How much was run, and the intervals of the first totals."""
    known = [_sample_of(run) for run in runs]
    level = next(each["level"] for each in known if each)
    rows = [("rows simulated", [_part(each) for each in known])]
    for name in ("latency_cycles", "dram_read_bytes", "energy_j"):
        metric = METRICS[name]
        cells = []
        for each in known:
            ends = each["intervals"][name] if each else None
            cells.append(
                "–"
                if ends is None
                else f"{shown(ends['low'], metric.unit)} – {shown(ends['high'], metric.unit)}"
            )
        rows.append((f"{metric.label}, {level:.0%} interval", cells))
    return rows


def _part(sampled: Mapping[str, Any] | None) -> str:
    if sampled is None:
        return "all"
    return f"{sampled['rows_simulated']:,} of {sampled['rows']:,}"


def _accuracy(runs: Sequence[RunResult]) -> Rows:
    return [
        (
            label,
            [
                show(r.accuracy[key]) if r.accuracy and r.accuracy.get(key) is not None else "–"
                for r in runs
            ],
        )
        for key, label, show in _ACCURACY_ROWS
        if any(r.accuracy and key in r.accuracy for r in runs)
    ]


def _baselines(runs: Sequence[RunResult]) -> Rows:
    names = list(dict.fromkeys(name for r in runs for name in r.baselines))
    return [(name, [_against(r.baselines.get(name)) for r in runs]) for name in names]


def _against(baseline: Mapping[str, float | None] | None) -> str:
    if baseline is None:
        return "–"
    shown = ratio(baseline["speedup"])
    low, high = baseline.get("speedup_low"), baseline.get("speedup_high")
    if low is not None and high is not None:
        shown += f" [{ratio(low)}…{ratio(high)}]"
    return f"{shown} ({ratio(baseline['energy_ratio'])})"


def to_text(results: Mapping[str, RunResult]) -> None:
    """Print the comparison to standard output: a table, and what it says in words."""
    from rich.table import Table
    from rich.text import Text

    from accelsim.reports._console import plain_console
    from accelsim.reports._words import in_words

    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in results:
        table.add_column(name, justify="right", no_wrap=True)
    for section in comparison(results):
        table.add_section()
        table.add_row(Text(section.title, style="bold"))
        for label, cells in section.rows:
            table.add_row(f"  {label}", *cells)
    console = plain_console(width=max(100, 40 + 26 * len(results)), soft_wrap=True)
    console.print(table)
    for sentence in in_words(results):
        console.print(Text(sentence))
