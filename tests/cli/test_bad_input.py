"""Every kind of bad input: status 2, one line on standard error, no file left behind."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from accelsim.cli import main
from accelsim.traces import save_trace, synthetic_trace

ROOT = Path(__file__).parents[2]
CSV = ROOT / "traces" / "spatten-gpt2" / "small.csv"
TRACE = "trace.safetensors"

Change = Callable[[dict[str, np.ndarray], dict[str, str]], None]


def edited(change: Change) -> Callable[[Path], None]:
    """Write the trace again with other tensors or metadata, by the plain library."""

    def build(folder: Path) -> None:
        path = folder / TRACE
        raw = path.read_bytes()
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        tensors = {name: array.copy() for name, array in load_file(path).items()}
        metadata = header["__metadata__"]
        change(tensors, metadata)
        save_file(tensors, path, metadata)

    return build


def truncated(folder: Path) -> None:
    raw = (folder / TRACE).read_bytes()
    (folder / TRACE).write_bytes(raw[: len(raw) // 2])


def cut_in_header(folder: Path) -> None:
    (folder / TRACE).write_bytes((folder / TRACE).read_bytes()[:40])


def text_file(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def foreign(folder: Path) -> None:
    save_file({"weight": np.ones(3, dtype=np.float32)}, folder / TRACE)


def set_metadata(**values: str) -> Callable[[Path], None]:
    return edited(lambda tensors, metadata: metadata.update(values))


def poison(value: float) -> Callable[[Path], None]:
    def change(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
        tensors["layer.1.key"][0, 3, 2] = value

    return edited(change)


def drop_tensor(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    del tensors["layer.1.key"]


def misspell_tensor(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    tensors["layer.1.kye"] = tensors.pop("layer.1.key")


def misshape(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    tensors["layer.0.value"] = tensors["layer.0.value"][:, :-1].copy()


def integers(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    tensors["layer.0.key"] = tensors["layer.0.key"].astype(np.int32)


def no_values(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    for name in [n for n in tensors if n.endswith("value")]:
        del tensors[name]


def without_column(folder: Path) -> None:
    rows = [line.rsplit(",", 3)[0] for line in CSV.read_text().splitlines()]
    (folder / "w.csv").write_text("\n".join(rows) + "\n")


def words_in_csv(folder: Path) -> None:
    header, *rows = CSV.read_text().splitlines()
    (folder / "w.csv").write_text("\n".join([header, "many" + rows[0][1:], *rows[1:]]) + "\n")


def nothing(folder: Path) -> None:
    """Leave the good trace as it is: the arguments are wrong."""


HARDWARE = "extends: spatten-paper\n"
CASES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    # traces
    "truncated": (truncated, f"replay {TRACE}", "truncated"),
    "cut in header": (cut_in_header, f"replay {TRACE}", "truncated in its header"),
    "empty file": (text_file(TRACE, ""), f"replay {TRACE}", "not a safetensors file"),
    "text": (text_file(TRACE, "hello, " * 99), f"replay {TRACE}", "not a safetensors file"),
    "foreign": (foreign, f"replay {TRACE}", "'accelsim.schema' is missing"),
    "schema of later": (
        set_metadata(**{"accelsim.schema": "attention-trace/9"}), f"replay {TRACE}",
        "expected 'attention-trace/1'",
    ),
    "missing tensor": (edited(drop_tensor), f"replay {TRACE}", "'layer.1.key' is missing"),
    "misspelt tensor": (edited(misspell_tensor), f"replay {TRACE}", "did you mean 'layer.1.kye'"),
    "shape": (edited(misshape), f"replay {TRACE}", "'layer.0.value' has shape"),
    "dtype": (edited(integers), f"replay {TRACE}", "'layer.0.key'"),
    "no values": (edited(no_values), f"replay {TRACE} --policy spatten-full", "layer.0.value"),
    "NaN": (poison(np.nan), f"replay {TRACE}", "'layer.1.key' holds NaN or infinity"),
    "infinity": (poison(np.inf), f"replay {TRACE} --policy spatten-full", "NaN or infinity"),
    "NaN, inspected": (poison(np.nan), f"inspect {TRACE}", "'layer.1.key' holds NaN"),
    "NaN, compared": (poison(np.nan), f"compare {TRACE}", "'layer.1.key' holds NaN"),
    "NaN, verified": (poison(np.nan), f"verify {TRACE}", "'layer.1.key' holds NaN"),
    "zero tokens": (
        set_metadata(prefill_tokens="0", decode_tokens="0"), f"replay {TRACE}", "zero tokens",
    ),
    "negative tokens": (set_metadata(decode_tokens="-4"), f"replay {TRACE}", "'decode_tokens'"),
    "heads": (set_metadata(num_kv_heads="3"), f"replay {TRACE}", "is not a multiple of"),
    "scale": (set_metadata(scale="nan"), f"replay {TRACE}", "'scale'"),
    "no such file": (nothing, "replay trcae.safetensors", "did you mean 'trace.safetensors'"),
    "folder": (nothing, "replay .", "is a folder"),
    "suffix": (text_file("a.txt", "x"), "replay a.txt", "expected a .safetensors, .csv or"),
    # configurations
    "unknown key": (
        text_file("hw.yaml", HARDWARE + "chanels: 8\n"), f"replay {TRACE} --accelerator hw.yaml",
        "hw.yaml: unknown key 'chanels'; did you mean 'channels'",
    ),
    "nested key": (
        text_file("hw.yaml", HARDWARE + "topk: {paralelism: 8}\n"),
        f"replay {TRACE} --accelerator hw.yaml", "did you mean 'parallelism'",
    ),
    "type": (
        text_file("hw.yaml", HARDWARE + "channels: many\n"),
        f"replay {TRACE} --accelerator hw.yaml", "hw.yaml: key 'channels': expected",
    ),
    "unit": (
        text_file("hw.yaml", HARDWARE + "frequency_hz: 1 GHz\n"),
        f"replay {TRACE} --accelerator hw.yaml", "key 'frequency_hz': expected",
    ),
    "negative clock": (nothing, f"replay {TRACE} --set frequency_hz=-1", "'frequency_hz'"),
    "infinite clock": (nothing, f"replay {TRACE} --set frequency_hz=.inf", "'frequency_hz'"),
    "no YAML": (
        text_file("hw.yaml", "a: [1,\nb: 2\n"), f"replay {TRACE} --accelerator hw.yaml",
        "not valid YAML",
    ),
    "unsafe YAML": (
        text_file("hw.yaml", "a: !!python/object/apply:os.getcwd []\n"),
        f"replay {TRACE} --accelerator hw.yaml", "not valid YAML",
    ),
    "kind": (
        text_file("hw.yaml", HARDWARE + "kind: spaten\n"), f"replay {TRACE} --accelerator hw.yaml",
        "did you mean 'spatten'",
    ),
    "circle": (
        text_file("hw.yaml", "extends: ./hw.yaml\n"), f"replay {TRACE} --accelerator ./hw.yaml",
        "round in a circle",
    ),
    "no such file of hardware": (nothing, f"replay {TRACE} --accelerator no.yaml", "no such file"),
    "no change of a policy": (
        nothing, f"replay {TRACE} --policy moba:selection", "policy moba: selection: expected KEY",
    ),
    "bad change of a policy": (
        nothing, f"replay {TRACE} --policy moba:selection.block_tokens=0", "block_tokens",
    ),
    "buffer": (nothing, f"replay {TRACE} --set buffer_lines=1", "buffer_lines"),
    "fifo of no depth": (nothing, f"replay {TRACE} --set softmax_fifo=0", "softmax_fifo"),
    "address fifo": (nothing, f"replay {TRACE} --set address_fifo=0", "address_fifo"),
    "no row of top-k": (nothing, f"replay {TRACE} --set topk.rows=0", "topk.rows"),
    "prefetch": (nothing, f"replay {TRACE} --set key_prefetch_depth=-1", "key_prefetch_depth"),
    "values behind": (
        nothing,
        f"replay {TRACE} --set value_prefetch_depth=1",
        "must not be below key_prefetch_depth",
    ),
    "head_dim": (
        nothing,
        f"replay {TRACE} --set multipliers=4",
        "is wider than the line of 4 multipliers",
    ),
    "min_keys": (nothing, f"replay {TRACE} --set policy.values.min_keys=-1", "min_keys"),
    "stage": (nothing, f"replay {TRACE} --set policy.decoding.values.keep=1", "decode"),
    "dependencies of A3": (
        nothing,
        f"replay {TRACE} --accelerator a3-base --dependencies causal",
        "dependencies 'causal' need one that knows layers",
    ),
    "key bits": (
        text_file("p.yaml", "description: x\nquantization: {kind: static, key_bits: 99}\n"),
        f"replay {TRACE} --policy p.yaml", "'quantization",
    ),
    "planes": (
        nothing, f"verify {TRACE} --policy progressive-8-4:quantization.msb_bits=10", "bits",
    ),
    "channels": (nothing, f"replay {TRACE} --set channels=3", "power of two"),
    "multipliers": (nothing, f"replay {TRACE} --set multipliers=100", "power of two"),
    "ratio": (nothing, f"replay {TRACE} --policy spatten-values --set policy.values.keep=1.5",
              "'values.keep'"),
    # names
    "set without value": (nothing, f"replay {TRACE} --set channels", "expected KEY=VALUE"),
    "set typo": (nothing, f"replay {TRACE} --set chanels=8", "did you mean 'channels'"),
    "set section typo": (nothing, f"replay {TRACE} --set memmory.rows=8", "'memory'"),
    "set memory typo": (nothing, f"replay {TRACE} --set memory.row=8", "did you mean 'rows'"),
    "set policy typo": (
        nothing, f"replay {TRACE} --policy spatten-values --set policy.valeus.keep=1",
        "did you mean 'values'",
    ),
    "policy": (nothing, f"replay {TRACE} --policy spatten-ful", "did you mean 'spatten-full'"),
    "second policy": (
        nothing, f"compare {TRACE} --policy dense --policy h20", "did you mean 'h2o'",
    ),
    "policy not for this": (
        nothing, f"replay {TRACE} --policy zero-tprune", "expected a trace with causal = false",
    ),
    "all policies of a workload": (
        nothing, f"compare {CSV} --policies all", "--policies is for traces",
    ),
    "baseline": (nothing, f"replay {TRACE} --baseline titan-x", "did you mean 'titan-xp'"),
    "accelerator": (
        nothing, f"replay {TRACE} --accelerator spaten-paper", "did you mean 'spatten-paper'",
    ),
    "benchmark": (nothing, "replay bert-base-cla", "did you mean 'bert-base-cola'"),
    "verb": (nothing, "reply x", "did you mean 'replay'"),
    "option": (nothing, f"replay {TRACE} --polcy dense", "did you mean '--policy'"),
    "choice": (nothing, f"replay {TRACE} --engine fast", "--engine"),
    "no source": (nothing, "replay", "SOURCE"),
    "preset": (nothing, "presets show spatten-papr", "did you mean 'spatten-paper'"),
    "family": (nothing, "presets list polices", "did you mean 'policies'"),
    # workloads
    "missing columns": (without_column, "replay w.csv", "column"),
    "words in columns": (words_in_csv, "replay w.csv", "w.csv"),
    "empty workload": (text_file("w.csv", ""), "replay w.csv", "w.csv"),
    "no Parquet": (text_file("w.parquet", "x"), "replay w.parquet", "w.parquet"),
    "policy of a workload": (nothing, f"replay {CSV} --policy dense", "--policy is for traces"),
    # output
    "out is a file": (text_file("f", "x"), f"replay {TRACE} --out f", "f: cannot be written"),
    "out is below a file": (text_file("f", "x"), f"compare {TRACE} --out f/g", "cannot be written"),
    "json in no folder": (nothing, f"replay {TRACE} --json no/r.json", "cannot be written"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_line_status_2_nothing_written(name, tmp_path, monkeypatch, capsys):
    build, arguments, message = CASES[name]
    save_trace(synthetic_trace(), tmp_path / TRACE)
    build(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    # Whatever the machine is busy with, nothing is said of work that takes long.
    words = ["--quiet", *arguments.split()]
    takes_out = words[1] in ("replay", "compare") and len(words) > 2 and "--out" not in words
    with pytest.raises(SystemExit) as stop:
        main([*words, *(["--out", "results"] if takes_out else [])])
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    after = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert after == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_may_not_be_written(tmp_path, capsys):
    save_trace(synthetic_trace(), tmp_path / TRACE)
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(SystemExit) as stop:
        main(["replay", str(tmp_path / TRACE), "--out", str(tmp_path / "locked")])
    assert stop.value.code == 2
    assert "cannot be written (Permission denied)" in capsys.readouterr().err
