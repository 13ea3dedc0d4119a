"""Tuning inside a model: the limit holds as measured, figures repeat, and a stopped run goes on."""

from __future__ import annotations

import csv
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accelsim.cli import main
from accelsim.errors import AccelsimError, TraceError
from accelsim.exploration import tune_model
from accelsim.functional.closed_loop import PerplexityLoss, perplexity
from accelsim.policies import Policy, load_policy
from accelsim.traces.capture import KVCache
from accelsim.traces.capture._decoder import Decoder, DecoderShape

SHAPE = DecoderShape(4, 4, 2, 8, 256, 100.0, 1e-5)
VOCABULARY, WIDTH = 64, 32


class TinyModel:
    """A random Llama of four layers."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.shape = SHAPE
        shapes = {"token_embd": (VOCABULARY, WIDTH), "output_norm": (WIDTH,)}
        for layer in range(SHAPE.num_layers):
            block = f"blk.{layer}."
            shapes |= {
                f"{block}attn_norm": (WIDTH,), f"{block}ffn_norm": (WIDTH,),
                f"{block}attn_q": (32, WIDTH), f"{block}attn_k": (16, WIDTH),
                f"{block}attn_v": (16, WIDTH), f"{block}attn_output": (WIDTH, 32),
                f"{block}ffn_gate": (48, WIDTH), f"{block}ffn_up": (48, WIDTH),
                f"{block}ffn_down": (WIDTH, 48),
            }  # fmt: skip
        weights = {
            f"{name}.weight": rng.normal(scale=shape[-1] ** -0.5, size=shape).astype(np.float32)
            for name, shape in shapes.items()
        }
        for name in weights:
            if "norm" in name:
                weights[name] = np.ones(WIDTH, dtype=np.float32)
        self._decoder = Decoder(SHAPE, weights)
        self.calls = 0

    def new_cache(self) -> KVCache:
        return KVCache()

    def encode(self, text: str) -> list[int]:
        return [ord(character) % VOCABULARY for character in text]

    def forward(
        self, token_ids: Any, attend: Any, cache: Any = None, last_only: bool = False
    ) -> Any:
        self.calls += 1
        return self._decoder.forward(token_ids, cache or KVCache(), attend, last_only)


def windows(count: int, seed: int = 0) -> dict[str, list[int]]:
    rng = np.random.default_rng(seed)
    return {f"w{i}": rng.integers(0, VOCABULARY, size=64).tolist() for i in range(count)}


def looped(model: TinyModel) -> PerplexityLoss:
    return PerplexityLoss(model, "tiny", windows(1), windows(1, 1), skip=16)


def tuned(model: TinyModel, store: Path, **options: Any) -> Any:
    given = {"bound": "estimate", "evaluations": 6, "rules": ("tova", "spatten")}
    return tune_model(looped(model), 0.05, store, **(given | options))


def test_the_limit_holds_as_measured_again(tmp_path: Path) -> None:
    model = TinyModel()
    found = tuned(model, tmp_path / "s", beside=("per-token-8",))
    best = found.best
    assert best.loss.loss <= 0.05
    assert best.loss.reduction > 1.5
    dense, again = (
        perplexity(model, list(windows(1).values()), p, skip=16) for p in (Policy(), best.policy)
    )
    assert best.loss.loss == pytest.approx(again.perplexity / dense.perplexity - 1)
    assert best.loss.reduction == pytest.approx(dense.dram_bytes / again.dram_bytes)
    assert best.loss.low < best.loss.loss < best.loss.high
    assert best.held_out is not None
    assert best.held_out.dense != best.loss.dense
    assert {"dense", "per-token-8"} <= {p.name for p in found.points}
    front = found.front()
    assert [p.loss.loss for p in front] == sorted((p.loss.loss for p in front), reverse=True)
    assert all(p.cost.cycles > 0 and p.cost.energy_j > 0 for p in found.points)

    # The same command finds everything in the store, and the same policy.
    model.calls = 0
    same = tuned(model, tmp_path / "s", beside=("per-token-8",))
    assert model.calls == 0
    assert same.to_dict() == found.to_dict()


def test_a_tuning_that_was_stopped_goes_on(tmp_path: Path) -> None:
    model, seen = TinyModel(), []

    def stop(stage: str, done: int, total: int) -> None:
        seen.append(stage)
        if stage == "search" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned(model, tmp_path / "s", on_progress=stop)
    before, model.calls = model.calls, 0
    on = tuned(model, tmp_path / "s")
    rest, model.calls = model.calls, 0
    assert on.to_dict() == tuned(model, tmp_path / "fresh").to_dict()
    assert rest < model.calls < before + rest + 4


def test_the_upper_end_is_the_stricter_bound(tmp_path: Path) -> None:
    model = TinyModel()
    strict = tuned(model, tmp_path / "s", bound="upper")
    assert strict.best.loss.high <= 0.05
    assert strict.best.loss.dram_bytes >= tuned(model, tmp_path / "s").best.loss.dram_bytes


@pytest.mark.parametrize("minimize", ["latency", "energy"])
def test_time_and_energy_are_goals(tmp_path: Path, minimize: Any) -> None:
    found = tuned(TinyModel(), tmp_path / "s", minimize=minimize, rules=("widths", "tova"))
    within = [p.cost for p in found.points if p.loss.loss <= 0.05]
    name = "cycles" if minimize == "latency" else "energy_j"
    assert getattr(found.best.cost, name) == min(getattr(cost, name) for cost in within)


def test_bad_input(tmp_path: Path) -> None:
    model = TinyModel()
    for options, message in (
        ({"rules": ("tovaa",)}, "did you mean 'tova'"),
        ({"rules": ("snapkv",)}, "expected one of"),
        ({"evaluations": 0}, "at least 1"),
        ({"layers_per_group": 9}, "expected 1 to 4"),
        ({"accelerator": "a3-base"}, "rule of its own"),
        ({"beside": ("nothing-such",)}, "nothing-such"),
    ):
        with pytest.raises(AccelsimError, match=message):
            tuned(model, tmp_path / "s", **options)
    for limit in (0.0, -0.01, 1.0, float("nan")):
        with pytest.raises(AccelsimError, match="more than 0 and less than 1"):
            tune_model(looped(model), limit, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(TraceError, match=r"window 'w0' has 64 tokens; expected 66"):
        PerplexityLoss(model, "tiny", windows(1), {}, skip=64)


def test_where_nothing_is_within_the_limit_dense_attention_stays(tmp_path: Path) -> None:
    found = tune_model(looped(TinyModel()), 1e-12, tmp_path / "t", evaluations=1, rules=("widths",))
    assert found.best.name == "dense"
    assert found.best.loss.loss == 0


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder to work in, where every model is the tiny one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "accelsim.functional.closed_loop._texts.load_model", lambda name: TinyModel()
    )
    rng = np.random.default_rng(0)
    (tmp_path / "t.txt").write_text("".join(chr(i) for i in rng.integers(33, 97, size=200)))
    return tmp_path


def test_the_verb_writes_policy_frontier_and_picture(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        "tune m.gguf --text t.txt --windows 1 --held-out 2 --window-tokens 48 --skip 8 "
        "--max-loss 5% --bound estimate --rule widths --evaluations 3 --beside static-8 "
        "--store s --out tuned.yaml --json tuned.json"
    )
    main(words.split())
    policy, found = load_policy("tuned.yaml"), json.loads((tiny / "tuned.json").read_text())
    assert policy.source == shlex.join(sys.argv)
    assert found["policy"] == policy.model_dump(mode="json", exclude_none=True) | {
        name: found["policy"][name] for name in ("description", "source")
    }
    assert found["mode"] == "closed-loop"
    for key in ("tuned_on", "held_out"):
        assert f"loss {100 * found[key]['loss']:.2f} % (95 %:" in policy.description
    assert found["tuned_on"]["samples"] == 39
    assert found["held_out"]["samples"] == 78
    rows = list(csv.DictReader((tiny / "s" / "frontier.csv").read_text().splitlines()))
    assert {"dense", "static-8", "widths+channel"} <= {row["name"] for row in rows}
    best = min(
        (r for r in rows if float(r["loss"]) <= 0.05), key=lambda r: -float(r["dram_reduction"])
    )
    assert float(best["dram_reduction"]) == pytest.approx(
        found["tuned_on"]["dense_bytes"] / found["tuned_on"]["dram_bytes"], rel=1e-4
    )
    assert "widths+channel" in (tiny / "s" / "frontier.svg").read_text()
    out, err = capsys.readouterr()
    assert "held out" in out
    assert "cycles" in out
    assert "wrote tuned.yaml" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("m.gguf --max-loss 0", "--max-loss 0: expected more than 0"),
        ("m.gguf --max-loss=-1%", "--max-loss -1%: expected more than 0"),
        ("nosuch --max-loss 1%", "nosuch: is neither a trace (.safetensors) nor a model"),
        ("m.gguf --max-loss 1%", "expected a text file (--text"),
        ("minilm --max-loss 1%", "--lee, or key"),
        ("m.gguf --text none.txt --max-loss 1%", "none.txt: cannot be read"),
        ("m.gguf --text t.txt --max-loss 1%", "--text t.txt: the text has 200 tokens"),
        ("m.gguf --text t.txt --max-loss 1% --rule lasso", "rule 'lasso'"),
        ("smollm2 --max-loss 1% --windows 9", "holds 6 windows; expected at least 13"),
    ],
)
def test_what_is_wrong_is_one_line_and_writes_nothing(
    tiny: Path, words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tiny.iterdir())
    more = "--windows 1 --held-out 1 --window-tokens 48 --skip 8" if "rule" in words else ""
    with pytest.raises(SystemExit) as stop:
        main(["tune", *words.split(), *more.split(), "--store", "s", "--out", "o.yaml"])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert len(err) <= 310
    assert sorted(tiny.iterdir()) == before
