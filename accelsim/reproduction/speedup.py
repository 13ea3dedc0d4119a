"""Fig. 14: speedup and energy saving over four platforms, per benchmark and as geometric means."""

from __future__ import annotations

from collections.abc import Mapping

from accelsim.reproduction._base import (
    ALL,
    BERT,
    GPT2,
    PLATFORMS,
    Figure,
    Job,
    Outcome,
    Row,
    geomean,
)
from accelsim.workloads import read_benchmark

_JOBS = tuple(Job(name) for name in ALL)
_READING = "framework-2020"
_WHY_TIME = {
    "titan-xp": "time per operator from Table IV's 366.7 ms; it is the same for a short sentence",
    "xeon-e5-2640v4": "TITAN Xp's time per operator taken for a host that prints none",
    "jetson-nano": "5 ms a layer is an assumption of ours; the paper prints no latency",
    "raspberry-pi-4": "time per operator from 43 s for a 30-token sentence (§I)",
}
_WHY_ENERGY = {
    "titan-xp": "TDP less idle, 235 W; the paper's two ratios imply 61 W measured",
    "xeon-e5-2640v4": "TDP less idle, 70 W; the paper's two ratios imply 97 W",
    "jetson-nano": "board limit less idle, 8.75 W; the paper's two ratios imply 3.1 W",
    "raspberry-pi-4": "3.2 W measured elsewhere, as the paper's ratios imply",
}


def _pair(outcome: Outcome, platform: str) -> tuple[float, float]:
    row = outcome.baselines[f"{platform}/{_READING}"]
    return row["latency_s"] / outcome.seconds, row["energy_j"] / outcome.access_energy_j


def _rows(outcomes: Mapping[Job, Outcome]) -> list[Row]:
    published = {name: read_benchmark(name).published for name in ALL}
    rows = []
    for platform, title in PLATFORMS.items():
        ours = {job.benchmark: _pair(outcomes[job], platform) for job in _JOBS}
        tuned = {
            job.benchmark: outcomes[job].baselines[f"{platform}/roofline"]["latency_s"]
            / outcomes[job].seconds
            for job in _JOBS
        }
        for family, names in (("all", ALL), ("BERT", BERT), ("GPT-2", GPT2)):
            theirs = [published[name][platform] for name in names]
            rows.append(
                Row(
                    f"{title}, speedup, geomean of {family}",
                    geomean(ours[name][0] for name in names),
                    geomean(p.speedup for p in theirs),
                    "x",
                    _WHY_TIME[platform],
                )
            )
            rows.append(
                Row(
                    f"{title}, energy saving, geomean of {family}",
                    geomean(ours[name][1] for name in names),
                    geomean(p.energy_saving for p in theirs),
                    "x",
                    _WHY_ENERGY[platform],
                )
            )
        rows.append(
            Row(
                f"{title}, speedup over a tuned kernel, geomean of all",
                geomean(tuned.values()),
                None,
                "x",
                "the same device with one fused kernel a layer; the paper measured PyTorch of 2020",
            )
        )
        rows.append(
            Row(
                f"{title}, energy saving with idle power of both sides, geomean of all",
                geomean(
                    outcomes[job].baselines[f"{platform}/{_READING}"]["energy_with_idle_j"]
                    / sum(outcomes[job].energy_j_by_part.values())
                    for job in _JOBS
                ),
                None,
                "x",
                "all power of the platform against all energy, DRAM background included",
            )
        )
        for name in ALL:
            why, printed = _why_single(name), published[name][platform]
            rows += [
                Row(f"{title}, {name}", ours[name][0], printed.speedup, "x", why),
                Row(f"{title}, {name}, energy", ours[name][1], printed.energy_saving, "x", why),
            ]
    return rows


def _why_single(name: str) -> str:
    bench = read_benchmark(name)
    if bench.kind == "encoder":
        return f"{bench.input_tokens} tokens are ours; the platform's time hardly depends on them"
    if bench.layer_keep:
        return "keep ratios by layer as in the released workload"
    return "keep ratios are the paper's average; its ratio for the task is not printed"


FIGURE = Figure("speedup", "Speedup and energy saving over four platforms", "Fig. 14", _JOBS, _rows)
