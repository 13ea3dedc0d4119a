"""Arguments of the wrong kind: one line that names function, argument and what was expected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import accelsim
from accelsim.errors import AccelsimError

CALLS: dict[str, tuple[Callable[[], Any], str]] = {
    "a text for a list": (
        lambda: accelsim.replay("x.csv", baselines="titan-xp"),  # type: ignore[arg-type]
        "replay: argument 'baselines': expected Sequence[str] | None, got 'titan-xp'",
    ),
    "a number for a name": (
        lambda: accelsim.replay("x.csv", accelerator=3),  # type: ignore[arg-type]
        "replay: argument 'accelerator': expected str | AcceleratorConfig, got 3",
    ),
    "by position": (
        lambda: accelsim.replay("x.csv", None),  # type: ignore[arg-type]
        "replay: argument 'accelerator': expected str | AcceleratorConfig, got null",
    ),
    "policies as a text": (
        lambda: accelsim.compare("x.csv", "dense"),  # type: ignore[arg-type]
        "compare: argument 'policies': expected Sequence[str], got 'dense'",
    ),
    "a percentage": (
        lambda: accelsim.tune("x.safetensors", max_loss="5%"),  # type: ignore[arg-type]
        "tune: argument 'max_loss': expected float, got '5%'",
    ),
    "overrides as a list": (
        lambda: accelsim.replay("x.csv", overrides=["channels=8"]),  # type: ignore[arg-type]
        "replay: argument 'overrides': expected Mapping[str, Any] | None, got ['channels=8']",
    ),
    "sources as a text": (
        lambda: accelsim.sweep("x.yaml", sources="y.csv"),
        "sweep: argument 'sources': expected Sequence[str], got 'y.csv'",
    ),
    "workers": (
        lambda: accelsim.sweep("x.yaml", workers="two"),  # type: ignore[arg-type]
        "sweep: argument 'workers': expected int | None, got 'two'",
    ),
    "trials": (
        lambda: accelsim.search("x.yaml", trials=[1]),  # type: ignore[arg-type]
        "search: argument 'trials': expected int | None, got [1]",
    ),
    "order": (
        lambda: accelsim.ablate("a", "b", "x.csv", order="channels"),
        "ablate: argument 'order': expected Sequence[str], got 'channels'",
    ),
    "a result that is no file": (
        lambda: accelsim.diff(1, 2),  # type: ignore[arg-type]
        "diff: argument 'a': expected str | Path, got 1",
    ),
    "a store that is no folder": (
        lambda: accelsim.load_results(None),  # type: ignore[arg-type]
        "load_results: argument 'store': expected str | Path, got null",
    ),
    "something long": (
        lambda: accelsim.replay("x.csv", accelerator=["x"] * 10**6),  # type: ignore[arg-type]
        "expected str | AcceleratorConfig, got ['x', 'x'",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_wrong_kinds_are_named(name: str) -> None:
    call, message = CALLS[name]
    with pytest.raises(AccelsimError) as caught:
        call()
    assert message in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_python_says_what_is_missing() -> None:
    with pytest.raises(TypeError, match="source"):
        accelsim.replay()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="polciy"):
        accelsim.replay("x.csv", polciy="dense")  # type: ignore[call-arg]


def test_right_kinds_pass() -> None:
    result = accelsim.replay("bert-base-cola", overrides={"channels": 8}, baselines=("titan-xp",))
    assert result.metrics["latency_cycles"] > 0
