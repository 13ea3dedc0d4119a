"""Open loop for policies that select: their selectors over a recorded trace, layer by layer."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.kernels import METRICS, PER_QUERY, WORK
from accelsim.attention.look import Look
from accelsim.functional._attends import Looks
from accelsim.functional._block import Attended, Fetches, attend_block, cut
from accelsim.functional._cascade import CascadeRule, shape_of, stages_of
from accelsim.functional._record import NAMES, Recording
from accelsim.functional._stored import Stored, value_budgets
from accelsim.functional._walk import OpenLoopRule, Order, finite_tensors
from accelsim.policies import STAGES, Policy, beside
from accelsim.policies.cascade import LayerCascade
from accelsim.policies.selector import Prompt, Shape, selector_for, stage_of
from accelsim.traces import AttentionTrace, Layer

_ROWS_PER_BLOCK = 256
_SCORES_PER_BLOCK = 1 << 22
"""Some ten arrays of float64 have as many elements: 32 MB each."""
_TILE_BYTES = 1 << 28
"""Of what a cascade that accumulates layer by layer keeps of queries and keys between layers."""


class SelectedRule(OpenLoopRule):
    """A policy by its selector: ``selection``, a KIVI cache, or the cascade layer by layer.

    The tensors of one layer are in memory at a time, and the scores of one block.
    """

    order: Order = "layers"

    def __init__(self, trace: AttentionTrace, policy: Policy, seed: int) -> None:
        self._trace, self._policy, self._seed = trace, policy, seed
        self._looks = Looks(trace)
        # A decoder, even where its prompt is read in both directions.
        self._shape = as_decoder(shape_of(trace), self._looks.decodes)
        self._selector = selector_for(policy, self._shape, seed)
        if isinstance(self._selector, LayerCascade):
            row = self._selector.STATE_BYTES * trace.tokens
            self.tile_tokens = max(_TILE_BYTES // row, 1)
            self.order = "layers" if self.tile_tokens >= trace.tokens else "tiles"
            own = [trace.layer(index).kind != "cross" for index in range(trace.num_layers)]
            self._selector.last_layer = int(np.flatnonzero(own).max(initial=0))
        self._budgets = {
            stage: value_budgets(own, trace.num_layers, trace.tokens)
            for stage, own in policy.by_stage().items()
        }
        self._own = [trace.layer(index) for index in range(trace.num_layers)]
        self._layer = -1
        self._stored: Stored | None = None
        self._quantization = policy.quantization
        self._tokens = policy.at_stage(stages_of(trace)[-1]).tokens
        self._prompts: dict[int, _Requests] = {}
        crosses = any(own.kind == "cross" for own in self._own)
        self._crossing = {
            stage: CascadeRule(trace, beside(policy, stage), seed, None)
            for stage in (STAGES if crosses else ())
        }

    def keep_ratio(self, layer: int, figures: dict[str, float]) -> float:
        """Of the cascade's schedule; else what was kept."""
        if self._own[layer].kind == "cross":
            return 1.0
        if self._tokens is not None:
            return self._tokens.keep_ratio(layer, self._trace.num_layers)
        return figures["kept_token_fraction"]

    def attend(self, layer: int, positions: NDArray[np.int64], record: Recording) -> None:
        """The prompt of a layer, or all that follows it; or a tile of either."""
        trace, shape, own = self._trace, self._shape, self._own[layer]
        if own.kind == "cross":
            # Its keys are there before the first query, and neither a rule of a cache nor a cascade
            # that accumulates by layers acts on them. A prompt asks for them once, in whole.
            stage = stage_of(positions, shape)
            if stage == "prefill":
                if positions[-1] < trace.prefill_tokens - 1:
                    return
                positions = np.arange(trace.prefill_tokens)
            self._crossing[stage].attend(layer, positions, record)
            return
        if layer != self._layer:
            self._layer = layer
            self._tensors = finite_tensors(trace, layer)
            self._exact = tuple(tensor.astype(np.float64) for tensor in self._tensors[1:])
            self._stored = None
        stage = stage_of(positions, shape)
        here = self._policy.at_stage(stage).at_layer(layer, trace.num_layers)
        query, key, value = self._tensors
        if self._stored is None or here.quantization != self._quantization:
            self._stored = None  # never two copies of a long layer
            self._stored = Stored(
                here, key, value, trace.prefill_tokens, latent=own.kind == "latent"
            )
            self._quantization = here.quantization
        prompt = stage == "prefill"
        if prompt and shape.causal:
            asking = query[:, positions[0] : positions[-1] + 1]
            looks = functools.partial(self._looks, layer, context=trace.prefill_tokens)
            keys = self._stored.key_both
            self._selector.foresee(Prompt(layer, asking, keys, positions, own.scale, looks))
        rows = self._selector.rows(layer, positions)
        last = trace.prefill_tokens if shape.causal else shape.tokens
        if prompt and layer not in self._prompts:
            self._prompts[layer] = _Requests(own, Fetches(shape.at(layer), last), shape.at(layer))
        ends = self._looks.ends(layer, rows)
        for part in cut(rows, shape, _ROWS_PER_BLOCK, _SCORES_PER_BLOCK, ends):
            wide = query[:, part].astype(np.float64)
            look = self._looks(layer, part)
            got = attend_block(
                self._selector, here, self._stored, layer, wide, part, own.scale,
                self._budgets[stage][layer], self._seed + layer, look,
            )  # fmt: skip
            alive = np.asarray(got.decision.kept.any(axis=2))
            record.compare(
                layer, _compare(got, self._exact, alive, look),
                (int(np.count_nonzero(alive)), alive.size), (len(part), 0),
            )  # fmt: skip
            if prompt:
                self._prompts[layer].add(got)
            else:
                mine = shape.at(layer)
                found = _Requests(own, Fetches(mine, int(part[-1]) + 1, part), mine)
                found.add(got)
                for at in range(len(part)):
                    step = int(part[at]) + 1 - trace.prefill_tokens
                    found.note((step, layer, int(part[at]) + 1), at, slice(at, at + 1), record)
        record.compare(layer, np.zeros(1, dtype=METRICS), (0, 0), (0, len(positions)))
        if prompt and positions[-1] == last - 1:
            whole = self._prompts.pop(layer)
            if whole.some:
                whole.note((0, layer, last), 0, slice(None), record)


def as_decoder(shape: Shape, decodes: bool) -> Shape:
    """The shape of a model that decodes: its rows are those of a prompt, and those after it."""
    layers = tuple(as_decoder(own, decodes) for own in shape.layers)
    return replace(shape, causal=decodes, layers=layers)


class _Requests:
    """What the rows of a prompt, or of a block after it, ask for; added up block by block.

    Args:
        own: the layer.
        fetches: empty.
        shape: of the model and the run.
    """

    def __init__(self, own: Layer, fetches: Fetches, shape: Shape) -> None:
        self._own, self._fetches, self._shape = own, fetches, shape
        self._parts: list[_Rows] = []

    @property
    def some(self) -> bool:
        """Whether there was a block."""
        return bool(self._parts)

    def add(self, part: Attended) -> None:
        """Take in a block; nothing of the size of its scores is kept."""
        self._fetches.add(part)
        decision, group = part.decision, self._shape.group
        heads = range(self._shape.num_kv_heads)
        self._parts.append(
            _Rows(
                np.stack([_queries(part, group, kv) for kv in heads]),
                decision.work, decision.score_updates, part.topk,
                np.asarray(decision.kept.any(axis=2)),
            )
        )  # fmt: skip

    def note(self, place: tuple[int, int, int], at: int, mine: slice, record: Recording) -> None:
        """Note the requests of one fetch.

        Args:
            place: of :meth:`Record.add`.
            at: which of the fetches.
            mine: rows that share it.
            record: takes them.
        """
        if len(self._parts) > 1:
            arrays = zip(*self._parts, strict=True)
            self._parts = [_Rows(*(np.concatenate(parts, axis=1) for parts in arrays))]
        rows, work, updates, topk, alive = self._parts[0]
        split = (self._shape.num_kv_heads, self._shape.group, -1)
        topk, alive = topk.reshape(split), alive.reshape(split)
        fetches = self._fetches
        heads = np.flatnonzero(alive[:, :, mine].any(axis=(1, 2)))
        if not len(heads):
            return  # nothing that the rows see was kept
        found = {name: column[heads, at] for name, column in self.columns.items()}
        for name in WORK.names or ():
            chosen = work[name][heads, mine]
            found[f"select_{name}"] = (
                chosen.max(axis=1) if name in ("size", "target") else chosen.sum(axis=1)
            )
        for name in ("size", "target", "elements"):
            pruned = topk[name][heads][:, :, mine].reshape(len(heads), -1)
            found[f"topk_{name}"] = pruned.sum(axis=1) if name == "elements" else pruned.max(axis=1)
        # All the searches of these rows, and not one of each query.
        found["select_once"] = found["select_size"] > 0
        found["score_updates"] = updates[heads, mine].sum(axis=1)
        queries = [rows[kv][mine].ravel()[alive[kv, :, mine].T.ravel()] for kv in heads.tolist()]
        scored = np.array(
            [int((q["keys"] * (1 + (q["refetch"] > 0))).sum()) for q in queries], dtype=np.int64
        )
        found["capped_scores"] = scored * (self._own.softcap is not None)
        found["biased_scores"] = scored * (self._own.bias is not None)
        context = place[2]
        record.add(
            place, heads, found, queries,
            map(_tokens, fetches.keys[heads, at, :context]),
            map(_tokens, fetches.values[heads, at, :context]),
        )  # fmt: skip

    @functools.cached_property
    def columns(self) -> dict[str, NDArray[Any]]:
        """Columns of the workload, each [kv_heads, fetches]."""
        return self._fetches.columns()


class _Rows(NamedTuple):
    """What is kept of the rows of a block.

    Attributes:
        queries: of :data:`PER_QUERY`, [kv_heads, rows, group].
        work: of the selector, [kv_heads, rows].
        updates: [kv_heads, rows].
        topk: [query_heads, rows].
        alive: [query_heads, rows].
    """

    queries: NDArray[Any]
    work: NDArray[Any]
    updates: NDArray[np.int64]
    topk: NDArray[Any]
    alive: NDArray[np.bool_]


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
    got: Attended,
    exact: tuple[NDArray[np.float64], ...],
    alive: NDArray[np.bool_],
    look: Look,
) -> NDArray[Any]:
    """Sums of a block against dense attention; a pruned head counts as zero output only.

    Args:
        got: of the policy.
        exact: keys and values as recorded, [kv_heads, tokens, key_dim or value_dim].
        alive: [query_heads, rows].
        look: how the rows attend.
    """
    block, probabilities = got.block, got.block.scores
    heads, rows, context = probabilities.shape
    key, value = (tensor[:, :context] for tensor in exact)
    grouped = (block.query * block.scale).reshape(len(key), -1, block.query.shape[2])
    scores = (grouped @ key.transpose(0, 2, 1)).reshape(heads, rows, context)
    look.apply(scores, block.positions)
    hidden = np.arange(context)[None, :] >= block.visible[:, None]
    scores[:, hidden] = -np.inf
    sinks = block.sinks[:, None, None]
    top = np.maximum(scores.max(axis=-1, keepdims=True), sinks)
    scores -= top
    scores -= np.log(np.exp(scores).sum(axis=-1, keepdims=True) + np.exp(sinks - top))
    dense = np.exp(scores)
    reference = (dense.reshape(len(key), -1, context) @ value).reshape(heads, rows, -1)
    norms = np.sqrt((got.output**2).sum(axis=-1) * (reference**2).sum(axis=-1))
    dots = (got.output * reference).sum(axis=-1)
    cosine = np.where(norms > 0, dots / np.where(norms > 0, norms, 1.0), 1.0)
    some = probabilities > 0
    surprise = np.log(probabilities[some]) - scores[some]
    whole = bool(alive.all())
    seen = block.visible if look.hidden is None else (~(look.hidden | hidden)).sum(axis=1)
    visible = np.broadcast_to(seen, alive.shape)
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
