"""Help is quick because it loads no library that computes: checked by what gets imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from accelsim.cli import VERBS, main

HEAVY = (
    "numpy", "numba", "matplotlib", "pyarrow", "pandas", "scipy", "torch", "transformers",
    "optuna", "dask", "rich", "jinja2", "simpy", "safetensors", "pydantic",
    "accelsim.traces", "accelsim.functional", "accelsim.hardware", "accelsim.exploration",
    "accelsim.reports",
)  # fmt: skip
PROGRAM = """
import sys
from accelsim.cli import main
try:
    main(sys.argv[1:])
finally:
    print(*sys.modules, sep="\\n", file=sys.stderr)
"""


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_loads_nothing_heavy(verb):
    words = [verb] if verb else []
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words, "--help"], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert "Usage: accelsim" in done.stdout
    if verb not in ("", "presets"):
        assert "Examples:" in done.stdout
    loaded = set(done.stderr.split())
    assert "accelsim.cli" in loaded
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--hlep", "; did you mean '--help'?"),
        ("--polcy", "; did you mean '--policy'?"),
        ("--acelerator=x", "; did you mean '--accelerator'?"),
        ("--memory", "; an accelerator names its own, and --set memory=NAME another"),
        ("--foo", ""),
        ("--verbose", ""),
        ("-q", ""),
        ("--", ""),
    ],
)
def test_only_an_option_near_by_is_offered(
    option: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["replay", option])
    assert end.value.code == 2
    err = capsys.readouterr().err
    name = option.partition("=")[0]
    if option == "--":  # the end of options; what is missing then is the source
        assert "Missing argument" in err
    else:
        assert err == f"error: unknown option '{name}'{said}\n"
