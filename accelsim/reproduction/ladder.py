"""Fig. 20: what each technique adds, over TITAN Xp, on the eight GPT-2 benchmarks."""

from __future__ import annotations

from collections.abc import Mapping

from accelsim.reproduction._base import GPT2, Figure, Job, Outcome, Row, geomean

_EVERY = 8
_SERIAL = (("topk.parallelism", 1),)
_STEPS = (
    ("dedicated datapath", "dense", (), 22.1),
    ("+ cascade token and local value pruning, serial top-k", "tokens", _SERIAL, 1.1),
    ("+ cascade head pruning, serial top-k", "heads", _SERIAL, 1.1),
    ("+ parallel top-k engine", "heads", (), 3.0),
    ("+ static quantization (10 bit)", "pruned-static", (), 1.6),
    ("+ progressive quantization (6+4 bit)", "full", (), 1.7),
)


def _job(name: str, step: int) -> Job:
    return Job(name, _STEPS[step][1], _EVERY, overrides=_STEPS[step][2])


_JOBS = tuple(_job(name, step) for name in GPT2 for step in range(len(_STEPS)))


def _rows(outcomes: Mapping[Job, Outcome]) -> list[Row]:
    totals = []
    for step in range(len(_STEPS)):
        runs = [outcomes[_job(name, step)] for name in GPT2]
        totals.append(
            geomean(r.baselines["titan-xp/framework-2020"]["latency_s"] / r.seconds for r in runs)
        )
    rows = []
    for step, (label, _, _, theirs) in enumerate(_STEPS):
        ours = totals[step] / (totals[step - 1] if step else 1.0)
        rows.append(Row(label, ours, theirs, "x", "four of 32 steps; 12 bit before quantization"))
    rows.append(Row("all together", totals[-1], 209.0, "x", "product of the above"))
    return rows


FIGURE = Figure("ladder", "Speedup over TITAN Xp by technique", "Fig. 20", _JOBS, _rows)
