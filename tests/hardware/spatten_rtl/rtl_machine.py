"""The machine of a case of the RTL's test bench."""

from __future__ import annotations

from accelsim.hardware.machines.spatten_rtl.config import SpattenRtlConfig


def machine_of(row: dict[str, str]) -> SpattenRtlConfig:
    """The test bench's parameters of a line of ``cases.csv``, written apart from ``validate``."""
    multipliers, divisor = int(row["multipliers"]), int(row["bandwidth_divisor"])
    return SpattenRtlConfig.model_validate(
        {
            "kind": "spatten-rtl",
            "description": row["id"],
            "source": "RTL test bench parameters",
            "multipliers": multipliers,
            "buffer_lines": int(row["buffer_lines"]),
            "channels": 16 // divisor,
            "fetch_channels": max(32 // divisor, multipliers // 64),
            "rounding": int(row["rounding"]),
            "topk": {"parallelism": int(row["topk_parallelism"])},
        }
    )
