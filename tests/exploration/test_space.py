"""Axes by hand: what a range holds, where a position lies, and what is refused."""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
import pytest

from accelsim.configs import validate
from accelsim.errors import ConfigError
from accelsim.exploration._space import (
    MAX_NUMBER,
    MAX_POINTS,
    MAX_SEED,
    MAX_ZIP,
    Axis,
    Sampling,
    check_numbers,
    points,
)

TENTHS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
POWERS = [1, 2, 4, 8, 16, 32, 64]


def axis(**fields: Any) -> Axis:
    return validate(Axis, {"key": "k", **fields}, "s.yaml")


def values(of: Axis) -> list[Any]:
    return [level["k"] for level in of.levels()]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"range": {"from": 1, "to": 7, "step": 2}}, [1, 3, 5, 7]),
        ({"range": {"from": 1, "to": 1, "step": 2}}, [1]),
        ({"range": {"from": 0.1, "to": 0.9, "step": 0.1}}, TENTHS),
        ({"range": {"from": 1, "to": 2, "points": 5}}, [1, 1.25, 1.5, 1.75, 2]),
        ({"range": {"from": 1, "to": 4, "points": 1}}, [1]),
        ({"range": {"from": 1, "to": 2, "points": 5}, "integer": True}, [1, 2]),
        ({"range": {"from": 0.5, "to": 2.5, "points": 5}, "integer": True}, [1, 2]),
        ({"range": {"from": -0.5, "to": 2.5, "step": 1}, "integer": True}, [0, 2]),
        ({"log_range": {"from": 1, "to": 1000, "points": 4}}, [1, 10, 100, 1000]),
        ({"log_range": {"from": 1, "to": 64, "points": 7}, "integer": True}, POWERS),
        ({"values": ["a", 2, None]}, ["a", 2, None]),
    ],
)  # fmt: skip
def test_levels(fields: dict[str, Any], expected: list[Any]) -> None:
    found = axis(**fields)
    assert values(found) == expected
    assert [type(v) for v in values(found)] == [
        int if found.is_integer else type(v) if "values" in fields else float for v in expected
    ]
    # Each level has an equal share of [0, 1).
    count = len(expected)
    for number, value in enumerate(expected):
        assert found.at(number / count + 1e-9)["k"] == value
        assert found.at((number + 1) / count - 1e-9)["k"] == value


def test_whole_numbers_are_whole_and_sizes_are_known() -> None:
    whole = axis(range={"from": 3, "to": 9, "step": 3})
    assert (whole.is_integer, whole.size, len(whole.levels())) == (True, 3, 3)
    assert whole.levels()[1] == {"k": 6}
    assert whole.levels()[1:] == [{"k": 6}, {"k": 9}]
    for open_range in ({"from": 1, "to": 4}, {"from": 0.5, "to": 4}):
        assert axis(range=open_range).size == 0
    assert axis(range={"from": 1, "to": 4}).is_integer
    assert not axis(range={"from": 0.5, "to": 4}).is_integer
    assert not axis(range={"from": 1, "to": 4, "step": 0.5}).is_integer
    assert axis(range={"from": 0.5, "to": 4.5}, integer=True).whole_ends == (1, 4)
    assert axis(values=[1, 2, 3]).size == 3


def test_positions_of_ranges_without_levels() -> None:
    positions = (0, 0.25, 0.5, 0.75)
    linear = axis(range={"from": 0.5, "to": 2.5})
    assert [linear.at(p)["k"] for p in positions] == [0.5, 1, 1.5, 2]
    ratios = axis(log_range={"from": 3, "to": 48})
    assert [ratios.at(p)["k"] for p in positions] == [3, 6, 12, 24]
    whole = axis(range={"from": 0.5, "to": 4.5}, integer=True)
    assert [whole.at(p)["k"] for p in positions] == [1, 2, 3, 4]
    assert axis(range={"from": 2, "to": 3}).at(0.49) == {"k": 2}
    assert axis(range={"from": 2, "to": 3}).at(0.51) == {"k": 3}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"range": {"from": 2, "to": 1, "step": 1}}, "'from' 2 is above 'to' 1"),
        ({"range": {"from": 1, "to": 2, "step": 1, "points": 2}}, "'step' or 'points', not both"),
        ({"range": {"from": 0, "to": MAX_POINTS + 1, "step": 1}}, f"more than {MAX_POINTS} values"),
        ({"range": {"from": 1, "to": 2, "step": 0.3}}, "do not end at 'to' 2, but at 1.9 or 2.2"),
        ({"range": {"from": 1, "to": 2, "step": 0}}, "step"),
        ({"range": {"from": 1, "to": 2, "points": 0}}, "points"),
        ({"log_range": {"from": 0, "to": 2, "points": 2}}, "needs 'from' above 0"),
        ({"log_range": {"from": 1, "to": 2, "step": 1}}, "takes 'points', not 'step'"),
        ({"range": {"from": 0.2, "to": 0.8}, "integer": True}, "no whole number from 0.2 to 0.8"),
        ({"values": []}, "values"),
        ({}, "one of 'values', 'range' and 'log_range'"),
        ({"values": [1], "range": {"from": 1, "to": 2, "step": 1}}, "one of 'values', 'range' and"),
        ({"key": None, "values": [1]}, "expected a 'key', or a 'zip'"),
        ({"zip": [{"key": "a", "values": [1]}]}, "'zip' stands alone"),
        ({"key": None, "zip": [{"zip": [{"key": "a", "values": [1]}]}]}, "cannot hold another"),
        ({"key": None, "zip": [{"key": "a", "values": [1]}, {"key": "b", "values": [1, 2]}]},
         "equal lengths, got a 1, b 2"),
        ({"key": None, "zip": [{"key": "a", "range": {"from": 0, "to": MAX_ZIP, "step": 1}}]},
         "more than 10,000 values"),
        ({"values": [{"x": [2 * MAX_NUMBER]}]}, r"expected numbers up to 1e\+18, got 2e\+18"),
        ({"values": [float("nan")]}, "expected numbers up to"),
    ],
)  # fmt: skip
def test_refusals(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        axis(**fields)
    assert str(caught.value).startswith("s.yaml")


def test_limits_themselves_are_taken() -> None:
    assert axis(range={"from": 0, "to": MAX_POINTS, "step": 1}).size == MAX_POINTS + 1
    full = {"from": 1, "to": MAX_ZIP, "step": 1}
    assert axis(key=None, zip=[{"key": "a", "range": full}]).size == MAX_ZIP
    check_numbers("x", [MAX_NUMBER, -MAX_NUMBER, {"a": True}])
    assert Sampling(method="random", samples=1, seed=MAX_SEED).seed == 2**32 - 1
    # A step that misses the end by the rounding of decimals ends there.
    assert axis(range={"from": 0.1, "to": 0.7, "step": 0.2}).size == 4


def test_a_zip_moves_together() -> None:
    both = axis(key=None, zip=[{"key": "a", "values": [1, 2]}, {"key": "b", "values": ["x", "y"]}])
    assert both.keys == ("a", "b")
    assert both.levels() == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    assert both.at(0.5) == {"a": 2, "b": "y"}


def test_a_grid_has_every_combination_once_and_a_limit() -> None:
    axes = (axis(key="a", values=[1, 2]), axis(key="b", range={"from": 1, "to": 3, "step": 1}))
    found = list(points(axes, Sampling(), "s.yaml"))
    assert [tuple(p.values()) for p in found] == list(itertools.product([1, 2], [1, 2, 3]))
    thousand = {"from": 1, "to": 1000, "step": 1}
    square = (axis(key="a", range=thousand), axis(key="b", range=thousand))
    assert next(points(square, Sampling(), "s.yaml")) == {"a": 1, "b": 1}
    with pytest.raises(ConfigError, match="the grid has 2,000,000 points; at most 1,000,000"):
        next(points((*square, axis(key="c", values=[1, 2])), Sampling(), "s.yaml"))
    single = [axis(key=f"k{n}", values=[n]) for n in range(30)]
    assert next(points((*square, *single), Sampling(), "s.yaml"))["k29"] == 29
    with pytest.raises(ConfigError, match=r"s\.yaml: axis 'k' needs 'step' or 'points' on a grid"):
        next(points((axis(range={"from": 1, "to": 2}),), Sampling(), "s.yaml"))
    with pytest.raises(ConfigError, match="axis 'k' needs 'points' on a grid"):
        next(points((axis(log_range={"from": 1, "to": 2}),), Sampling(), "s.yaml"))


@pytest.mark.parametrize("method", ["random", "sobol"])
def test_draws_cover_the_space_and_repeat(method: str) -> None:
    if method == "sobol":
        pytest.importorskip("scipy")
    axes = (axis(key="a", range={"from": 0.0, "to": 1}), axis(key="b", values=[1, 2, 3, 4]))
    drawn = [
        list(points(axes, Sampling(method=method, samples=64, seed=seed), "s.yaml"))
        for seed in (7, 7, 8)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 64
    assert {p["b"] for p in drawn[0]} == {1, 2, 3, 4}
    assert np.mean([p["a"] < 0.5 for p in drawn[0]]) == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize("text", [{"method": "grid", "samples": 2}, {"method": "random"}])
def test_samples_belong_to_a_drawing_method(text: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="samples"):
        validate(Sampling, text, "s.yaml")


def test_few_draws_of_a_long_axis_take_no_time() -> None:
    begin = time.process_time()
    axes = tuple(
        axis(key=name, range={"from": 1, "to": MAX_POINTS, "step": 1}) for name in ("a", "b", "c")
    )
    found = list(points(axes, Sampling(method="random", samples=100), "s"))
    assert all(1 <= value <= MAX_POINTS for point in found for value in point.values())
    assert time.process_time() - begin < 0.5
