"""Fig. 19: throughput by top-k parallelism and by SRAM size, one GPT-2 application."""

from __future__ import annotations

from collections.abc import Mapping

from accelsim.reproduction._base import GPT2, STREAMED, Figure, Job, Outcome, Row, Tried

_NAME = "gpt2-medium-ptb"
_TOPK = {1: 168, 2: 299, 4: 485, 8: 653, 16: 776, 32: 771}
_SRAM_KB = {256: (196, 776), 512: (392, 785), 1024: (784, 775)}
_EVERY = 8


def _topk(parallelism: int, name: str = _NAME) -> Job:
    return Job(name, "full", _EVERY, overrides=(("topk.parallelism", parallelism),))


def _sram(lines: int) -> Job:
    return Job(_NAME, "full", _EVERY, overrides=(("buffer_lines", lines),))


_OTHERS = tuple(_topk(16, name) for name in GPT2 if name != _NAME)
_JOBS = (
    *(_topk(p) for p in _TOPK),
    *(STREAMED.of(_topk(p)) for p in _TOPK),
    *(_sram(lines) for lines in _SRAM_KB),
    *_OTHERS,
)


def _rows(outcomes: Mapping[Job, Outcome]) -> list[Row]:
    def rate(job: Job) -> float:
        return outcomes[job].operations / outcomes[job].seconds * 1e-9

    others = [rate(job) for job in _OTHERS]
    note = "the paper names no application; this is gpt2-medium-ptb, computed operations"
    rows = [
        Row(
            f"top-k parallelism {p}",
            rate(_topk(p)),
            float(theirs),
            "GOP/s",
            note,
            changes=(
                Tried(STREAMED.what, rate(STREAMED.of(_topk(p)))),
                *(
                    (Tried("slowest application", min(others)), Tried("fastest", max(others)))
                    if p == 16
                    else ()
                ),
            ),
        )
        for p, theirs in _TOPK.items()
    ]
    base, theirs_base = rate(_topk(16)), float(_TOPK[16])
    streamed_base = rate(STREAMED.of(_topk(16)))
    rows += [
        Row(
            f"top-k parallelism {p}, relative to 16",
            rate(_topk(p)) / base,
            theirs / theirs_base,
            "x",
            "shape of the curve, free of the application's size",
            changes=(Tried(STREAMED.what, rate(STREAMED.of(_topk(p))) / streamed_base),),
        )
        for p, theirs in _TOPK.items()
    ]
    return rows + [
        Row(
            f"key and value SRAM {kb} KB each",
            rate(_sram(lines)),
            float(theirs),
            "GOP/s",
            note,
            changes=(Tried(STREAMED.what, rate(STREAMED.of(_topk(16)))),) if lines == 256 else (),
        )
        for lines, (kb, theirs) in _SRAM_KB.items()
    ]


FIGURE = Figure("design-space", "Top-k parallelism and SRAM size", "Fig. 19", _JOBS, _rows)
