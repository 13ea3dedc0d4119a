"""Fig. 19: throughput by top-k parallelism and by SRAM size, one GPT-2 application."""

from __future__ import annotations

from collections.abc import Mapping

from accelsim.reproduction._base import Figure, Job, Outcome, Row

_NAME = "gpt2-medium-ptb"
_TOPK = {1: 168, 2: 299, 4: 485, 8: 653, 16: 776, 32: 771}
_SRAM_KB = {256: (196, 776), 512: (392, 785), 1024: (784, 775)}


def _topk(parallelism: int) -> Job:
    return Job(_NAME, "full", 8, overrides=(("topk.parallelism", parallelism),))


def _sram(lines: int) -> Job:
    return Job(_NAME, "full", 8, overrides=(("buffer_lines", lines),))


_JOBS = (*(_topk(p) for p in _TOPK), *(_sram(lines) for lines in _SRAM_KB))


def _rows(outcomes: Mapping[Job, Outcome]) -> list[Row]:
    def rate(job: Job) -> float:
        return outcomes[job].operations / outcomes[job].seconds * 1e-9

    why = "the paper does not say which application; ours is gpt2-medium-ptb, pruned operations"
    rows = [
        Row(f"top-k parallelism {p}", rate(_topk(p)), float(theirs), "GOP/s", why)
        for p, theirs in _TOPK.items()
    ]
    base, theirs_base = rate(_topk(16)), float(_TOPK[16])
    rows += [
        Row(
            f"top-k parallelism {p}, relative to 16",
            rate(_topk(p)) / base,
            theirs / theirs_base,
            "x",
            "shape of the curve, free of the application's size",
        )
        for p, theirs in _TOPK.items()
    ]
    return rows + [
        Row(f"key and value SRAM {kb} KB each", rate(_sram(lines)), float(theirs), "GOP/s", why)
        for lines, (kb, theirs) in _SRAM_KB.items()
    ]


FIGURE = Figure("design-space", "Top-k parallelism and SRAM size", "Fig. 19", _JOBS, _rows)
