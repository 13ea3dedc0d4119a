"""What a shell is told: names that exist, and that files may be meant."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from accelsim.cli import VERBS
from accelsim.configs import preset_names
from accelsim.traces import trace_names
from accelsim.workloads import benchmark_names


def completed(*words: str) -> tuple[set[str], bool]:
    """Names that bash is offered for the last word, and whether files are."""
    environment = {
        **os.environ,
        "_ACCELSIM_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["accelsim", *words]),
        "COMP_CWORD": str(len(words)),
    }
    program = "from accelsim.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    pairs = [line.split(",", 1) for line in done.stdout.splitlines()]
    return {name for kind, name in pairs if kind == "plain"}, any(k == "file" for k, _ in pairs)


@pytest.mark.parametrize(
    ("words", "expected", "files"),
    [
        (["replay", "gpt2-small"], {n for n in benchmark_names() if n[:10] == "gpt2-small"}, True),
        (["replay", "smol"], {n for n in trace_names() if n.startswith("smol")}, True),
        (["verify", "mini"], {"minilm-128"}, True),
        (["compare", "bert"], set(), True),  # a benchmark has no tensors
        (["replay", "x.csv", "--policy", "spatten"],
         {n for n in preset_names("policies") if n.startswith("spatten")}, True),
        (["compare", "x", "--policy", "dense", "--policy", "h2"], {"h2o"}, True),
        (["replay", "x", "--accelerator", "a3-"],
         {n for n in preset_names("accelerators") if n.startswith("a3-")}, True),
        (["ablate", "spatten-paper", "spatten-rtl-e"], {"spatten-rtl-eighth"}, True),
        (["sweep", "topk"], {"topk-parallelism"}, True),
        (["presets", "show", "hbm2e"], {"hbm2e"}, False),
        (["presets", "list", "po"], {"policies"}, False),
        (["report", "gpt2"], set(), True),
    ],
)  # fmt: skip
def test_names(words: list[str], expected: set[str], files: bool) -> None:
    names, offers_files = completed(*words)
    assert names == expected
    assert offers_files == files


def test_verbs_and_options() -> None:
    assert completed("s")[0] == {verb for verb in VERBS if verb.startswith("s")}
    assert "--policy" in completed("replay", "--po")[0]
