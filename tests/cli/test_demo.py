"""The first visit: its numbers are those of its runs, its words say them, its page holds them."""

from __future__ import annotations

import csv
import html
import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from accelsim.cli import main
from accelsim.reports._demo import DEMO_STEPS, loss_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one run left: the document, the page."""
    folder = tmp_path_factory.mktemp("demo")
    main(["demo", "--out", str(folder)])
    return {
        "document": json.loads((folder / "demo.json").read_text()),
        "page": html.unescape((folder / "report.html").read_text(encoding="utf-8")),
    }


@pytest.mark.slow
def test_its_words_are_its_numbers(shown: dict[str, Any]) -> None:
    document = shown["document"]
    words, runs, gpu = (document[name] for name in ("words", "trace", "gpu_s"))
    assert len(words) == 10
    dense, tuned, _ = (run["metrics"] for run in runs.values())
    faster = dense["decode_latency_cycles"] / tuned["decode_latency_cycles"]
    fewer = dense["decode_policy_read_bytes"] / tuned["decode_policy_read_bytes"]
    assert faster > 1.2  # else it shows nothing
    assert f"decodes a token {faster:.3g} times faster than dense" in words[0]
    assert f"with {fewer:.3g} times fewer bytes" in words[0]
    token_s = tuned["decode_cycles_per_token"] * 1e-9
    ratios = [seconds / token_s for seconds in gpu["a100"]["token"]]
    shape = "{:.3g} times faster ({:.3g} to {:.3g}) than an A100"
    assert shape.format(*ratios) in words[1]
    # One search a layer behind the prompt, and the last query's scores: less than 1 %.
    share = tuned["prefill_latency_cycles"] / dense["prefill_latency_cycles"]
    assert share == pytest.approx(1, abs=0.01)
    assert words[3].startswith("Not gained: the prompt takes as long as dense")
    for name, run in runs.items():
        assert run["manifest"]["dependencies"] == "causal", name
    for sentence in words:
        assert sentence in shown["page"]


@pytest.mark.slow
def test_prompt_and_tokens_of_a_gpu_are_the_whole(shown: dict[str, Any]) -> None:
    """What is told apart adds up to the baseline of the whole run."""
    document = shown["document"]
    for name, spans in document["gpu_s"].items():
        whole = document["trace"]["dense"]["baselines"][f"{name}/measured-kernel"]
        # The fastest framework of each part is at least as fast as the fastest of both.
        total = spans["prompt"][0] + 32 * spans["token"][0]
        assert 0.9 * whole["latency_s"] < total <= whole["latency_s"] * 1.001
        assert spans["token"][1] < spans["token"][0] < spans["token"][2]


@pytest.mark.slow
def test_a_token_behind_the_long_context_evicts_once(shown: dict[str, Any]) -> None:
    table = shown["document"]["tables"][1]
    runs = shown["document"]["long"]
    assert [row[0] for row in table["rows"]][:3] == list(runs)
    kept = runs["176 tokens"]["metrics"]
    # 32 layers, 8 KV heads, 176 keys and values of 128 elements at 6 bit, a scale of 2 bytes each.
    per_token = 32 * 8 * 176 * (2 * 128 * 6 // 8 + 2)
    assert kept["decode_policy_read_bytes"] == 2 * per_token


@pytest.mark.slow
def test_the_readme_shows_what_it_prints(shown: dict[str, Any]) -> None:
    visit = runpy.run_path(str(ROOT / "docs/first_visit.py"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    begin, end = visit["MARKS"]
    assert readme.partition(begin)[2].partition(end)[0].strip() == visit["shown"](shown["document"])


def test_stated_losses_are_the_measured_ones() -> None:
    with (ROOT / "docs/tuning/smollm2.csv").open(encoding="utf-8") as table:
        (row,) = [row for row in csv.DictReader(table) if row["name"] == "tova-smollm2-1pct"]
    stated = loss_of("tova-smollm2-1pct")
    for name in ("loss", "loss_low", "loss_high", "held_out_loss"):
        assert f"{100 * float(row[name]):.2f}" in stated
    assert loss_of("spatten-full").startswith("Loss +68 %")
    assert loss_of("dense") == ""


def test_progress_and_a_folder_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert DEMO_STEPS == 6
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as end:
        main(["demo", "--out", str(tmp_path / "file" / "x")])
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
