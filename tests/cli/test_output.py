"""Standard output in any encoding, closed early, full, and named as a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from accelsim.traces import save_trace, synthetic_trace


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trace") / "t.safetensors"
    save_trace(synthetic_trace(num_layers=1), path)
    return path


def run(command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    line = command.replace("accelsim", f"{sys.executable} -m accelsim", 1)
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_any_encoding_prints(trace: Path, encoding: str) -> None:
    done = run(f"accelsim replay {trace}", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert "latency" in done.stdout.decode(encoding)


@pytest.mark.parametrize("command", ["--help", "presets list accelerators", "presets show h100"])
def test_a_reader_that_leaves_is_no_error(command: str) -> None:
    done = run(f"accelsim {command} | true")
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("command", ["--help", "presets list accelerators"])
def test_a_full_disk_is_one_line(command: str) -> None:
    done = run(f"accelsim {command} > /dev/full")
    assert done.returncode == 2
    assert done.stderr == b"error: output cannot be written (No space left on device)\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_output_is_no_error(trace: Path, closed: str) -> None:
    done = run(f"accelsim inspect {trace} {closed}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("how", ["| cat", "> {}"])
def test_standard_output_named_as_a_file(trace: Path, tmp_path: Path, how: str) -> None:
    out = tmp_path / "out"
    done = run(f"accelsim inspect {trace} --json /dev/stdout {how.format(out)}")
    assert done.returncode == 0, done.stderr
    text = (done.stdout or out.read_bytes()).decode()
    document, _ = json.JSONDecoder().raw_decode(text[text.index("{") :])
    assert document["layers"]


def test_the_end_of_a_file_is_not_taken_for_ctrl_c(tmp_path: Path) -> None:
    script = (
        "import accelsim.cli, click\n"
        "def cut(*_): raise EOFError('Ran out of input')\n"
        "accelsim.cli.cli.invoke = cut\n"
        "accelsim.cli.main(['presets', 'list'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 1
    assert b"EOFError" in done.stderr
    assert b"interrupted" not in done.stderr


@pytest.mark.parametrize("words", ["--quiet replay {}", "replay {} --quiet"])
def test_quiet_says_results_and_errors_only(trace: Path, tmp_path: Path, words: str) -> None:
    loud = run(f"accelsim replay {trace} --out {tmp_path / 'a'}")
    assert b"note: " in loud.stderr
    assert b"wrote " in loud.stderr
    done = run(f"accelsim {words.format(trace)} --out {tmp_path / 'b'}")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == loud.stdout
    assert run(f"accelsim {words.format('none.csv')}").stderr.startswith(b"error: ")
