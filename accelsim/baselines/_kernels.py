"""Time of an attention kernel on a GPU that was measured: a physical form and a smooth correction.

The physical form of one call of one layer is a launch floor plus the larger (a 4-norm, so that the
turn is round) of three times: thread blocks in waves over the multiprocessors, bytes over the
bandwidth of L2 or of the memory, operations over the peak. Its six constants and the correction, a
network with two hidden layers over :func:`coordinates` of the call, are fitted to measured calls by
``benchmarks/fit_gpu_kernels.py``, for each device, serving framework and kind of call.

Outside what was measured the correction stays what it is at the edge, and only the physical form
grows. No call is faster than the floor, than all its operations at
the peak, or than the bytes that the L2 cache cannot hold at the full bandwidth.
"""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.configs import config_root
from accelsim.errors import ConfigError

Floats = NDArray[np.float64]
KINDS = ("prefill", "decode", "encoder")
_ELEMENT_BYTES = 2
"""bfloat16, as measured."""
_NORM = 4
_SHARPNESS = 6
"""How sharply hits in L2 end when a call's bytes outgrow it."""
_DECODE_SPLITS = (1, 2, 4, 8)
"""Blocks into which a sequence's keys may be split, whose last wave is looked at."""
_TILES = (64, 128)
"""Queries of a thread block."""
_MANY_WAVES = 8
"""From here on a last wave that is not full no longer shows."""
REGIONS = (1.5, 4.0, 16.0)
"""Upper ends, in launch floors, of the size regions of the intervals; above the last, the rest."""


GAIN = 0.95
"""The least that a call takes of the time of one half its size. Kernels that switch tiles or splits
do gain a little by a doubling; what the fit says beyond that is taken for its error (ours)."""
OUTSIDE = 0.25
"""Further error of calls beyond what was measured: fitted to head size 128 alone, four kernels of
H100 and H200 missed sizes 64, 192 and 256 by 6 to 24 % (mean absolute percentage error)."""


@dataclass(frozen=True)
class Device:
    """What the physical form needs of a GPU.

    Attributes:
        multiprocessors: that run thread blocks.
        l2_bytes: of the last cache.
        bandwidth_byte_per_s: of the memory.
        peak_flop_per_s: of bfloat16 products with dense operands, accumulated in FP32.
    """

    multiprocessors: int
    l2_bytes: float
    bandwidth_byte_per_s: float
    peak_flop_per_s: float


@dataclass(frozen=True)
class Calls:
    """Attention calls of one layer, one an element; every array of shape (n,), float64.

    Attributes:
        kind: of all of them, one of :data:`KINDS`.
        batch: sequences.
        tokens: keys of a sequence; of a prefill or encoder, its queries too.
        query_heads: of the layer.
        kv_heads: of the layer.
        head_dim: elements of a vector.
        window_tokens: keys that a query may look back on, 0 for all.
    """

    kind: str
    batch: Floats
    tokens: Floats
    query_heads: Floats
    kv_heads: Floats
    head_dim: Floats
    window_tokens: Floats

    @property
    def attended(self) -> Floats:
        """Keys that a late query sees."""
        inside = np.minimum(self.tokens, self.window_tokens)
        return np.where(self.window_tokens > 0, inside, self.tokens)

    @property
    def pairs(self) -> Floats:
        """Query-key pairs of a head of a sequence."""
        keys = self.attended
        if self.kind == "decode":
            return keys
        if self.kind == "encoder":
            return self.tokens * self.tokens
        return keys * (keys + 1) / 2 + (self.tokens - keys) * keys

    @property
    def flops(self) -> Floats:
        """Operations, two a multiply-accumulate: scores and weighted values."""
        return 4 * self.batch * self.query_heads * self.head_dim * self.pairs

    @property
    def bytes(self) -> Floats:
        """Keys, values, queries and outputs, each once."""
        decode = self.kind == "decode"
        keys = self.attended if decode else self.tokens
        queries = 1.0 if decode else self.tokens
        vectors = 2 * self.kv_heads * keys + 2 * self.query_heads * queries
        return _ELEMENT_BYTES * self.batch * self.head_dim * vectors

    @property
    def blocks(self) -> Floats:
        """Thread blocks without splitting: a tile of queries, or a key/value head of a decode."""
        if self.kind == "decode":
            return self.batch * self.kv_heads
        return self.batch * self.query_heads * np.ceil(self.tokens / _TILES[-1])


def coordinates(device: Device, calls: Calls, floor_s: float) -> Floats:
    """Where a call lies, for the correction: shape (n, c), logarithms to base 2 unless a flag.

    Batch, keys seen, tokens, whether the window hides some, key/value heads, query heads of one,
    head size, padding of head size and group to powers of two; bytes over L2 and the share of them
    that misses (no logarithm), arithmetic and memory time over the floor, waves; how much the last
    wave and, of an encoder, the last tile round up; whether there is a window.
    """
    group = calls.query_heads / calls.kv_heads
    waves = calls.blocks / device.multiprocessors
    columns = [
        np.log2(calls.batch),
        np.log2(calls.attended),
        np.log2(calls.tokens),
        (calls.attended < calls.tokens).astype(np.float64),
        np.log2(calls.kv_heads),
        np.log2(group),
        np.log2(calls.head_dim),
        _padding(calls.head_dim),
        _padding(group),
        np.log2(calls.bytes / device.l2_bytes),
        _missed(calls.bytes / device.l2_bytes),
        np.log2(calls.flops / device.peak_flop_per_s / floor_s),
        np.log2(calls.bytes / device.bandwidth_byte_per_s / floor_s),
        np.log2(waves),
    ]
    if calls.kind == "decode":
        columns += [_last_wave(waves * split) for split in _DECODE_SPLITS]
    else:
        for tile in _TILES:
            tiles = np.ceil(calls.tokens / tile)
            blocks = calls.batch * calls.query_heads * tiles
            columns.append(_last_wave(blocks / device.multiprocessors))
            if calls.kind == "encoder":
                columns.append(np.log2(tiles * tile / calls.tokens))
    # Where a layer has a window some frameworks run another kernel, also on calls that fit in it.
    columns.append((calls.window_tokens > 0).astype(np.float64))
    return np.stack(columns, axis=1)


def _missed(ratio: Floats) -> Floats:
    """Share of a call's bytes that miss in L2, from their ratio to it."""
    return np.asarray(1 / (1 + ratio**-_SHARPNESS))


def _padding(size: Floats) -> Floats:
    """Logarithm of what rounding up to a power of two adds."""
    exact = np.log2(size)
    return np.asarray(np.ceil(exact - 1e-9) - exact)


def _last_wave(waves: Floats) -> Floats:
    """Logarithm of what a last wave that is not full adds; 0 where there are many waves."""
    few = np.log2(np.ceil(waves - 1e-9) / waves)
    return np.where(waves < _MANY_WAVES, np.maximum(few, 0.0), 0.0)


def physical_s(device: Device, calls: Calls, constants: Floats) -> Floats:
    """Seconds of the physical form, shape (n,).

    Args:
        device: the GPU.
        calls: the calls.
        constants: floor (s), time of a wave of empty blocks (s), share of the bandwidth, share of
            the peak, share of L2 that a call can use, bandwidth of L2 over that of the memory.
    """
    floor, wave, bandwidth, peak, usable, cache_speed = constants
    waves = wave * calls.blocks / device.multiprocessors
    missed = _missed(calls.bytes / (usable * device.l2_bytes))
    memory = calls.bytes / (device.bandwidth_byte_per_s * bandwidth)
    memory = memory * (missed + (1 - missed) / cache_speed)
    compute = calls.flops / (device.peak_flop_per_s * peak)
    largest = np.maximum(np.maximum(waves, memory), compute)
    scaled = [(part / largest) ** _NORM for part in (waves, memory, compute)]
    return np.asarray(floor + largest * np.sum(scaled, axis=0) ** (1 / _NORM))


def fastest_s(device: Device, calls: Calls, floor_s: float) -> Floats:
    """No call is faster than this: floor, peak, and bytes beyond L2 at the full bandwidth."""
    beyond = np.maximum(calls.bytes - device.l2_bytes, 0.0)
    return np.maximum(
        np.maximum(calls.flops / device.peak_flop_per_s, floor_s),
        beyond / device.bandwidth_byte_per_s,
    )


@dataclass(frozen=True)
class Kernel:
    """The fitted model of one device, framework and kind.

    Attributes:
        device: the GPU.
        constants: of :func:`physical_s`, shape (6,), float64.
        low: smallest of every coordinate where it was fitted, shape (c,).
        high: largest of every coordinate, shape (c,).
        layers: weight (outputs, inputs) and bias (outputs,) of the correction's layers; inputs are
            coordinates scaled to -1 … 1.
        limits: smallest and largest correction (logarithms) that a measured call had.
        quantiles: of log(measured / predicted) of held-out calls, by region of :data:`REGIONS`:
            5 % and 95 %, shape (4, 2).
    """

    device: Device
    constants: Floats
    low: Floats
    high: Floats
    layers: tuple[tuple[Floats, Floats], ...]
    limits: tuple[float, float]
    quantiles: Floats

    @classmethod
    def from_arrays(cls, device: Device, arrays: Mapping[str, NDArray[Any]]) -> Kernel:
        """Build from the arrays that :meth:`to_arrays` gave."""
        wide = {name: np.asarray(value, dtype=np.float64) for name, value in arrays.items()}
        layers = tuple((wide[f"weight{i}"], wide[f"bias{i}"]) for i in range(3))
        low, high = wide["limits"]
        return cls(
            device, wide["constants"], wide["low"], wide["high"], layers, (low, high),
            wide["quantiles"],
        )  # fmt: skip

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything but the device, as float32 arrays by name."""
        arrays = {
            "constants": self.constants,
            "low": self.low,
            "high": self.high,
            "limits": np.array(self.limits),
            "quantiles": self.quantiles,
        }
        for index, (weight, bias) in enumerate(self.layers):
            arrays |= {f"weight{index}": weight, f"bias{index}": bias}
        return {name: np.asarray(value, dtype=np.float32) for name, value in arrays.items()}

    def scaled(self, calls: Calls) -> Floats:
        """Coordinates of calls, kept within what was measured and scaled to -1 … 1.

        First the sizes of a call are brought to the measured range, so that its coordinates fit
        together, and then each coordinate.
        """
        where = coordinates(self.device, self._nearest(calls), float(self.constants[0]))
        inside = np.clip(where, self.low, self.high)
        span = np.where(self.high > self.low, self.high - self.low, 1.0)
        return np.asarray(2 * (inside - self.low) / span - 1)

    def _nearest(self, calls: Calls) -> Calls:
        """Bring every size to the range of the measured calls."""

        def within(size: Floats, place: int) -> Floats:
            return np.clip(size, 2 ** self.low[place], 2 ** self.high[place])

        kv_heads = within(calls.kv_heads, 4)
        group = within(calls.query_heads / calls.kv_heads, 5)
        return replace(
            calls,
            batch=within(calls.batch, 0),
            tokens=within(calls.tokens, 2),
            query_heads=kv_heads * group,
            kv_heads=kv_heads,
            head_dim=within(calls.head_dim, 6),
        )

    def correction(self, calls: Calls) -> Floats:
        """Logarithm of predicted over physical time, shape (n,)."""
        values = self.scaled(calls)
        for index, (weight, bias) in enumerate(self.layers):
            values = values @ weight.T + bias
            if index < len(self.layers) - 1:
                values = values / (1 + np.exp(-values))  # the SiLU function
        return np.clip(values[:, 0], *self.limits)

    def seconds(self, calls: Calls) -> Floats:
        """Predicted time of every call, shape (n,).

        No less than :data:`GAIN` of a call with half the sequences, or half the tokens.
        """
        fastest = fastest_s(self.device, calls, float(self.constants[0]))
        return np.maximum(self._growing(calls, ("batch", "tokens")), fastest)

    def _growing(self, calls: Calls, sizes: tuple[str, ...]) -> Floats:
        if not sizes:
            physical = physical_s(self.device, calls, self.constants)
            return np.asarray(physical * np.exp(self.correction(calls)))
        name, others = sizes[0], sizes[1:]
        half = replace(calls, **{name: np.maximum(getattr(calls, name) / 2, 1.0)})
        smaller = self._growing(half, others)
        return np.maximum(self._growing(calls, others), GAIN * smaller)

    def outside(self, calls: Calls) -> NDArray[np.bool_]:
        """Whether a call lies beyond what was measured, shape (n,)."""
        where = coordinates(self.device, calls, float(self.constants[0]))
        beyond = (where < self.low - 1e-3) | (where > self.high + 1e-3)
        return np.asarray(beyond.any(axis=1))

    def interval(self, calls: Calls, seconds: Floats) -> tuple[Floats, Floats]:
        """5 and 95 % of what held-out calls of that size took, in seconds, each shape (n,).

        Wider by :data:`OUTSIDE` for calls beyond what was measured.
        """
        region = np.searchsorted(np.array(REGIONS) * self.constants[0], seconds)
        low, high = np.exp(self.quantiles[region]).T
        wider = np.where(self.outside(calls), 1 + OUTSIDE, 1.0)
        return seconds * np.minimum(low, 1.0) / wider, seconds * np.maximum(high, 1.0) * wider


def load_kernels(system: str, device: Device) -> dict[tuple[str, str], Kernel]:
    """Read the fitted kernels of a measured system, by framework and kind.

    Raises:
        ConfigError: no such file, or one without what a kernel needs.
    """
    path = config_root() / "baselines" / "kernels" / f"{system}.npz"
    arrays = _read(path, path.stat().st_mtime_ns if path.is_file() else 0)
    parts: dict[tuple[str, str], dict[str, NDArray[Any]]] = {}
    for name, array in arrays.items():
        framework, kind, field = name.split(".", 2)
        parts.setdefault((framework, kind), {})[field] = array
    try:
        return {key: Kernel.from_arrays(device, part) for key, part in parts.items()}
    except KeyError as error:
        raise ConfigError(f"{path}: array {error} is missing") from None


@functools.lru_cache
def _read(path: Path, changed: int) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path}: cannot be read as fitted kernels ({error})") from None
