"""Retrieval with a policy inside the model: greedy decoding, scored by what the answer holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import TraceError
from accelsim.functional.closed_loop._attend import (
    PolicyAttention,
    policy_attention,
    why_not_inside,
)
from accelsim.functional.closed_loop._tasks import Example
from accelsim.policies import Policy
from accelsim.traces.capture import Floats, KVCache

_QUANTILE = 1.959964
"""Of the standard normal distribution, for 95 % on both sides."""


@dataclass(frozen=True)
class Answer:
    """What a policy made of one example.

    Attributes:
        score: part of the expected answers that the text holds, 0 to 1.
        text: what was decoded.
        kept_keys: query-key pairs scored by the question and the answer.
        visible_keys: pairs that dense attention would score there.
        dram_bytes: traffic of keys, values and metadata of the same.
        tokens: tokens behind the prompt.
    """

    score: float
    text: str
    kept_keys: int
    visible_keys: int
    dram_bytes: int
    tokens: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class TaskScore:
    """Score of a policy over some examples of a task.

    Attributes:
        score: mean over the examples of the part of the answers found, 0 to 1.
        low, high: 95 % interval (Wilson), as if each example were right or wrong: too wide where an
            example is answered in part.
        examples: how many.
        kept_key_fraction: query-key pairs scored behind the prompt, of those of dense attention.
        dram_bytes: traffic of keys, values and metadata behind the prompts.
        dram_bytes_per_token: the same for each token behind the prompts.
    """

    score: float
    low: float
    high: float
    examples: int
    kept_key_fraction: float
    dram_bytes: int
    dram_bytes_per_token: float

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> TaskScore:
        """Score of some answers, at least one."""
        mean = float(np.mean([a.score for a in answers]))
        low, high = wilson_interval(mean, len(answers))
        kept, seen = (sum(getattr(a, n) for a in answers) for n in ("kept_keys", "visible_keys"))
        moved, tokens = (sum(getattr(a, n) for a in answers) for n in ("dram_bytes", "tokens"))
        return cls(mean, low, high, len(answers), kept / seen, moved, moved / tokens)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "mode": "closed-loop",
            "score": self.score,
            "interval_95": [self.low, self.high],
            "interval_method": "Wilson",
            "examples": self.examples,
            "kept_key_fraction": self.kept_key_fraction,
            "dram_bytes": self.dram_bytes,
            "dram_bytes_per_token": self.dram_bytes_per_token,
        }


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share of ``count`` trials (Wilson, JASA 1927)."""
    square = _QUANTILE**2
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    half *= _QUANTILE / (1 + square / count)
    # Rounding must not leave the share outside.
    return min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share)


class Asked:
    """One example, asked under any number of policies.

    The text is read once for all policies that leave a prompt dense and store it alike: their
    caches start from the same keys and values, and their rules see the same queries.

    Args:
        model: a :class:`~accelsim.traces.capture.GgufModel` or
            :class:`~accelsim.functional.closed_loop.TransformersModel`.
        example: of :func:`~accelsim.functional.closed_loop.task_examples`.
        question_in_prompt: whether the question is read before anything is pruned. Else what stays
            is chosen without knowing what will be asked.
    """

    def __init__(self, model: Any, example: Example, *, question_in_prompt: bool = False) -> None:
        self._model, self._example = model, example
        ids = [*example.text_ids, *example.question_ids]
        split = len(ids) if question_in_prompt else len(example.text_ids)
        self._prompt, self._rest = ids[:split], ids[split:]
        self._read: dict[str, _Reading] = {}

    def answer(self, policy: Policy) -> Answer:
        """Decode greedily until all answers are there, the turn ends, or the steps are spent.

        Raises:
            TraceError: a policy that does not apply.
        """
        attend, cache, logits = self._begun(policy)
        kept, seen, moved = attend.kept_keys, attend.visible_keys, attend.dram_bytes
        tokens = 0
        if self._rest:
            logits = _continued(self._model, self._rest, attend, cache)
            tokens = len(self._rest)
        decoded: list[int] = []
        ends = end_ids(self._model)
        expected = self._example.answers
        while True:
            decoded.append(int(logits[-1].argmax()))
            text = str(self._model.decode(decoded))
            found = sum(answer in text for answer in expected)
            last = decoded[-1] in ends or len(decoded) >= self._example.steps
            # A number that goes on is another number.
            if last or (found == len(expected) and not text[-1].isalnum()):
                break
            logits = _continued(self._model, decoded[-1:], attend, cache)
            tokens += 1
        return Answer(
            found_in(text, expected), text, attend.kept_keys - kept, attend.visible_keys - seen,
            attend.dram_bytes - moved, tokens,
        )  # fmt: skip

    def predictions(self, policy: Policy, answer_ids: Sequence[int]) -> Floats:
        """Logits [answer, vocabulary] from which each token of an answer would be decoded."""
        attend, cache, logits = self._begun(policy)
        rows = [*self._rest, *answer_ids[:-1]]
        if rows:
            later = _continued(self._model, rows, attend, cache)
            logits = np.concatenate([logits, later])
        return logits[-len(answer_ids) :]

    def _begun(self, policy: Policy) -> tuple[PolicyAttention, Any, Floats]:
        """Attention that has read the prompt, the cache, and the prompt's last logits."""
        size = len(self._prompt)
        explain = why_not_inside(
            policy, self._model.shape, causal=True, prompt_tokens=size, skip=size - 1
        )
        if explain:
            raise TraceError(explain)
        attend = self._attention(policy)
        alike = as_prompt(policy)
        if alike is None or not isinstance(self._model.new_cache(), KVCache):
            cache = self._model.new_cache()
            return attend, cache, self._model.forward(self._prompt, attend, cache, last_only=True)
        key = alike.model_dump_json()
        if key not in self._read:
            self._read = {key: _Reading(self._model, self._prompt, self._attention(alike))}
        read = self._read[key]
        cache = read.replayed(attend)
        return attend, cache, read.logits

    def _attention(self, policy: Policy) -> PolicyAttention:
        return policy_attention(
            policy, self._model.shape, self._example.tokens, causal=True,
            prompt_tokens=len(self._prompt),
        )  # fmt: skip


class _Reading:
    """A prompt as dense attention read it: what attention got in every layer."""

    def __init__(self, model: Any, ids: Sequence[int], attend: PolicyAttention) -> None:
        self._layers: list[tuple[Floats, Floats, Floats]] = []
        self._positions = np.arange(len(ids))

        def recorded(
            layer: int, query: Floats, key: Floats, value: Floats, positions: NDArray[np.int64]
        ) -> Floats:
            self._layers.append((query, key, value))
            return attend(layer, query, key, value, positions)

        self.logits: Floats = model.forward(ids, recorded, last_only=True)

    def replayed(self, attend: PolicyAttention) -> KVCache:
        """Show a rule the prompt, and return the cache behind it."""
        cache = KVCache()
        for layer, (query, key, value) in enumerate(self._layers):
            attend.read(layer, query, key, value, self._positions)
            cache.extend(layer, key, value)
        return cache


def retrieval(
    model: Any,
    examples: Sequence[Example],
    policy: Policy,
    *,
    question_in_prompt: bool = False,
    on_example: Callable[[int, int], None] = lambda done, total: None,
) -> TaskScore:
    """Ask every example with ``policy`` inside the model.

    The text is a prompt, read densely; then the policy prunes, and the question and the answer are
    decoded from what is left.

    Args:
        model: a :class:`~accelsim.traces.capture.GgufModel` or
            :class:`~accelsim.functional.closed_loop.TransformersModel`.
        examples: of :func:`~accelsim.functional.closed_loop.task_examples`.
        policy: what to keep.
        question_in_prompt: whether the question is read before anything is pruned.
        on_example: told how many examples are done.

    Raises:
        TraceError: no example, or a policy that does not apply.
    """
    if not examples:
        raise TraceError("no example of a task; expected at least one")
    answers = []
    for number, example in enumerate(examples):
        answers.append(Asked(model, example, question_in_prompt=question_in_prompt).answer(policy))
        on_example(number + 1, len(examples))
    return TaskScore.of(answers)


def as_prompt(policy: Policy) -> Policy | None:
    """The plain policy whose prompt leaves the same keys, values and hidden states, if any."""
    prefill = policy.at_stage("prefill")
    if prefill.values or any(p.tokens or p.heads for p in policy.by_stage().values()):
        return None
    if prefill.selection is not None and prefill.selection.in_prompt:
        return None
    return Policy(quantization=prefill.quantization)


def found_in(text: str, answers: Sequence[str]) -> float:
    """Part of the answers that a text holds."""
    return sum(answer in text for answer in answers) / len(answers)


def end_ids(model: Any) -> set[int]:
    """Tokens that end an answer, as far as the tokenizer says."""
    tokenizer = getattr(model, "tokenizer", None)
    known = {} if tokenizer is None else tokenizer.get_vocab()
    names = ("<|im_end|>", "<|endoftext|>", "<end_of_turn>", "<eos>", "</s>", "<|eot_id|>")
    return {known[name] for name in names if name in known}


def _continued(model: Any, ids: Sequence[int], attend: PolicyAttention, cache: Any) -> Floats:
    """Logits [new, vocabulary] of tokens behind a cache, in the order that the policy needs."""
    if not attend.by_step:
        return np.asarray(model.forward(ids, attend, cache))
    return np.concatenate([model.forward([i], attend, cache) for i in ids])
