"""Cases of ``accelsim validate functional``: each result beside that of its plain reference."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from accelsim.attention import kernels, reference
from accelsim.functional import fixed_point as fp
from accelsim.functional import fixed_point_reference

_KEYS, _DIM = 48, 64


def functional_cases(seed: int = 0, count: int = 20) -> list[tuple[str, float, float]]:
    """Return ``(id, reference, simulated)`` of seeded random heads.

    Float64 cases compare the norm of the kernel's output with that of the NumPy reference (equal
    within 1e-12); top-k cases its passes, and fixed-point cases a checksum over every output code,
    with those of the plain Python models (equal).

    Args:
        seed: same seed, same cases.
        count: random heads; each gives four cases.
    """
    rng = np.random.default_rng(seed)
    return [case for number in range(count) for case in _cases(rng, number)]


def _cases(rng: np.random.Generator, number: int) -> Iterator[tuple[str, float, float]]:
    query, key, value = (rng.normal(size=(1, _KEYS, _DIM)).astype(np.float32) for _ in range(3))
    wide = [t.astype(np.float64) for t in (key, value)]
    every, scale = np.arange(_KEYS), _DIM**-0.5
    budget = np.maximum(np.arange(_KEYS + 1) * 3 // 10, 1)
    mask = np.tri(_KEYS, dtype=np.bool_)
    expected = reference.attention(query[0], key[0], key[0], value[0], mask, scale=scale,
                                   threshold=0.1, value_budget=budget)  # fmt: skip
    found = kernels.attend_layer(
        kernels.Tensors(query, key, value, wide[0], wide[0], wide[1]),
        kernels.Rows.plain(every, every, np.ones(1, np.bool_), _KEYS, True),
        kernels.Settings(scale, 0.1, budget, 3),
        kernels.Importance(np.zeros(_KEYS), np.zeros(1)),
    )
    yield (
        f"attention-{number}",
        float(np.linalg.norm(expected.output)),
        float(np.linalg.norm(found.outputs)),
    )
    row = expected.probabilities[-1]
    yield (
        f"topk-passes-{number}",
        float(reference.quick_select(row, 14, number)[2]),
        float(kernels.quick_select(row, 14, number)[2]),
    )
    codes = rng.integers(-2047, 2048, size=(4, _KEYS, _DIM))
    multipliers, shift = fp.dequantization(2**-9, np.full(_KEYS, 2**-10), scale)
    ones = np.full(_KEYS, 1 << fp.RATIO_BITS)
    for name, datapath in fp.DATAPATHS.items():
        plain = fixed_point_reference.attend_row(
            codes[0, 0].tolist(), (codes[1] & ~15).tolist(), codes[1].tolist(), codes[2].tolist(),
            multipliers=multipliers.tolist(), shift=shift, value_ratios=ones.tolist(),
            datapath=datapath, threshold=512, budget=14,
        )  # fmt: skip
        fast = fp.fixed_point_attention(
            codes[0, :1], codes[1] & ~15, codes[1], codes[2], np.array([_KEYS]),
            multipliers=multipliers[None], shifts=np.array([shift]), ratios=ones,
            datapath=datapath, threshold=512, value_budget=np.full(_KEYS + 1, 14),
        )  # fmt: skip
        yield (
            f"fixed-point-{name}-{number}",
            _checksum([*plain.probabilities, *plain.output]),
            _checksum([*fast.probabilities[0].tolist(), *fast.output[0].tolist()]),
        )


def _checksum(codes: list[int]) -> float:
    # Depends on every bit of every code and on their order; below 2^31, exact as a float.
    total = 1
    for code in codes:
        total = (total * 48271 + code + 4096) % 2147483647
    return float(total)
