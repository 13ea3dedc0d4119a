"""RunResult: one source under one policy on one accelerator, with units in every name."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelsim.errors import AccelsimError
from accelsim.exploration.metrics import METRICS
from accelsim.hardware.activity import Activity
from accelsim.hardware.timeline import Timeline
from accelsim.units import percent, shown

if TYPE_CHECKING:
    import pandas

SCHEMA = "accelsim.result/1"
COMPARISON_SCHEMA = "accelsim.compare/1"
_SHORT = {"latency_s": "", "dram_read_bytes": " read", "energy_j": ""}
"""What one line says of a result, and the word behind each number."""


@dataclass(frozen=True, repr=False)
class RunResult:
    """What one replay gave.

    Attributes:
        metrics: scalar results; the unit is the end of each name.
        dram_read_bytes_by_tensor: query, key_msb, key_lsb, value.
        energy_j_by_part: dram, dram_background, sram, logic, leakage.
        accuracy: open-loop error of the policy against dense attention, or ``None`` where the
            source has no tensors.
        modules: busy and stall cycles of each block, its operations and the most that it can do
            in a cycle.
        queues: depth, high-water mark and unit of each bounded queue.
        baselines: platform/reading to latency_s, energy_j, dram_bytes, speedup, energy_ratio, kind.
        manifest: versions, configuration and source hashes, the command.
        per_layer: one record per layer, for plots.
        activity: everything counted.
        warnings: what a reader should know before quoting a number.
        policy_read_bytes_by_head: one record per layer and KV head with the bytes that the policy's
            decisions name (key_msb, key_lsb, value), before any rounding to bursts; empty where the
            machine has a pruning rule of its own.
        ramulator_files: the DRAM requests as Ramulator 2 reads them, text by file name, where they
            were asked for.
        timeline: spans of modules and channels, where they were asked for.
        energy_j_by_entry: joules by counter and static entry of the energy table.
        area_mm2_by_module: silicon by module; empty where the table has no areas.
        energy: reading of the tables, both totals with their ranges, what is left out, watts by
            part (:meth:`accelsim.energy.EnergyReport.to_dict`).
    """

    metrics: dict[str, Any]
    dram_read_bytes_by_tensor: dict[str, int]
    energy_j_by_part: dict[str, float]
    accuracy: dict[str, Any] | None
    modules: dict[str, dict[str, Any]]
    baselines: dict[str, dict[str, Any]]
    manifest: dict[str, Any]
    per_layer: list[dict[str, Any]]
    activity: Activity
    warnings: list[str]
    policy_read_bytes_by_head: list[dict[str, int]] = field(default_factory=list)
    ramulator_files: dict[str, str] = field(default_factory=dict)
    timeline: Timeline | None = None
    queues: dict[str, dict[str, Any]] = field(default_factory=dict)
    energy_j_by_entry: dict[str, float] = field(default_factory=dict)
    area_mm2_by_module: dict[str, float] = field(default_factory=dict)
    energy: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the ``accelsim.result/1`` document: plain JSON values, never NaN."""
        document = {
            "schema": SCHEMA,
            "metrics": self.metrics,
            "dram_read_bytes_by_tensor": self.dram_read_bytes_by_tensor,
            "energy_j_by_part": self.energy_j_by_part,
            "energy_j_by_entry": self.energy_j_by_entry,
            "area_mm2_by_module": self.area_mm2_by_module,
            "energy": self.energy,
            "accuracy": self.accuracy,
            "modules": self.modules,
            "queues": self.queues,
            "baselines": self.baselines,
            "counters": self.activity.counters,
            "per_layer": self.per_layer,
            "policy_read_bytes_by_head": self.policy_read_bytes_by_head,
            "warnings": self.warnings,
            "manifest": self.manifest,
        }
        plain: dict[str, Any] = _plain(document)
        return plain

    def to_json(self) -> str:
        """Return :meth:`to_dict` as indented JSON text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def __repr__(self) -> str:
        """One line: what ran, and its first numbers."""
        return f"RunResult({self._name()}: {self._numbers()})"

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        return _html({self._name(): self})

    def _name(self) -> str:
        kind = self.manifest.get("configs", {}).get("accelerator", {}).get("kind")
        source = Path(str(self.manifest.get("source", "result"))).name
        return f"{source} on {kind}" if kind else source

    def _numbers(self) -> str:
        shorts = [
            f"{shown(self.metrics[name], METRICS[name].unit)}{what}"
            for name, what in _SHORT.items()
            if self.metrics.get(name) is not None
        ]
        error = (self.accuracy or {}).get("relative_output_error")
        return ", ".join(shorts + ([f"error {percent(error)}"] if error is not None else []))

    def to_row(self) -> dict[str, Any]:
        """Return every scalar on one level, as one row of a table.

        Metrics keep their names; the rest is dotted: ``accuracy.mean_kl``,
        ``energy_j_by_part.dram``, ``dram_read_bytes_by_tensor.value``,
        ``modules.topk.busy_cycles``, ``baselines.titan-xp/roofline.speedup``,
        ``sampled.rows_simulated`` where a sample was run.
        """
        row: dict[str, Any] = dict(self.metrics)
        for name, section in {
            "dram_read_bytes_by_tensor": self.dram_read_bytes_by_tensor,
            "energy_j_by_part": self.energy_j_by_part,
            "energy_j_by_entry": self.energy_j_by_entry,
            "area_mm2_by_module": self.area_mm2_by_module,
            "accuracy": self.accuracy or {},
            "modules": self.modules,
            "queues": self.queues,
            "baselines": self.baselines,
            "sampled": self.manifest.get("sampled") or {},
        }.items():
            _flatten(name, section, row)
        plain: dict[str, Any] = _plain(row)
        return plain

    def to_dataframe(self) -> pandas.DataFrame:
        """Return :meth:`to_row` as a pandas table of one row."""
        return to_dataframe([self.to_row()])


class Comparison(dict[str, RunResult]):
    """Results by name of policy, in the order in which they were asked for."""

    def __repr__(self) -> str:
        """One line for each policy."""
        lines = [f"  {name}: {result._numbers()}" for name, result in self.items()]
        return "\n".join(["Comparison(", *lines, ")"])

    def _repr_html_(self) -> str:
        """A table for notebooks, a column a policy."""
        return _html(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the ``accelsim.compare/1`` document: plain JSON values, never NaN."""
        results = {name: result.to_dict() for name, result in self.items()}
        return {"schema": COMPARISON_SCHEMA, "results": results}

    def to_json(self) -> str:
        """Return :meth:`to_dict` as indented JSON text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def to_dataframe(self) -> pandas.DataFrame:
        """Return one row per policy, with the policy's name as the index."""
        rows = [{"policy": name, **result.to_row()} for name, result in self.items()]
        return to_dataframe(rows).set_index("policy")


def _html(results: Mapping[str, RunResult]) -> str:
    """Metrics and accuracy as an HTML table, a column a result."""
    rows: list[tuple[str, list[str]]] = [
        (metric.label, [shown(r.metrics.get(name), metric.unit) for r in results.values()])
        for name, metric in METRICS.items()
        if metric.label and any(r.metrics.get(name) is not None for r in results.values())
    ]
    errors = [(r.accuracy or {}).get("relative_output_error") for r in results.values()]
    if any(error is not None for error in errors):
        rows.append(("relative output error", [percent(error) for error in errors]))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in results)
    body = "".join(
        f"<tr><th>{html.escape(label)}</th>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for label, cells in rows
    )
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"


def to_dataframe(rows: list[dict[str, Any]]) -> pandas.DataFrame:
    """Return rows as a pandas table.

    Raises:
        AccelsimError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise AccelsimError(
            "to_dataframe needs pandas; install it with: pip install 'accelsim[explore]'"
        ) from None
    return pandas.DataFrame(rows)


def _flatten(prefix: str, section: Any, row: dict[str, Any]) -> None:
    for name, value in section.items():
        if isinstance(value, dict):
            _flatten(f"{prefix}.{name}", value, row)
        elif not isinstance(value, (list, tuple)):
            row[f"{prefix}.{name}"] = value


def _plain(value: Any) -> Any:
    """Turn NumPy scalars into Python numbers; a number that is not finite becomes ``None``."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
