"""GPUs and CPUs: published peaks, a stated efficiency, two readings of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, model_validator

from accelsim import configs
from accelsim.baselines._measured import measure_all
from accelsim.baselines._shape import AttentionShape
from accelsim.errors import ConfigError, did_you_mean

Positive = Annotated[float, Field(gt=0)]
MEASURED = "measured"


class Reading(configs.Config):
    """One way to run attention on a platform."""

    peak_flop_per_s: Positive
    """Peak of the arithmetic that this reading uses."""
    element_bytes: Positive
    """Bytes of one stored element."""
    compute_efficiency: Annotated[float, Field(gt=0, le=1)]
    """Share of the peak that is reached."""
    bandwidth_efficiency: Annotated[float, Field(gt=0, le=1)]
    """Share of the bandwidth that is reached."""
    operators_per_call: Annotated[int, Field(ge=1)]
    """Operators that one attention call of one layer launches."""
    overhead_s_per_operator: Annotated[float, Field(ge=0)]
    """Time per operator that no roofline explains: launch, framework, layout."""
    fc_overhead_s_per_layer: Annotated[float, Field(ge=0)] | None = None
    """Time of one layer's fully connected part that no roofline explains, where it is known."""
    fused: bool
    """Scores stay on chip and masked ones are skipped; if not, they go through memory."""
    source: Annotated[str, Field(min_length=1)]
    """Where efficiency and overhead come from; never the ratio that is compared."""


class Platform(configs.Config):
    """A baseline platform."""

    description: str
    source: str
    bandwidth_byte_per_s: Positive
    load_power_w: Positive
    """Power under load, idle power included."""
    idle_power_w: Annotated[float, Field(ge=0)]
    """Power at rest. Load less idle is the dynamic power that SpAtten's evaluation counts."""
    power_source: str
    """Where the powers come from; never the ratio that is compared."""
    framework_2020: Reading | None = None
    """As a framework of 2020 ran it, operator by operator; absent on later devices' presets."""
    tuned_kernel: Reading
    """As one fused kernel runs it."""

    @model_validator(mode="after")
    def _load_above_idle(self) -> Platform:
        if self.idle_power_w >= self.load_power_w:
            raise ValueError(
                f"idle_power_w ({self.idle_power_w:g}) must be below load_power_w "
                f"({self.load_power_w:g})"
            )
        return self


def evaluate_baselines(
    shape: AttentionShape, names: Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Run the dense attention on each platform, in both readings.

    Args:
        shape: the dense attention.
        names: presets, or ``measured`` for this machine; all presets if ``None``.

    Returns:
        ``platform/reading`` to latency_s, energy_j (dynamic: load less idle power),
        energy_with_idle_j (both ``None`` if not known), dram_bytes, kind.

    Raises:
        ConfigError: an unknown platform.
    """
    known = configs.preset_names("baselines")
    rows: dict[str, dict[str, Any]] = {}
    for name in known if names is None else names:
        if name == MEASURED:
            rows |= measure_all(shape)
            continue
        if name not in known and not name.endswith((".yaml", ".yml")):
            everything = [*known, MEASURED]
            raise ConfigError(
                f"unknown baseline '{name}'{did_you_mean(name, everything)} "
                f"(known: {', '.join(everything)})"
            )
        platform = configs.load(Platform, name, "baselines")
        for kind in ("framework_2020", "tuned_kernel"):
            reading: Reading | None = getattr(platform, kind)
            if reading is not None:
                label = f"{name}/{kind.replace('_', '-')}"
                rows[label] = _roofline(shape, platform, reading, kind)
    return rows


def fully_connected_s(name: str, weights: int, tokens: int, layer_calls: int) -> float:
    """Latency of fully connected layers on a platform as a framework of 2020 ran them, seconds.

    Args:
        name: preset.
        weights: of one layer.
        tokens: multiplied with them in one call.
        layer_calls: layers times steps.

    Raises:
        ConfigError: an unknown platform, or one for which this is not known.
    """
    platform = configs.load(Platform, name, "baselines")
    reading = platform.framework_2020
    if reading is None or reading.fc_overhead_s_per_layer is None:
        raise ConfigError(f"baseline '{name}': key 'fc_overhead_s_per_layer' is not given")
    bandwidth = platform.bandwidth_byte_per_s * reading.bandwidth_efficiency
    memory = weights * reading.element_bytes / bandwidth
    compute = 2 * weights * tokens / (reading.peak_flop_per_s * reading.compute_efficiency)
    return layer_calls * (max(memory, compute) + reading.fc_overhead_s_per_layer)


def _roofline(
    shape: AttentionShape, platform: Platform, reading: Reading, kind: str
) -> dict[str, Any]:
    moved = shape.bytes_moved(reading.element_bytes)
    flops = shape.flops
    if not reading.fused:
        moved += shape.score_bytes(reading.element_bytes)
        flops = shape.square_flops
    compute = flops / (reading.peak_flop_per_s * reading.compute_efficiency)
    memory = moved / (platform.bandwidth_byte_per_s * reading.bandwidth_efficiency)
    overhead_s_per_call = reading.operators_per_call * reading.overhead_s_per_operator
    latency = max(compute, memory) + shape.layer_calls * overhead_s_per_call
    return {
        "latency_s": latency,
        "energy_j": latency * (platform.load_power_w - platform.idle_power_w),
        "energy_with_idle_j": latency * platform.load_power_w,
        "dram_bytes": moved,
        "kind": kind.replace("_", "-"),
    }
