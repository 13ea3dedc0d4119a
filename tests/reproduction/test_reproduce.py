"""``accelsim reproduce``: names, rows, jobs and outcomes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from accelsim.baselines import fully_connected_s
from accelsim.errors import ConfigError
from accelsim.reproduction import FIGURES, choose
from accelsim.reproduction._base import geomean
from accelsim.reproduction._runs import TRACES, VARIANTS, Job, run, run_all
from accelsim.reproduction.e2e import EVERY, e2e_job
from accelsim.workloads import benchmark_names
from accelsim.workloads.models import load_model


def test_unknown_figure_gives_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'ladder'"):
        choose(["lader"])


def test_committed_output_shows_the_figures_of_the_code() -> None:
    folder = Path(__file__).parents[2] / "docs" / "reproduction"
    figures = json.loads((folder / "reproduction.json").read_text())["figures"]
    assert list(figures) == list(FIGURES)
    text = (folder / "output.txt").read_text()
    for name, figure in FIGURES.items():
        assert f"{name}: {figure.title} ({figure.source})" in text
        assert (folder / f"{name}.svg").exists()
        assert figures[name]["title"] == figure.title
        # A row without a reason is a row that nobody has thought about.
        assert all(row["why"] for row in figures[name]["rows"])
    assert not {path.stem for path in folder.glob("*.svg")} - set(FIGURES)


def test_committed_misses_are_discussed() -> None:
    """Each figure with a miss beyond 20 % has a place in discussion.md that names it."""
    folder = Path(__file__).parents[2] / "docs" / "reproduction"
    discussion = (folder / "discussion.md").read_text()
    for name, figure in json.loads((folder / "reproduction.json").read_text())["figures"].items():
        ratios = [row["ratio"] for row in figure["rows"] if row["ratio"]]
        if any(not 0.8 <= ratio <= 1.2 for ratio in ratios):
            assert f"`{name}`" in discussion


def test_every_job_names_a_benchmark() -> None:
    for figure in FIGURES.values():
        assert {job.benchmark for job in figure.jobs} <= {*benchmark_names(), *TRACES}
        assert figure.source


def test_each_technique_reads_fewer_bytes() -> None:
    steps = ("dense", "tokens", "heads", "pruned-static", "full")
    assert set(steps) | {"all-heads", "all-values"} == set(VARIANTS)
    by_variant = {v: run(Job("gpt2-small-ptb", v, every=16)).dram_bytes for v in VARIANTS}
    sizes = [by_variant[step] for step in steps]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)
    assert by_variant["full"] < by_variant["all-heads"] < by_variant["tokens"]


def test_end_to_end_counts_fully_connected_layers() -> None:
    run_e2e = run(e2e_job("gpt2-small-ptb", 8))
    shape = load_model("gpt2-small")
    steps = 32 // EVERY
    assert run_e2e.fc_operations == 2 * shape.layer_weights() * shape.layers * steps
    # Weights of 8 bit cannot come faster than 512 GB/s.
    assert run_e2e.fc_seconds > shape.layer_weights() * shape.layers * steps / 512e9
    attention = run(Job("gpt2-small-ptb", "all-heads", EVERY))
    assert run_e2e.seconds - run_e2e.fc_seconds == pytest.approx(attention.seconds, rel=1e-9)


def test_platform_time_of_fully_connected_layers() -> None:
    # SpAtten Table IV: 388.3 ms for 768 layers of GPT-2-Medium, which calibrates it.
    assert fully_connected_s("titan-xp", 12 * 1024**2, 1, 768) == pytest.approx(0.3883, rel=1e-3)
    with pytest.raises(ConfigError, match="fc_overhead_s_per_layer"):
        fully_connected_s("a100", 1, 1, 1)


def test_rivals_run_on_a_real_trace() -> None:
    a3 = run(Job("minilm-128", "", accelerator="a3-base"))
    dense = run(Job("minilm-128", "dense", accelerator="spatten-paper-eighth"))
    assert a3.dense_operations == dense.dense_operations == dense.operations
    assert a3.output_error is not None
    assert dense.output_error is not None
    assert a3.output_error > dense.output_error  # 9 bit against 12


def test_outcome_counts_both_conventions() -> None:
    dense, full = (run(Job("bert-base-cola", v)) for v in ("dense", "full"))
    assert dense.dense_operations == full.dense_operations == dense.operations
    assert full.operations < dense.operations
    assert full.access_energy_j < sum(full.energy_j_by_part.values())


def test_processes_give_what_one_process_gives() -> None:
    jobs = [Job("bert-base-cola"), Job("bert-base-sst-2"), Job("bert-base-cola")]
    done: list[int] = []
    pooled = run_all(jobs, 2, lambda: done.append(1))
    assert pooled == run_all(jobs, 1, lambda: None)
    assert len(done) == 2


def test_geomean() -> None:
    assert geomean([1, 4]) == pytest.approx(2)
