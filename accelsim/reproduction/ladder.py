"""Fig. 20: what each technique adds, over TITAN Xp, on the eight GPT-2 benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from accelsim.reproduction._base import (
    GPT2,
    STREAMED,
    Change,
    Figure,
    Job,
    Outcome,
    Row,
    Tried,
    geomean,
)

_EVERY = 8
_SERIAL = (("topk.parallelism", 1),)
_STEPS = (
    ("dedicated datapath", "dense-fp32", (), 22.1),
    ("+ cascade token and local value pruning, serial top-k", "tokens-fp32", _SERIAL, 1.1),
    ("+ cascade head pruning, serial top-k", "heads-fp32", _SERIAL, 1.1),
    ("+ parallel top-k engine", "heads-fp32", (), 3.0),
    ("+ static quantization (10 bit)", "pruned-static", (), 1.6),
    ("+ progressive quantization (6+4 bit)", "full", (), 1.7),
)
_SMALL = [name for name in GPT2 if "small" in name]
_PER_LAYER = Change("tokens searched once a layer", overrides=(("token_selection", "per-layer"),))
_CHANGES = (STREAMED, _PER_LAYER)


def _job(name: str, step: int, change: Change | None = None) -> Job:
    _, variant, overrides, _ = _STEPS[step]
    job = Job(name, variant, _EVERY, overrides=overrides)
    return job if change is None else change.of(job)


def _at_12(name: str, step: int) -> Job:
    _, variant, overrides, _ = _STEPS[step]
    return Job(name, variant.removesuffix("-fp32"), _EVERY, overrides=overrides)


_STEP_NUMBERS = range(len(_STEPS))
_JOBS = (
    *(_job(name, step) for name in GPT2 for step in _STEP_NUMBERS),
    *(_at_12(name, step) for name in _SMALL for step in _STEP_NUMBERS),
    *(_job(name, step, c) for c in _CHANGES for name in _SMALL for step in _STEP_NUMBERS),
)


def _speedup(runs: Sequence[Outcome]) -> float:
    return geomean(r.baselines["titan-xp/framework-2020"]["latency_s"] / r.seconds for r in runs)


def _factors(totals: Sequence[float]) -> list[float]:
    """Of each step, then pruning and top-k together, quantization together, all."""
    steps = [after / before for before, after in zip((1.0, *totals), totals, strict=False)]
    return [*steps, totals[3] / totals[0], totals[5] / totals[3], totals[5]]


def _rows(outcomes: Mapping[Job, Outcome]) -> list[Row]:
    def factors(names: Sequence[str], change: Change | None = None) -> list[float]:
        return _factors(
            [_speedup([outcomes[_job(n, step, change)] for n in names]) for step in _STEP_NUMBERS]
        )

    ours, small = factors(GPT2), factors(_SMALL)
    changed = [(change.what, factors(_SMALL, change)) for change in _CHANGES]
    at_12 = _factors([_speedup([outcomes[_at_12(n, s)] for n in _SMALL]) for s in _STEP_NUMBERS])
    labels = [
        *((label, theirs) for label, _, _, theirs in _STEPS),
        ("pruning and parallel top-k together", 3.4),
        ("quantization together", 2.8),
        ("all together", 209.0),
    ]
    return [
        Row(
            label,
            ours[i],
            theirs,
            "x",
            "32 bit until quantized",
            changes=(
                Tried("GPT-2-Small alone", small[i]),
                Tried("GPT-2-Small, 12 bit from the start", at_12[i]),
                *(Tried(f"GPT-2-Small, {what}", values[i]) for what, values in changed),
            ),
        )
        for i, (label, theirs) in enumerate(labels)
    ]


FIGURE = Figure("ladder", "Speedup over TITAN Xp by technique", "Fig. 20", _JOBS, _rows)
