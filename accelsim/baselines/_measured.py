"""Attention timed on the machine at hand, with NumPy and, where it is installed, torch."""

from __future__ import annotations

import importlib.util
import platform
import subprocess
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.baselines._shape import AttentionShape, Call

_BUDGET_S = 1.0
_MAX_SIZES = 8
_ELEMENT_BYTES = 4
_BLOCK_SCORES = 1 << 22
"""Scores held at once (16 MiB), so that a long prefill does not exhaust the memory."""


Kernel = Callable[[AttentionShape, Call, float], float]


def measure_all(shape: AttentionShape) -> dict[str, dict[str, Any]]:
    """Time the attention with every library at hand: NumPy, torch on the CPU, torch with CUDA."""
    rows = {"measured/numpy": measure(shape, _time, {"device": _cpu(), "numpy": np.__version__})}
    if importlib.util.find_spec("torch") is None:
        return rows
    import torch

    versions = {"torch": torch.__version__}
    cpu = {"device": f"{_cpu()}, {torch.get_num_threads()} threads", **versions}
    rows["measured/torch-cpu"] = measure(shape, partial(_time_torch, "cpu"), cpu)
    if torch.cuda.is_available():
        gpu = {
            "device": torch.cuda.get_device_name(),
            "driver": _driver(),
            "cuda": str(torch.version.cuda),
            **versions,
        }
        rows["measured/torch-cuda"] = measure(shape, partial(_time_torch, "cuda"), gpu)
    return rows


def measure(shape: AttentionShape, kernel: Kernel, machine: dict[str, str]) -> dict[str, Any]:
    """Time dense float32 attention for the calls of ``shape``.

    At most eight call sizes, spread over the range, are timed (median of repeats within one
    second, one repeat where a single call takes longer); the time of the others is read off the
    line between them. Masked scores are computed too. Energy is not known here, and ``dram_bytes``
    is what has to move, not what was observed. ``machine`` names device, driver and versions.
    """
    budget = _BUDGET_S / len(shape.parts)
    return {
        "latency_s": sum(_measure(part, kernel, budget) for part in shape.parts),
        "energy_j": None,
        "energy_with_idle_j": None,
        "dram_bytes": shape.bytes_moved(_ELEMENT_BYTES),
        "kind": "measured",
        "machine": machine,
    }


def _measure(shape: AttentionShape, kernel: Kernel, budget_s: float) -> float:
    """Seconds of the calls of one kind of layer."""
    calls = sorted(shape.calls, key=lambda call: call.pairs)
    picks = sorted({round(i) for i in np.linspace(0, len(calls) - 1, _MAX_SIZES)})
    timed = [(calls[i].pairs, kernel(shape, calls[i], budget_s / len(picks))) for i in picks]
    sizes, seconds = (np.array(column) for column in zip(*timed, strict=True))
    return sum(call.count * float(np.interp(call.pairs, sizes, seconds)) for call in calls)


def _cpu() -> str:
    return platform.processor() or platform.machine()


def _driver() -> str:
    """Version of the NVIDIA driver, as its tool prints it; ``unknown`` if it cannot be asked."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        text = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return text.splitlines()[0].strip() if text.strip() else "unknown"


def _time_torch(device: str, shape: AttentionShape, call: Call, budget_s: float) -> float:
    """Median time of torch's fused attention; the queries of a group follow one another."""
    import torch

    torch.manual_seed(0)
    group, heads = shape.query_heads // shape.kv_heads, shape.sequences * shape.kv_heads
    query = torch.randn(1, heads, group * call.queries, shape.head_dim, device=device)
    key = torch.randn(1, heads, call.keys, shape.head_dim, device=device)
    value = torch.randn(1, heads, call.keys, shape.both_dims - shape.head_dim, device=device)

    def once() -> float:
        start = time.perf_counter()
        torch.nn.functional.scaled_dot_product_attention(query, key, value)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    with torch.inference_mode():
        once()
        samples = [once()]
        end = time.perf_counter() + budget_s
        while time.perf_counter() < end:
            samples.append(once())
    return float(np.median(samples))


def _time(shape: AttentionShape, call: Call, budget_s: float) -> float:
    rng = np.random.default_rng(0)
    group, heads = shape.query_heads // shape.kv_heads, shape.sequences * shape.kv_heads
    query = rng.standard_normal((heads, group * call.queries, shape.head_dim), dtype=np.float32)
    key, value = (
        rng.standard_normal((heads, call.keys, dim), dtype=np.float32)
        for dim in (shape.head_dim, shape.both_dims - shape.head_dim)
    )
    warm_up = _timed(query, key, value)
    if warm_up > budget_s:
        return warm_up
    samples: list[float] = []
    end = time.perf_counter() + budget_s
    while not samples or time.perf_counter() < end:
        samples.append(_timed(query, key, value))
    return float(np.median(samples))


def _timed(
    query: NDArray[np.float32], key: NDArray[np.float32], value: NDArray[np.float32]
) -> float:
    rows = max(_BLOCK_SCORES // (key.shape[0] * key.shape[1]), 1)
    start = time.perf_counter()
    for first in range(0, query.shape[1], rows):
        _attend(query[:, first : first + rows], key, value)
    return time.perf_counter() - start


def _attend(
    query: NDArray[np.float32], key: NDArray[np.float32], value: NDArray[np.float32]
) -> NDArray[np.float32]:
    scores: NDArray[np.float32] = query @ key.transpose(0, 2, 1)
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    output: NDArray[np.float32] = scores @ value
    return output
