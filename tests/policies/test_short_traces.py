"""Every policy on fewer tokens than its blocks, windows and budgets have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import accelsim
from accelsim.configs import preset_names
from accelsim.errors import AccelsimError
from accelsim.exploration import RunResult
from accelsim.policies import load_policy
from accelsim.policies.selections._visual import Visual
from accelsim.policies.selections.dsa_indexer import DSAIndexer
from accelsim.traces import save_trace, synthetic_trace

SHORT = [(1, 0), (1, 1), (2, 1), (5, 1), (3, 0), (1, 6)]


def run(folder: Path, policy: str, prefill: int, decode: int, causal: bool = True) -> RunResult:
    path = folder / "t.safetensors"
    if not path.exists():
        trace = synthetic_trace(
            num_layers=2, prefill_tokens=prefill, decode_tokens=decode, causal=causal
        )
        save_trace(trace, path)
    return accelsim.replay(path, policy=policy, baselines=[])


@pytest.mark.parametrize("policy", preset_names("policies"))
def test_a_short_trace_runs_or_is_refused(tmp_path: Path, policy: str) -> None:
    ran = 0
    for prefill, decode in SHORT:
        for causal in (True, False) if decode == 0 else (True,):
            folder = tmp_path / f"{prefill}-{decode}-{causal}"
            folder.mkdir()
            try:
                result = run(folder, policy, prefill, decode, causal)
            except AccelsimError as error:
                assert "expected" in str(error)  # noqa: PT017 - either way is right
                continue
            ran += 1
            assert result.metrics["latency_cycles"] > 0
            assert result.metrics["dram_read_bytes"] > 0
    # Those with images and index keys are in test_visual.py and test_dsa_indexer.py.
    assert ran or isinstance(load_policy(policy).selection, (Visual, DSAIndexer))


@pytest.mark.parametrize(
    ("policy", "prefill", "decode"),
    [(p, *s) for p in ("dhsa", "quest") for s in ((5, 1), (1, 1), (1, 6))] + [("quest", 14, 1)],
)
def test_without_a_full_block_nothing_is_pruned(
    tmp_path: Path, policy: str, prefill: int, decode: int
) -> None:
    sparse = run(tmp_path, policy, prefill, decode)
    dense = run(tmp_path, "dense", prefill, decode)
    assert sparse.dram_read_bytes_by_tensor == dense.dram_read_bytes_by_tensor
    assert sparse.accuracy is not None
    assert dense.accuracy is not None
    error = dense.accuracy["relative_output_error"]
    assert sparse.accuracy["relative_output_error"] == pytest.approx(error, rel=1e-9)


@pytest.mark.parametrize("head_dim", [1, 2, 4])
@pytest.mark.parametrize("policy", ["spatten-full", "progressive-8-4"])
def test_vectors_of_half_a_byte_take_whole_ones(policy: str, head_dim: int) -> None:
    """The LSB plane of a head of one element is half a byte; both engines end, and agree."""
    trace = synthetic_trace(num_layers=2, head_dim=head_dim, prefill_tokens=16, decode_tokens=3)
    trace = replace(trace, scale=0.01)  # flat probabilities ask for LSBs
    event, cycle = (
        accelsim.replay(trace, policy=policy, baselines=[], engine=engine)
        for engine in ("event", "cycle")
    )
    for tensor in ("query", "key_msb", "key_lsb", "value"):
        moved = event.dram_read_bytes_by_tensor[tensor]
        assert moved == cycle.dram_read_bytes_by_tensor[tensor]
    assert event.dram_read_bytes_by_tensor["key_lsb"] > 0
