"""``run_policy``: a policy's decisions over a recorded trace, and what they cost in accuracy."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from accelsim.errors import AccelsimError, TraceError
from accelsim.functional._cascade import CascadeRule, Observer
from accelsim.functional._record import PolicyRun, Record, StackRecord
from accelsim.functional._walk import OpenLoopRule, check_tokens, visit
from accelsim.policies import Policy, beside, by_layer, why_not
from accelsim.traces import AttentionTrace, Stack


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
    is optimistic in depth. Of a trace with several stacks, the policy prunes the one whose tokens
    the trace counts; an encoder or a tower beside it runs in step 0, under
    :func:`accelsim.policies.beside`. Of a batch, each sequence is decided by itself; of each layer
    of a step the sequences follow one another, with KV heads of their own.

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
    for sequence in trace.sequences:
        check_tokens(sequence)
    explain = why_not(policy, trace)
    if explain:
        raise TraceError(f"{trace.path}: {explain}")
    record = Record(trace, indices)
    ratios: dict[int, Callable[[dict[str, float]], float]] = {}
    heads = max(trace.layer(layer).kv_heads for layer in range(trace.num_layers))
    for number, sequence in enumerate(trace.sequences):
        for stack in sequence.stacks():
            here = beside(policy) if stack.aside else policy
            rule = _rule(stack, here, seed, observe)
            visit(stack.trace, rule, StackRecord(record, stack.layers, number * heads))
            # Schedules are of the policy, and figures of all sequences.
            ratios |= {
                layer: functools.partial(rule.keep_ratio, index)
                for index, layer in enumerate(stack.layers)
            }
    return record.result(lambda layer, figures: ratios[layer](figures))


def _rule(stack: Stack, policy: Policy, seed: int, observe: Observer | None) -> OpenLoopRule:
    """The rule of a policy over one stack."""
    if not by_layer(policy, stack.trace):
        told = None if observe is None else _in_whole(observe, stack.layers)
        return CascadeRule(stack.trace, policy, seed, told)
    if observe is not None:
        raise AccelsimError(
            f"{stack.trace.path}: the fixed-point datapath follows SpAtten's own policies step by "
            "step; expected one without 'selection', without a 'kivi' cache and not 'accumulate: "
            "layers'"
        )
    from accelsim.functional._selected import SelectedRule

    return SelectedRule(stack.trace, policy, seed)


def _in_whole(observe: Observer, layers: Sequence[int]) -> Observer:
    """Tell what was decided with the layer numbers of the whole trace."""
    return lambda at: observe(at._replace(layer=layers[at.layer]))
