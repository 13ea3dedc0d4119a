"""Fig. 15: SpAtten-e2e, fully connected layers included, on the eight GPT-2 benchmarks."""

from __future__ import annotations

from collections.abc import Mapping

from accelsim.baselines import fully_connected_s
from accelsim.reproduction._base import GPT2, PLATFORMS, Figure, Job, Outcome, Row, geomean
from accelsim.workloads import read_benchmark
from accelsim.workloads.models import load_model

EVERY = 8
"""Steps simulated: each eighth, four of 32; contexts of 993 to 1017 instead of 993 to 1024."""
_ACCELERATORS = {12: "spatten-e2e-12bit", 8: "spatten-e2e"}
_PUBLISHED = {
    "titan-xp": {
        "gpt2-small-wikitext2": (31, 44),
        "gpt2-small-wikitext103": (31, 45),
        "gpt2-small-ptb": (31, 46),
        "gpt2-small-1bw": (32, 47),
        "gpt2-medium-wikitext2": (18, 27),
        "gpt2-medium-wikitext103": (18, 27),
        "gpt2-medium-ptb": (19, 27),
        "gpt2-medium-1bw": (19, 28),
    },
    "xeon-e5-2640v4": {
        "gpt2-small-wikitext2": (94, 135),
        "gpt2-small-wikitext103": (96, 139),
        "gpt2-small-ptb": (96, 140),
        "gpt2-small-1bw": (98, 145),
        "gpt2-medium-wikitext2": (71, 104),
        "gpt2-medium-wikitext103": (72, 105),
        "gpt2-medium-ptb": (73, 108),
        "gpt2-medium-1bw": (74, 110),
    },
}
"""Speedup with 12- and with 8-bit weights."""
_WHY = {
    "titan-xp": "GPU time of both parts is Table IV's for GPT-2-Medium, and a prediction for Small",
    "xeon-e5-2640v4": "Xeon's time is derived from the 8-bit row of GPT-2-Medium (Fig. 15)",
}


def e2e_job(name: str, bits: int) -> Job:
    """The point of a benchmark: no pruning of heads, as Table IV's count of operations shows."""
    model = (("model", read_benchmark(name).model),)
    return Job(name, "all-heads", EVERY, _ACCELERATORS[bits], model)


def platform_fc_s(name: str, platform: str) -> float:
    """Fully connected layers of the steps that :func:`e2e_job` simulates, on a platform."""
    bench = read_benchmark(name)
    steps = len(range(0, bench.generated_tokens, EVERY))
    weights = load_model(bench.model).layer_weights()
    return fully_connected_s(platform, weights, 1, steps * bench.layers)


_JOBS = tuple(e2e_job(name, bits) for name in GPT2 for bits in _ACCELERATORS)


def _rows(outcomes: Mapping[Job, Outcome]) -> list[Row]:
    rows = []
    for platform, published in _PUBLISHED.items():
        for column, bits in enumerate(_ACCELERATORS):
            title = f"{PLATFORMS[platform]}, {bits}-bit weights"
            singles = []
            for name, printed in published.items():
                run = outcomes[e2e_job(name, bits)]
                attention = run.baselines[f"{platform}/framework-2020"]["latency_s"]
                ours = (attention + platform_fc_s(name, platform)) / run.seconds
                singles.append(
                    Row(
                        f"{title}, {name}",
                        ours,
                        float(printed[column]),
                        "x",
                        _WHY[platform],
                        "input" if platform.startswith("xeon") else "prediction",
                        single=True,
                    )
                )
            means = (geomean(row.ours for row in singles), geomean(r.theirs or 1 for r in singles))
            kind = singles[0].kind
            rows += [Row(f"{title}, geomean", *means, "x", _WHY[platform], kind), *singles]
    return rows


FIGURE = Figure("e2e", "SpAtten-e2e, whole models", "Fig. 15", _JOBS, _rows)
