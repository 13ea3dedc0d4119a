"""``accelsim tune``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accelsim.errors import AccelsimError
from accelsim.exploration._tune_space import families
from accelsim.functional import run_policy
from accelsim.policies import load_policy
from accelsim.traces import load_trace


def test_the_limit_holds_and_the_file_is_the_policy(
    tiny_trace: Path, tmp_path: Path, accelsim: Callable[..., Any]
) -> None:
    out, target = tmp_path / "tuned.yaml", tmp_path / "tuned.json"
    words = ["tune", tiny_trace, "--max-loss", "5%", "--out", out, "--json", target]
    done = accelsim(*words)
    document = json.loads(target.read_text())
    assert document["schema"] == "accelsim.tune/1"
    accuracy = run_policy(load_trace(tiny_trace), load_policy(str(out))).accuracy
    assert accuracy["relative_output_error"] == pytest.approx(document["loss"])
    assert 0 < document["loss"] <= document["max_loss"] == 0.05
    before, after = (document[k]["metrics"]["dram_read_bytes"] for k in ("before", "after"))
    assert after < before
    assert f"{before / after:.2f}x" in done.out
    assert f"wrote {out}" in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-loss", "0"], "expected more than 0"),
        (["--max-loss", "one"], "expected a number"),
        (["--max-loss", "5%", "--closed-loop"], "unknown option '--closed-loop'"),
        (["--max-loss", "5%", "--held-out", "2"], "--held-out goes with a model"),
        (["--max-loss", "5%", "--accelerator", "a3-base"], "expected an attention trace"),
    ],
)
def test_refusals(
    words: list[str],
    message: str,
    tiny_trace: Path,
    tmp_path: Path,
    accelsim: Callable[..., Any],
) -> None:
    out = tmp_path / "no.yaml"
    refused = accelsim("tune", tiny_trace, *words, "--out", out, status=2)
    assert message in refused.err
    assert not out.exists()


def test_help_names_the_rules_that_are_tried(accelsim: Callable[..., Any]) -> None:
    # Written out there: what it is made from takes too long to import for a help text.
    shown = " ".join(accelsim("tune", "--help").out.split())
    tried = list(dict.fromkeys(f.rule for f in families([], causal=True, tokens=64, prompt=True)))
    assert f"default: {', '.join(tried)}, those" in shown
    with pytest.raises(AccelsimError, match="expected one of widths, spatten, ") as refused:
        families(["lasso"], causal=True, tokens=64, prompt=True)
    known = str(refused.value).partition("one of ")[2].split(", ")
    others = [rule for rule in known if rule not in tried]
    assert f"Others: {', '.join(others)}. An encoder has the first two." in shown
    assert [f.rule for f in families([], causal=False, tokens=64)] == tried[:2]
