"""Fig. 14: speedup and energy saving over four platforms, per benchmark and as geometric means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from accelsim.reproduction._base import (
    ALL,
    BERT,
    GPT2,
    PLATFORMS,
    Figure,
    Job,
    Outcome,
    Row,
    Tried,
    geomean,
    tried,
)
from accelsim.reproduction._causes import (
    BERT_CHANGES,
    CAUSES,
    FULL,
    GPT2_CHANGES,
    SHORT_SQUAD,
    trial_of,
)
from accelsim.workloads import read_benchmark

_JOBS = (*FULL, *CAUSES)
_READING = "framework-2020"
_TIME = {
    "titan-xp": "time per operator from Table IV's 366.7 ms",
    "xeon-e5-2640v4": "time per operator from 1.488 s: Fig. 15 x Table IV x Fig. 2",
    "jetson-nano": "5 ms a layer is a guess; the paper prints no latency",
    "raspberry-pi-4": "time per operator from 43 s for a 30-token sentence (§I)",
}
_SPATTEN_W = 8.30
"""Power of SpAtten (Table II), with which the two printed ratios imply a platform's power."""
_CHANGES = {
    "all": tuple(change for change in GPT2_CHANGES if change in BERT_CHANGES),
    "BERT": BERT_CHANGES,
    "GPT-2": GPT2_CHANGES,
}
_FAMILIES = {"BERT": BERT, "GPT-2": GPT2}


def _family(name: str) -> str:
    return "BERT" if name in BERT else "GPT-2"


def _rows(outcomes: Mapping[Job, Outcome]) -> list[Row]:
    rows = []
    for platform, title in PLATFORMS.items():
        rows += _means(outcomes, platform, title)
        for name in ALL:
            rows += _of_benchmark(outcomes, name, platform, title)
    return rows


def _speedup(platform: str, reading: str = _READING) -> Callable[[Sequence[Outcome]], float]:
    key = f"{platform}/{reading}"
    return lambda runs: geomean(run.baselines[key]["latency_s"] / run.seconds for run in runs)


def _saving(platform: str) -> Callable[[Sequence[Outcome]], float]:
    key = f"{platform}/{_READING}"
    return lambda runs: geomean(
        run.baselines[key]["energy_j"] / run.access_energy_j for run in runs
    )


def _means(outcomes: Mapping[Job, Outcome], platform: str, title: str) -> list[Row]:
    speedup, saving = _speedup(platform), _saving(platform)
    rows = []
    for family, names in (("all", ALL), *_FAMILIES.items()):
        runs = [outcomes[Job(name)] for name in names]
        printed = [read_benchmark(name).published[platform] for name in names]
        theirs = geomean(p.speedup for p in printed), geomean(p.energy_saving for p in printed)
        jobs = [trial_of(Job(name)) for name in names]
        rows += [
            Row(
                f"{title}, speedup, geomean of {family}",
                speedup(runs),
                theirs[0],
                "x",
                _TIME[platform],
                changes=tried(_CHANGES[family], jobs, outcomes, speedup),
            ),
            Row(
                f"{title}, energy saving, geomean of {family}",
                saving(runs),
                theirs[1],
                "x",
                changes=_powers(runs, platform, theirs),
            ),
        ]
    runs = [outcomes[job] for job in FULL]
    rows.append(
        Row(
            f"{title}, speedup over a tuned kernel, geomean of all",
            _speedup(platform, "roofline")(runs),
            None,
            "x",
            "the same device with one fused kernel a layer; the paper measured PyTorch of 2020",
            "convention",
        )
    )
    rows.append(
        Row(
            f"{title}, energy saving with idle power of both sides, geomean of all",
            geomean(
                run.baselines[f"{platform}/{_READING}"]["energy_with_idle_j"]
                / sum(run.energy_j_by_part.values())
                for run in runs
            ),
            None,
            "x",
            "all power of the platform against all energy, DRAM background included",
            "convention",
        )
    )
    return rows


def _powers(
    runs: Sequence[Outcome], platform: str, theirs: tuple[float, float]
) -> tuple[Tried, ...]:
    """The saving at the powers that the paper's own ratios imply, one side or both."""
    key = f"{platform}/{_READING}"
    ours_w = runs[0].baselines[key]["energy_j"] / runs[0].baselines[key]["latency_s"]
    implied_w = _SPATTEN_W * theirs[1] / theirs[0]
    saving = _saving(platform)(runs)
    at_printed = geomean(run.baselines[key]["energy_j"] / run.seconds / _SPATTEN_W for run in runs)
    return (
        Tried(
            f"platform at the {implied_w:.3g} W that the printed ratios imply, not {ours_w:.3g}",
            saving * implied_w / ours_w,
        ),
        Tried(f"SpAtten at its printed {_SPATTEN_W} W", at_printed),
        Tried("both", at_printed * implied_w / ours_w),
    )


def _of_benchmark(
    outcomes: Mapping[Job, Outcome], name: str, platform: str, title: str
) -> list[Row]:
    bench = read_benchmark(name)
    printed, run, job = bench.published[platform], [outcomes[Job(name)]], trial_of(Job(name))
    changes = [*_CHANGES[_family(name)]]
    changes = changes[-2:-1] if name in BERT else changes[:1]
    if "squad" in name:
        changes = [SHORT_SQUAD, *changes]
    note = (
        f"{bench.input_tokens} tokens are ours"
        if bench.kind == "encoder"
        else "keep ratios by layer as released"
        if bench.layer_keep
        else "keep ratios are the paper's average"
    )
    return [
        Row(
            f"{title}, {name}",
            _speedup(platform)(run),
            printed.speedup,
            "x",
            note,
            changes=tried(changes, [job], outcomes, _speedup(platform)),
            single=True,
        ),
        Row(
            f"{title}, {name}, energy",
            _saving(platform)(run),
            printed.energy_saving,
            "x",
            note,
            changes=_powers(run, platform, (printed.speedup, printed.energy_saving)),
            single=True,
        ),
    ]


FIGURE = Figure("speedup", "Speedup and energy saving over four platforms", "Fig. 14", _JOBS, _rows)
