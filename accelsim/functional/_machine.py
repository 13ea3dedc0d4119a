"""The rule of a machine over a trace: A3, MNNFast."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.kernels import PER_QUERY
from accelsim.errors import TraceError
from accelsim.functional._record import PolicyRun, Recording
from accelsim.functional._walk import OpenLoopRule, check_tokens, finite_tensors, walk
from accelsim.policies.machine import MachineRule, Recorded
from accelsim.traces import OWN_SCALE, AttentionTrace


def run_machine(trace: AttentionTrace, rule: MachineRule) -> PolicyRun:
    """Run the rule of a machine over a trace, open loop.

    The figures are those of :func:`accelsim.functional.run_policy`: ``kept_token_fraction`` is the
    fraction of keys that got an exact dot product, ``kept_value_fraction`` that of values in the
    weighted sum. The workload is a :class:`accelsim.workloads.RivalWorkload`.

    Raises:
        TraceError: the trace holds no tokens, numbers that are not finite, or attention that the
            machine does not compute.
    """
    check_tokens(trace)
    beyond = {word: layer for word, layer in trace.beyond().items() if word != OWN_SCALE}
    for word, first in beyond.items():
        raise TraceError(
            f"{trace.path}: layer {first} has {word}, which the rule of {type(rule).__name__} does "
            "not support; expected plain causal or full attention"
        )
    walked = _MachineWalk(trace, rule)
    run = walk(trace, walked)
    for name in walked.own[0]:
        found = [figures[name] for figures in walked.own]
        run.accuracy[name] = float(np.mean(found))
        for layer, value in zip(run.per_layer, found, strict=True):
            layer[name] = value
    return run


class _MachineWalk(OpenLoopRule):
    """Fetches everything of a KV head for its group, in the machine's own width."""

    def __init__(self, trace: AttentionTrace, rule: MachineRule) -> None:
        self._trace, self._rule = trace, rule
        self._recorded = [
            Recorded(
                *(
                    np.ascontiguousarray(tensor, dtype=np.float64)
                    for tensor in finite_tensors(trace, layer)
                )
            )
            for layer in range(trace.num_layers)
        ]
        held = [rule.hold(layer) for layer in self._recorded]
        self._held = [layer for layer, _ in held]
        self.own = [figures for _, figures in held]

    def attend(self, layer: int, positions: NDArray[np.int64], record: Recording) -> None:
        """One layer of one step."""
        trace, context = self._trace, int(positions[-1]) + 1
        visible = positions + 1 if trace.causal else np.full(len(positions), context)
        got = self._rule.attend(
            self._recorded[layer], self._held[layer], visible, positions, context,
            trace.layer(layer).scale,
        )  # fmt: skip
        record.compare(
            layer, got.metrics, (trace.num_query_heads,) * 2, (len(positions), len(positions))
        )
        record.count(got.counts)
        heads = np.arange(trace.num_kv_heads)
        every = np.full(len(heads), context)
        # A row reads something: where all weights are small, one value.
        used = np.maximum(got.used_values, 1)
        bits = np.full(len(heads), self._rule.element_bits)
        queries = np.zeros((len(heads), len(positions), trace.group), dtype=PER_QUERY)
        queries["position"] = positions[:, None]
        split = (len(heads), trace.group, len(positions))
        queries["keys"] = got.scored.reshape(split).transpose(0, 2, 1)
        queries["values"] = got.used.reshape(split).transpose(0, 2, 1)
        # No machine here has a top-k engine.
        none = np.zeros_like(heads)
        record.add(
            (max(context - trace.prefill_tokens, 0), layer, context),
            heads,
            {
                "keys": every,
                "values": every if self._rule.fetch_skipped else used,
                "key_bits": bits,
                "value_bits": bits,
                "topk_size": none,
                "topk_target": none,
            },
            [own.ravel() for own in queries],
        )
