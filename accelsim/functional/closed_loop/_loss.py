"""What a policy loses inside a model, against 12-bit dense attention on the same samples.

Both run over the same tokens (or documents), so the interval is that of their difference: much
narrower than the interval of either, which holds the spread of the text too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import TraceError
from accelsim.functional.closed_loop._attend import forward, policy_attention
from accelsim.functional.closed_loop._lee import document_pairs, embeddings, pearson_of
from accelsim.functional.closed_loop._perplexity import (
    Perplexity,
    block_means,
    log_probabilities,
    perplexity,
)
from accelsim.functional.closed_loop._retrieval import Answer, Asked, TaskScore
from accelsim.functional.closed_loop._tasks import Example
from accelsim.policies import Policy
from accelsim.traces import AttentionTrace, MemoryTensors, tokens_sha256
from accelsim.traces.capture import Floats, dense_attention

_RESAMPLES = 1000
_TRACE_DECODE = 16
"""Decoded tokens of the trace on which a policy's cycles and joules are counted (our choice)."""
PASSES = 0.5
"""Dense attention that scores less fails a task, which then says nothing of a policy (ours)."""
_PROBE_EXAMPLES = 4
"""Examples whose answers are compared for the damage (our choice)."""
_PROBE_STORIES = 8
"""Stories whose embeddings are compared for the damage (our choice)."""


@dataclass(frozen=True)
class Loss:
    """What a policy loses on some samples.

    Attributes:
        loss: relative increase of the perplexity, or relative decrease of the correlation or task
            score; decrease of a task score where that is counted in points.
        low, high: its 95 % interval, paired: bootstrap of the difference to dense attention.
        score: perplexity, Pearson correlation or task score under the policy.
        dense: the same of 12-bit dense attention.
        samples: predicted tokens, pairs of documents, or examples.
        dram_bytes: traffic of keys, values and metadata of all samples.
        dense_bytes: the same of 12-bit dense attention.
    """

    loss: float
    low: float
    high: float
    score: float
    dense: float
    samples: int
    dram_bytes: int
    dense_bytes: int

    @property
    def reduction(self) -> float:
        """How many times less DRAM traffic than 12-bit dense attention."""
        return self.dense_bytes / self.dram_bytes

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


class ClosedLoop(Protocol):
    """A model with texts to tune on and others to state the loss on."""

    metric: str
    """``perplexity``, ``pearson`` or the name of a task."""
    unit: str
    """Of a hundred times the loss: ``%`` of the dense score, or ``points``."""
    causal: bool
    """Whether the model generates."""
    tokens: int
    """Tokens of a sample, the longest."""
    prompt_tokens: int
    """First tokens of a sample that attend densely, at most; 0 where every query is decoded."""

    @property
    def identity(self) -> str:
        """SHA-256 of what decides every figure but the policy."""
        ...

    def measure(self, policy: Policy) -> Loss:
        """Run the policy over the texts to tune on."""
        ...

    def held_out(self, policy: Policy) -> Loss | None:
        """Run it over the other texts; ``None`` where there are none."""
        ...

    def damage(self, policy: Policy) -> float:
        """How far the first sample's outputs move, never below 0: less noise than a loss."""
        ...

    def trace(self) -> AttentionTrace:
        """Record the first sample."""
        ...


class PerplexityLoss:
    """Loss of perplexity of a causal model.

    The damage is the mean divergence (KL, in nats) of the policy's predictions from the dense ones:
    like the loss, but without the luck of which token came next.

    Args:
        model: a :class:`~accelsim.traces.capture.GgufModel` or
            :class:`~accelsim.functional.closed_loop.TransformersModel`.
        name: of the model, for traces and the identity.
        windows: token ids to tune on, by name.
        held_out: token ids to state the loss on; there may be none.
        skip: first positions of a window that are not scored.
        prompt_tokens: first tokens of a window that attend densely.

    Raises:
        TraceError: no window, or one that is too short or too long.
    """

    metric = "perplexity"
    unit = "%"
    causal = True

    def __init__(
        self,
        model: Any,
        name: str,
        windows: Mapping[str, Sequence[int]],
        held_out: Mapping[str, Sequence[int]],
        *,
        skip: int = 64,
        prompt_tokens: int = 0,
    ) -> None:
        if not windows:
            raise TraceError("no window of text; expected at least one")
        for title, ids in {**windows, **held_out}.items():
            if not skip + 2 <= len(ids) <= model.shape.context_tokens:
                raise TraceError(
                    f"window '{title}' has {len(ids)} tokens; expected {skip + 2} (skip + 2) to "
                    f"{model.shape.context_tokens} (the model's context)"
                )
        self._model, self._name, self._skip = model, name, skip
        self.prompt_tokens = prompt_tokens
        self._windows, self._others = list(windows.values()), list(held_out.values())
        self.tokens = max(map(len, self._windows))

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the model's name, the texts and what is scored."""
        facts = [self._name, self._skip, self.prompt_tokens, self._windows, self._others]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def measure(self, policy: Policy) -> Loss:
        """Run the policy over the windows to tune on."""
        return self._loss(policy, self._windows, self._dense)

    def held_out(self, policy: Policy) -> Loss | None:
        """Run it over the other windows."""
        return self._loss(policy, self._others, self._other_dense) if self._others else None

    def damage(self, policy: Policy) -> float:
        """Mean divergence over the first window, in nats."""
        dense = self._probe
        moved = self._predictions(policy)
        return max(float((np.exp(dense) * (dense - moved)).sum(axis=1).mean()), 0.0)

    def trace(self) -> AttentionTrace:
        """Record the first half of the first window: a prompt and some decoded tokens."""
        ids = self._windows[0]
        decode = min(_TRACE_DECODE, len(ids) // 4)
        tokens = len(ids) // 2 + decode
        return _recorded(self._model, self._name, ids[:tokens], tokens - decode)

    @cached_property
    def _dense(self) -> Any:
        return self._measured(Policy(), self._windows)

    @cached_property
    def _other_dense(self) -> Any:
        return self._measured(Policy(), self._others)

    @cached_property
    def _probe(self) -> Floats:
        return self._predictions(Policy())

    def _predictions(self, policy: Policy) -> Floats:
        """Logarithms of the probabilities [scored, vocabulary] of the first window."""
        ids = self._windows[0]
        prompt = self.prompt_tokens
        attend = policy_attention(
            policy, self._model.shape, len(ids), causal=True, prompt_tokens=prompt
        )
        return log_probabilities(forward(self._model, ids, attend, prompt)[self._skip : -1])

    def _measured(self, policy: Policy, windows: list[Sequence[int]]) -> Perplexity:
        return perplexity(
            self._model, windows, policy, skip=self._skip, prompt_tokens=self.prompt_tokens
        )

    def _loss(self, policy: Policy, windows: list[Sequence[int]], dense: Any) -> Loss:
        found = self._measured(policy, windows)
        more = found.nll - dense.nll
        low, high = np.expm1(np.percentile(block_means(more), [2.5, 97.5]))
        return Loss(
            float(np.expm1(more.mean())), float(low), float(high), found.perplexity,
            dense.perplexity, found.tokens, found.dram_bytes, dense.dram_bytes,
        )  # fmt: skip


class LeeLoss:
    """Loss of correlation of an encoder with human judgements of similarity.

    Every second document is held out. The damage is the mean squared distance of unit embeddings.

    Args:
        model: a :class:`~accelsim.traces.capture.SentenceEncoder`.
        name: of the model, for traces and the identity.
        stories: texts.
        judged: human similarity of each pair, [stories, stories].
    """

    metric = "pearson"
    unit = "%"
    causal = False
    prompt_tokens = 0

    def __init__(
        self, model: Any, name: str, stories: Sequence[str], judged: NDArray[np.float64]
    ) -> None:
        self._model, self._name = model, name
        self._stories = [list(stories[start::2]) for start in (0, 1)]
        self._judged = [judged[start::2, start::2] for start in (0, 1)]
        self._dense: dict[int, Any] = {}
        self.tokens = max(len(model.encode(story)) for story in stories)

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the model's name and the texts."""
        facts = json.dumps([self._name, self._stories]).encode()
        return hashlib.sha256(facts + self._judged[0].tobytes()).hexdigest()

    def measure(self, policy: Policy) -> Loss:
        """Embed the documents to tune on."""
        return self._loss(policy, 0)

    def held_out(self, policy: Policy) -> Loss | None:
        """Embed the other documents."""
        return self._loss(policy, 1)

    def damage(self, policy: Policy) -> float:
        """Mean squared distance of the first embeddings from the dense ones."""
        stories = self._stories[0][:_PROBE_STORIES]
        found = embeddings(self._model, stories, policy).vectors
        dense = self._dense_of(0).vectors[: len(stories)]
        return float(((found - dense) ** 2).sum(axis=1).mean())

    def trace(self) -> AttentionTrace:
        """Record the first document."""
        ids = self._model.encode(self._stories[0][0])
        return _recorded(self._model, self._name, ids, len(ids))

    def _dense_of(self, half: int) -> Any:
        if half not in self._dense:
            self._dense[half] = embeddings(self._model, self._stories[half], Policy())
        return self._dense[half]

    def _loss(self, policy: Policy, half: int) -> Loss:
        judged, dense = self._judged[half], self._dense_of(half)
        found = embeddings(self._model, self._stories[half], policy)
        count = len(judged)
        draws = np.random.default_rng(0).integers(0, count, size=(_RESAMPLES, count))
        resampled = []
        for draw in draws:
            pairs = document_pairs(draw)
            before = pearson_of(dense.similar, judged, pairs)
            resampled.append(1 - pearson_of(found.similar, judged, pairs) / before)
        low, high = np.percentile(resampled, [2.5, 97.5])
        pairs = document_pairs(np.arange(count))
        score, before = (pearson_of(e.similar, judged, pairs) for e in (found, dense))
        return Loss(
            1 - score / before, float(low), float(high), score, before, len(pairs[0]),
            found.dram_bytes, dense.dram_bytes,
        )  # fmt: skip


class TaskLoss:
    """Loss of the score of a retrieval task.

    The damage is the mean divergence (KL, in nats) of what the policy expects of each token of the
    right answers from what dense attention expects.

    Args:
        model: a :class:`~accelsim.traces.capture.GgufModel` or
            :class:`~accelsim.functional.closed_loop.TransformersModel`.
        name: of the model, for traces and the identity.
        examples: to tune on, of :func:`~accelsim.functional.closed_loop.task_examples`.
        held_out: to state the loss on; there may be none.
        points: whether a loss is the decrease of the score itself, else that relative to dense.
        question_in_prompt: whether the question is read before anything is pruned.

    Raises:
        TraceError: no example.
    """

    causal = True

    def __init__(
        self,
        model: Any,
        name: str,
        examples: Sequence[Example],
        held_out: Sequence[Example],
        *,
        points: bool = False,
        question_in_prompt: bool = False,
    ) -> None:
        if not examples:
            raise TraceError("no example of a task; expected at least one")
        self._model, self._name, self._whole = model, name, question_in_prompt
        self._examples, self._others = list(examples), list(held_out)
        self._points = points
        self.unit = "points" if points else "%"
        self.metric = examples[0].task
        self.tokens = max(example.tokens for example in examples)
        self.prompt_tokens = len(examples[0].text_ids)

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the model's name, the examples and how a loss is counted."""
        examples = [[asdict(e) for e in some] for some in (self._examples, self._others)]
        facts = json.dumps([self._name, self._whole, self._points, examples])
        return hashlib.sha256(facts.encode()).hexdigest()

    def measure(self, policy: Policy) -> Loss:
        """Ask the examples to tune on.

        Raises:
            TraceError: dense attention fails the task: there is nothing to lose.
        """
        dense = TaskScore.of(self._dense)
        if dense.score < PASSES:
            raise TraceError(
                f"task '{self.metric}': dense attention finds {100 * dense.score:.0f} % "
                f"({100 * dense.low:.0f} to {100 * dense.high:.0f}) of the answers; expected a "
                f"task that it passes ({100 * PASSES:.0f} %)"
            )
        if policy == Policy():
            return self._loss(self._dense, self._dense)
        return self._loss(self._answers(policy, self._examples), self._dense)

    def held_out(self, policy: Policy) -> Loss | None:
        """Ask the other examples."""
        if not self._others:
            return None
        return self._loss(self._answers(policy, self._others), self._other_dense)

    def damage(self, policy: Policy) -> float:
        """Mean divergence over the answers of the first examples, in nats."""
        found = [
            (np.exp(dense) * (dense - moved)).sum(axis=1).mean()
            for dense, moved in zip(self._dense_predictions, self._predictions(policy), strict=True)
        ]
        return max(float(np.mean(found)), 0.0)

    def trace(self) -> AttentionTrace:
        """Record the first example, its text as the prompt."""
        example = self._examples[0]
        ids = [*example.text_ids, *example.question_ids]
        return _recorded(self._model, self._name, ids, len(example.text_ids))

    @cached_property
    def _dense(self) -> list[Answer]:
        return self._answers(Policy(), self._examples)

    @cached_property
    def _other_dense(self) -> list[Answer]:
        return self._answers(Policy(), self._others)

    @cached_property
    def _dense_predictions(self) -> list[Floats]:
        return self._predictions(Policy())

    def _predictions(self, policy: Policy) -> list[Floats]:
        """Logarithms of the probabilities [answer, vocabulary] of the first examples' answers."""
        found = []
        for example in self._examples[:_PROBE_EXAMPLES]:
            asked = Asked(self._model, example, question_in_prompt=self._whole)
            ids = self._model.encode(" ".join(["", *example.answers]))
            found.append(log_probabilities(asked.predictions(policy, ids)))
        return found

    def _answers(self, policy: Policy, examples: Sequence[Example]) -> list[Answer]:
        return [
            Asked(self._model, example, question_in_prompt=self._whole).answer(policy)
            for example in examples
        ]

    def _loss(self, found: Sequence[Answer], dense: Sequence[Answer]) -> Loss:
        scores = np.array([[a.score for a in answers] for answers in (found, dense)])
        count = len(found)
        draws = np.random.default_rng(0).integers(0, count, size=(_RESAMPLES, count))
        low, high = np.percentile(self._lost(*scores[:, draws].mean(axis=2)), [2.5, 97.5])
        score, before = (float(row.mean()) for row in scores)
        moved, whole = (TaskScore.of(a).dram_bytes_per_token for a in (found, dense))
        tokens = sum(a.tokens for a in dense)
        return Loss(
            float(self._lost(scores[0].mean(), scores[1].mean())), float(low), float(high), score,
            before, count, round(moved * tokens), round(whole * tokens),
        )  # fmt: skip

    def _lost(self, score: Any, dense: Any) -> Any:
        """Loss of scores against dense ones; a dense score of 0 has nothing to lose."""
        if self._points:
            return dense - score
        return np.where(dense > 0, 1 - score / np.where(dense > 0, dense, 1.0), 0.0)


def _recorded(model: Any, name: str, ids: Sequence[int], prefill: int) -> AttentionTrace:
    """Record a text as it is read, all tokens behind ``prefill`` as if they had been decoded."""
    shape, causal = model.shape, prefill < len(ids)
    dense = dense_attention(shape.scale, causal, shape.windows)
    tensors: dict[str, NDArray[Any]] = {"token_ids": np.asarray(ids, dtype=np.int32)}

    def attend(
        layer: int, query: Floats, key: Floats, value: Floats, positions: NDArray[np.int64]
    ) -> Floats:
        for kind, tensor in (("query", query), ("key", key), ("value", value)):
            tensors[f"layer.{layer}.{kind}"] = np.array(tensor, dtype=np.float32)
        return dense(layer, query, key, value, positions)

    model.forward(ids, attend)
    return AttentionTrace(
        model=name,
        source=f"weights: {name}\ntext: the first tokens of the first sample",
        num_layers=shape.num_layers,
        num_query_heads=shape.num_query_heads,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        causal=causal,
        prefill_tokens=prefill,
        decode_tokens=len(ids) - prefill,
        scale=shape.scale,
        tensors=MemoryTensors(tensors),
        tokens_sha256=tokens_sha256(tensors["token_ids"]),
        layers=shape.entries(len(ids)),
    )
