"""Decisions that were recorded elsewhere, replayed."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pydantic
from numpy.typing import NDArray

from accelsim.attention.kernels import WORK
from accelsim.attention.rows import dense_mask
from accelsim.attention.topk import topk_engine
from accelsim.errors import ConfigError, TraceError
from accelsim.policies._selection import (
    FROM_PROBABILITIES,
    IN_BOTH_DIRECTIONS,
    Needs,
    SelectionPart,
)
from accelsim.policies.selector import Block, Decision, Selector, Shape
from accelsim.traces import (
    OTHER_KV_HEADS,
    Decisions,
    LayerDecisions,
    digest_of_file,
    load_decisions,
    segments,
    tokens_sha256,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from accelsim.traces import AttentionTrace


class Recorded(SelectionPart):
    """Kept sets of another program, from a file beside the trace (docs/traces.md, decisions).

    A KV head keeps what the file says from the step on that the file says, and all tokens that
    come after it. The prompt attends densely. Each change asks for one top-k per KV head, of the
    keys that it selects from: pivots are drawn over ranks, for the scores were not recorded. A rule
    whose declared cost has nothing to sort asks for none. What ranks the keys before it (the
    ``cost`` of the file) is declared, and not charged.

    Attributes:
        decisions: the file, ``.safetensors``; beside the policy's YAML, or from the current folder.
        sha256: of the file, filled in if not given; another one is refused.
    """

    kind: Literal["recorded"]
    decisions: str
    sha256: str = ""
    needs: ClassVar[Needs] = Needs(selection="once")
    # A file has as many KV heads in all layers.
    follows: ClassVar[frozenset[str]] = (FROM_PROBABILITIES | IN_BOTH_DIRECTIONS) - {OTHER_KV_HEADS}

    @pydantic.model_validator(mode="before")
    @classmethod
    def _read(cls, data: Any) -> Any:
        """Read the file once it is named, so that its contents are part of the policy."""
        path = data.get("decisions") if isinstance(data, dict) else None
        if not isinstance(path, str):
            return data
        load_decisions(path)
        found = digest_of_file(Path(path))
        if data.get("sha256") not in (None, "", found):
            raise ValueError(f"'{path}' has changed; expected sha256 {data['sha256']}")
        return {**data, "sha256": found}

    def load(self) -> Decisions:
        """Return the decisions.

        Raises:
            TraceError: the file is no longer what it was.
        """
        return _load(self.decisions, self.sha256)

    def why_not(self, trace: AttentionTrace) -> str:
        """Say why the file is not of a trace, or return an empty string."""
        return self.load().why_not(trace)

    def why_not_text(self, token_ids: Sequence[int], prompt_tokens: int) -> str:
        """Say why the file is not of a text, or return an empty string."""
        decisions = self.load()
        if decisions.tokens_sha256 == tokens_sha256(np.asarray(token_ids)):
            return ""
        return f"decisions {decisions.path} are of other tokens; expected those of this text"

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return RecordedSelector(self, shape, seed)


@functools.lru_cache(maxsize=32)
def _load(path: str, sha256: str) -> Decisions:
    if digest_of_file(Path(path)) != sha256:
        raise TraceError(f"{path}: has changed; expected sha256 {sha256}")
    return load_decisions(path)


class RecordedSelector(Selector):
    """Masks from a file."""

    def __init__(self, rule: Recorded, shape: Shape, seed: int = 0) -> None:
        super().__init__(shape, seed)
        self.decisions = rule.load()
        prompt = shape.prompt_tokens
        explain = self.decisions.why_not_shape(
            shape.num_layers, shape.num_kv_heads, prompt, shape.tokens - prompt
        )
        if explain:
            raise ConfigError(f"selection 'recorded': {explain}")
        self._acts = prompt >= rule.min_keys
        cost = self.decisions.cost
        self._sorts = cost is None or cost.sorted > 0

    @property
    def prompt_rows(self) -> int:
        """None: the file decides."""
        return 0

    def run(self, block: Block) -> Decision:
        """Mark the keys of each row, and turn its scores into probabilities."""
        shape = self.shape
        decision = Decision.empty(block, shape.num_kv_heads)
        context = block.scores.shape[2]
        decision.kept = dense_mask(len(block.scores), block.visible, context)
        layer = self.decisions.layers[block.layer]
        spans = segments(layer, shape.prompt_tokens, shape.tokens) if self._acts else ()
        for change, (first, end) in enumerate(spans):
            rows = (block.positions >= first) & (block.positions < end)
            if not rows.any():
                continue
            for head in range(shape.num_kv_heads):
                stays = np.arange(context) >= first
                stays[layer.set_of(change, head, shape.num_kv_heads)] = True
                group = slice(head * shape.group, (head + 1) * shape.group)
                decision.kept[group, rows] &= stays
            if self._sorts and block.positions[rows][0] == first:
                at = int(np.argmax(rows))
                decision.work[:, at] = self._work(layer, block.layer, change, first)
        self.attend(block, decision)
        return decision

    def _work(self, layer: LayerDecisions, number: int, change: int, first: int) -> NDArray[Any]:
        """Work [kv_heads] of the selection at a change, before the query at ``first``."""
        kv_heads, work = self.shape.num_kv_heads, np.zeros(self.shape.num_kv_heads, dtype=WORK)
        for head in range(kv_heads):
            stay = len(layer.set_of(change, head, kv_heads))
            size = first
            if change:
                before = self.shape.prompt_tokens + int(layer.steps[change - 1])
                size = len(layer.set_of(change - 1, head, kv_heads)) + first - before
            if not 0 < stay < size:
                continue
            ranks = np.random.default_rng([self.seed, number, change, head]).permutation(size)
            top = topk_engine(ranks, stay, self.seed + number * 977 + head)
            work[head] = (size, stay, top.passes, top.elements, top.beats)
        return work
