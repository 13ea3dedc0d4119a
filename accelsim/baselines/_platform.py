"""GPUs and CPUs: kernels that were measured where there are any, and rooflines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from accelsim import configs
from accelsim.baselines._kernels import Calls, Device, Kernel, load_kernels
from accelsim.baselines._measured import measure_all
from accelsim.baselines._shape import AttentionShape
from accelsim.errors import ConfigError, did_you_mean

FlopPerSecond = Annotated[float, Field(ge=1e3, le=1e21), configs.Unit("FLOP/s")]
BytesPerSecond = Annotated[float, Field(ge=1, le=1e18), configs.Unit("B/s")]
Watts = Annotated[float, Field(gt=0, le=1e6), configs.Unit("W")]
Seconds = Annotated[float, Field(ge=0, le=1e4), configs.Unit("s")]
Bytes = Annotated[float, Field(gt=0, le=1e15), configs.Unit("bytes")]
MEASURED = "measured"


class Reading(configs.Config):
    """One way to run attention on a platform."""

    peak_flop_per_s: FlopPerSecond
    """Peak of the arithmetic that this reading uses."""
    element_bytes: Annotated[float, Field(gt=0, le=64), configs.Unit("bytes")]
    """Bytes of one stored element."""
    compute_efficiency: Annotated[float, Field(ge=1e-6, le=1)]
    """Share of the peak that is reached."""
    bandwidth_efficiency: Annotated[float, Field(ge=1e-6, le=1)]
    """Share of the bandwidth that is reached."""
    operators_per_call: Annotated[int, Field(ge=1, le=10_000), configs.Unit("operators")]
    """Operators that one attention call of one layer launches."""
    overhead_s_per_operator: Seconds
    """Time per operator that no roofline explains: launch, framework, layout."""
    fc_overhead_s_per_layer: Seconds | None = None
    """Time of one layer's fully connected part that no roofline explains, where it is known."""
    fused: bool
    """Scores stay on chip and masked ones are skipped; if not, they go through memory."""
    source: Annotated[str, Field(min_length=1)]
    """Where efficiency and overhead come from; never the ratio that is compared."""


class PowerBand(configs.Config):
    """Board power while calls of up to some length run back to back."""

    kind: Literal["prefill", "decode"]
    """Kind of call; an encoder's are taken for prefills."""
    framework: str | None = None
    """Framework whose kernels ran; those without a band of their own take the ones without a
    framework."""
    to_s: Annotated[float, Field(gt=0, le=1e6), configs.Unit("s")] | None = None
    """Longest call of the band, s; the last band has no end."""
    low_w: Watts
    """10th percentile over the calls of the band, W."""
    median_w: Watts
    """Median, W."""
    high_w: Watts
    """90th percentile, W."""


class MeasuredKernel(configs.Config):
    """Attention kernels of serving frameworks that were measured on the platform.

    Latencies are a model fitted to the measurements (:mod:`accelsim.baselines._kernels`), one for
    each framework and kind of call; bfloat16, launched from a CUDA graph, one call of one layer.
    """

    system: Annotated[str, Field(min_length=1)]
    """Name of the platform in the measurements, and of the parameters' file."""
    versions: dict[str, str]
    """Frameworks and their versions."""
    multiprocessors: Annotated[int, Field(ge=1, le=100_000), configs.Unit("multiprocessors")]
    """Multiprocessors of the GPU."""
    l2_bytes: Bytes
    """Bytes of its last cache."""
    peak_flop_per_s: FlopPerSecond
    """Peak of dense bfloat16 products with FP32 accumulation."""
    source: Annotated[str, Field(min_length=1)]
    """Where the measurements come from."""
    power: Annotated[tuple[PowerBand, ...], Field(min_length=1)]
    """By kind and length of the call, shortest first."""
    power_source: Annotated[str, Field(min_length=1)]
    """Where the powers come from."""

    @model_validator(mode="after")
    def _bands_in_order(self) -> MeasuredKernel:
        chains: dict[tuple[str, str | None], list[float]] = {}
        for band in self.power:
            chain = chains.setdefault((band.kind, band.framework), [])
            chain.append(float("inf") if band.to_s is None else band.to_s)
        for (kind, framework), ends in chains.items():
            if ends != sorted(set(ends)) or ends[-1] != float("inf"):
                raise ValueError(
                    f"power of {kind}, framework {framework}: to_s must grow, the last has none"
                )
        for kind in ("prefill", "decode"):
            named = {name for k, name in chains if k == kind}
            if None not in named and not named >= set(self.versions):
                raise ValueError(f"power of {kind}: no band without a framework")
        return self

    def bands(self, kind: str, framework: str) -> list[PowerBand]:
        """Bands of a kind of call, the framework's own if there are any."""
        stage = "decode" if kind == "decode" else "prefill"
        mine = [b for b in self.power if b.kind == stage and b.framework == framework]
        return mine or [b for b in self.power if b.kind == stage and b.framework is None]


class Platform(configs.Config):
    """A baseline platform."""

    description: str
    source: str
    bandwidth_byte_per_s: BytesPerSecond
    load_power_w: Watts
    """Power under load, idle power included."""
    idle_power_w: Annotated[float, Field(ge=0, le=1e6), configs.Unit("W")]
    """Power at rest. Load less idle is the dynamic power that SpAtten's evaluation counts."""
    power_source: str
    """Where the powers come from; never the ratio that is compared."""
    framework_2020: Reading | None = None
    """As a framework of 2020 ran it, operator by operator; absent on later devices' presets."""
    tuned_kernel: Reading
    """As one fused kernel would run it: the reading ``roofline``."""
    measured_kernel: MeasuredKernel | None = None
    """As the kernels of serving frameworks ran it, where that was measured."""
    guess: str | None = None
    """What about the platform is a guess; it is then compared with only on request."""

    @model_validator(mode="after")
    def _load_above_idle(self) -> Platform:
        if self.idle_power_w >= self.load_power_w:
            raise ValueError(
                f"idle_power_w ({self.idle_power_w:g}) must be below load_power_w "
                f"({self.load_power_w:g})"
            )
        return self


_READINGS = {"framework_2020": "framework-2020", "tuned_kernel": "roofline"}
"""Readings by key of the platform's file."""
MEASURED_KERNEL = "measured-kernel"


def default_baselines(guessed: bool = False) -> list[str]:
    """Presets that are compared with by default: all but those that rest on a guess.

    Args:
        guessed: those too.
    """
    names = configs.preset_names("baselines")
    return [n for n in names if guessed or configs.load(Platform, n, "baselines").guess is None]


def evaluate_baselines(
    shape: AttentionShape, names: Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Run the dense attention on each platform, in every reading that it has.

    Args:
        shape: the dense attention.
        names: presets, or ``measured`` for this machine; :func:`default_baselines` if ``None``.

    Returns:
        ``platform/reading`` to latency_s, energy_j (dynamic: load less idle power),
        energy_with_idle_j (both ``None`` if not known), dram_bytes, kind; and, of a measured
        kernel, latency_low_s, latency_high_s, energy_low_j, energy_high_j (5 and 95 %), the
        framework whose kernels are the fastest for this attention, and whether some calls are
        beyond what was measured (extrapolated).

    Raises:
        ConfigError: an unknown platform.
    """
    rows: dict[str, dict[str, Any]] = {}
    wanted = default_baselines() if names is None else names
    known = configs.preset_names("baselines") if wanted else []
    for name in wanted:
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
        measured = _fastest(shape, platform)
        if measured is not None:
            rows[f"{name}/{MEASURED_KERNEL}"] = measured
        for key, label in _READINGS.items():
            reading: Reading | None = getattr(platform, key)
            if reading is not None:
                rows[f"{name}/{label}"] = _roofline(shape, platform, reading, label)
    return rows


def kernels_of(platform: Platform) -> dict[tuple[str, str], Kernel]:
    """Fitted kernels of a platform, by framework and kind; none if it was not measured.

    Raises:
        ConfigError: the parameters' file is missing or not what it should be.
    """
    measured = platform.measured_kernel
    if measured is None:
        return {}
    device = Device(
        measured.multiprocessors,
        measured.l2_bytes,
        platform.bandwidth_byte_per_s,
        measured.peak_flop_per_s,
    )
    return load_kernels(measured.system, device)


def _fastest(shape: AttentionShape, platform: Platform) -> dict[str, Any] | None:
    """Row of the framework that runs the attention fastest; ``None`` if none was measured on it.

    A framework that was measured at all the calls goes before one that was not.
    """
    measured = platform.measured_kernel
    if measured is None:
        return None
    kernels = kernels_of(platform)
    calls, counts = shape.to_calls()
    rows = [
        _measured_row(
            framework, [kernels[framework, c.kind] for c in calls], calls, counts, platform
        )
        for framework in measured.versions
        if all((framework, each.kind) in kernels for each in calls)
    ]
    if not rows:
        return None
    return {
        **min(rows, key=lambda row: (row["extrapolated"], row["latency_s"])),
        "dram_bytes": shape.bytes_moved(_KERNEL_ELEMENT_BYTES),
        "kind": MEASURED_KERNEL,
    }


_KERNEL_ELEMENT_BYTES = 2


def _measured_row(
    framework: str,
    kernels: Sequence[Kernel],
    calls: Sequence[Calls],
    counts: Sequence[NDArray[np.int64]],
    platform: Platform,
) -> dict[str, Any]:
    """Sums over all calls. The errors of one shape's calls go together, so their ends add up."""
    measured = platform.measured_kernel
    assert measured is not None
    latency, energy, extrapolated = np.zeros(3), np.zeros((2, 3)), False
    for kernel, each, count in zip(kernels, calls, counts, strict=True):
        middle = kernel.seconds(each)
        low, high = kernel.interval(each, middle)
        extrapolated |= bool(kernel.outside(each).any())
        seconds = np.stack([low, middle, high])
        bands = measured.bands(each.kind, framework)
        ends = [band.to_s for band in bands if band.to_s is not None]
        band = np.searchsorted(ends, middle)
        watts = np.array([(b.low_w, b.median_w, b.high_w) for b in bands])[band].T
        watts = np.minimum(watts, platform.load_power_w)
        dynamic = np.maximum(watts - platform.idle_power_w, 0.0)
        latency += seconds @ count
        energy += np.stack([(seconds * dynamic) @ count, (seconds * watts) @ count])
    return {
        "latency_s": float(latency[1]),
        "energy_j": float(energy[0, 1]),
        "energy_with_idle_j": float(energy[1, 1]),
        "latency_low_s": float(latency[0]),
        "latency_high_s": float(latency[2]),
        "energy_low_j": float(energy[0, 0]),
        "energy_high_j": float(energy[0, 2]),
        "framework": f"{framework} {measured.versions[framework]}",
        "extrapolated": extrapolated,
    }


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
    shape: AttentionShape, platform: Platform, reading: Reading, label: str
) -> dict[str, Any]:
    """Each call takes its overhead and the larger of its own arithmetic and memory time."""
    latency, total = 0.0, 0
    overhead_s = reading.operators_per_call * reading.overhead_s_per_operator
    for part, call in [(one, call) for one in shape.parts for call in one.calls]:
        one = replace(part, calls=(replace(call, count=1),))
        moved = one.bytes_moved(reading.element_bytes)
        flops = one.flops
        if not reading.fused:
            moved += one.score_bytes(reading.element_bytes)
            flops = one.square_flops
        compute = flops / (reading.peak_flop_per_s * reading.compute_efficiency)
        memory = moved / (platform.bandwidth_byte_per_s * reading.bandwidth_efficiency)
        latency += call.count * (max(compute, memory) + overhead_s)
        total += call.count * moved
    return {
        "latency_s": latency,
        "energy_j": latency * (platform.load_power_w - platform.idle_power_w),
        "energy_with_idle_j": latency * platform.load_power_w,
        "dram_bytes": total,
        "kind": label,
    }
