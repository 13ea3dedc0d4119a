"""Points per second of a sweep, and how much of it is not the model.

    python benchmarks/sweep_throughput.py TRACE [POINTS]

For comparison, seconds per point of public simulators on a machine of 2 cores: SCALE-Sim 2.9,
ZigZag 3.5, AccelForge 9 to 17.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

from accelsim.exploration import replay, sweep


def main() -> None:
    trace, points = Path(sys.argv[1]).absolute(), int((sys.argv[2:] or ["100"])[0])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "bench.yaml")
        # The clock changes no cycle count, so every point costs the model the same.
        file.write_text(
            f"kind: sweep\nsources: [{trace}]\npolicy: spatten-full\naxes:\n"
            f"  - {{key: accelerator.frequency_hz, "
            f"range: {{from: 5e8, to: 1e9, points: {points}}}}}\n"
        )
        result = replay(trace, policy="spatten-full", baselines=[])  # compiles the kernels
        for executor in ("local", "processes"):
            start = time.perf_counter()
            rows = sweep(file, Path(folder, executor), executor).rows
            wall = time.perf_counter() - start
            model = sum(row["elapsed_s"] for row in rows)
            print(
                f"{executor}: {points / wall:.2f} points/s, {wall / points:.3f} s/point; "
                f"in the workers {model / points:.3f} s/point"
            )
        with (
            mock.patch("accelsim.hardware.simulate", return_value=result.activity),
        ):
            start = time.perf_counter()
            sweep(file, Path(folder, "overhead"))
            wall = time.perf_counter() - start
        print(f"overhead without the model: {1e3 * wall / points:.2f} ms/point")


if __name__ == "__main__":
    main()
