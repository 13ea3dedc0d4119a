"""Table IV: GPT-2-Medium, mean of four tasks, fully connected layers and attention apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from accelsim.reproduction._base import GPT2, Figure, Job, Outcome, Row
from accelsim.reproduction.e2e import EVERY, e2e_job, platform_fc_s

_NAMES = [name for name in GPT2 if "medium" in name]
_JOBS = tuple(e2e_job(name, 8) for name in _NAMES)
_SAMPLED = "four of 32 steps, times eight"


def _rows(outcomes: Mapping[Job, Outcome]) -> list[Row]:
    runs = [outcomes[job] for job in _JOBS]

    def mean(value: Callable[[Outcome], float], scale: float) -> float:
        return EVERY * scale * sum(map(value, runs)) / len(runs)

    gpu = mean(lambda run: run.baselines["titan-xp/framework-2020"]["latency_s"], 1e3)
    fc_gpu = EVERY * 1e3 * sum(platform_fc_s(name, "titan-xp") for name in _NAMES) / len(_NAMES)
    fc = mean(lambda run: run.fc_seconds, 1e3)
    attention = mean(lambda run: run.seconds - run.fc_seconds, 1e3)
    # Of 302 million weights of 8 bit, 32 times.
    rate = 32 * 302e6 / (fc * 1e-3) * 1e-9
    calibrated = "our model of the GPU is calibrated on this number: a check of arithmetic"
    return [
        Row("fully connected, operations", mean(lambda r: r.fc_operations, 1e-9), 19.3, "GOP",
            "32 tokens through 302 million weights"),
        Row("TITAN Xp fully connected", fc_gpu, 388.3, "ms", calibrated, "input"),
        Row("TITAN Xp attention, operations", mean(lambda r: r.dense_operations, 1e-9), 3.3, "GOP",
            _SAMPLED),
        Row("TITAN Xp attention", gpu, 366.7, "ms", calibrated, "input"),
        Row("SpAtten-e2e fully connected, 8 bit", fc, 25.75, "ms",
            f"{rate:.0f} GB/s of weights; the paper's time implies 375"),
        Row("SpAtten-e2e attention, operations", mean(lambda r: r.operations, 1e-9), 0.9, "GOP",
            "keep ratios from the paper's averages, all heads as in the paper's row"),
        Row("SpAtten-e2e attention", attention, 2.13, "ms",
            "keep ratios and 6+4 bit are ours; all heads as in the paper's row"),
        Row("SpAtten-e2e, share of fully connected layers", 100 * fc / (fc + attention), 92.4, "%",
            "from the rows above"),
        Row("SpAtten-e2e over TITAN Xp", (gpu + fc_gpu) / (fc + attention), 755 / 27.88, "x",
            "from the rows above"),
    ]  # fmt: skip


FIGURE = Figure("table4", "GPT-2-Medium, 32 tokens generated", "Table IV", _JOBS, _rows)
