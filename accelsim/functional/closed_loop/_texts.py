"""Texts that a model is scored on, and the model with them: what a loss is measured by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from accelsim.errors import TraceError, did_you_mean
from accelsim.files import read_text
from accelsim.functional.closed_loop._lee import read_lee
from accelsim.functional.closed_loop._loss import ClosedLoop, LeeLoss, PerplexityLoss, TaskLoss
from accelsim.functional.closed_loop._models import load_model
from accelsim.functional.closed_loop._perplexity import (
    cut_windows,
    read_windows,
    shipped_windows,
)
from accelsim.functional.closed_loop._tasks import TASKS, Example, task_examples
from accelsim.traces.capture import load_minilm

SHIPPED = "shipped"
"""Name of the windows that come with accelsim: two, and four behind them to hold out."""


class Text:
    """One text: read at once, tokenized when the model is there.

    Args:
        name: a text file, a ``.json`` of token ids, or :data:`SHIPPED`.
        where: what named it, for errors.

    Raises:
        TraceError: a file that cannot be read.
    """

    def __init__(self, name: str, where: str = "--text") -> None:
        self.name, self._where, self._text = name, where, ""
        self._known: dict[str, list[int]] | None = None
        if name == SHIPPED:
            self._known = shipped_windows(held_out=True)
        elif name.endswith(".json"):
            self._known = read_windows(name)
        else:
            self._text = read_text(name, TraceError)

    def windows(self, model: Any, count: int | None, tokens: int) -> dict[str, list[int]]:
        """Windows by name; if no count is given all of token ids, four of a text, two shipped ones.

        Args:
            model: tokenizes.
            count: windows that are wanted.
            tokens: of a window of a text file.

        Raises:
            TraceError: too little text.
        """
        if self.name == SHIPPED and count is None:
            count = len(shipped_windows())
        if self._known is None:
            try:
                known = cut_windows(model.encode(self._text), count or 4, tokens)
            except TraceError as error:
                raise TraceError(f"{self._where} {self.name}: {error}") from None
        else:
            known = self._known
            if count is not None and len(known) < count:
                raise TraceError(
                    f"{self._where} {self.name}: holds {len(known)} windows; expected at least "
                    f"{count}"
                )
        return {f"{self.name}:{title}": ids for title, ids in list(known.items())[:count]}

    def words(self, model: Any) -> str:
        """The text itself."""
        if self._known is None:
            return self._text
        return " ".join(model.decode(ids) for ids in self._known.values())


def check_texts(model: str, texts: Sequence[str], lee: str | None) -> None:
    """Refuse texts that do not go with a model.

    Args:
        model: name.
        texts: names of texts.
        lee: where the Lee task is, if it is what is scored.

    Raises:
        TraceError: naming both.
    """
    if (model == "minilm") != (lee is not None) or (lee is not None and texts):
        raise TraceError(
            f"{model}: minilm is scored on the Lee task (--lee, or key 'lee'), others on a text "
            "(--text, or key 'text')"
        )
    if model not in ("smollm2", "minilm") and (not texts or SHIPPED in texts):
        raise TraceError(
            f"{model}: the shipped windows hold token ids of smollm2; expected a text "
            "file (--text, or key 'text')"
        )


def task_names(names: Sequence[str], where: str = "--task") -> list[str]:
    """Tasks by name, ``all`` for every one.

    Args:
        names: as given.
        where: what named them, for errors.

    Raises:
        TraceError: an unknown one.
    """
    if "all" in names:
        return list(TASKS)
    for name in names:
        if name not in TASKS:
            raise TraceError(
                f"{where} {name}{did_you_mean(name, TASKS)}: expected {', '.join(TASKS)}"
            )
    return list(dict.fromkeys(names))


def task_texts(
    model: str, tasks: Sequence[str], texts: Sequence[str], count: int, context: int
) -> tuple[Any, dict[str, list[Example]]]:
    """Return a model, and examples of each task.

    Args:
        model: name.
        tasks: names.
        texts: names of those whose sentences are the haystack; the shipped windows if empty.
        count: examples of a task.
        context: tokens of one.
    """
    read = [Text(name) for name in texts or [SHIPPED]]
    loaded = load_model(model)
    words = "\n".join(text.words(loaded) for text in read)
    return loaded, {task: task_examples(loaded, task, count, context, words) for task in tasks}


def open_loss(
    model: str,
    *,
    score: str = "perplexity",
    texts: Sequence[str] = (),
    lee: str | None = None,
    windows: int = 2,
    held_out: int = 4,
    window_tokens: int = 512,
    skip: int = 64,
    prompt_tokens: int = 0,
    examples: int = 20,
    context: int = 1024,
    question_in_prompt: bool = False,
    points: bool = False,
) -> ClosedLoop:
    """Load a model with the texts that it is scored on.

    Args:
        model: ``smollm2``, ``minilm``, a ``.gguf`` file, or what transformers loads.
        score: ``perplexity``, or a task; minilm has its correlation on the Lee task.
        texts: names of texts; the shipped windows if empty.
        lee: a gensim wheel, or a folder with the Lee corpus.
        windows: of each text, to measure.
        held_out: of each text behind those, to hold out.
        window_tokens: of a window of a text file.
        skip: first positions of a window that are not scored.
        prompt_tokens: first tokens of a window that attend densely.
        examples: of a task, to measure; as many are held out, if any window is.
        context: tokens of an example.
        question_in_prompt: whether it is read before anything is pruned.
        points: whether the loss of a task is counted in points of its score.

    Raises:
        TraceError: texts and model that do not go together, or too little text.
    """
    check_texts(model, texts, lee)
    if lee is not None:
        if score != "perplexity":
            raise TraceError(f"score {score}: goes with a model that generates")
        stories, judged = read_lee(lee)
        return LeeLoss(load_minilm(), model, stories, judged)
    if score != "perplexity":
        (task,) = task_names([score], "score")
        total = 2 * examples if held_out else examples
        loaded, made = task_texts(model, [task], texts, total, context)
        return TaskLoss(
            loaded, model, made[task][:examples], made[task][examples:], points=points,
            question_in_prompt=question_in_prompt,
        )  # fmt: skip
    read = [Text(text) for text in texts or [SHIPPED]]
    loaded = load_model(model)
    tuned: dict[str, list[int]] = {}
    others: dict[str, list[int]] = {}
    for text in read:
        own = text.windows(loaded, windows + held_out, window_tokens)
        tuned |= dict(list(own.items())[:windows])
        others |= dict(list(own.items())[windows:])
    return PerplexityLoss(loaded, model, tuned, others, skip=skip, prompt_tokens=prompt_tokens)
