"""Changes that test why BERT and GPT-2 run at other rates than the paper prints."""

from __future__ import annotations

from dataclasses import replace

from accelsim.reproduction._base import ALL, BERT, GPT2, STREAMED, Change, Job

_PER_LAYER = (("token_selection", "per-layer"),)
_WIDE = (("topk.parallelism", 1024),)
WITHOUT_VALUES = Change("no value pruning", "all-values")
ONCE_A_LAYER = Change("tokens searched once a layer", overrides=_PER_LAYER)
FREE_SEARCH = Change("1,024 comparators", overrides=_WIDE)
BERT_CHANGES = (
    STREAMED,
    ONCE_A_LAYER,
    FREE_SEARCH,
    WITHOUT_VALUES,
    Change("no value pruning, tokens once a layer", "all-values", _PER_LAYER),
    Change(
        "no value pruning, tokens once a layer, 1,024 comparators, streamed",
        "all-values",
        (*_PER_LAYER, *_WIDE),
        "streamed",
    ),
    Change("dense, 12 bit", "dense"),
)
GPT2_CHANGES = (
    STREAMED,
    ONCE_A_LAYER,
    FREE_SEARCH,
    WITHOUT_VALUES,
    Change(
        "streamed, tokens once a layer, 1,024 comparators", "", (*_PER_LAYER, *_WIDE), "streamed"
    ),
)
SHORT_SQUAD = Change("SQuAD inputs as long as RTE's, 70 tokens", input_tokens=70)

_EVERY = 8

FULL = tuple(Job(name) for name in ALL)
"""Every benchmark as it is."""


def trial_of(job: Job) -> Job:
    """Return the job on which causes are tried: of a generation, each eighth step (four of 32)."""
    return replace(job, every=_EVERY) if job.benchmark in GPT2 else job


CAUSES = (
    *(change.of(Job(name)) for change in BERT_CHANGES for name in BERT),
    *(trial_of(Job(name)) for name in GPT2),
    *(change.of(trial_of(Job(name))) for change in GPT2_CHANGES for name in GPT2),
    *(SHORT_SQUAD.of(Job(name)) for name in BERT if "squad" in name),
)
"""All points of these changes."""
