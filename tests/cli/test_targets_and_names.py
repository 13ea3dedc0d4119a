"""Targets are checked before the work, and names are shown as they were given."""

from __future__ import annotations

import ast
import contextlib
import json
import shlex
import sys
from pathlib import Path

import pytest

from accelsim.cli import VERBS, cli, main
from accelsim.errors import redacted, shorten
from accelsim.traces import save_trace, synthetic_trace

ROOT = Path(__file__).parents[2]

# Verbs whose words name nothing that exists: the target is refused before that is noticed.
WRITES = {
    "replay": "replay none.csv --json {}",
    "compare": "compare none.safetensors --json {}",
    "verify": "verify none.safetensors --json {}",
    "verify closed loop": "verify --closed-loop --model none --json {}",
    "sweep": "sweep none.yaml --json {}",
    "search": "search none.yaml --json {}",
    "ablate": "ablate a b none.csv --json {}",
    "tune": "tune none.safetensors --max-loss 1% --json {}",
    "tune out": "tune none.safetensors --max-loss 1% --out {}",
    "report": "report none --json {}",
    "report out": "report none --out {}",
    "diff": "diff none.json none.json --json {}",
    "inspect": "inspect none.safetensors --json {}",
    "validate": "validate timing --json {}",
    "reproduce": "reproduce --only none --json {}",
    "presets": "presets show none --json {}",
    "doctor": "doctor --json {}",
}


@pytest.mark.parametrize("name", WRITES)
def test_targets_are_checked_before_the_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for target, message in (("no/x.json", "cannot be written"), ("folder", "is a folder")):
        with pytest.raises(SystemExit) as stop:
            main(WRITES[name].format(target).split())
        assert stop.value.code == 2
        out, err = capsys.readouterr()
        assert err.startswith(f"error: {target}: ")
        assert message in err
        assert out == ""
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_every_verb_with_json_is_tried() -> None:
    """A new verb must be in the table above."""
    with_json = set()
    for verb in VERBS:
        command = cli.get_command(
            cli.make_context("accelsim", ["--help"], resilient_parsing=True), verb
        )
        options = [o for parameter in command.params for o in parameter.opts]
        if "--json" in options or verb == "presets":
            with_json.add(verb)
    assert with_json == {arguments.split()[0] for arguments in WRITES.values()}


@pytest.fixture
def trace(tmp_path: Path) -> str:
    path = tmp_path / "run[/x] :smile: [bold].safetensors"
    path.parent.mkdir()
    save_trace(synthetic_trace(num_layers=1), path)
    return str(path)


def test_names_with_brackets_are_headings(
    trace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p[").mkdir()
    for name in ("p[old].yaml", "p[/new].yaml"):
        (tmp_path / name).write_text("description: x\n")
    words = ["--policy", "p[old].yaml", "--policy", "p[/new].yaml", "--baseline", "titan-xp"]
    main(["compare", trace, *words])
    heading = capsys.readouterr().out.splitlines()[0]
    assert heading.replace("┃", "").split() == ["p[old].yaml", "p[/new].yaml"]
    main(["replay", trace, "--policy", "p[/new].yaml", "--baseline", "titan-xp"])
    assert "p[/new].yaml" in capsys.readouterr().out.splitlines()[0]
    main(["verify", trace, "--policy", "p[old].yaml"])
    assert "p[old].yaml" in capsys.readouterr().out


def test_names_with_brackets_in_a_sweep(
    trace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    other = Path("b[red].safetensors")
    save_trace(synthetic_trace(num_layers=1, seed=2), other)
    (tmp_path / "s[").mkdir()
    (tmp_path / "s[/].yaml").write_text(
        "axes: [{key: accelerator.channels, values: [8]}]\nsources: [x]\n"
    )
    main(["sweep", str(tmp_path / "s[/].yaml"), "--out", str(tmp_path / "store[/b]"),
          "--source", trace, "--source", str(other)])  # fmt: skip
    out = capsys.readouterr().out
    assert "store[/b]" in out
    assert "b[red].safetensors" in out


def test_consoles_and_progress_read_no_markup() -> None:
    """Rich is told so in one place; nobody else makes a console, a status or a text column."""
    for path in [*(ROOT / "accelsim").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in ("Console", "TextColumn"):
                markup = [k.value for k in node.keywords if k.arg == "markup"]
                assert markup, f"{path}:{node.lineno}"
                assert ast.unparse(markup[0]) == "False"
            if name == "Progress":
                assert path.name == "_options.py"
            if name == "status" and node.args:
                assert ast.unparse(node.args[0]).startswith("Text("), f"{path}:{node.lineno}"


def test_the_command_of_a_manifest_is_the_command(
    trace: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["replay", trace, "--set", "channels=8", "--baseline", "titan-xp", "--json", "-"]
    monkeypatch.setattr(sys, "argv", ["/a b/accelsim", *words])
    main(words)
    command = json.loads(capsys.readouterr().out)["manifest"]["command"]
    assert shlex.split(command) == ["/a b/accelsim", *words]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:hunter2@db/x", "postgresql://me:***@db/x"),
        ("postgresql://me:hun@ter2@db/x", "postgresql://me:***@db/x"),
        ("see mysql://:hunter2@db", "see mysql://:***@db"),
        ("postgresql://db/x?password=hunter2&a=b", "postgresql://db/x?password=***&a=b"),
        ("host=db password=hunter2 user=me", "host=db password=*** user=me"),
        ("tls://db/?auth_token=hunter2", "tls://db/?auth_token=***"),
        # Nothing secret.
        ("policy.quantization.key_bits=8", "policy.quantization.key_bits=8"),
        ("policy.tokens.mean_keep=0.5", "policy.tokens.mean_keep=0.5"),
        ("postgresql://me@db:5432/x", "postgresql://me@db:5432/x"),
        ("tcp://10.0.0.1:8786", "tcp://10.0.0.1:8786"),
    ],
)
def test_passwords_are_hidden(text: str, shown: str) -> None:
    assert redacted(text) == shown


def test_passwords_are_hidden_however_a_library_quotes_them() -> None:
    url = "postgresql://me:p%40ss%2Fword@db/x"
    assert (
        redacted("login 'p@ss/word' failed for p%40ss%2Fword", url) == "login '***' failed for ***"
    )
    assert redacted("a is wrong", "postgresql://me:a@db/x") == "details hidden"


@pytest.mark.parametrize("scheduler", ["tls://me:hunter2@nowhere:1", "ucx://me:hunter2@h", "x:y:z"])
def test_no_password_of_a_scheduler(
    trace: str, scheduler: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("distributed")
    (tmp_path / "s.yaml").write_text(
        "axes: [{key: accelerator.channels, values: [8]}]\nsources: [bert-base-cola]\n"
    )
    with pytest.raises(SystemExit) as stop:
        main(["sweep", str(tmp_path / "s.yaml"), "--out", str(tmp_path / "store"),
              "--executor", "dask", "--scheduler", scheduler])  # fmt: skip
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert "Dask scheduler" in err
    assert "hunter2" not in err


def test_long_messages_lose_their_middle() -> None:
    assert shorten("short") == "short"
    text = shorten("begin " + "x" * 10_000_000 + " end", 60)
    assert len(text) == 60
    assert text.startswith("begin x")
    assert text.endswith("x end")
    assert shorten("a\nb\tc\x1b[0m\udcff") == "a b c\\x1b[0m\\udcff"


@pytest.mark.parametrize(
    "words",
    [
        ["replay", "x" * 5000 + ".csv"],
        ["replay", "x" * 5000],
        ["replay", "bert-base-cola", "--set", "channels=" + "9" * 5000],
        ["replay", "bert-base-cola", "--set", "x" * 9000 + "=1"],
        ["replay", "bert-base-cola", "--set", "x" * 9000],
        ["replay", "bert-base-cola", "--accelerator", "x" * 9000],
        ["replay", "bert-base-cola", "--accelerator", "x" * 9000 + ".yaml"],
        ["replay", "bert-base-cola", "--engine", "x" * 9000],
        ["replay", "bert-base-cola", "--" + "x" * 9000],
        ["x" * 9000],
        ["presets", "show", "x" * 9000],
        ["presets", "list", "x" * 9000],
        ["tune", "t", "--max-loss", "x" * 9000],
        ["sweep", "x" * 9000],
    ],
)
def test_messages_have_300_characters(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert len(err) <= 310


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("version", "accelsim, version"),
        ("-v", "accelsim, version"),
        ("--version", "accelsim, version"),
        ("help", "Verbs:"),
        ("help replay", "Usage: accelsim replay"),
        ("list policies", "spatten-full"),
        ("list benchmarks", "bert-base-cola"),
        ("show spatten-full", "tokens:"),
    ],
)
def test_what_people_try_first(
    words: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.suppress(SystemExit):
        main(words.split())
    out, err = capsys.readouterr()
    assert expected in out
    assert err == ""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("replay", "Usage: accelsim replay [OPTIONS] SOURCE (see 'accelsim replay --help')"),
        ("diff a.json", "Usage: accelsim diff"),
        ("tune t.safetensors", "--max-loss"),
        ("compare t.safetensors --policy dense,h2o", "repeat the option, as in --policy dense"),
        ("compare t.safetensors --policies dense,h2o", "repeat --policy"),
    ],
)
def test_what_is_missing_is_told_with_the_usage(
    words: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    save_trace(synthetic_trace(num_layers=1), "t.safetensors")
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert expected in err
    assert err.count("\n") == 1
