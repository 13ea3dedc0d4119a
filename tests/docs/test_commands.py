"""Every command line that README, docs and --help print is taken by accelsim; many are run."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import click
import pytest

from accelsim.cli import ALIASES, VERBS, main
from accelsim.traces import batch_of, save_trace, synthetic_trace

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = (
    "replay",
    "compare",
    "inspect",
    "verify",
    "ablate",
    "presets",
)
"""Verbs that are run here; the others have end-to-end tests of their own."""
STANDS_FOR = {
    "TRACE": "traces/smollm2-64p-32d.safetensors",
    "SOURCE": "traces/smollm2-64p-32d.safetensors",
    "DIR": "out",
    "FILE.json": "file.json",
    "FILE": "file.out",
}
NEEDS_MORE = (
    "--closed-loop",
    "POLICY",
    "NAME",
    "my-",
    "gemma",
    "every-second",
    "vector-unit",
    "--model",
    "…",
    "[",
)
"""In words of commands that need a model, a file of the user's, or are a pattern."""
TAKE_LONG = ("--policies", "gpt2-small-wikitext2", "32768", "8192")
"""In words of commands that simulate more than a small trace."""


def command_of(verb: str) -> click.Command:
    command: click.Command = importlib.import_module(f"accelsim.cli.{verb}").command
    return command


def written() -> list[str]:
    """Commands of all pages, without their prompts, comments and continuation marks."""
    found: list[str] = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ").replace("\\|", "|")
        found += re.findall(r"^(?:    |)(accelsim [a-z][^\n]*)$", text, re.M)
        found += [" ".join(line.split()) for line in re.findall(r"`(accelsim [a-z][^`]*)`", text)]
    for verb in VERBS:
        help_text = (command_of(verb).help or "").replace("\\\n", " ")
        found += re.findall(r"^\s*(accelsim [a-z][^\n]*)$", help_text, re.M)
    return list(dict.fromkeys(found))


COMMANDS = written()


def words_of(command: str) -> list[str]:
    return shlex.split(command.split(" > ")[0], comments=True)[1:]


def test_commands_are_found() -> None:
    assert len(COMMANDS) > 60
    assert {words_of(command)[0] for command in COMMANDS} >= set(VERBS)


@pytest.mark.parametrize("command", COMMANDS)
def test_verbs_and_options_exist(command: str) -> None:
    verb, *rest = words_of(command)
    verb = ALIASES.get(verb, [verb])[0]
    assert verb in VERBS
    names = {"--help", "-h"}
    commands = [command_of(verb)]
    commands += getattr(commands[0], "commands", {}).values()
    for each in commands:
        for parameter in each.params:
            names |= {*parameter.opts, *parameter.secondary_opts}
    used = {word.strip("[]").split("=")[0] for word in rest if word.strip("[").startswith("-")}
    assert used - {"-"} <= names


def runnable(command: str) -> bool:
    verb, *rest = words_of(command)
    if verb not in RUN or rest in ([], ["--json"]):
        return False
    return not any(mark in word for word in rest for mark in (*NEEDS_MORE, *TAKE_LONG))


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in COMMANDS if runnable(command)])
def test_commands_run(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are printed, on a small trace under the names of the shipped ones."""
    (tmp_path / "traces").mkdir()
    small = {"num_layers": 2, "num_query_heads": 2, "num_kv_heads": 2, "head_dim": 64}
    decoder = synthetic_trace(prefill_tokens=12, decode_tokens=3, **small)
    encoder = synthetic_trace(prefill_tokens=12, decode_tokens=0, causal=False, **small)
    save_trace(decoder, tmp_path / "traces/smollm2-64p-32d.safetensors")
    save_trace(encoder, tmp_path / "traces/minilm-128.safetensors")
    save_trace(batch_of([decoder, decoder]), tmp_path / "batch.safetensors")
    (tmp_path / "traces" / "spatten-gpt2").symlink_to(ROOT / "traces" / "spatten-gpt2")
    monkeypatch.chdir(tmp_path)
    status: object = 0
    try:
        main([STANDS_FOR.get(word, word) for word in words_of(command)])
    except SystemExit as stop:  # as --help ends
        status = stop.code
    assert status in (None, 0)
