"""Throughput against the parallelism of the top-k engine, as in SpAtten (HPCA 2021), Fig. 19.

    python benchmarks/topk_parallelism.py traces/spatten-gpt2/summary-gpt2-small-wikitext2-per8.csv

Prints what the simulator says beside the published curve; nothing is fitted, and the published
workload is one GPT-2 application that is not named.
"""

from __future__ import annotations

import sys

from accelsim.exploration import replay

PUBLISHED_GFLOPS = {1: 168, 2: 299, 4: 485, 8: 653, 16: 776, 32: 771}
"""SpAtten (HPCA 2021), Fig. 19."""


def topk_sweep(source: str, accelerator: str = "spatten-paper") -> dict[int, float]:
    """Return computed GFLOP/s (2 x MAC) of ``source`` by parallelism of the top-k engine."""
    rates = {}
    for parallelism in PUBLISHED_GFLOPS:
        overrides = {"topk.parallelism": parallelism}
        metrics = replay(source, accelerator, overrides=overrides, baselines=["titan-xp"]).metrics
        rates[parallelism] = 2e-9 * metrics["macs"] / metrics["latency_s"]
    return rates


def main(source: str) -> None:
    rates = topk_sweep(source)
    print("parallelism  GFLOP/s  of P=16   published  of P=16")
    for parallelism, published in PUBLISHED_GFLOPS.items():
        rate = rates[parallelism]
        print(
            f"{parallelism:11d} {rate:8.1f} {rate / rates[16]:8.2f} "
            f"{published:11d} {published / PUBLISHED_GFLOPS[16]:8.2f}"
        )


if __name__ == "__main__":
    main(sys.argv[1])
