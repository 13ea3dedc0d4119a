"""Retrieval tasks made from a local text: facts hidden in it, or words to be counted.

The six follow RULER (Hsieh et al., COLM 2024), sized for small models: five-digit numbers, one
example before each task that is more than a look-up, sentences of a text as the haystack.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import TraceError, did_you_mean

_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_SENTENCE_CHARACTERS = (20, 300)
"""Shorter ones are headings and crumbs, longer ones lists (our choice)."""
_TURNS = (
    ("<|im_start|>", "<|im_end|>", "assistant"),
    ("<start_of_turn>", "<end_of_turn>", "model"),
)
"""Tokens that begin and end a turn, and the model's name: ChatML, and Gemma's."""
_CITIES = (
    "Oslo Lima Cairo Delhi Paris Tokyo Quito Havana Berlin Madrid Lisbon Vienna Prague Dublin "
    "Athens Warsaw Boston Denver Austin Dallas Sydney Nairobi Seoul Milan"
)
_NOUNS = (
    "apple river table cloud horse stone garden mirror candle bridge window basket pencil forest "
    "ladder hammer blanket rocket violin pepper tunnel pillow anchor bottle dragon saddle carpet "
    "lantern marble needle orange parrot ribbon shovel turtle wagon"
)
_MULTIKEY = 4
_MULTIVALUE = 2
_ATTEMPTS = 64


@dataclass(frozen=True)
class Example:
    """One question about one text, as token ids.

    Attributes:
        task: name of the task.
        number: of the example; with the task it is the seed.
        text_ids: what is read before the question is known.
        question_ids: the question, and the words with which the answer begins.
        answers: texts that the answer has to hold.
        steps: tokens of the answer at most.
    """

    task: str
    number: int
    text_ids: tuple[int, ...]
    question_ids: tuple[int, ...]
    answers: tuple[str, ...]
    steps: int

    @property
    def tokens(self) -> int:
        """Tokens at most, those of the answer included."""
        return len(self.text_ids) + len(self.question_ids) + self.steps


@dataclass(frozen=True)
class _Plan:
    """What a task hides, before the haystack is cut to length."""

    facts: Sequence[str]
    question: str
    opening: str
    answers: Sequence[str]
    steps: int
    shot: str = ""
    words: Callable[[int], list[str]] | None = None
    """A haystack of so many words instead of sentences."""


def _number(rng: np.random.Generator) -> str:
    return str(rng.integers(10000, 100000))


def _needle(rng: np.random.Generator, keys: int = 1) -> _Plan:
    cities = [str(c) for c in rng.choice(_CITIES.split(), keys, replace=False)]
    numbers = [_number(rng) for _ in cities]
    subject = f"the special magic number for {cities[0]}"
    return _Plan(
        [f"The special magic number for {c} is {n}." for c, n in zip(cities, numbers, strict=True)],
        f"What is {subject} mentioned in the text?",
        f"The{subject[3:]} mentioned in the text is",
        [numbers[0]],
        8,
    )


def _multikey(rng: np.random.Generator) -> _Plan:
    return _needle(rng, _MULTIKEY)


def _multivalue(rng: np.random.Generator) -> _Plan:
    city, numbers = rng.choice(_CITIES.split()), [_number(rng) for _ in range(_MULTIVALUE)]
    return _Plan(
        [f"One of the special magic numbers for {city} is {n}." for n in numbers],
        f"What are all the special magic numbers for {city} mentioned in the text?",
        f"The special magic numbers for {city} mentioned in the text are",
        numbers,
        24,
    )


def _variables(rng: np.random.Generator) -> _Plan:
    names = [str(name) for name in rng.choice(_CITIES.split(), 6, replace=False)]
    numbers = [_number(rng), _number(rng)]
    question, opening = "Which variables hold {}?", "The variables that hold {} are"

    def chain(own: Sequence[str], number: str) -> list[str]:
        return [f"{own[0]} = {number}.", f"{own[1]} = {own[0]}.", f"{own[2]} = {own[1]}."]

    first, second = names[:3], names[3:]
    known = f"{first[0]}, {first[1]} and {first[2]}."
    shot = _shot(
        " ".join(chain(first, numbers[0])),
        question.format(numbers[0]),
        opening.format(numbers[0]),
        known,
    )
    return _Plan(
        chain(second, numbers[1]),
        question.format(numbers[1]),
        opening.format(numbers[1]),
        second,
        20,
        shot,
    )


def _common(rng: np.random.Generator) -> _Plan:
    shuffled = [str(word) for word in rng.permutation(_NOUNS.split())]
    first, second, rest = shuffled[:2], shuffled[2:4], shuffled[4:]

    def listed(common: list[str], count: int) -> list[str]:
        # A third of the list are the common ones; each other word stands once in a while.
        each = max(count // 6, 1)
        others = [str(word) for word in rng.choice(rest, max(count - 2 * each, 0))]
        return [str(word) for word in rng.permutation(common * each + others)]

    question = "Which 2 words are the most common in the list above?"
    opening = "The 2 most common words are"
    shot = _shot(" ".join(listed(first, 24)), question, opening, f"{first[0]} and {first[1]}.")
    return _Plan((), question, opening, second, 12, shot, lambda count: listed(second, count))


def _frequent(rng: np.random.Generator) -> _Plan:
    shuffled = [str(word) for word in rng.permutation(_NOUNS.split())]
    first, second = shuffled[:6], shuffled[6:18]

    def listed(own: list[str], count: int) -> list[str]:
        # Zipf's law with exponent 2, as RULER's; the counts are exact, so that ranks are certain.
        share = 1 / np.arange(1, len(own) + 1) ** 2.0
        counts = np.maximum(np.round(count * share / share.sum()).astype(int), 1)
        every = [word for word, times in zip(own, counts, strict=True) for _ in range(times)]
        return [str(word) for word in rng.permutation(every)]

    question = "Which 3 words appear most often in the list above?"
    opening = "The 3 words that appear most often are"
    known = f"{first[0]}, {first[1]} and {first[2]}."
    shot = _shot(" ".join(listed(first, 30)), question, opening, known)
    return _Plan((), question, opening, second[:3], 14, shot, lambda count: listed(second, count))


def _shot(text: str, question: str, opening: str, answer: str) -> str:
    return f"{text}\n\n{question}\n{opening} {answer}\n\n"


TASKS: dict[str, Callable[[np.random.Generator], _Plan]] = {
    "needle": _needle,
    "needle-multikey": _multikey,
    "needle-multivalue": _multivalue,
    "variable-tracking": _variables,
    "common-words": _common,
    "frequent-words": _frequent,
}
"""Name to what makes an example of it."""


def task_examples(
    model: Any, task: str, count: int, context_tokens: int, text: str, *, seed: int = 0
) -> list[Example]:
    """Make examples of a task, the same for the same arguments.

    Where the model knows turns (ChatML or Gemma's), the text and the question are the user's, and
    the answer is the model's; else they follow each other as plain text.

    Args:
        model: a :class:`~accelsim.traces.capture.GgufModel` or
            :class:`~accelsim.functional.closed_loop.TransformersModel`.
        task: one of :data:`TASKS`.
        count: examples.
        context_tokens: tokens at most, of text, question and answer together.
        text: where the haystack's sentences come from; they repeat where there are too few.
        seed: other examples.

    Raises:
        TraceError: an unknown task, a context that is too long for the model or too short for the
            task, or a text without sentences.
    """
    if task not in TASKS:
        raise TraceError(f"task '{task}'{did_you_mean(task, TASKS)}: expected {', '.join(TASKS)}")
    if count < 1:
        raise TraceError(f"examples {count}: expected at least 1")
    if context_tokens > model.shape.context_tokens:
        raise TraceError(
            f"context {context_tokens}: expected at most {model.shape.context_tokens} tokens (the "
            "model's positions)"
        )
    maker = _Maker(model, text)
    return [maker.example(task, number, context_tokens, seed) for number in range(count)]


class _Maker:
    """Makes examples for one model and one text."""

    def __init__(self, model: Any, text: str) -> None:
        self._model = model
        low, high = _SENTENCE_CHARACTERS
        cut = (s.strip() for s in _SENTENCE.split(" ".join(text.split())))
        self._sentences = [s for s in cut if low <= len(s) <= high]
        if not self._sentences:
            raise TraceError(
                f"the text of {len(text)} characters has no sentence of {low} to {high}; expected "
                "one at least"
            )
        self._lengths = [len(model.encode(f" {s}")) for s in self._sentences]
        nouns = _NOUNS.split()
        self._tokens_per_word = len(model.encode(f" {_NOUNS}")) / len(nouns)
        self._added = list(model.encode(""))
        tokenizer = getattr(model, "tokenizer", None)
        known = {} if tokenizer is None else tokenizer.get_vocab()
        self._turns = next(
            ((known[a], known[b], name) for a, b, name in _TURNS if a in known and b in known), None
        )

    def example(self, task: str, number: int, context_tokens: int, seed: int) -> Example:
        rng = np.random.default_rng([seed, number, *task.encode()])
        plan = TASKS[task](rng)
        start, places = int(rng.integers(len(self._sentences))), rng.random(len(plan.facts))
        room = context_tokens - plan.steps
        # Sentences are counted in tokens, a list in words.
        each = 1.0 if plan.words is None else self._tokens_per_word
        size = round(room / each)
        for _ in range(_ATTEMPTS):
            if size < 1:
                break
            hay = self._hay(plan, size, start, places)
            head, tail = self._framed(plan, hay)
            over = len(head) + len(tail) - room
            if over <= 0:
                return Example(
                    task, number, tuple(head), tuple(tail), tuple(plan.answers), plan.steps
                )
            size -= max(1, round(over / each))
        raise TraceError(
            f"context {context_tokens}: too short for an example of '{task}'; expected more tokens"
        )

    def _hay(self, plan: _Plan, size: int, start: int, places: NDArray[np.float64]) -> str:
        """The text of an example, about ``size`` tokens (of a list: words) of it hay."""
        if plan.words is not None:
            return plan.shot + " ".join(plan.words(size))
        hay: list[str] = []
        tokens = 0
        while True:
            at = (start + len(hay)) % len(self._sentences)
            tokens += self._lengths[at]
            if tokens > size:
                break
            hay.append(self._sentences[at])
        at_sentence = np.sort(np.floor(places * (len(hay) + 1)).astype(int))
        for place, fact in reversed(list(zip(at_sentence, plan.facts, strict=True))):
            hay.insert(int(place), fact)
        return plan.shot + " ".join(hay)

    def _framed(self, plan: _Plan, hay: str) -> tuple[list[int], list[int]]:
        """Token ids of the text, and of the question with the beginning of the answer."""
        if self._turns is None:
            question = f"\n\n{plan.question}\n{plan.opening}"
            return list(self._model.encode(hay)), self._bare(question)
        start, end, name = self._turns
        head = [*self._added, start, *self._bare(f"user\n{hay}")]
        tail = [
            *self._bare(f"\n\n{plan.question}"),
            end,
            *self._bare("\n"),
            start,
            *self._bare(f"{name}\n{plan.opening}"),
        ]
        return head, tail

    def _bare(self, text: str) -> list[int]:
        """Token ids without what the tokenizer puts before a text."""
        ids = list(self._model.encode(text))
        added = len(self._added)
        return ids[added:] if added and ids[:added] == self._added else ids
