"""``run_policy``: a policy's decisions over a recorded trace, and what they cost in accuracy."""

from __future__ import annotations

from accelsim.errors import AccelsimError, TraceError
from accelsim.functional._cascade import CascadeRule, Observer
from accelsim.functional._record import PolicyRun
from accelsim.functional._walk import check_tokens, walk
from accelsim.policies import Policy, by_layer, why_not
from accelsim.traces import AttentionTrace


def run_policy(
    trace: AttentionTrace,
    policy: Policy,
    *,
    indices: bool = True,
    seed: int = 0,
    observe: Observer | None = None,
) -> PolicyRun:
    """Run ``policy`` over ``trace``, open loop.

    Step 0 is the prefill: one row holds all surviving queries of the group; tokens pruned there
    have no queries in later layers, and the last token of a causal prompt always survives. Steps 1
    and up are one query each. The recorded tensors are those of the unpruned model, so the error
    is optimistic in depth.

    Accuracy compares with dense attention on the recorded tensors, over surviving queries:
    ``relative_output_error`` (Frobenius, pruned heads count as zero output), ``mean_cosine``,
    ``mean_kl`` (nats, KL of the policy's probabilities from the dense ones, before value pruning),
    ``kept_mass`` and ``kept_value_mass`` (dense probability on the kept keys, on the used values),
    ``lsb_refetch_fraction`` (of the query-head rows whose stage reads keys in two planes; 0 where
    none does), ``kept_token_fraction`` and ``kept_value_fraction`` (of the keys that dense
    attention would read for these rows), ``kept_head_fraction`` and ``kept_query_fraction`` (of
    all).

    Args:
        trace: recorded queries, keys and values.
        policy: what to keep.
        indices: record the token indexes of fetched keys and values in the workload.
        seed: of the top-k pivots; changes pass counts, never decisions.
        observe: called with each layer of each step as it is decided.

    Raises:
        TraceError: the trace holds no tokens, or numbers that are not finite.
        ConfigError: the rule asks the hardware for what its ``needs`` do not declare.
    """
    check_tokens(trace)
    explain = why_not(policy, trace)
    if explain:
        raise TraceError(f"{trace.path}: {explain}")
    if not by_layer(policy, trace):
        return walk(trace, CascadeRule(trace, policy, seed, observe), indices)
    if observe is not None:
        raise AccelsimError(
            f"{trace.path}: the fixed-point datapath follows SpAtten's own policies step by step; "
            "expected one without 'selection', without a 'kivi' cache and not 'accumulate: layers'"
        )
    from accelsim.functional._selected import SelectedRule

    return walk(trace, SelectedRule(trace, policy, seed), indices)
