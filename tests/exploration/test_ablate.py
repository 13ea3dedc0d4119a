"""Ablation: fields are found, not listed; every point is a run; refusals carry their reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from accelsim import ablate, replay
from accelsim.errors import AccelsimError, ConfigError
from accelsim.exploration import Ablation, differences
from accelsim.hardware import load_accelerator
from accelsim.reports import ablation_figure, svg_text
from accelsim.workloads import Workload, write_parquet

FROM, TO = "spatten-paper-serial", "spatten-paper"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight rows that prune, with an LSB pass each."""
    path = tmp_path_factory.mktemp("ablate") / "stream.parquet"
    rows = {"keys": [200] * 8, "values": [64] * 8, "key_bits": [8] * 8, "value_bits": [8] * 8}
    extra = {"refetch_lsb": [True] * 8, "key_lsb_bits": [4] * 8}
    write_parquet(Workload.from_columns({**rows, **extra}, name="stream"), path)
    return path


@pytest.fixture(scope="module")
def result(source: Path) -> Ablation:
    return ablate(FROM, TO, source)


def test_fields_are_those_in_which_the_configurations_differ(result: Ablation) -> None:
    old, new = (load_accelerator(name).model_dump(mode="json") for name in (FROM, TO))
    flat = [{f"topk.{k}": v for k, v in d.pop("topk").items()} | d for d in (old, new)]
    expected = {k for k in flat[0] if flat[0][k] != flat[1][k]} - {"description", "source"}
    assert {d.key for d in result.fields} == expected
    for difference in result.fields:
        assert difference.before == flat[0][difference.key]
        assert difference.after == flat[1][difference.key]
    assert not differences(load_accelerator(FROM), load_accelerator(FROM))


def test_points_are_the_runs_that_they_name(result: Ablation, source: Path) -> None:
    plain = {name: replay(source, name, baselines=[]).metrics for name in (FROM, TO)}
    assert result.base.latency_cycles == plain[FROM]["latency_cycles"]
    assert result.base.speedup == 1
    last = result.cumulative[-1]
    assert last.latency_cycles == plain[TO]["latency_cycles"]
    assert last.dram_read_bytes == plain[TO]["dram_read_bytes"]
    assert last.speedup == pytest.approx(plain[FROM]["latency_s"] / plain[TO]["latency_s"])
    keys = [d.key for d in result.fields]
    for i, key in enumerate(keys):
        assert result.alone[i].changed == (key,)
        assert result.cumulative[i].changed == tuple(keys[: i + 1])
        assert set(result.without[i].changed) == set(keys) - {key}
    place = keys.index("topk.parallelism")
    wide = replay(source, FROM, overrides={"topk.parallelism": 16}, baselines=[])
    assert result.alone[place].latency_cycles == wide.metrics["latency_cycles"]
    serial = replay(source, TO, overrides={"topk.parallelism": 1}, baselines=[])
    assert result.without[place].latency_cycles == serial.metrics["latency_cycles"]


def test_more_comparators_are_worth_cycles(result: Ablation) -> None:
    (point,) = [p for p in result.alone if p.changed == ("topk.parallelism",)]
    assert point.speedup is not None
    assert point.speedup > 1.05


def test_refused_combinations_carry_the_reason(result: Ablation) -> None:
    refused = {p.changed: p.refused for p in result.alone if p.refused}
    assert set(refused) == {("key_prefetch_depth",)}
    assert "must not be below key_prefetch_depth" in str(refused["key_prefetch_depth",])
    assert ".yaml" not in str(refused["key_prefetch_depth",])
    drawn = svg_text(ablation_figure(result))
    assert drawn.startswith("<svg")
    every = (*result.alone, *result.cumulative, *result.without)
    assert drawn.count("<!-- ") > len(every)  # every bar has its label


def test_the_order_is_the_users(source: Path) -> None:
    found = ablate(FROM, TO, source, order=["value_prefetch_depth", "topk.rows"])
    assert [d.key for d in found.fields[:2]] == ["value_prefetch_depth", "topk.rows"]
    assert not any(p.refused for p in found.cumulative)
    with pytest.raises(ConfigError, match=r"did you mean 'topk\.rows'"):
        ablate(FROM, TO, source, order=["topk.row"])


def test_the_cycle_engine_ablates_too(source: Path) -> None:
    assert not ablate(FROM, FROM, source, engine="cycle").fields
    cycle, event = (ablate(FROM, TO, source, engine=e) for e in ("cycle", "event"))
    for exact, point in zip(cycle.cumulative, event.cumulative, strict=True):
        assert (exact.changed, exact.refused) == (point.changed, point.refused)
        if exact.refused:
            continue
        assert exact.latency_cycles == pytest.approx(point.latency_cycles, rel=0.02)


def test_works_for_other_kinds(source: Path, tmp_path: Path) -> None:
    (tmp_path / "wide.yaml").write_text("extends: mnnfast\nchannels: 4\nkept_fraction: 0.1\n")
    (tmp_path / "narrow.yaml").write_text("extends: mnnfast\nkept_fraction: 0.1\n")
    rows = {"keys": [200] * 2, "values": [200] * 2, "key_bits": [12] * 2, "value_bits": [12] * 2}
    write_parquet(Workload.from_columns(rows, name="dense"), tmp_path / "dense.parquet")
    names = [str(tmp_path / f"{n}.yaml") for n in ("narrow", "wide")]
    found = ablate(*names, tmp_path / "dense.parquet")
    assert [d.key for d in found.fields] == ["channels"]
    assert found.cumulative[0].speedup is not None
    assert found.cumulative[0].speedup > 1


def test_bad_input(source: Path) -> None:
    with pytest.raises(ConfigError, match="different kinds"):
        ablate(FROM, "mnnfast", source)
    with pytest.raises(AccelsimError, match=f"'{TO}', which the others are compared with"):
        ablate(TO, FROM, source, overrides={"multipliers": 32})
