"""§V-B: DRAM access and computation that pruning and quantization save."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from accelsim.reproduction._base import (
    ALL,
    BERT,
    GPT2,
    Change,
    Figure,
    Job,
    Outcome,
    Row,
    Tried,
    geomean,
    total,
)
from accelsim.reproduction._causes import FULL, WITHOUT_VALUES

_SIX = Change("BERT's keys and values at 6 bit", "pruned-static-6")
_UNQUANTIZED = Change("pruned, 12 bit", "heads")
_EVERY = 8
_TO_FP32 = 32 / 12
_PRINTED = 5.1
"""DRAM access that quantization saves (SpAtten §I, §III-D)."""


def _sampled(name: str) -> Job:
    return Job(name, every=_EVERY) if name in GPT2 else Job(name)


_JOBS = (
    *FULL,
    *(_UNQUANTIZED.of(_sampled(name)) for name in ALL),
    *(_sampled(name) for name in GPT2),
    *(_SIX.of(Job(name)) for name in BERT),
    *(WITHOUT_VALUES.of(Job(name)) for name in BERT),
)
_INPUT = "keep ratios are set from the paper's averages: this checks the accounting"


def _ratio(
    runs: Sequence[Outcome], over: Callable[[Outcome], float], under: Callable[[Outcome], float]
) -> tuple[float, float]:
    """Total over total, and geometric mean of the benchmarks' ratios."""
    return (
        total(runs, over) / total(runs, under),
        geomean(over(run) / under(run) for run in runs),
    )


def _dram(runs: Sequence[Outcome]) -> tuple[float, float]:
    return _ratio(runs, lambda r: r.dense_fp32_bytes, lambda r: r.dram_bytes)


def _work(runs: Sequence[Outcome]) -> tuple[float, float]:
    return _ratio(runs, lambda r: r.dense_operations, lambda r: r.operations)


def _rows(outcomes: Mapping[Job, Outcome]) -> list[Row]:
    families = {"all": ALL, "BERT": BERT, "GPT-2": GPT2}
    of = {family: [outcomes[Job(name)] for name in names] for family, names in families.items()}
    other = {
        change.what: [outcomes[change.of(Job(n)) if n in BERT else Job(n)] for n in ALL]
        for change in (_SIX, WITHOUT_VALUES)
    }
    quantized = {family: _quantization(outcomes, names) for family, names in families.items()}
    # As if BERT's bytes were the printed factor below those of single precision.
    printed = [
        *of["GPT-2"],
        *(_scaled(run, quantized["BERT"][1] / _PRINTED) for run in of["BERT"]),
    ]
    rows = []
    for place, way in enumerate(("mean of benchmarks", "total over total")):
        rows += [
            Row(
                f"DRAM access, all, {way}",
                _dram(of["all"])[1 - place],
                10.0,
                "x",
                _INPUT,
                "input",
                (
                    Tried(f"BERT quantized by the printed {_PRINTED}", _dram(printed)[1 - place]),
                    *(Tried(what, _dram(runs)[1 - place]) for what, runs in other.items()),
                ),
            ),
            Row(f"DRAM access, BERT, {way}", _dram(of["BERT"])[1 - place], None, "x", _INPUT,
                "input"),
            Row(f"DRAM access, GPT-2, {way}", _dram(of["GPT-2"])[1 - place], None, "x", _INPUT,
                "input"),
            Row(
                f"computation, all, {way}",
                _work(of["all"])[1 - place],
                2.1,
                "x",
                _INPUT,
                "input",
                (Tried("BERT without value pruning",
                       _work(other[WITHOUT_VALUES.what])[1 - place]),),
            ),
            Row(f"computation, GPT-2, {way}", _work(of["GPT-2"])[1 - place], 3.8 * 1.1, "x", _INPUT,
                "input"),
        ]  # fmt: skip
    note = "pruned in single precision over quantized; queries and outputs at 12 bit"
    rows += [
        Row(
            f"DRAM access by quantization alone, {family}, mean of benchmarks",
            quantized[family][1],
            _PRINTED,
            "x",
            note + ("; 8 bit is ours" if family == "BERT" else ""),
            "input",
            (Tried("keys and values at 6 bit", _quantization(outcomes, BERT, _SIX)[1]),)
            if family == "BERT"
            else (),
        )
        for family in families
    ]
    return rows


def _quantization(
    outcomes: Mapping[Job, Outcome], names: Sequence[str], change: Change | None = None
) -> tuple[float, float]:
    """Bytes of single precision over those of the policy's widths, nothing else changed."""
    pairs = [
        (
            outcomes[_UNQUANTIZED.of(_sampled(name))],
            outcomes[_sampled(name) if change is None else change.of(_sampled(name))],
        )
        for name in names
    ]
    whole = total((before for before, _ in pairs), lambda r: _TO_FP32 * r.dram_bytes)
    return (
        whole / total((after for _, after in pairs), lambda r: r.dram_bytes),
        geomean(_TO_FP32 * before.dram_bytes / after.dram_bytes for before, after in pairs),
    )


def _scaled(run: Outcome, factor: float) -> Outcome:
    return replace(run, dram_bytes=round(run.dram_bytes * factor))


FIGURE = Figure("reductions", "DRAM access and computation saved", "§V-B", _JOBS, _rows)
