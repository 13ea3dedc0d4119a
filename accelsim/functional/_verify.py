"""Open-loop check of the fixed-point datapath against float64 dense attention, head by head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import AccelsimError
from accelsim.functional import _fixed_kernels
from accelsim.functional import fixed_point as fp
from accelsim.functional._cascade import LayerStep
from accelsim.functional._run import run_policy
from accelsim.functional._stored import value_budgets
from accelsim.functional._walk import finite_tensors
from accelsim.policies import Policy, ProgressiveQuantization, Stage, load_policy_spec
from accelsim.traces import AttentionTrace, load_trace

_SUMS = _fixed_kernels.SUMS
_BIASED_ROWS = 64
"""Rows whose biases are in memory together."""


@dataclass(frozen=True)
class VerifyResult:
    """How far the datapath is from float64 dense attention on the recorded tensors.

    Attributes:
        datapath: widths and rounding.
        summary: figures over all layers and heads: ``relative_output_error`` (Frobenius; pruned
            heads count as zero output), ``relative_error_to_policy`` (against the same policy in
            float64), ``mean_cosine``, ``mean_kl_nats`` (of the normalized probability codes from
            the dense probabilities, over rows with a code above zero), ``kept_mass``,
            ``lsb_refetch_fraction`` (of the rows whose stage reads two planes), ``rows``,
            ``vanished_rows`` (every probability rounded to zero), ``score_saturations``,
            ``value_saturations``, ``output_saturations`` (counts; wrapped sums where the datapath
            wraps).
        per_head: the same with ``layer`` and ``head``; a head without rows was pruned.
        policy: accuracy of the policy in float64, as ``run_policy`` reports it.
    """

    datapath: fp.Datapath
    summary: dict[str, Any]
    per_head: list[dict[str, Any]]
    policy: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and texts, ready for JSON."""
        return {
            "schema": "accelsim.verify/1",
            "mode": "open-loop",
            "datapath": {"name": self.datapath.name, "rounding": self.datapath.rounding},
            "summary": self.summary,
            "per_head": self.per_head,
            "float_policy": self.policy,
        }


def verify(
    source: str | Path | AttentionTrace,
    policy: str | Policy = "dense",
    datapath: str = "published",
    rounding: str = "nearest",
    on_layer: Callable[[int, int], None] = lambda step, layer: None,
) -> VerifyResult:
    """Run a trace through SpAtten's fixed-point datapath and compare with float64 attention.

    Args:
        source: a trace, its file, or the name of one that comes with accelsim.
        policy: a preset, a YAML file, ``NAME:KEY=VALUE``, or a policy.
        datapath: ``published`` or ``rtl``.
        rounding: ``nearest``, ``nearest-even`` or ``floor``.
        on_layer: told step and layer before each.

    Raises:
        AccelsimError: a name that is not known, or what the datapath cannot take.
    """
    chosen = load_policy_spec(policy) if isinstance(policy, str) else policy
    path = fp.load_datapath(datapath, rounding)
    trace = source if isinstance(source, AttentionTrace) else load_trace(source)
    return verify_fixed_point(trace, chosen, path, on_layer)


def verify_fixed_point(
    trace: AttentionTrace,
    policy: Policy,
    datapath: fp.Datapath,
    on_layer: Callable[[int, int], None] = lambda step, layer: None,
) -> VerifyResult:
    """Run a policy over a trace with the datapath's arithmetic, open loop.

    Which tokens and heads survive is what :func:`accelsim.functional.run_policy` decides. LSB
    refetches and local value pruning are decided by the datapath's own 12-bit probabilities.

    Args:
        trace: recorded queries, keys and values.
        policy: what to keep.
        datapath: widths and rounding.
        on_layer: told step and layer before each.

    Raises:
        AccelsimError: a trace or policy that the datapath cannot take.
    """
    trace.alone("the fixed-point datapath")
    for layer in range(trace.num_layers):
        cap = trace.layer(layer).softcap
        if cap is not None and cap > fp.MAX_SOFTCAP:
            raise AccelsimError(
                f"{trace.path}: layer {layer} has a soft cap of {cap:g}; the fixed-point datapath "
                f"takes caps up to {fp.MAX_SOFTCAP:g}"
            )
    checker = _Checker(trace, policy, datapath, on_layer)
    run = run_policy(trace, policy, indices=False, observe=checker.observe)

    def figures(layer: int, head: int) -> dict[str, Any]:
        return _figures(checker.sums[layer, head], float(checker.two_plane_rows[layer, head]))

    heads = [
        {"layer": layer, "head": head, **figures(layer, head)}
        for layer in range(trace.num_layers)
        for head in range(trace.layer(layer).query_heads)
    ]
    summary = _figures(checker.sums.sum(axis=(0, 1)), float(checker.two_plane_rows.sum()))
    return VerifyResult(datapath, summary, heads, run.accuracy)


class _Layer:
    """Operands of one layer, and what takes its integers back."""

    def __init__(self, trace: AttentionTrace, layer: int, policy: Policy) -> None:
        self.query, self.key, self.value = finite_tensors(trace, layer)
        latent = trace.layer(layer).kind == "latent"
        self.operands = ops = fp.operands(
            self.query, self.key, self.value, policy.at_layer(layer, trace.num_layers), latent
        )
        fp.check_operands(ops.query, ops.key_first, ops.key_both, ops.value)
        tokens = self.query.shape[:2], self.key.shape[:2]
        self.query_steps = np.broadcast_to(ops.query_step[..., 0], tokens[0])
        self.key_steps = np.broadcast_to(ops.key_step[..., 0], tokens[1])
        self.value_steps = np.broadcast_to(ops.value_step[..., 0], tokens[1])


class _Checker:
    """Follows ``run_policy`` and repeats each head in fixed point."""

    def __init__(
        self,
        trace: AttentionTrace,
        policy: Policy,
        datapath: fp.Datapath,
        on_layer: Callable[[int, int], None],
    ) -> None:
        self.trace, self.datapath, self.on_layer = trace, datapath, on_layer
        self.path = _fixed_kernels.settings(datapath)
        self.policy = policy
        self.stage: Stage | None = None
        most = max(trace.layer(i).query_heads for i in range(trace.num_layers))
        self.sums = np.zeros((trace.num_layers, most, len(_SUMS)))
        self.two_plane_rows = np.zeros(self.sums.shape[:2])

    def enter(self, stage: Stage) -> None:
        """Take operands, threshold and budgets of one stage."""
        trace, policy = self.trace, self.policy.at_stage(stage)
        self.stage = stage
        self.layers = [_Layer(trace, i, policy) for i in range(trace.num_layers)]
        q = policy.quantization
        self.progressive = isinstance(q, ProgressiveQuantization)
        threshold = q.threshold if isinstance(q, ProgressiveQuantization) else 0.0
        self.threshold = fp.threshold_code(threshold)
        most = max(trace.layer(i).keys for i in range(trace.num_layers))
        self.budgets = value_budgets(policy, trace.num_layers, most)

    def observe(self, at: LayerStep) -> None:
        self.on_layer(at.step, at.layer)
        stage: Stage = "decode" if at.step else "prefill"
        if stage != self.stage:
            self.enter(stage)
        trace, layer = self.trace, self.layers[at.layer]
        own = trace.layer(at.layer)
        # Rows whose keys begin at different tokens, or have gaps, have operands of their own. Of a
        # bias there is a number for each score, so those are taken some at a time.
        size = len(at.positions) if own.bias is None else _BIASED_ROWS
        size = 1 if at.first.any() or len(at.bits) else max(size, 1)
        for first in range(0, max(len(at.positions), 1), size):
            part = slice(first, first + size)
            bias = trace.bias(at.layer, at.positions[part], 0, at.context)
            for head in range(own.query_heads):
                added = None if bias is None else bias[head]
                sums = self._head(at, layer, head, head // own.group, part, added)
                self.sums[at.layer, head] += sums
                if self.progressive:
                    self.two_plane_rows[at.layer, head] += sums[_SUMS.index("rows")]

    def _head(
        self,
        at: LayerStep,
        layer: _Layer,
        head: int,
        kv: int,
        part: slice,
        added: NDArray[np.float64] | None,
    ) -> NDArray[np.float64]:
        """Some rows of a head, which see their keys from one token on.

        What is ``added`` to their scores is [rows, context].
        """
        ops, positions, end = layer.operands, at.positions[part], at.end[part]
        first, last = int(at.first[part].min(initial=at.context)), int(end.max(initial=0))
        kept = at.kept[(at.kept >= first) & (at.kept < last)]
        seen, alive = np.arange(first, last), bool(at.alive[head])
        if len(at.bits):
            # One row, which sees all keys from its first on.
            seen = np.flatnonzero(np.unpackbits(at.bits[part], count=last, bitorder="little"))
            kept = kept[np.isin(kept, seen)]
            # Nothing that it sees was kept: as of a pruned head.
            alive, kept = alive and len(kept) > 0, kept if len(kept) else seen[:1]
        own = self.trace.layer(at.layer)
        own_scale, sink = own.scale, None if own.sinks is None else float(own.sinks[head])
        changed = own.softcap is not None or sink is not None
        changes = fp.score_changes(own.softcap, sink) if changed else None
        codes = None if added is None else fp.score_codes(added[:, kept])
        scale = own_scale * self.datapath.score_scale
        scaled = [
            fp.dequantization(float(step), layer.key_steps[kv, kept], scale)
            for step in layer.query_steps[head, positions]
        ]
        ratios, value_step = fp.value_ratios(layer.value_steps[kv, kept])
        sums: NDArray[np.float64] = _fixed_kernels.compare_head(
            ops.query[head, positions],
            np.ascontiguousarray(ops.key_first[kv, kept].T),
            np.ascontiguousarray(ops.key_both[kv, kept].T),
            ops.value[kv, kept],
            ops.value_both[kv, kept],
            np.searchsorted(kept, end),
            np.array([multipliers for multipliers, _ in scaled]),
            np.array([shift for _, shift in scaled]),
            ratios,
            self.path,
            self.threshold,
            self.budgets[at.layer],
            value_step * self.datapath.output_scale,
            alive,
            layer.query[head, positions].astype(np.float64),
            np.ascontiguousarray(layer.key[kv, seen].T, dtype=np.float64),
            np.ascontiguousarray(layer.value[kv, seen], dtype=np.float64),
            np.searchsorted(seen, end),
            np.searchsorted(seen, kept),
            own_scale,
            at.outputs[head, part],
            _fixed_kernels.changes_of(changes, codes),
            _fixed_kernels.NO_BIAS if codes is None else np.ascontiguousarray(codes),
            own.softcap or 0.0,
            _fixed_kernels.NO_DENSE_BIAS
            if added is None
            else np.ascontiguousarray(added[:, seen], dtype=np.float64),
            -np.inf if sink is None else sink,
        )
        return sums


def _figures(sums: NDArray[np.float64], two_plane_rows: float) -> dict[str, Any]:
    at = dict(zip(_SUMS, sums.tolist(), strict=True))
    rows = at["rows"]
    counted = max(rows - at["vanished_rows"], 1)
    figures: dict[str, Any] = {
        "relative_output_error": _root_ratio(at["error_square"], at["reference_square"]),
        "relative_error_to_policy": _root_ratio(at["policy_error_square"], at["policy_square"]),
        "mean_cosine": at["cosine"] / rows if rows else None,
        "mean_kl_nats": at["kl_nats"] / counted if rows else None,
        "kept_mass": min(at["kept_mass"] / rows, 1.0) if rows else None,
        "lsb_refetch_fraction": at["refetched"] / max(two_plane_rows, 1) if rows else None,
    }
    counts = ("rows", "vanished_rows", "score_saturations", "value_saturations")
    return figures | {name: int(at[name]) for name in (*counts, "output_saturations")}


def _root_ratio(part: float, whole: float) -> float:
    return float(np.sqrt(part / whole)) if whole > 0 else 0.0
