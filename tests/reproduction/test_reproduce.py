"""``accelsim reproduce``: names, rows, JSON, plots."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from accelsim.cli.reproduce import command
from accelsim.errors import ConfigError
from accelsim.reproduction import FIGURES, choose
from accelsim.reproduction._base import geomean
from accelsim.reproduction._runs import VARIANTS, Job, run, run_all
from accelsim.workloads import benchmark_names


def test_unknown_figure_gives_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'ladder'"):
        choose(["lader"])


def test_every_job_names_a_benchmark() -> None:
    for figure in FIGURES.values():
        assert {job.benchmark for job in figure.jobs} <= set(benchmark_names())
        assert figure.source


def test_each_technique_reads_fewer_bytes() -> None:
    by_variant = {v: run(Job("gpt2-small-ptb", v, every=16)).dram_bytes for v in VARIANTS}
    steps = ("dense", "tokens", "heads", "pruned-static", "full")
    sizes = [by_variant[step] for step in steps]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)


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


@pytest.mark.slow
def test_command_writes_json_and_plots(tmp_path: Path) -> None:
    arguments = ["--only", "design-space", "--workers", "2", "--json", "-", "--out", str(tmp_path)]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    rows = json.loads(result.stdout)["figures"]["design-space"]["rows"]
    assert rows[0]["ratio"] == pytest.approx(rows[0]["ours"] / rows[0]["theirs"])
    assert (tmp_path / "design-space.svg").stat().st_size > 1000
    # SpAtten Fig. 19: more comparators help up to 16, hardly beyond.
    rates = [row["ours"] for row in rows[:6]]
    assert rates[0] < rates[1] < rates[2] < rates[3] < rates[4]
    assert rates[5] == pytest.approx(rates[4], rel=0.1)
