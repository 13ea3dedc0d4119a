"""``accelsim inspect``."""

import json

import pytest

from accelsim.cli import main
from accelsim.errors import TraceError
from accelsim.traces import load_trace, save_trace, synthetic_trace


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


def test_shipped_traces_have_names(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["inspect", "minilm-128", "--json", "-"])
    assert json.loads(capsys.readouterr().out)["trace"]["num_layers"] == 6
    with pytest.raises(TraceError, match="did you mean 'minilm-128'"):
        load_trace("minilm-12")
    # A file of that name comes first.
    (tmp_path / "minilm-128").write_bytes(b"")
    with pytest.raises(TraceError, match=r"^minilm-128: "):
        load_trace("minilm-128")
