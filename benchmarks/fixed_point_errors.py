"""Open-loop error of the fixed-point datapath beside the same policy in float64: a Markdown table.

python benchmarks/fixed_point_errors.py [TRACE]
"""

from __future__ import annotations

import sys

from accelsim.functional import verify_fixed_point
from accelsim.functional.fixed_point import load_datapath
from accelsim.policies import load_policy
from accelsim.traces import load_trace, synthetic_trace

POLICIES = ("dense", "static-8", "progressive-8-4", "spatten-pruned", "spatten-full")
READINGS = (("published", "nearest"), ("published", "floor"), ("rtl", "nearest"))


def main(arguments: list[str]) -> None:
    trace = load_trace(arguments[0]) if arguments else synthetic_trace(
        seed=7, num_layers=4, num_query_heads=6, num_kv_heads=2, head_dim=64, prefill_tokens=64,
        decode_tokens=32,
    )  # fmt: skip
    print(
        "| policy | datapath | float policy | fixed point | against policy | cosine | KL, nat "
        "| LSB rows, fixed (float) | wraps QK |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in POLICIES:
        for reading in READINGS:
            result = verify_fixed_point(trace, load_policy(name), load_datapath(*reading))
            s, policy = result.summary, result.policy
            print(
                f"| {name} | {', '.join(reading)} | {policy['relative_output_error']:.3%} "
                f"| {s['relative_output_error']:.3%} | {s['relative_error_to_policy']:.3%} "
                f"| {s['mean_cosine']:.6f} | {s['mean_kl_nats']:.2e} "
                f"| {s['lsb_refetch_fraction']:.2%} ({policy['lsb_refetch_fraction']:.2%}) "
                f"| {s['score_saturations']} |"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
