"""Diff: configuration, versions, numbers; from files and from stores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from accelsim import diff, replay, sweep
from accelsim.errors import AccelsimError
from accelsim.traces import save_trace, synthetic_trace


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diff")
    save_trace(synthetic_trace(head_dim=64), folder / "tiny.safetensors")
    for name, policy in (("a", "dense"), ("b", "spatten-full")):
        result = replay(folder / "tiny.safetensors", policy=policy, baselines=[])
        (folder / f"{name}.json").write_text(result.to_json())
    (folder / "s.yaml").write_text(
        "sources: [tiny.safetensors]\naxes: [{key: accelerator.multipliers, values: [64, 128]}]\n"
    )
    sweep(folder / "s.yaml", folder / "store")
    return folder


def test_of_a_result_with_itself_is_empty(folder: Path) -> None:
    document = diff(folder / "a.json", folder / "a.json")
    assert not any(document[s] for s in ("configuration", "versions", "numbers"))


def test_of_two_policies(folder: Path) -> None:
    document = diff(folder / "a.json", folder / "b.json")
    assert document["schema"] == "accelsim.diff/1"
    assert {k.split(".")[0] for k in document["configuration"]} == {"policy"}
    assert not document["versions"]
    a, b = (json.loads((folder / f"{n}.json").read_text())["metrics"] for n in "ab")
    change = document["numbers"]["latency_cycles"]
    assert change["a"] == a["latency_cycles"]
    assert change["ratio"] == pytest.approx(b["latency_cycles"] / a["latency_cycles"])


def test_of_two_points_of_a_store(folder: Path) -> None:
    keys = [row["key"] for row in sweep(folder / "s.yaml", folder / "store").rows]
    document = diff(f"{folder}/store@{keys[0][:12]}", f"{folder}/store@{keys[1]}")
    assert document["configuration"] == {"accelerator.multipliers": {"a": 64, "b": 128, "ratio": 2}}
    assert "latency_s" in document["numbers"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1]", "accelsim.result/1"),
        ('{"schema": "accelsim.result/1", "manifest": 3}', "accelsim.result/1"),
    ],
)
def test_anything_else_is_explained(
    folder: Path, tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "x.json").write_text(content)
    with pytest.raises(AccelsimError, match=message):
        diff(folder / "a.json", tmp_path / "x.json")


def test_stores_need_a_key_that_names_one_point(folder: Path) -> None:
    with pytest.raises(AccelsimError, match="holds 2 points"):
        diff(folder / "store", folder / "a.json")
    with pytest.raises(AccelsimError, match="0 points have a key"):
        diff(f"{folder}/store@zz", folder / "a.json")
