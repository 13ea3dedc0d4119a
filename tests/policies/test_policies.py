"""Policy files: schedules, budgets, presets, and errors."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelsim.configs import preset_names
from accelsim.errors import ConfigError
from accelsim.policies import (
    CascadeHeads,
    CascadeTokens,
    LocalValues,
    ProgressiveQuantization,
    load_policy,
)


@pytest.mark.parametrize("name", preset_names("policies"))
def test_every_preset_loads_and_says_where_it_comes_from(name: str) -> None:
    policy = load_policy(name)
    assert policy.description
    assert policy.source


@settings(deadline=None)
@given(mean=st.floats(0.05, 1.0), layers=st.integers(1, 48))
def test_schedule_keeps_its_mean_and_front(mean: float, layers: int) -> None:
    part = CascadeTokens(mean_keep=mean)
    ratios = [part.keep_ratio(layer, layers) for layer in range(layers)]
    front = -(-15 * layers // 100)
    assert ratios[:front] == [1.0] * front
    pruned = ratios[front:]
    if pruned:
        assert sum(pruned) / len(pruned) == pytest.approx(mean)
        assert all(0 < ratio <= 1 for ratio in pruned)
        assert all(a >= b - 1e-12 for a, b in pairwise(pruned))


def test_schedule_end_points() -> None:
    assert CascadeTokens(mean_keep=0.5).ends() == (0.75, 0.25)
    assert CascadeTokens(mean_keep=0.5, start_keep=0.7).ends() == pytest.approx((0.7, 0.3))
    assert CascadeTokens(mean_keep=0.5, slope=0.2).ends() == pytest.approx((0.6, 0.4))
    assert CascadeTokens(mean_keep=0.5).keep_ratio(1, 2) == 0.5


@pytest.mark.parametrize("beside", [{"start_keep": 0.6}, {"slope": 0.1}])
def test_a_list_of_ratios_stands_alone(beside: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="go with 'mean_keep'"):
        CascadeTokens(keep_by_layer=(0.5, 0.5), **beside)


def test_budgets_are_those_of_exact_arithmetic() -> None:
    assert CascadeTokens(mean_keep=0.7, slope=0.0, front=0.0).budget(0, 1, 10) == 7
    assert LocalValues(keep=0.3).budget(10) == 3
    assert LocalValues(keep=0.01).budget(3) == 1
    assert CascadeHeads(mean_keep=0.1, front=0.0, slope=0.0).budget(0, 2, 3) == 1


def test_values_of_progressive_are_fetched_at_the_msb_width() -> None:
    policy = load_policy("progressive-6-4")
    assert isinstance(policy.quantization, ProgressiveQuantization)
    assert policy.quantization.fetched_value_bits == 6


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"tokens.mean_keep": 0}, "tokens.mean_keep': expected greater than 0"),
        ({"tokens.mean_keep": 1.5}, "less than or equal to 1"),
        ({"tokens.start_keep": 1.0}, "keep ratios from 1 to 0"),
        ({"tokens.start_keep": 0.6, "tokens.slope": 0.1}, "not both"),
        ({"tokens.protect.first": -1}, "greater than or equal to 0"),
        ({"tokens.importance": "papr"}, "'paper' or 'protected'"),
        ({"quantization.msb_bits": 7}, "4, 6, 8, 10 or 12"),
        ({"quantization.threshold": 1.1}, "less than or equal to 1"),
        ({"token.mean_keep": 0.5}, "did you mean 'tokens'"),
    ],
)
def test_errors_say_what_was_expected(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match="spatten-full") as caught:
        load_policy("spatten-full", overrides)
    assert message in str(caught.value)
