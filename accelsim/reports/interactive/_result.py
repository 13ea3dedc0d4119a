"""The page of one result or of several side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from accelsim.energy import across_readings
from accelsim.errors import AccelsimError
from accelsim.reports._page_table import Table
from accelsim.reports._words import in_words
from accelsim.reports.interactive._documents import Result
from accelsim.reports.interactive._names import heading
from accelsim.reports.interactive._page import Chart, Page
from accelsim.reports.interactive._sources import sources
from accelsim.reports.interactive._vega import (
    HEIGHT,
    WIDTH,
    channel,
    dimmed,
    legend_filter,
    plot,
    shown,
    zoomable,
)

Results = Mapping[str, Result]
Records = list[dict[str, Any]]


def result_page(results: Results, title: str) -> Page:
    """Return tables and charts of named results; a chart without data is left out."""
    drawn = [
        _roofline(results),
        _cycles(results),
        _traffic(results),
        _by_head(results),
        _energy(results),
        *_baselines(results),
        _error_by_layer(results),
    ]
    configs = [r.manifest.get("configs") for r in results.values()]
    sourced = sources(c for c in configs if isinstance(c, dict))
    return Page(
        title,
        _words(results),
        list(dict.fromkeys(text for r in results.values() for text in r.warnings)),
        [*_tables(results), *([sourced] if sourced else [])],
        [chart for chart in drawn if chart is not None],
        {name: r.manifest for name, r in results.items()},
    )


class _Told(NamedTuple):
    """What sentences need of a result that was read."""

    metrics: Mapping[str, Any]
    accuracy: Mapping[str, Any] | None
    modules: Mapping[str, Mapping[str, Any]]


def _words(results: Results) -> list[str]:
    """Sentences, if the documents hold what they tell."""
    if not all(r.metric("latency_s") and r.metric("latency_cycles") for r in results.values()):
        return []
    return in_words(
        {
            name: _Told(
                {**r.metrics, "dram_read_bytes": r.metric("dram_read_bytes")},
                r.accuracy,
                {module: seen.model_dump() for module, seen in r.modules.items()},
            )
            for name, r in results.items()
        }
    )


def _tables(results: Results) -> list[Table]:
    runs = list(results.values())
    sections: dict[str, list[dict[str, Any]]] = {
        "Metrics": [dict(r.metrics) for r in runs],
        "DRAM reads by tensor": [
            {f"dram_read_bytes_by_tensor.{k}": v for k, v in r.dram_read_bytes_by_tensor.items()}
            for r in runs
        ],
        "Energy by part": [
            {f"energy_j_by_part.{k}": v for k, v in r.energy_j_by_part.items()} for r in runs
        ],
        "Accuracy": [dict(r.accuracy or {}) for r in runs],
    }
    tables = []
    for title, columns in sections.items():
        names = list(dict.fromkeys(name for column in columns for name in column))
        rows = [[heading(name), *(column.get(name) for column in columns)] for name in names]
        if rows:
            tables.append(Table(title, ["quantity (unit)", *results], rows))
    against = [
        [
            label,
            name,
            *(row.get(k) for k in ("latency_s", "energy_j", "dram_bytes", "speedup")),
            row.get("energy_ratio"),
        ]
        for label, r in results.items()
        for name, row in r.baselines.items()
    ]
    if against:
        names = ["latency_s", "energy_j", "dram_bytes", "speedup", "energy_ratio"]
        tables.append(Table("Baselines", ["run", "baseline", *map(heading, names)], against))
    return tables


def _roofline(results: Results) -> Chart | None:
    points: Records = []
    roofs: Records = []
    for name, result in results.items():
        moved = result.metric("dram_read_bytes") + result.metric("dram_write_bytes")
        operations, seconds = 2 * result.metric("macs"), result.metric("latency_s")
        if not (moved and operations and seconds):
            continue
        points.append({"run": name, "x": operations / moved, "y": operations / seconds})
        if (peak := _peaks(result)) is not None:
            rate, bandwidth = peak
            ridge = rate / bandwidth
            ends = (ridge / 100, ridge, ridge * 100)
            roofs += [{"run": name, "x": x, "y": min(rate, bandwidth * x)} for x in ends]
    if not points:
        return None
    log = {"type": "log"}
    encoding = {
        "x": channel("x", "Q", "operational intensity, op/B", scale=log),
        "y": channel("y", "Q", "operations per second, op/s", scale=log, axis={"format": "~s"}),
        "color": channel("run", "N", "run"),
    }
    tips = shown(("run", "run"), ("x", "op/B"), ("y", "op/s"))
    layers = [
        {"data": {"values": roofs}, "mark": {"type": "line"}},
        {
            "data": {"values": points},
            "mark": {"type": "point", "filled": True, "size": 90},
            "encoding": {"tooltip": tips},
            "params": zoomable("roofline_zoom"),
        },
    ]
    note = (
        "Operations that are computed (2 per MAC) over all DRAM bytes. Roofs: all multipliers busy "
        "every cycle; all channels at their peak."
    )
    return Chart("Roofline", note, plot([], layers, encoding))


def _peaks(result: Result) -> tuple[float, float] | None:
    """Peak op/s and B/s of the machine in the manifest, if this version still knows it."""
    from accelsim import configs
    from accelsim.hardware import accelerator_of
    from accelsim.hardware.config import AcceleratorConfig, MemoryConfig

    found = result.manifest.get("configs")
    parts = found if isinstance(found, dict) else {}
    machine, memory = parts.get("accelerator"), parts.get("memory")
    if not isinstance(machine, dict) or not isinstance(memory, dict):
        return None
    try:
        schema = accelerator_of(str(machine.get("kind"))).config
        accelerator = configs.validate(schema, machine, "manifest")
        banks = configs.validate(MemoryConfig, memory, "manifest")
    except AccelsimError:
        return None
    assert isinstance(accelerator, AcceleratorConfig)
    rate = 2.0 * accelerator.multiplier_count * accelerator.frequency_hz
    return rate, accelerator.channels * banks.bytes_per_tick * banks.clock_hz


def _cycles(results: Results) -> Chart | None:
    values = [
        {"run": name, "module": module, "state": state, "cycles": cycles}
        for name, result in results.items()
        for module, times in result.modules.items()
        for state, cycles in {"busy": times.busy_cycles, **times.stall_cycles}.items()
    ]
    if not values:
        return None
    encoding = {
        "x": channel("cycles", "Q", "cycles", stack="zero", axis={"format": "~s"}),
        "y": channel("module", "N", "module", sort=None),
        "color": channel("state", "N", "busy, or waiting for"),
        "opacity": dimmed("cycles_pick"),
        "row": channel("run", "N", None, sort=None),
        "tooltip": shown(("module", "module"), ("state", "state"), ("cycles", "cycles")),
    }
    spec = plot(values, "bar", encoding, params=legend_filter("cycles_pick", "state"))
    modules = len({value["module"] for value in values})
    note = "Each module over the whole run: what it did, or why it did not. Click in the legend."
    return Chart("Stall breakdown", note, spec | {"height": 22 * modules})


def _stacked(values: Records, parts: str, unit: str, whole: str) -> dict[str, Any]:
    return plot(
        values,
        "bar",
        {
            "x": channel("amount", "Q", unit, stack="zero", axis={"format": "~s"}),
            "y": channel("run", "N", None, sort=None),
            "color": channel("part", "N", parts),
            "tooltip": shown(("run", "run"), ("part", parts), ("amount", whole)),
        },
        height={"step": 34},
    )


def _traffic(results: Results) -> Chart | None:
    values = [
        {"run": name, "part": tensor, "amount": amount}
        for name, result in results.items()
        for tensor, amount in result.dram_read_bytes_by_tensor.items()
    ]
    if not values:
        return None
    spec = _stacked(values, "tensor and bit plane", "DRAM reads, B", "bytes (B)")
    return Chart("Traffic by tensor", "Bytes read from DRAM.", spec)


def _by_head(results: Results) -> Chart | None:
    values = [
        {
            "run": name,
            "layer": row.layer,
            "head": row.head,
            "amount": row.key_msb + row.key_lsb + row.value,
            "keys": row.key_msb + row.key_lsb,
            "values": row.value,
        }
        for name, result in results.items()
        for row in result.policy_read_bytes_by_head
    ]
    if not values:
        return None
    heads = len({value["head"] for value in values})
    encoding = {
        "x": channel("layer", "O", "layer", axis={"labelAngle": 0, "labelOverlap": True}),
        "y": channel("head", "O", "KV head"),
        "color": channel("amount", "Q", "bytes (B)", scale={"scheme": "viridis"}),
        "row": channel("run", "N", None, sort=None),
        "tooltip": shown(
            ("layer", "layer"),
            ("head", "KV head"),
            ("keys", "keys (B)"),
            ("values", "values (B)"),
        ),
    }
    spec = plot(values, "rect", encoding) | {"height": max(14 * heads, 40)}
    note = "Bytes of keys and values that the policy's decisions name, before rounding to bursts."
    return Chart("Traffic by layer and head", note, spec)


def _energy(results: Results) -> Chart | None:
    values = [
        {"run": name, "part": part, "amount": amount}
        for name, result in results.items()
        for part, amount in result.energy_j_by_part.items()
    ]
    if not values:
        return None
    spans = [
        {"run": name, "low": r.metrics["energy_j_low"], "high": r.metrics["energy_j_high"]}
        for name, r in results.items()
        if r.metrics.get("energy_j_low") is not None and r.metrics.get("energy_j_high") is not None
    ]
    bars = _stacked(values, "part", "energy, J", "energy (J)")
    encoding = bars.pop("encoding")
    bars.pop("mark")
    interval = {
        "data": {"values": spans},
        "mark": {"type": "errorbar", "ticks": True, "color": "#222"},
        "encoding": {
            "x": channel("low", "Q", "energy, J"),
            "x2": {"field": "high"},
            "y": channel("run", "N", None, sort=None),
        },
    }
    spec = bars | {"layer": [{"mark": "bar", "encoding": encoding}, interval]}
    note = "Line: 5 to 95 % of everything, from the ranges of the energy tables."
    readings = [str(r.manifest.get("energy_reading") or "") for r in results.values()]
    if any(readings):
        note += f" Reading of SRAM and arithmetic: {', '.join(dict.fromkeys(readings))}."
    across = across_readings(readings)
    return Chart("Energy by part", f"{note} Note: {across}." if across else note, spec)


def _baselines(results: Results) -> list[Chart]:
    charts = []
    for column, title in (("speedup", "Speedup"), ("energy_ratio", "Energy ratio")):
        values = [
            {"run": name, "baseline": label, "ratio": ratio}
            for name, result in results.items()
            for label, row in result.baselines.items()
            if isinstance(ratio := row.get(column), (int, float)) and ratio > 0
        ]
        if not values:
            continue
        encoding = {
            "x": channel("ratio", "Q", f"{title.lower()}, ×", scale={"type": "log"}),
            "y": channel("baseline", "N", None),
            "color": channel("run", "N", "run"),
            "yOffset": {"field": "run"},
            "tooltip": shown(("baseline", "baseline"), ("run", "run"), ("ratio", f"{title} (×)")),
        }
        mark = {"type": "point", "filled": True, "size": 70}
        spec = plot(values, mark, encoding)
        labels = len({value["baseline"] for value in values})
        note = "Logarithmic; left of 1 the baseline is better. Same attention, dense, on it."
        spec |= {"width": WIDTH, "height": max(18 * labels, 60)}
        charts.append(Chart(f"{title} over baselines", note, spec))
    return charts


def _error_by_layer(results: Results) -> Chart | None:
    values = [
        {"run": name, "layer": row["layer"], "error": row["relative_output_error"]}
        for name, result in results.items()
        for row in result.per_layer
        if row.get("relative_output_error") is not None and row.get("layer") is not None
    ]
    if not values:
        return None
    encoding = {
        "x": channel("layer", "Q", "layer"),
        "y": channel("error", "Q", "relative output error", axis={"format": "%"}),
        "color": channel("run", "N", "run"),
        "tooltip": shown(("run", "run"), ("layer", "layer"), ("error", "relative output error")),
    }
    spec = plot(values, {"type": "line", "point": True}, encoding, height=HEIGHT)
    note = "Against dense attention on the recorded tensors (open loop)."
    return Chart("Output error by layer", note, spec)
