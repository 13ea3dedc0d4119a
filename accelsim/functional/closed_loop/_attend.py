"""A policy as the attention function of a running model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.kernels import NO_SINKS
from accelsim.attention.look import PLAIN, Look
from accelsim.functional._block import attend_block, cut, fetches_of
from accelsim.functional._stored import Stored, value_budgets
from accelsim.policies import Policy, Quantization, why_closed_loop_not
from accelsim.policies.selector import (
    Block,
    Decision,
    KeepAll,
    Prompt,
    Selector,
    Shape,
    selector_for,
    stage_of,
)
from accelsim.traces.capture import Attend, Floats, ModelShape
from accelsim.workloads import read_bits

_ROWS_PER_BLOCK = 128
"""Query rows handled together: their scores stay in cache, and memory is bounded by one layer."""

Looks = Callable[[int, NDArray[np.int64]], Look]
"""How queries attend: of a layer and positions."""


def _plain(layer: int, positions: NDArray[np.int64]) -> Look:
    return PLAIN


def _within(looks: Looks, windows: Sequence[int | None]) -> Looks:
    """How the queries of a causal model attend whose layers have windows."""

    def look(layer: int, positions: NDArray[np.int64]) -> Look:
        found, window = looks(layer, positions), windows[layer]
        if window is None or positions[-1] < window:
            return found
        ends = (positions + 1 if found.ends is None else found.ends)[:, None]
        token = np.arange(ends.max())
        return found._replace(hidden=(token >= ends) | (token <= positions[:, None] - window))

    return look


class PolicyAttention:
    """Attention of one sequence under a policy; call it as the model's ``attend``.

    Keys and values of a whole call are quantized together, so a per-tensor scale is that of the
    text as a whole: a static scale, as calibrated hardware would hold. Where a policy must run step
    by step (:attr:`by_step`), it is that of the text so far.

    Args:
        policy: what to keep.
        shape: of the model and the sequence.
        scale: of the scores.
        seed: of the pivots of the top-k engine.
        windows: newest keys that a query of each layer sees, or none. A rule of a cache selects
            nothing in layers with a window: their cache is bounded already. A cascade goes on
            through them, and a query sees what it left of its window.
        looks: of a layer and the positions of queries, how they attend beside that; ``None``:
            by causal or full softmax.

    Attributes:
        selector: the rule at work.
        kept_keys: query-key pairs that were scored.
        visible_keys: pairs that dense attention would score.
        dram_bytes: traffic of keys, values and metadata, read and written, as the workload of an
            open loop counts it (:func:`accelsim.workloads.read_bits`). The prompt of a causal model
            is not counted: this is the traffic of the decoding that follows.
        prompt_tokens: first tokens, which are read as a prompt.
        alive: [tokens], tokens that have a query in the last layer.
    """

    def __init__(
        self,
        policy: Policy,
        shape: Shape,
        scale: float,
        seed: int = 0,
        windows: Sequence[int | None] = (),
        looks: Looks | None = None,
    ) -> None:
        self._policies, self._shape, self._scale = policy.by_stage(), shape, scale
        self._looks = looks or _plain
        self.prompt_tokens = shape.prompt_tokens
        self.selector = selector_for(policy, shape, seed)
        bounded = [w if w is not None and w < shape.tokens else None for w in windows]
        if any(bounded):
            self._looks = _within(self._looks, bounded)
            if any(part.selection for part in self._policies.values()):
                self.selector = _Windowed(self.selector, bounded)
        self._budgets = {
            stage: value_budgets(own, shape.num_layers, shape.tokens)
            for stage, own in self._policies.items()
        }
        self.kept_keys = 0
        self.visible_keys = 0
        self.dram_bytes = 0
        self._stored: dict[int, tuple[Stored, Quantization]] = {}
        self.alive: NDArray[np.bool_] = np.ones(shape.tokens, dtype=np.bool_)

    @property
    def by_step(self) -> bool:
        """Whether the model must run the prompt, and token by token after it."""
        return self.selector.by_step

    def read(
        self, layer: int, query: Floats, key: Floats, value: Floats, positions: NDArray[np.int64]
    ) -> None:
        """Show the rule the dense prompt of one layer, whose output is known already.

        Only rows that the rule has to see are computed (:attr:`Selector.prompt_rows`); what is
        counted of a prompt (:attr:`kept_keys`, :attr:`visible_keys`) is of those rows.
        """
        rows = min(self.selector.prompt_rows, len(positions))
        if rows:
            self(layer, query[:, -rows:], key, value, positions[-rows:])

    def __call__(
        self, layer: int, query: Floats, key: Floats, value: Floats, positions: NDArray[np.int64]
    ) -> Floats:
        """Return the output [query_heads, new, head_dim] of one layer; see ``Attend``."""
        shape = self._shape
        stored: Stored | None = None
        policy = self._policies["prefill"]
        prompt = positions[positions < shape.prompt_tokens] if shape.causal else positions[:0]
        if len(prompt):
            policy = policy.at_layer(layer, shape.num_layers)
            stored = self._read_back(layer, policy, key, value, int(positions[0]))
            asking, looks = query[:, : len(prompt)], functools.partial(self._looks, layer)
            self.selector.foresee(
                Prompt(layer, asking, stored.key_both, prompt, self._scale, looks)
            )
        rows = self.selector.rows(layer, positions)
        self.alive[positions] = False
        self.alive[rows] = True
        self.visible_keys += self._seen(layer, positions) * shape.num_query_heads
        output = np.zeros(query.shape, dtype=np.float32)
        for part in cut(rows, shape, _ROWS_PER_BLOCK):
            place, look = part - positions[0], self._looks(layer, part)
            stage = stage_of(part, shape)
            here = self._policies[stage].at_layer(layer, shape.num_layers)
            if stored is None or here.quantization != policy.quantization:
                stored = self._read_back(layer, here, key, value, int(positions[0]))
            policy = here
            got = attend_block(
                self.selector, here, stored, layer, query[:, place], part, self._scale,
                self._budgets[stage][layer], 1, look,
            )  # fmt: skip
            output[:, place] = got.output
            self.kept_keys += int(np.count_nonzero(got.decision.kept))
            if stage == "decode" or not shape.causal:
                columns = fetches_of(got, shape).columns()
                read = read_bits(columns, shape.head_dim)
                self.dram_bytes += sum(int(bits.sum()) for bits in read.values()) // 8
                self.dram_bytes += int(columns["write_back_bytes"].sum())
        return output

    def _seen(self, layer: int, positions: NDArray[np.int64]) -> int:
        """Keys that the queries of a head see."""
        shape, seen = self._shape, 0
        for part in cut(positions, shape, _ROWS_PER_BLOCK):
            look = self._looks(layer, part)
            if look.hidden is not None:
                seen += int(np.count_nonzero(~look.hidden))
                continue
            ends = part + 1 if shape.causal else np.full(len(part), shape.tokens)
            seen += int((ends if look.ends is None else look.ends).sum())
        return seen

    def _read_back(
        self, layer: int, policy: Policy, key: Floats, value: Floats, known: int
    ) -> Stored:
        """Keys and values as they are read back; those of ``known`` tokens may be known already."""
        before, stored_by = self._stored.pop(layer, None) or (None, None)
        if before is not None and (
            stored_by != policy.quantization or before.key_first.shape[1] != known
        ):
            before = None
        stored = Stored(policy, key, value, self._shape.prompt_tokens, np.float32, before)
        if key.shape[1] < self._shape.tokens:
            self._stored[layer] = (stored, policy.quantization)
        return stored


class _Windowed(Selector):
    """A rule in the layers that see everything; in the others, all keys of the window."""

    def __init__(self, rule: Selector, windows: Sequence[int | None]) -> None:
        super().__init__(rule.shape, rule.seed)
        self._rule, self._windows = rule, windows
        self._whole = KeepAll(rule.shape, rule.seed)
        self.by_step = rule.by_step  # type: ignore[misc]

    @property
    def prompt_rows(self) -> int:
        """Those of the rule; a window remembers nothing."""
        return self._rule.prompt_rows

    def run(self, block: Block) -> Decision:
        """Let the rule decide, or keep the window."""
        rule = self._rule if self._windows[block.layer] is None else self._whole
        return rule.run(block)

    def rows(self, layer: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ask the rule."""
        return self._rule.rows(layer, positions)

    def foresee(self, prompt: Prompt) -> None:
        """Show the rule what it decides itself."""
        if self._windows[prompt.layer] is None:
            self._rule.foresee(prompt)

    def learn(self, block: Block, output: NDArray[np.float64]) -> None:
        """Tell the rule what it decided itself."""
        if self._windows[block.layer] is None:
            self._rule.learn(block, output)


def forward(
    model: Any, token_ids: Sequence[int], attend: PolicyAttention, prompt_tokens: int = 0
) -> Floats:
    """Run a text through a causal model in the order that its policy needs.

    Args:
        model: a :class:`~accelsim.traces.capture.GgufModel` or
            :class:`~accelsim.functional.closed_loop.TransformersModel`.
        token_ids: the text.
        attend: of :func:`policy_attention`, new.
        prompt_tokens: as ``attend`` was made with.

    Returns:
        Logits [tokens, vocabulary].
    """
    if not attend.by_step:
        return np.asarray(model.forward(token_ids, attend))
    cache, ids = model.new_cache(), list(token_ids)
    calls = [ids[:prompt_tokens], *([i] for i in ids[prompt_tokens:])]
    return np.concatenate([model.forward(new, attend, cache) for new in calls if new])


def why_not_inside(
    policy: Policy,
    shape: ModelShape,
    *,
    causal: bool,
    prompt_tokens: int = 0,
    skip: int | None = None,
    token_ids: Sequence[int] | None = None,
) -> str:
    """Say why a policy cannot run inside a model, or return an empty string.

    Args:
        policy: what to keep.
        shape: of the model.
        causal, prompt_tokens, skip, token_ids: see :func:`accelsim.policies.why_closed_loop_not`.
    """
    return why_closed_loop_not(
        policy,
        causal=causal,
        prompt_tokens=prompt_tokens,
        skip=skip,
        num_layers=shape.num_layers,
        token_ids=token_ids,
        sinks=bool(shape.sinks),
        both_ways=shape.both_ways,
    )


def policy_attention(
    policy: Policy, shape: ModelShape, tokens: int, *, causal: bool, prompt_tokens: int = 0
) -> PolicyAttention:
    """Return the attention of one sequence.

    Args:
        policy: what to keep.
        shape: the model's :class:`~accelsim.traces.capture.ModelShape`.
        tokens: length of the sequence.
        causal: whether a query sees only keys up to its own position.
        prompt_tokens: first tokens that are read as a prompt.
    """
    return PolicyAttention(
        policy,
        Shape(
            shape.num_layers,
            shape.num_query_heads,
            shape.num_kv_heads,
            shape.head_dim,
            tokens,
            prompt_tokens,
            causal,
            both_ways=shape.both_ways,
        ),
        shape.scale,
        windows=shape.windows,
        looks=_model_looks(shape, prompt_tokens),
    )


def _model_looks(shape: ModelShape, prompt_tokens: int) -> Looks | None:
    """How the queries of a model attend beside its windows."""
    if not shape.sinks and not shape.both_ways:
        return None
    sinks = [np.array(own) for own in shape.sinks] or [NO_SINKS] * shape.num_layers

    def look(layer: int, positions: NDArray[np.int64]) -> Look:
        ends = positions + 1
        if shape.both_ways:
            ends = np.where(positions < prompt_tokens, prompt_tokens, ends)
        return Look(sinks=sinks[layer], ends=ends)

    return look


__all__ = ["Attend", "PolicyAttention", "forward", "policy_attention", "why_not_inside"]
