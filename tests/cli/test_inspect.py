"""``accelsim inspect``."""

import json

import pytest

from accelsim.cli import main
from accelsim.traces import save_trace, synthetic_trace


@pytest.fixture
def path(tmp_path):
    save_trace(synthetic_trace(), tmp_path / "t.safetensors")
    return tmp_path / "t.safetensors"


def test_json_and_plot(path, capsys):
    plots = [path.with_suffix(suffix) for suffix in (".svg", ".png")]
    for plot in plots:
        main(["inspect", str(path), "--json", "-", "--plot", str(plot)])
        document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "accelsim.inspect/1"
    assert [record["layer"] for record in document["layers"]] == [0, 1]
    assert document["trace"]["prefill_tokens"] == 12
    assert plots[0].read_text().startswith("<?xml")
    assert plots[1].read_bytes().startswith(b"\x89PNG")


def test_table(path, capsys):
    main(["inspect", str(path)])
    out = capsys.readouterr().out
    assert "synthetic_trace(seed=0)" in out
    assert "all finite" in out


@pytest.mark.parametrize(
    ("name", "plot", "message"),
    [("t", "x.pdf", ".svg or .png"), ("t", "no/x.svg", "does not exist"), ("u", None, "no such")],
)
def test_refusals(path, capsys, name, plot, message):
    extra = [] if plot is None else ["--plot", str(path.parent / plot)]
    with pytest.raises(SystemExit) as stop:
        main(["inspect", str(path.parent / f"{name}.safetensors"), *extra])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
