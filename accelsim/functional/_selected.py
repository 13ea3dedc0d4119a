"""Open loop for policies that select: their selectors over a recorded trace, layer by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.kernels import METRICS, PER_QUERY, WORK
from accelsim.functional._block import Attended, attend_block, cut, fetches_of
from accelsim.functional._cascade import shape_of, stages_of
from accelsim.functional._record import NAMES, Record
from accelsim.functional._stored import Stored, value_budgets
from accelsim.functional._walk import OpenLoopRule, Order, finite_tensors
from accelsim.policies import Policy
from accelsim.policies.selector import selector_for, stage_of
from accelsim.traces import AttentionTrace

_ROWS_PER_BLOCK = 256


class SelectedRule(OpenLoopRule):
    """A policy by its selector: ``selection``, a KIVI cache, or the cascade layer by layer.

    The tensors of one layer are in memory at a time, and the scores of one block.
    """

    order: Order = "layers"

    def __init__(self, trace: AttentionTrace, policy: Policy, seed: int) -> None:
        self._trace, self._policy, self._seed = trace, policy, seed
        self._shape = shape_of(trace)
        self._selector = selector_for(policy, self._shape, seed)
        self._budgets = {
            stage: value_budgets(own, trace.num_layers, trace.tokens)
            for stage, own in policy.by_stage().items()
        }
        self._layer = -1
        self._stored: Stored | None = None
        self._quantization = policy.quantization
        self._tokens = policy.at_stage(stages_of(trace)[-1]).tokens

    def keep_ratio(self, layer: int, figures: dict[str, float]) -> float:
        """Of the cascade's schedule; else what was kept."""
        if self._tokens is not None:
            return self._tokens.keep_ratio(layer, self._trace.num_layers)
        return figures["kept_token_fraction"]

    def attend(self, layer: int, positions: NDArray[np.int64], record: Record) -> None:
        """The prompt of a layer, or all that follows it."""
        trace, shape = self._trace, self._shape
        if layer != self._layer:
            self._layer = layer
            self._tensors = finite_tensors(trace, layer)
            self._exact = tuple(tensor.astype(np.float64) for tensor in self._tensors[1:])
            self._stored = None
        stage = stage_of(positions, shape)
        here = self._policy.at_stage(stage).at_layer(layer, trace.num_layers)
        query, key, value = self._tensors
        if self._stored is None or here.quantization != self._quantization:
            self._stored = Stored(here, key, value, trace.prefill_tokens)
            self._quantization = here.quantization
        rows, scale = self._selector.rows(layer, positions), trace.layer(layer).scale
        parts = []
        for part in cut(rows, shape, _ROWS_PER_BLOCK):
            wide = query[:, part].astype(np.float64)
            got = attend_block(
                self._selector, here, self._stored, layer, wide, part, scale,
                self._budgets[stage][layer], self._seed + layer,
            )  # fmt: skip
            alive = np.asarray(got.decision.kept.any(axis=2))
            record.compare(
                layer, _compare(got, self._exact, alive),
                (int(np.count_nonzero(alive)), alive.size), (len(part), 0),
            )  # fmt: skip
            parts.append(got)
            if stage == "decode":
                self._note(layer, [got], record)
        record.compare(layer, np.zeros(1, dtype=METRICS), (0, 0), (0, len(positions)))
        if stage == "prefill" and parts:
            self._note(layer, parts, record)

    def _note(self, layer: int, parts: list[Attended], record: Record) -> None:
        """Requests of one prompt, or of each row of one block after it."""
        shape = self._shape
        keys, values, columns = fetches_of(parts, shape)
        decoding = stage_of(parts[0].block.positions, shape) == "decode"
        rows = [np.concatenate([_queries(p, shape.group, kv) for p in parts], axis=0)
                for kv in range(shape.num_kv_heads)]  # fmt: skip
        work = np.concatenate([p.decision.work for p in parts], axis=1)
        updates = np.concatenate([p.decision.score_updates for p in parts], axis=1)
        topk = np.concatenate([p.topk for p in parts], axis=1)
        topk = topk.reshape(shape.num_kv_heads, shape.group, -1)
        alive = np.concatenate([p.decision.kept.any(axis=2) for p in parts], axis=1)
        alive = alive.reshape(shape.num_kv_heads, shape.group, -1)
        for at in range(keys.shape[1]):
            mine = slice(at, at + 1) if decoding else slice(None)
            heads = np.flatnonzero(alive[:, :, mine].any(axis=(1, 2)))
            context = int(parts[0].block.positions[at]) + 1 if decoding else keys.shape[2]
            step = max(context - self._trace.prefill_tokens, 0)
            found = {name: column[heads, at] for name, column in columns.items()}
            for name in WORK.names or ():
                chosen = work[name][heads, mine]
                found[f"select_{name}"] = (
                    chosen.max(axis=1) if name in ("size", "target") else chosen.sum(axis=1)
                )
            for name in ("size", "target", "elements"):
                pruned = topk[name][heads][:, :, mine].reshape(len(heads), -1)
                found[f"topk_{name}"] = (
                    pruned.sum(axis=1) if name == "elements" else pruned.max(axis=1)
                )
            found["score_updates"] = updates[heads, mine].sum(axis=1)
            queries = [
                rows[kv][mine].ravel()[alive[kv, :, mine].T.ravel()] for kv in heads.tolist()
            ]
            record.add(
                (step, layer, context), heads, found, queries,
                map(_tokens, keys[heads, at, :context]), map(_tokens, values[heads, at, :context]),
            )  # fmt: skip


def _tokens(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    return np.flatnonzero(mask).astype(np.int32)


def _queries(part: Attended, group: int, kv_head: int) -> NDArray[Any]:
    """Records of :data:`PER_QUERY` [rows, group] of one KV head."""
    heads = slice(kv_head * group, (kv_head + 1) * group)
    positions, topk = part.block.positions, part.topk[heads].T
    found = np.zeros((len(positions), group), dtype=PER_QUERY)
    found["position"] = positions[:, None]
    found["keys"] = part.decision.kept[heads].sum(axis=2).T
    found["values"] = part.used[heads].sum(axis=2).T
    found["refetch"] = part.decision.refetched[heads].T
    found["topk_passes"], found["topk_beats"] = topk["passes"], topk["beats"]
    return found


def _compare(
    got: Attended, exact: tuple[NDArray[np.float64], ...], alive: NDArray[np.bool_]
) -> NDArray[Any]:
    """Sums of a block against dense attention; a pruned head counts as zero output only.

    Args:
        got: of the policy.
        exact: keys and values as recorded, [kv_heads, tokens, head_dim].
        alive: [query_heads, rows].
    """
    block, probabilities = got.block, got.block.scores
    heads, rows, context = probabilities.shape
    key, value = (tensor[:, :context] for tensor in exact)
    grouped = (block.query * block.scale).reshape(len(key), -1, block.query.shape[2])
    scores = (grouped @ key.transpose(0, 2, 1)).reshape(heads, rows, context)
    hidden = np.arange(context)[None, :] >= block.visible[:, None]
    scores[:, hidden] = -np.inf
    scores -= scores.max(axis=-1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    dense = np.exp(scores)
    reference = (dense.reshape(len(key), -1, context) @ value).reshape(heads, rows, -1)
    norms = np.sqrt((got.output**2).sum(axis=-1) * (reference**2).sum(axis=-1))
    dots = (got.output * reference).sum(axis=-1)
    cosine = np.where(norms > 0, dots / np.where(norms > 0, norms, 1.0), 1.0)
    some = probabilities > 0
    surprise = np.log(probabilities[some]) - scores[some]
    whole = bool(alive.all())
    visible = np.broadcast_to(block.visible, alive.shape)
    sums = {
        "error_square": ((got.output - reference) ** 2).sum(),
        "reference_square": (reference**2).sum(),
        "cosine": cosine.sum() if whole else cosine[alive].sum(),
        "kl_nats": (probabilities[some] * surprise).sum(),
        "kept_mass": dense[got.decision.kept].sum(),
        "kept_value_mass": dense[got.used].sum(),
        "rows": np.count_nonzero(alive),
        "visible": visible[alive].sum(),
    }
    return np.array([tuple(sums[name] for name in NAMES)], dtype=METRICS)
