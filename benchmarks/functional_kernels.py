"""Kernels of the functional model against their plain references, in one run.

    python benchmarks/functional_kernels.py

One head, 512 queries, 512 keys, 64 features. "NumPy" is two calls of ``reference.attention`` (dense
beside policy: what the kernel computes, without its error sums). "with passes" adds the reference's
top-k engine, which the kernel runs as well; the reference is timed on a few rows of it.
"""

from __future__ import annotations

import numpy as np
from _timing import best

from accelsim.attention import kernels, reference
from accelsim.functional import fixed_point as fp
from accelsim.functional import fixed_point_reference

TOKENS, DIM, SCALE = 512, 64, 0.125
SAMPLED_ROWS = 8


def report(name: str, slow: float, fast: float) -> None:
    print(f"{name:44s} reference {slow * 1e3:10.2f} ms   kernel {fast * 1e3:7.2f} ms"
          f"   ratio {slow / fast:8.1f}")  # fmt: skip


def float64_head(causal: bool, keep: float, threshold: float) -> None:
    rng = np.random.default_rng(0)
    query, key, value = (rng.normal(size=(1, TOKENS, DIM)).astype(np.float32) for _ in range(3))
    first, both, wide = (t.astype(np.float64) for t in (key, key, value))
    every, alive = np.arange(TOKENS), np.ones(1, dtype=np.bool_)
    budget = np.array([max(1, int(np.ceil(keep * n))) for n in range(TOKENS + 1)])
    mask = np.tri(TOKENS, dtype=np.bool_) if causal else np.ones((TOKENS, TOKENS), np.bool_)

    tensors = kernels.Tensors(query, key, value, first, both, wide)
    rows = kernels.Rows.plain(every, every, alive, TOKENS, causal)
    settings = kernels.Settings(SCALE, threshold, budget, 3)

    def fast() -> object:
        received = kernels.Importance(np.zeros(TOKENS), np.zeros(1))
        return kernels.attend_layer(tensors, rows, settings, received)

    def slow() -> reference.Attention:
        reference.attention(query[0], key[0], key[0], value[0], mask, scale=SCALE)
        return reference.attention(
            query[0], first[0], both[0], wide[0], mask, scale=SCALE, threshold=threshold,
            value_budget=budget if keep < 1 else None,
        )  # fmt: skip

    fast()
    seconds, numpy_seconds = best(fast), best(slow)
    name = f"float64, {'causal' if causal else 'full'}, values kept {keep:g}"
    report(f"{name}: NumPy", numpy_seconds, seconds)
    if keep == 1:
        return
    probabilities = slow().probabilities
    rows = np.linspace(15, TOKENS - 1, SAMPLED_ROWS).astype(int)

    def passes() -> None:
        for row in rows:
            visible = probabilities[row, mask[row]]
            reference.quick_select(visible, int(budget[len(visible)]), 3 + int(row))

    report(f"{name}: with passes",
           numpy_seconds + best(passes, 1) * TOKENS / SAMPLED_ROWS, seconds)  # fmt: skip


def fixed_point_head() -> None:
    rng = np.random.default_rng(0)
    query, key, value = rng.integers(-2047, 2048, size=(3, TOKENS, DIM))
    multipliers, shift = fp.dequantization(2**-9, np.full(TOKENS, 2**-10), SCALE)
    ratios, path = np.full(TOKENS, 1 << fp.RATIO_BITS), fp.load_datapath()
    every = (np.full(TOKENS, TOKENS), np.tile(multipliers, (TOKENS, 1)), np.full(TOKENS, shift))

    def fast() -> object:
        return fp.fixed_point_attention(
            query, key, key, value, every[0], multipliers=every[1], shifts=every[2],
            ratios=ratios, datapath=path,
        )  # fmt: skip

    def slow() -> None:
        for row in range(SAMPLED_ROWS):
            fixed_point_reference.attend_row(
                query[row].tolist(), key.tolist(), key.tolist(), value.tolist(),
                multipliers=multipliers.tolist(), shift=shift, value_ratios=ratios.tolist(),
                datapath=path,
            )  # fmt: skip

    fast()
    report("fixed point: plain integers", best(slow, 1) * TOKENS / SAMPLED_ROWS, best(fast))


if __name__ == "__main__":
    for causal in (True, False):
        for keep, threshold in ((1.0, 0.0), (0.3, 0.1)):
            float64_head(causal, keep, threshold)
    fixed_point_head()
