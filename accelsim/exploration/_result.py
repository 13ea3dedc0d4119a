"""RunResult: one source under one policy on one accelerator, with units in every name."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from accelsim.hardware.activity import Activity

SCHEMA = "accelsim.result/1"


@dataclass(frozen=True)
class RunResult:
    """What one replay gave.

    Attributes:
        metrics: scalar results; the unit is the end of each name.
        dram_read_bytes_by_tensor: query, key_msb, key_lsb, value.
        energy_j_by_part: dram, sram, logic, leakage.
        accuracy: open-loop error of the policy against dense attention, or ``None`` where the
            source has no tensors.
        modules: busy and stall cycles of each block.
        baselines: platform/reading to latency_s, energy_j, dram_bytes, speedup, energy_ratio, kind.
        manifest: versions, configuration and source hashes, the command.
        per_layer: one record per layer, for plots.
        activity: everything counted.
        warnings: what a reader should know before quoting a number.
    """

    metrics: dict[str, float | int]
    dram_read_bytes_by_tensor: dict[str, int]
    energy_j_by_part: dict[str, float]
    accuracy: dict[str, Any] | None
    modules: dict[str, dict[str, Any]]
    baselines: dict[str, dict[str, Any]]
    manifest: dict[str, Any]
    per_layer: list[dict[str, Any]]
    activity: Activity
    warnings: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the ``accelsim.result/1`` document: plain JSON values, never NaN."""
        document = {
            "schema": SCHEMA,
            "metrics": self.metrics,
            "dram_read_bytes_by_tensor": self.dram_read_bytes_by_tensor,
            "energy_j_by_part": self.energy_j_by_part,
            "accuracy": self.accuracy,
            "modules": self.modules,
            "baselines": self.baselines,
            "counters": self.activity.counters,
            "per_layer": self.per_layer,
            "warnings": self.warnings,
            "manifest": self.manifest,
        }
        plain: dict[str, Any] = _plain(document)
        return plain

    def to_json(self) -> str:
        """Return :meth:`to_dict` as indented JSON text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)


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
