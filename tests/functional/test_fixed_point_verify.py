"""The open-loop check of the datapath, and the cases of ``validate functional``."""

from __future__ import annotations

from typing import Any

import pytest

from accelsim.functional import functional_cases, run_policy, verify_fixed_point
from accelsim.functional.fixed_point import load_datapath
from accelsim.policies import load_policy
from accelsim.traces import synthetic_trace

SHAPE: dict[str, Any] = {"num_layers": 4, "num_query_heads": 4, "num_kv_heads": 2, "head_dim": 64}
TRACE = synthetic_trace(seed=2, prefill_tokens=40, decode_tokens=3, **SHAPE)


@pytest.mark.parametrize("name", ["dense", "spatten-full", "spatten-heads", "static-8"])
def test_published_datapath_follows_the_policy(name: str) -> None:
    policy = load_policy(name)
    result = verify_fixed_point(TRACE, policy, load_datapath())
    run = run_policy(TRACE, policy, indices=False)
    assert result.policy == run.accuracy
    assert result.summary["kept_mass"] == pytest.approx(run.accuracy["kept_mass"])
    assert result.summary["rows"] == sum(head["rows"] for head in result.per_head)
    assert result.summary["rows"] == run.workload["queries"].sum()
    assert 0 < result.summary["relative_error_to_policy"] < 0.03
    assert result.summary["relative_output_error"] == pytest.approx(
        run.accuracy["relative_output_error"], abs=0.01
    )
    assert result.summary["score_saturations"] == 0


def test_rtl_reading_wraps_and_is_worse() -> None:
    errors = [
        verify_fixed_point(TRACE, load_policy("dense"), load_datapath(name)).summary
        for name in ("published", "rtl")
    ]
    assert errors[1]["score_saturations"] > 0
    assert errors[1]["mean_cosine"] > 0.6, "dropped product bits belong into the scale"
    assert errors[1]["relative_output_error"] > 10 * errors[0]["relative_output_error"]


def test_functional_cases_agree() -> None:
    cases = functional_cases(seed=1, count=3)
    assert len({name for name, _, _ in cases}) == len(cases) == 12
    for name, expected, simulated in cases:
        tolerance = 1e-12 if name.startswith("attention") else 0
        assert simulated == pytest.approx(expected, rel=tolerance, abs=0), name
