"""``accelsim compare``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accelsim.configs import preset_names
from accelsim.functional import run_policy
from accelsim.policies import applicable, load_policy
from accelsim.traces import load_trace


def test_all_policies(tiny_trace: Path, tmp_path: Path, accelsim: Callable[..., Any]) -> None:
    done = accelsim("compare", tiny_trace, "--policies", "all", "--baseline", "titan-xp",
                    "--out", tmp_path / "out", "--json", "-")  # fmt: skip
    document = done.document()
    trace = load_trace(tiny_trace)
    expected = [n for n in preset_names("policies") if applicable(load_policy(n), trace)]
    assert next(iter(document["results"])) == "dense"
    assert sorted(document["results"]) == expected
    assert "zero-tprune" not in expected
    assert document == json.loads((tmp_path / "out" / "compare.json").read_text())
    report = (tmp_path / "out" / "report.html").read_text()
    assert "Accuracy against DRAM traffic" in report
    assert "streaming-llm" in report


def test_policies_in_the_order_given(tiny_trace: Path, accelsim: Callable[..., Any]) -> None:
    words = ["compare", tiny_trace, "--policy", "static-8", "--policy", "dense"]
    document = accelsim(*words, "--baseline", "titan-xp", "--json", "-").document()
    assert list(document["results"]) == ["static-8", "dense"]
    for name, result in document["results"].items():
        decided = run_policy(load_trace(tiny_trace), load_policy(name)).workload.policy_bytes()
        assert result["schema"] == "accelsim.result/1"
        assert result["metrics"]["policy_read_bytes"] == sum(decided.values())


def test_a_policy_may_be_given_with_changes(
    tiny_trace: Path, tmp_path: Path, accelsim: Callable[..., Any]
) -> None:
    """As ``verify`` takes it; ``--set`` comes last, and a file may have a colon in its name."""
    half = "tova:selection.budget_fraction=0.5"
    words = ["--policy", half, "--baseline", "titan-xp", "--json", "-"]
    found = accelsim("compare", tiny_trace, "--policy", "tova", *words).document()["results"]
    chosen = load_policy("tova", {"selection.budget_fraction": 0.5})
    decided = run_policy(load_trace(tiny_trace), chosen).workload.policy_bytes()
    assert list(found) == ["tova", half]
    assert found[half]["metrics"]["policy_read_bytes"] == sum(decided.values())
    assert found[half]["metrics"] != found["tova"]["metrics"]
    last = ("--set", "policy.selection.budget_fraction=0.25")
    assert (
        accelsim("replay", tiny_trace, *words, *last).document()["metrics"]["policy_read_bytes"]
        == found["tova"]["metrics"]["policy_read_bytes"]
    )
    file = tmp_path / "a:b.yaml"
    file.write_text("extends: tova\n")
    words[1] = str(file)
    mine = accelsim("replay", tiny_trace, *words).document()["metrics"]
    assert mine["policy_read_bytes"] == found["tova"]["metrics"]["policy_read_bytes"]


def test_table(tiny_trace: Path, accelsim: Callable[..., Any]) -> None:
    table = accelsim("compare", tiny_trace, "--baseline", "titan-xp").out
    for words in ("keys, MSB plane", "keys, LSB plane", "dram", "relative output error",
                  "spatten-pruned", "spatten-full", "titan-xp/roofline"):  # fmt: skip
        assert words in table


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bert-base-cola", "--policies", "all"], "bert-base-cola"),
        (["{trace}", "--policies", "some"], "expected 'all'"),
        (["{trace}", "--policy", "dence"], "did you mean 'dense'"),
    ],
)
def test_refusals(
    words: list[str], message: str, tiny_trace: Path, accelsim: Callable[..., Any]
) -> None:
    words = [word.format(trace=tiny_trace) for word in words]
    assert message in accelsim("compare", *words, status=2).err
