"""Points per second of a sweep, the share of it that is the model, overhead and memory.

    python benchmarks/sweep_throughput.py [TRACE [POINTS]]

The grid varies the machine (top-k engine, multipliers, clock) under one policy, so every point is
simulated and the policy's decisions are shared. For comparison, seconds per point of public
simulators on a machine of 2 cores: SCALE-Sim 2.9, ZigZag 3.5, AccelForge 9 to 17.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from accelsim.exploration import replay, sweep

TRACE = "traces/smollm2-64p-32d.safetensors"
MACHINES = 20
"""Combinations of the axes beside the clock."""


def sweep_file(folder: str, trace: Path, points: int) -> Path:
    """Write a sweep of about ``points`` points."""
    clocks = max(points // MACHINES, 1)
    file = Path(folder, "bench.yaml")
    file.write_text(
        f"kind: sweep\nsources: [{trace}]\npolicy: spatten-full\naxes:\n"
        "  - {key: accelerator.topk.parallelism, values: [1, 4, 8, 16, 32]}\n"
        "  - {key: accelerator.multipliers, values: [64, 128, 256, 512]}\n"
        f"  - {{key: accelerator.frequency_hz, "
        f"range: {{from: 5e8, to: 1e9, points: {clocks}}}}}\n"
    )
    return file


def peak_bytes(row: dict[str, Any]) -> int:
    """Largest resident memory so far of the process that ran a point."""
    status = Path("/proc", row["worker"].rpartition(":")[2], "status")
    try:
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    except OSError:
        return 0
    return 1024 * int(fields["VmHWM"].split()[0])


def main() -> None:
    trace = Path((sys.argv[1:] or [TRACE])[0]).absolute()
    points = int((sys.argv[2:] or ["1000"])[0])
    with tempfile.TemporaryDirectory() as folder:
        file = sweep_file(folder, trace, points)
        result = replay(trace, policy="spatten-full", baselines=[])  # compiles the kernels
        peak = 0

        def watch(row: dict[str, Any] | None, done: int, total: int) -> None:
            nonlocal peak
            peak = max(peak, 0 if row is None else peak_bytes(row))

        for workers in (2, 1):
            start = time.perf_counter()
            rows = sweep(
                file, Path(folder, str(workers)), "processes", workers, on_point=watch
            ).rows
            wall = time.perf_counter() - start
            assert all(row["status"] == "ok" for row in rows)
            model = sum(row["elapsed_s"] for row in rows)
            print(
                f"{workers} workers: {len(rows)} points in {wall:.1f} s, "
                f"{len(rows) / wall:.2f} points/s; {model / len(rows):.3f} s/point in the workers, "
                f"{100 * model / (workers * wall):.1f} % of their time; "
                f"largest worker {peak / 1e6:.0f} MB",
                flush=True,
            )
            file = sweep_file(folder, trace, points // 5)
        with mock.patch("accelsim.hardware.simulate", return_value=result.activity):
            sweep(sweep_file(folder, trace, MACHINES), Path(folder, "warm"))
            file = sweep_file(folder, trace, points)
            start = time.perf_counter()
            count = len(sweep(file, Path(folder, "overhead")).rows)
            wall = time.perf_counter() - start
        print(f"overhead in process, without simulation: {1e3 * wall / count:.2f} ms/point")


if __name__ == "__main__":
    main()
