"""A policy over a trace: the decisions that hardware pays for, and the error they cost.

Open loop: decisions are taken over recorded tensors of the unpruned model, so that errors do not
grow with depth; the result is optimistic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import TraceError
from accelsim.functional._cascade import HeadCascade, TokenCascade
from accelsim.functional.kernels import attend_layer
from accelsim.functional.quantize import key_planes, quantize
from accelsim.policies import Policy, ProgressiveQuantization
from accelsim.traces import AttentionTrace
from accelsim.workloads import Workload


@dataclass(frozen=True)
class PolicyRun:
    """What a policy decided on a trace, and what it cost.

    Attributes:
        workload: one row per step, layer and KV head.
        accuracy: errors against dense attention on the recorded tensors, ``mode`` = open-loop.
        per_layer: the same per layer.
    """

    workload: Workload
    accuracy: dict[str, Any]
    per_layer: list[dict[str, Any]]


class _LayerTensors:
    """One layer, as recorded and as quantized."""

    def __init__(self, trace: AttentionTrace, policy: Policy, layer: int) -> None:
        self.raw_queries = _finite(trace, layer, "query", trace.query(layer)) * np.float32(
            trace.scale
        )
        self.raw_keys = _finite(trace, layer, "key", trace.key(layer))
        self.raw_values = _finite(trace, layer, "value", trace.value(layer))
        quantization = policy.quantization
        how = quantization.scale
        self.queries = quantize(self.raw_queries, quantization.query_bits, how)
        self.coarse_keys, self.full_keys = key_planes(self.raw_keys, quantization)
        self.values = quantize(self.raw_values, quantization.value_bits, how)


def run_policy(trace: AttentionTrace, policy: Policy) -> PolicyRun:
    """Apply a policy to every step and layer of a trace.

    Raises:
        TraceError: a tensor holds NaN or infinity.
    """
    layers = [_LayerTensors(trace, policy, layer) for layer in range(trace.num_layers)]
    tokens = TokenCascade(policy.tokens, trace.num_layers, trace.tokens)
    heads = HeadCascade(policy.heads, trace.num_layers, trace.num_query_heads)
    quantization = policy.quantization
    progressive = isinstance(quantization, ProgressiveQuantization)
    threshold = quantization.threshold if isinstance(quantization, ProgressiveQuantization) else 0.0
    value_keep = policy.values.keep if policy.values else 1.0
    rows: list[dict[str, int]] = []
    key_indices: list[NDArray[np.int32]] = []
    value_indices: list[NDArray[np.int32]] = []
    sums = np.zeros((trace.num_layers, 8))
    kept_share = np.zeros((trace.num_layers, 3))
    for step, (start, context) in enumerate(_steps(trace)):
        survivors = np.ones(trace.tokens, dtype=bool)
        live = np.ones(trace.num_query_heads, dtype=bool)
        own = context - 1 if trace.causal else None
        for layer, tensors in enumerate(layers):
            survivors, selection = tokens.select(layer, survivors, context, own)
            live = heads.select(layer, live)
            kept = np.flatnonzero(survivors)
            positions = kept[kept >= start]
            added, magnitude, fetched, counts, _, layer_sums = attend_layer(
                tensors.queries,
                tensors.coarse_keys,
                tensors.full_keys,
                tensors.values,
                tensors.raw_queries,
                tensors.raw_keys,
                tensors.raw_values,
                positions,
                kept,
                live,
                trace.causal,
                context,
                threshold,
                value_keep,
                (step * trace.num_layers + layer) * 1_000_003,
            )
            tokens.importance += added
            heads.importance += magnitude
            sums[layer] += layer_sums.sum(axis=0)
            kept_share[layer] += (len(kept) / context, live.mean(), 1.0)
            group_live = live.reshape(trace.num_kv_heads, trace.group).sum(axis=1)
            for kv in np.flatnonzero(group_live):
                used = np.flatnonzero(fetched[kv]).astype(np.int32)
                rows.append(
                    {
                        "step": step,
                        "layer": layer,
                        "head": int(kv),
                        "context_tokens": context,
                        "queries": len(positions) * int(group_live[kv]),
                        "keys": len(kept),
                        "values": len(used),
                        "query_keys": counts[kv, 0],
                        "query_values": counts[kv, 1],
                        "key_bits": quantization.msb_bits
                        if isinstance(quantization, ProgressiveQuantization)
                        else quantization.key_bits,
                        "key_lsb_bits": quantization.lsb_bits
                        if isinstance(quantization, ProgressiveQuantization)
                        else 0,
                        "value_bits": quantization.value_bits,
                        "refetch_lsb": progressive and counts[kv, 2] > 0,
                        "refetch_queries": counts[kv, 2],
                        "refetch_query_keys": counts[kv, 3],
                        "topk_size": counts[kv, 4],
                        "topk_target": counts[kv, 5],
                        "topk_passes": counts[kv, 6],
                        "topk_elements": counts[kv, 7],
                        "select_size": selection[0],
                        "select_target": selection[1],
                        "select_passes": selection[2],
                        "select_elements": selection[3],
                    }
                )
                selection = (0, 0, 0, 0)
                key_indices.append(kept.astype(np.int32))
                value_indices.append(used)
    workload = Workload.from_columns(
        {name: np.array([row[name] for row in rows]) for name in rows[0]},
        head_dim=trace.head_dim,
        name=trace.model,
        key_indices=tuple(key_indices),
        value_indices=tuple(value_indices),
    )
    per_layer = [
        {"layer": layer, **_summary(sums[layer], kept_share[layer])}
        for layer in range(trace.num_layers)
    ]
    accuracy = {"mode": "open-loop", **_summary(sums.sum(axis=0), kept_share.sum(axis=0))}
    return PolicyRun(workload, accuracy, per_layer)


def _steps(trace: AttentionTrace) -> list[tuple[int, int]]:
    """First query position and context length of each step."""
    prefill = [(0, trace.prefill_tokens)] if trace.prefill_tokens else []
    return prefill + [(t, t + 1) for t in range(trace.prefill_tokens, trace.tokens)]


def _summary(sums: NDArray[np.float64], share: NDArray[np.float64]) -> dict[str, float]:
    error, norm, cosine, divergence, mass, rows, refetched, top = (float(x) for x in sums)
    rows = max(rows, 1.0)
    live_rows = max(rows * float(share[1] / share[2]), 1.0)
    return {
        "relative_output_error": (error / norm) ** 0.5 if norm > 0 else 0.0,
        "mean_cosine": cosine / rows,
        "mean_kl": divergence / live_rows,
        "kept_mass": mass / live_rows,
        "lsb_refetch_fraction": refetched / live_rows,
        "mean_largest_probability": top / live_rows,
        "kept_tokens": float(share[0] / share[2]),
        "kept_heads": float(share[1] / share[2]),
    }


def _finite(
    trace: AttentionTrace, layer: int, kind: str, tensor: NDArray[np.float32]
) -> NDArray[np.float32]:
    if not np.isfinite(tensor).all():
        raise TraceError(
            f"{trace.path}: tensor 'layer.{layer}.{kind}' holds NaN or infinity; "
            "expected finite numbers"
        )
    return tensor
