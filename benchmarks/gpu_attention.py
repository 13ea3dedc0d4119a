"""Time and power of attention calls of one layer on a CUDA device, with torch's own kernels.

    python benchmarks/gpu_attention.py --out h100.csv --seconds 420
    python benchmarks/gpu_attention.py --device cpu --quick --out cpu.csv

Needs torch and NumPy, nothing of this package and no network. One row of the CSV is one way to run
one call: a shape, a back end of ``scaled_dot_product_attention`` and a mode:

* ``graph``: calls replayed from a CUDA graph, over the same tensors (small caches stay in L2);
* ``graph-cold``: the same, but each call reads keys and values that left L2 since they were used;
* ``eager``: calls issued one after another by Python, without waiting for each.

A call that cannot be run has no times and says why in ``skipped``. Rows are written as they are
measured, the most wanted first, so that a run that is stopped keeps what it has.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

MODELS = {"llama-3-8b": (32, 8, 128), "smollm2-135m": (9, 3, 64), "bert-base": (12, 12, 64)}
"""Query heads, key/value heads and head size; GPT-2's small model has BERT-base's."""
TOKENS = (128, 512, 2048, 8192, 32768, 131072)
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
MATH_TOKENS = 8192
"""Longest call of the math back end, which writes the scores out."""
L2_BYTES = 160 << 20
"""Read between two uses of the same cache in ``graph-cold``: three times an H100's 50 MB."""
SAMPLE_S = 0.1
POWER_S = 1.3
POWER_SETTLE_S = 0.4


@dataclass(frozen=True)
class Case:
    """One way to run one call."""

    model: str
    kind: str
    batch: int
    tokens: int
    backend: str
    mode: str
    power: bool = False

    @property
    def heads(self) -> tuple[int, int, int]:
        return MODELS[self.model]


# ------------------------------------------------------------------ which cases, in which order


def shapes(quick: bool) -> Iterator[tuple[str, str, int, int]]:
    """Model, kind, batch and tokens of every call."""
    for tokens in (128, 512) if quick else TOKENS:
        for model in MODELS:
            for batch in (1, 4) if quick else (1, 4, 16, 64):
                yield model, "decode", batch, tokens
            for kind in ("prefill", "encoder"):
                if kind == "encoder" and model != "bert-base":
                    continue
                for batch in (1,) if quick or tokens > 32768 else (1, 8):
                    yield model, kind, batch, tokens


def wanted(backend: str, kind: str, tokens: int) -> bool:
    if backend == "math":
        return tokens <= MATH_TOKENS
    return kind == "decode" or backend == "flash" or tokens <= 32768


def power_shapes(quick: bool) -> list[tuple[str, str, int, int]]:
    """Calls whose power is sampled: short, middling and long ones of every kind."""
    if quick:
        return [("smollm2-135m", "decode", 1, 128)]
    chosen = [
        ("llama-3-8b", "decode", batch, tokens)
        for batch, tokens in ((1, 512), (1, 8192), (1, 131072), (16, 2048), (16, 32768), (64, 8192))
    ]
    chosen += [
        (model, "decode", batch, tokens)
        for model in ("smollm2-135m", "bert-base")
        for batch, tokens in ((1, 512), (4, 8192), (64, 8192))
    ]
    chosen += [
        ("llama-3-8b", "prefill", batch, tokens)
        for batch, tokens in ((1, 512), (1, 2048), (8, 2048), (1, 8192), (1, 32768))
    ]
    chosen += [("smollm2-135m", "prefill", 1, tokens) for tokens in (512, 2048, 8192)]
    chosen += [
        ("bert-base", "encoder", batch, tokens)
        for batch, tokens in ((1, 128), (8, 512), (1, 2048), (8, 8192))
    ]
    return chosen


def plan(quick: bool, backends: list[str]) -> list[tuple[str, list[Case]]]:
    """Named groups of cases, the most wanted first."""
    calls = list(shapes(quick))
    groups = []

    def add(backend: str, mode: str, kinds: tuple[str, ...] = ("decode", "prefill", "encoder")):
        if backend in backends:
            cases = [
                Case(*call, backend, mode)
                for call in calls
                if call[1] in kinds and wanted(backend, call[1], call[3])
            ]
            groups.append((f"{backend}, {mode}", cases))

    add("flash", "graph")
    powered = [Case(*call, "flash", "graph", power=True) for call in power_shapes(quick)]
    if "flash" in backends:
        groups.append(("flash, graph, power", powered))
    add("flash", "eager")
    add("cudnn", "graph")
    add("flash", "graph-cold", ("decode",))
    add("math", "eager")
    add("efficient", "graph")
    add("math", "graph")
    add("cudnn", "eager")
    add("efficient", "eager")
    return groups


# ------------------------------------------------------------------ one call


class SkippedError(Exception):
    """The call is not run; the message says why."""


def tensors(case: Case, device: str, copies: int) -> tuple[list[tuple[torch.Tensor, ...]], str]:
    """Query, key and value of every copy, and how grouped key/value heads are given to the kernel.

    ``native``: by ``enable_gqa``. ``folded``: the queries of a group as rows of one head, which is
    the same for one query a sequence. ``repeated``: keys and values repeated before the clock runs.
    """
    query_heads, kv_heads, head_dim = case.heads
    group = query_heads // kv_heads
    queries = 1 if case.kind == "decode" else case.tokens
    if group == 1 or case.backend in ("flash", "cudnn"):
        sharing = "native" if group > 1 else "none"
    elif case.backend == "efficient" and case.kind == "decode":
        sharing = "folded"
    else:
        sharing = "repeated"
    query_shape = (case.batch, query_heads, queries, head_dim)
    if sharing == "folded":
        query_shape = (case.batch, kv_heads, group, head_dim)
    heads = query_heads if sharing == "repeated" else kv_heads
    kv_shape = (case.batch, heads, case.tokens, head_dim)
    needed = 2 * (copies * 2 * math.prod(kv_shape) + 2 * math.prod(query_shape))
    if case.backend == "math":  # scores, and their softmax, in float32
        needed += 10 * case.batch * query_heads * queries * case.tokens
    if device == "cuda":
        free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
        free -= torch.cuda.memory_allocated()
        if needed > 0.92 * free:
            raise SkippedError(f"needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free")

    def normal(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.bfloat16, device=device).normal_()

    query = normal(query_shape)
    return [(query, normal(kv_shape), normal(kv_shape)) for _ in range(copies)], sharing


def attend(case: Case, sharing: str, sets: tuple[torch.Tensor, ...]) -> torch.Tensor:
    query, key, value = sets
    return scaled_dot_product_attention(
        query, key, value, is_causal=case.kind == "prefill", enable_gqa=sharing == "native"
    )


def time_cuda(case: Case, keep_s: float) -> tuple[list[float], int, str, Callable[[], None]]:
    """Seconds per call of every sample, calls in a sample, sharing, and the sample itself."""
    copies = 1
    if case.mode == "graph-cold":
        _, kv_heads, head_dim = case.heads
        cache = 4 * case.batch * kv_heads * case.tokens * head_dim
        copies = max(1, min(128, math.ceil(L2_BYTES / cache)))
    data, sharing = tensors(case, "cuda", copies)
    calls = [lambda sets=sets: attend(case, sharing, sets) for sets in data]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            calls[0]()
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        calls[0]()
        last.record()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    once = max(first.elapsed_time(last) * 1e-3, 1e-6)
    if case.mode == "eager":
        repeats, sample = 1, calls[0]
    else:
        repeats = copies if copies > 1 else max(1, min(32, round(2e-3 / once)))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for index in range(repeats):
                calls[index % copies]()
        sample = graph.replay
        sample()
    count = max(3, min(100, round(keep_s / (once * repeats))))
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    for _ in range(3 if once * repeats < 0.05 else 0):
        sample()
    if case.mode == "eager":
        # An interval between two events holds one call, or the time Python takes to issue it.
        events[0].record()
        for event in events[1:]:
            sample()
            event.record()
        torch.cuda.synchronize()
        times = [a.elapsed_time(b) * 1e-3 for a, b in pairwise(events)]
    else:
        times = []
        for a, b in pairwise(events):
            torch.cuda.synchronize()
            a.record()
            sample()
            b.record()
            torch.cuda.synchronize()
            times.append(a.elapsed_time(b) * 1e-3 / repeats)
    return times, repeats, sharing, sample


def time_cpu(case: Case, keep_s: float) -> tuple[list[float], int, str, Callable[[], None]]:
    if case.mode != "eager":
        raise SkippedError("CUDA graphs need a CUDA device")
    data, sharing = tensors(case, "cpu", 1)

    def sample() -> None:
        attend(case, sharing, data[0])

    sample()
    times: list[float] = []
    end = time.perf_counter() + keep_s
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 100):
        start = time.perf_counter()
        sample()
        times.append(time.perf_counter() - start)
    return times, 1, sharing, sample


def largest_error(backend: str, device: str) -> str:
    """Largest difference from float32 attention, over small calls of every kind; or why not."""
    worst = 0.0
    for kind in ("decode", "prefill", "encoder"):
        case = Case("smollm2-135m", kind, 2, 128, backend, "eager")
        try:
            (sets,), sharing = tensors(case, device, 1)
            with sdpa_kernel(BACKENDS[backend]):
                out = attend(case, sharing, sets).float()
        except (SkippedError, RuntimeError) as error:
            return f"{kind}: {reason(error)}"
        query, key, value = (part.float() for part in sets)
        group = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(group, dim=1) for part in (key, value))
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
        if kind == "prefill":
            seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=device).tril()
            scores = scores.masked_fill(~seen, -math.inf)
        worst = max(worst, float((scores.softmax(-1) @ value - out).abs().max()))
    return f"{worst:.4f}"


def reason(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:160]


# ------------------------------------------------------------------ power


class Board:
    """Power, energy and clock of GPU 0 by NVML, or its power by ``nvidia-smi``, or nothing."""

    def __init__(self, device: str) -> None:
        self.how = "none"
        self.driver = "none"
        if device != "cuda":
            return
        try:
            import pynvml

            pynvml.nvmlInit()
            self.nvml = pynvml
            self.handle = pynvml.nvmlDeviceGetHandleByIndex(0)
            driver = pynvml.nvmlSystemGetDriverVersion()
            self.driver = driver.decode() if isinstance(driver, bytes) else driver
            self.how = "nvml-instant"
            if self._instant() is None:
                pynvml.nvmlDeviceGetPowerUsage(self.handle)
                self.how = "nvml"
        except Exception as error:
            print(f"NVML: {reason(error)}; nvidia-smi is asked instead", flush=True)
            self.how = "nvidia-smi"
            self.driver = self._ask("driver_version") or "unknown"
            if not self._ask("power.draw"):
                self.how = "none"

    def _ask(self, field: str) -> str:
        query = ["nvidia-smi", "-i", "0", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return ""
        return done.stdout.strip()

    def _instant(self) -> float | None:
        try:
            field = self.nvml.nvmlDeviceGetFieldValues(self.handle, [186])[0]
            value = int(field.value.uiVal)
        except Exception:
            return None
        return value * 1e-3 if field.nvmlReturn == 0 and value > 0 else None

    def power_w(self) -> float | None:
        """Board power, W; at once where the driver gives it (field 186), else its average."""
        try:
            if self.how == "nvml-instant":
                return self._instant()
            if self.how == "nvml":
                return float(self.nvml.nvmlDeviceGetPowerUsage(self.handle)) * 1e-3
            if self.how == "nvidia-smi":
                return float(self._ask("power.draw"))
        except Exception:
            return None
        return None

    def energy_j(self) -> float | None:
        """Energy counter of the board, J."""
        if not self.how.startswith("nvml"):
            return None
        try:
            return float(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle)) * 1e-3
        except Exception:
            return None

    def clock_mhz(self) -> float | None:
        if not self.how.startswith("nvml"):
            return None
        try:
            return float(self.nvml.nvmlDeviceGetClockInfo(self.handle, self.nvml.NVML_CLOCK_SM))
        except Exception:
            return None

    def limit_w(self) -> float | None:
        if not self.how.startswith("nvml"):
            return None
        try:
            return float(self.nvml.nvmlDeviceGetEnforcedPowerLimit(self.handle)) * 1e-3
        except Exception:
            return None


def sample_power(board: Board, work: Callable[[], None] | None, seconds: float) -> dict[str, Any]:
    """Power while ``work`` runs back to back (or, without work, at rest)."""
    stop = threading.Event()
    readings: list[tuple[float, float]] = []
    clocks: list[float] = []

    def watch() -> None:
        while not stop.is_set():
            value = board.power_w()
            if value is not None:
                readings.append((time.perf_counter(), value))
            clock = board.clock_mhz()
            if clock is not None:
                clocks.append(clock)
            stop.wait(0.01)

    watcher = threading.Thread(target=watch, daemon=True)
    start = time.perf_counter()
    settled = start + min(POWER_SETTLE_S, seconds / 3)
    energy: tuple[float, float | None] | None = None
    watcher.start()
    while (now := time.perf_counter()) < start + seconds:
        if energy is None and now >= settled:
            energy = (now, board.energy_j())
        if work is None:
            time.sleep(0.02)
            continue
        for _ in range(8):
            work()
            if time.perf_counter() - now > 0.05:
                break
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    last, total = time.perf_counter(), board.energy_j()
    stop.set()
    watcher.join()
    row: dict[str, Any] = {}
    values = [value for at, value in readings if settled <= at <= last]
    if values:
        low, high = np.percentile(values, [5, 95])
        row |= {
            "power_w": statistics.median(values),
            "power_p5_w": float(low),
            "power_p95_w": float(high),
        }
    if energy is not None and energy[1] is not None and total is not None:
        row["power_by_energy_w"] = (total - energy[1]) / (last - energy[0])
    if clocks:
        row["sm_clock_mhz"] = statistics.median(clocks)
    return row


# ------------------------------------------------------------------ rows

COLUMNS = [
    "model", "kind", "batch", "tokens", "query_heads", "kv_heads", "head_dim", "window_tokens",
    "backend", "mode", "sharing", "latency_s", "latency_p5_s", "latency_p95_s", "samples",
    "calls_per_sample", "power_w", "power_p5_w", "power_p95_w", "power_by_energy_w",
    "sm_clock_mhz", "power_method", "power_limit_w", "skipped", "device", "driver", "torch",
    "cuda",
]  # fmt: skip


def measure(case: Case, device: str, board: Board, keep_s: float) -> dict[str, Any]:
    query_heads, kv_heads, head_dim = case.heads
    row: dict[str, Any] = {
        "model": case.model,
        "kind": case.kind,
        "batch": case.batch,
        "tokens": case.tokens,
        "query_heads": query_heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "window_tokens": 0,
        "backend": case.backend,
        "mode": case.mode,
    }
    sample: Callable[[], None] | None = None
    try:
        with torch.inference_mode(), sdpa_kernel(BACKENDS[case.backend]):
            clock = time_cuda if device == "cuda" else time_cpu
            times, calls, sharing, sample = clock(case, keep_s)
            low, high = np.percentile(times, [5, 95])
            row |= {
                "sharing": sharing,
                "latency_s": statistics.median(times),
                "latency_p5_s": float(low),
                "latency_p95_s": float(high),
                "samples": len(times),
                "calls_per_sample": calls,
            }
            if case.power:
                row |= sample_power(board, sample, POWER_S)
    except (SkippedError, RuntimeError) as error:  # CUDA's out-of-memory error is a RuntimeError
        row["skipped"] = reason(error)
    finally:
        del sample
        if device == "cuda":
            torch.cuda.empty_cache()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu_attention.csv"))
    parser.add_argument("--seconds", type=float, default=420.0, help="stop after this long")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="a few small calls only")
    parser.add_argument("--backends", default=",".join(BACKENDS), help="which, by comma")
    options = parser.parse_args()
    start = time.perf_counter()
    device = options.device
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device; --device cpu runs on the processor")
    backends = options.backends.split(",")
    if unknown := [name for name in backends if name not in BACKENDS]:
        sys.exit(f"unknown back end {unknown[0]} (known: {', '.join(BACKENDS)})")
    torch.manual_seed(0)
    board = Board(device)
    common = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "driver": board.driver,
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "power_method": board.how,
        "power_limit_w": board.limit_w(),
    }
    print(common, flush=True)
    groups = plan(options.quick, backends)
    if device == "cpu":
        groups = [
            (name, [replace(case, mode="eager") for case in cases])
            for name, cases in groups
            if "eager" in name or "power" in name
        ]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="") as file, torch.inference_mode():
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()

        def write(row: dict[str, Any]) -> None:
            writer.writerow(
                {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in (row | common).items()}
            )
            file.flush()

        for backend in backends:
            print(f"{backend}: largest error {largest_error(backend, device)}", flush=True)
        idle = sample_power(board, None, 0.3 if device == "cpu" else 3.0)
        write({"model": "none", "kind": "idle", "mode": "idle"} | idle)
        print(f"idle: {idle}", flush=True)
        for name, cases in groups:
            done = 0
            for case in cases:
                if time.perf_counter() - start > options.seconds:
                    break
                row = measure(case, device, board, 0.02 if options.quick else SAMPLE_S)
                write(row)
                done += 1
                if case.power or done % 12 == 1:
                    told = row.get("skipped") or f"{row['latency_s'] * 1e6:.1f} us"
                    watts = f", {row['power_w']:.0f} W" if "power_w" in row else ""
                    print(
                        f"{time.perf_counter() - start:6.1f} s  {name}: {case.model} {case.kind} "
                        f"batch {case.batch} tokens {case.tokens}: {told}{watts}",
                        flush=True,
                    )
            print(f"{time.perf_counter() - start:6.1f} s  {name}: {done} of {len(cases)} cases")
    print(f"wrote {options.out}", flush=True)


if __name__ == "__main__":
    main()
