"""Recorded decisions: a file that is read as it was written, or refused in one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headers import edited
from hypothesis import given, settings
from hypothesis import strategies as st

from accelsim.cli import main
from accelsim.configs import validate
from accelsim.errors import AccelsimError, ConfigError, TraceError
from accelsim.functional import run_policy
from accelsim.policies import Policy, load_policy
from accelsim.traces import (
    AttentionTrace,
    Decisions,
    LayerDecisions,
    LayerEntry,
    Mask,
    SelectionCost,
    digest_of_file,
    layer_decisions,
    load_decisions,
    load_trace,
    save_decisions,
    save_trace,
    synthetic_trace,
)

TRACE = synthetic_trace(
    num_layers=3, num_query_heads=4, num_kv_heads=2, prefill_tokens=20, decode_tokens=6
)


def decisions_of(trace: AttentionTrace, layers: list[LayerDecisions], **fields: Any) -> Decisions:
    return Decisions(
        press="test:0.5", source="by hand", model=trace.model,
        tokens_sha256=trace.tokens_sha256, trace_sha256="", num_kv_heads=trace.num_kv_heads,
        prefill_tokens=trace.prefill_tokens, decode_tokens=trace.decode_tokens,
        layers=tuple(layers), **fields,
    )  # fmt: skip


@pytest.fixture
def some() -> Decisions:
    """Layer 0 keeps everything, layer 1 changes once, layer 2 before the first and third query."""
    return decisions_of(
        TRACE,
        [
            layer_decisions([]),
            layer_decisions([(0, [np.arange(0, 20, 2), np.array([0, 7, 19])])]),
            layer_decisions(
                [(0, [np.arange(10), np.arange(10)]), (2, [np.array([3, 21]), np.array([])])]
            ),
        ],
        ratio=0.5,
        cost=SelectionCost(40, 640, 40),
    )


def policy_of(path: Path) -> Policy:
    return Policy.model_validate({"selection": {"kind": "recorded", "decisions": str(path)}})


def same(a: Decisions, b: Decisions) -> bool:
    flat = [replace(d, layers=(), path="") for d in (a, b)]
    return flat[0] == flat[1] and all(
        np.array_equal(getattr(x, part), getattr(y, part))
        for x, y in zip(a.layers, b.layers, strict=True)
        for part in ("steps", "rows", "kept")
    )


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_what_is_written_is_read(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("decisions") / "d.safetensors"
    layers = []
    for _ in range(TRACE.num_layers):
        steps = data.draw(st.sets(st.integers(0, TRACE.decode_tokens - 1), max_size=3))
        layers.append(
            layer_decisions(
                [
                    (step, [np.array(sorted(data.draw(st.sets(st.integers(0, 19 + step)))))
                            for _ in range(TRACE.num_kv_heads)])
                    for step in sorted(steps)
                ]
            )
        )  # fmt: skip
    cost = data.draw(st.none() | st.builds(SelectionCost, *[st.integers(0, 1 << 40)] * 3))
    ratio = data.draw(st.none() | st.floats(0, 0.99))
    decisions = decisions_of(TRACE, layers, cost=cost, ratio=ratio)
    save_decisions(decisions, path)
    first = path.read_bytes()
    assert same(load_decisions(path), decisions)
    save_decisions(decisions, path)
    assert path.read_bytes() == first


def test_a_replay_keeps_what_the_file_says(some: Decisions, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    save_decisions(some, path)
    workload = run_policy(TRACE, policy_of(path)).workload
    assert workload.key_indices is not None
    kept = {
        (int(step), int(layer), int(head)): set(keys.tolist())
        for step, layer, head, keys in zip(
            workload["step"], workload["layer"], workload["head"], workload.key_indices, strict=True
        )
    }
    for step in range(1, 7):
        newest = 20 + step - 1
        every = set(range(newest + 1))
        after = set(range(20, newest + 1))
        assert kept[step, 0, 0] == kept[step, 0, 1] == every
        assert kept[step, 1, 0] == set(range(0, 20, 2)) | after
        assert kept[step, 1, 1] == {0, 7, 19} | after
        late = set(range(22, newest + 1))
        assert kept[step, 2, 0] == (set(range(10)) | after if step < 3 else {3, 21} | late)
        assert kept[step, 2, 1] == (set(range(10)) | after if step < 3 else late)
    # A top-k where something is selected from more: 20 keys, then 10 and 2 new ones to 2.
    rows = {(int(s), int(i), int(h)): n for n, (s, i, h) in enumerate(
        zip(workload["step"], workload["layer"], workload["head"], strict=True))}  # fmt: skip
    sizes = workload["select_size"]
    assert [sizes[rows[1, 1, h]] for h in (0, 1)] == [20, 20]
    assert [sizes[rows[3, 2, h]] for h in (0, 1)] == [12, 0]
    assert workload["select_passes"].sum() == sum(
        workload["select_passes"][rows[at]]
        for at in [(1, 1, 0), (1, 1, 1), (1, 2, 0), (1, 2, 1), (3, 2, 0)]
    )
    assert sum(len(q) for q in kept.values()) == int(workload["keys"].sum())


def test_a_replay_fetches_what_a_query_sees_of_it(some: Decisions, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    save_decisions(some, path)
    masks = [
        Mask(kind="window", size=5, side="left"), Mask(kind="chunk", size=7),
        Mask(kind="prefix", length=12),
    ]  # fmt: skip
    for causal in (True, False):
        chosen = masks if not causal else [*masks[:2], None]
        layers = tuple(
            LayerEntry(mask=mask, sinks=(0.5,) * TRACE.num_query_heads) for mask in chosen
        )
        under = replace(TRACE, layers=layers, causal=causal)
        plain, found = (run_policy(t, policy_of(path)).workload for t in (TRACE, under))
        places = zip(*(plain[n].tolist() for n in ("step", "layer", "head")), strict=True)
        sets = dict(zip(places, plain.key_indices, strict=True))
        for row in range(found.rows):
            step, layer = int(found["step"][row]), int(found["layer"][row])
            rows = np.arange(20) if step == 0 else np.array([19 + step])
            seen = np.flatnonzero(under.seen(layer, rows).any(axis=0))
            kept = sets[step, layer, int(found["head"][row])]
            assert found.key_indices[row].tolist() == sorted(set(seen) & set(kept.tolist()))
        table = found.query_table
        assert (causal and table.keys.max() == 26) or table.keys[table.position < 12].max() == 12


def test_a_later_change_selects_from_what_is_held(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    changes = [(1, [np.arange(10)] * 2), (3, [np.arange(4)] * 2)]
    save_decisions(decisions_of(TRACE, [layer_decisions(changes)] * 3), path)
    workload = run_policy(TRACE, policy_of(path)).workload
    # All 21 tokens before the second query; then the 10 that stayed, and 2 since.
    for step, size in ((2, 21), (4, 12)):
        assert set(workload["select_size"][workload["step"] == step]) == {size}


def test_a_rule_without_sorting_asks_for_no_top_k(some: Decisions, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    save_decisions(replace(some, cost=SelectionCost(0, 0, 0)), path)
    assert run_policy(TRACE, policy_of(path)).workload["select_passes"].sum() == 0
    save_decisions(replace(some, cost=None), path)
    assert run_policy(TRACE, policy_of(path)).workload["select_passes"].sum() > 0


def test_min_keys_switches_it_off(some: Decisions, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    save_decisions(some, path)
    text = "selection: {kind: recorded, decisions: d.safetensors, min_keys: 21}\n"
    (tmp_path / "p.yaml").write_text(text)
    run = run_policy(TRACE, load_policy(str(tmp_path / "p.yaml")))
    assert run.accuracy["kept_token_fraction"] == 1.0


def test_the_file_lies_beside_the_yaml_and_is_part_of_the_policy(
    some: Decisions, tmp_path: Path
) -> None:
    save_decisions(some, tmp_path / "d.safetensors")
    (tmp_path / "p.yaml").write_text("selection: {kind: recorded, decisions: d.safetensors}\n")
    policy = load_policy(str(tmp_path / "p.yaml"))
    rule = policy.selection
    assert rule is not None
    assert rule.sha256 == digest_of_file(tmp_path / "d.safetensors")  # type: ignore[attr-defined]
    save_decisions(replace(some, press="other"), tmp_path / "d.safetensors")
    assert load_policy(str(tmp_path / "p.yaml")) != policy
    with pytest.raises(ConfigError, match="has changed"):
        validate(Policy, policy.model_dump(), "p.yaml")


def test_decisions_of_something_else_are_refused(some: Decisions, tmp_path: Path) -> None:
    save_trace(TRACE, tmp_path / "t.safetensors")
    trace = load_trace(tmp_path / "t.safetensors")
    path = tmp_path / "d.safetensors"

    def message(changed: Decisions) -> str:
        save_decisions(changed, path)
        with pytest.raises(TraceError) as error:
            run_policy(trace, policy_of(path))
        assert str(path) in str(error.value)
        return str(error.value)

    other = synthetic_trace(seed=1, num_layers=2, prefill_tokens=20, decode_tokens=6)
    assert "2 layers" in message(decisions_of(other, [layer_decisions([])] * 2))
    longer = synthetic_trace(num_layers=3, prefill_tokens=20, decode_tokens=9)
    assert "20 + 9 tokens" in message(decisions_of(longer, list(some.layers)))
    assert "other tokens" in message(replace(some, tokens_sha256="0" * 64))
    assert "another trace" in message(replace(some, trace_sha256="0" * 64))
    save_decisions(replace(some, trace_sha256=digest_of_file(tmp_path / "t.safetensors")), path)
    run_policy(trace, policy_of(path))


def one_layer(steps: list[int], rows: list[int], kept: list[int]) -> LayerDecisions:
    return LayerDecisions(*(np.array(part, dtype=np.int32) for part in (steps, rows, kept)))


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (one_layer([0], [0, 1, 2], [3, 20]), "layer.1.kept': token 20; expected 0 to 19"),
        (one_layer([0], [0, 1, 2], [3, -1]), "layer.1.kept': token -1"),
        (one_layer([0], [0, 2, 2], [5, 3]), "token 3 after 5; expected ascending"),
        (one_layer([0], [0, 2, 2], [5, 5]), "token 5 after 5; expected ascending, each once"),
        (one_layer([0], [0, 2], [5, 6]), "layer.1.rows': has 2 entries; expected 3"),
        (one_layer([0], [0, 3, 2], [5, 6]), "ascending pointers from 0 to 2"),
        (one_layer([2, 1], [0, 0, 0, 0, 0], []), "ascending steps from 0 to 5"),
        (one_layer([6], [0, 0, 0], []), "ascending steps from 0 to 5"),
    ],
)
def test_indexes_that_cannot_be_are_refused(
    some: Decisions, layer: LayerDecisions, expected: str, tmp_path: Path
) -> None:
    with pytest.raises(TraceError) as error:
        save_decisions(replace(some, layers=(some.layers[0], layer)), tmp_path / "d.safetensors")
    assert expected in str(error.value)
    assert not (tmp_path / "d.safetensors").exists()


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("accelsim.schema", "attention-trace/1", "expected 'attention-decisions/1'"),
        ("press", None, "metadata 'press' is missing"),
        ("num_layers", "4", "'layer.3.steps' is missing"),
        ("num_layers", "2", "'layer.2.kept': expected layer.N."),
        ("num_kv_heads", "0", "expected an integer from 1"),
        ("prefill_tokens", "1e3", "expected an integer from 0"),
        ("prefill_tokens", "9", "expected 0 to 8, the context"),
        ("ratio", "1.5", "expected a number in [0, 1)"),
        ("cost", '{"vectors": 1}', "expected JSON with counts vectors, products, sorted"),
    ],
)
def test_headers_that_cannot_be_are_refused(
    some: Decisions, key: str, value: str | None, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "d.safetensors"
    save_decisions(some, path)

    def change(header: dict[str, Any]) -> None:
        header["__metadata__"].pop(key) if value is None else None
        if value is not None:
            header["__metadata__"][key] = value

    edited(path, change)
    with pytest.raises(TraceError) as error:
        load_decisions(path)
    assert expected in str(error.value)
    assert len(str(error.value)) <= 300


def test_cut_files_are_refused(some: Decisions, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    save_decisions(some, path)
    payload = path.read_bytes()
    for length in [*range(40), *range(40, len(payload), 97), len(payload) - 1]:
        path.write_bytes(payload[:length])
        with pytest.raises(AccelsimError):
            load_decisions(path)


def test_the_command_line_says_it_in_one_line(
    some: Decisions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_trace(TRACE, tmp_path / "t.safetensors")
    save_decisions(replace(some, tokens_sha256="1" * 64), tmp_path / "d.safetensors")
    (tmp_path / "p.yaml").write_text("selection: {kind: recorded, decisions: d.safetensors}\n")
    trace, rule = str(tmp_path / "t.safetensors"), "policy.selection={kind: recorded"
    for arguments, expected in (
        (["--policy", str(tmp_path / "p.yaml")], "other tokens"),
        (["--set", f"{rule}, decisions: nothing.safetensors}}"], "no such file"),
        (["--set", f"{rule}}}"], "decisions"),
        (["--set", f"{rule}, decisions: {trace}}}"], "attention-decisions/1"),
    ):
        with pytest.raises(SystemExit) as status:
            main(["replay", trace, *arguments])
        assert status.value.code == 2, arguments
        error = capsys.readouterr().err
        assert expected in error
        assert error.count("\n") == 1
