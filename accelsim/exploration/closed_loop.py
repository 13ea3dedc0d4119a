"""Section ``closed_loop`` of sweeps and searches: each policy is scored inside a model, too."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from accelsim.configs import Config, Unit, validate
from accelsim.errors import AccelsimError, ConfigError
from accelsim.exploration.metrics import CLOSED_LOOP

if TYPE_CHECKING:
    from accelsim.functional.closed_loop import ClosedLoop

PREFIX = "closed_loop"
_FIELDS = {"loss_low": "low", "loss_high": "high", "dense_score": "dense"}
"""Figures that a :class:`~accelsim.functional.closed_loop.Loss` calls otherwise."""
_LOOPS = 2
"""Models with their texts that a worker keeps."""
_SCORES = 4096
"""Measured policies that a worker keeps."""


class ClosedLoopConfig(Config):
    """A model that runs each policy, and what it is scored on; ``closed_loop.*`` are the figures.

    A policy is measured once a worker, however many machines it is run on.
    """

    model: str = "smollm2"
    """As ``verify --closed-loop --model``; paths begin with ``.`` or ``/``, or end in ``.gguf``."""
    score: str = "perplexity"
    """``perplexity``, or a retrieval task (docs/accuracy.md); minilm's correlation with ``lee``."""
    text: tuple[str, ...] = ()
    """Texts, looked for as sources are: files, or ``shipped`` (default of smollm2)."""
    lee: str | None = None
    """A gensim wheel or a folder with the Lee corpus, for minilm."""
    windows: Annotated[int, Field(ge=1, le=10000), Unit("windows")] = 1
    """Windows of each text to score."""
    window_tokens: Annotated[int, Field(ge=2, le=1 << 20), Unit("tokens")] = 512
    """Of a window of a text file."""
    skip: Annotated[int, Field(ge=0, le=1 << 20), Unit("tokens")] = 64
    """First positions of a window that are not scored."""
    prompt_tokens: Annotated[int, Field(ge=0, le=1 << 20), Unit("tokens")] = 0
    """First tokens of a window that attend densely, as a prompt."""
    examples: Annotated[int, Field(ge=1, le=10000), Unit("examples")] = 20
    """Of a task."""
    context: Annotated[int, Field(ge=1, le=1 << 20), Unit("tokens")] = 1024
    """Tokens of an example of a task, question and answer included."""
    question_in_prompt: bool = False
    """Whether the question is read before anything is pruned."""


def packed(
    config: ClosedLoopConfig,
    locate: Callable[[str], str],
    sha256: Callable[[Path], str],
    where: str,
) -> str:
    """Return the section as text for a point: files by absolute path, with their contents' digest.

    Args:
        config: the section.
        locate: finds a file that the sweep names.
        sha256: of the contents of a file.
        where: path of the sweep, for errors.

    Raises:
        ConfigError: a file that is not there, an unknown task, or a model that does not go with the
            texts or has no positions for them.
    """
    from accelsim.functional.closed_loop import SHIPPED, check_texts, task_names

    try:
        if config.score != "perplexity":
            task_names([config.score], "score")
        check_texts(config.model, config.text, config.lee)
    except AccelsimError as error:
        raise ConfigError(f"{where}: key '{PREFIX}': {error}") from None
    found = config.model_dump()
    files: dict[str, str] = {}

    def path(name: str) -> str:
        own = os.path.abspath(locate(name))
        files[own] = "" if os.path.isdir(own) else sha256(Path(own))
        return own

    found["text"] = [text if text == SHIPPED else path(text) for text in config.text]
    if config.lee is not None:
        found["lee"] = path(config.lee)
    model = Path(config.model)
    if model.suffix == ".gguf" or model.is_absolute() or config.model.startswith("."):
        found["model"] = path(config.model)
    _check_positions(config, found["model"], where)
    return json.dumps({"config": found, "files": files}, sort_keys=True)


def _check_positions(config: ClosedLoopConfig, model: str, where: str) -> None:
    """Refuse a length that the model has no positions for: every point would fail on it."""
    from accelsim.functional.closed_loop import SHIPPED, positions_of

    cut = [text for text in config.text if text != SHIPPED and not text.endswith(".json")]
    task = config.score != "perplexity"
    if not task and (config.lee is not None or not cut):
        return  # nothing is cut to a length that the section names
    key = "context" if task else "window_tokens"
    tokens = getattr(config, key)
    try:
        positions = positions_of(model)
    except AccelsimError as error:
        raise ConfigError(f"{where}: key '{PREFIX}.model': {error}") from None
    if tokens > positions:
        raise ConfigError(
            f"{where}: key '{PREFIX}.{key}' = {tokens}; expected at most {positions} tokens, for "
            f"which {config.model} has positions"
        )


class Scorer:
    """Scores policies inside models; keeps both, so that each policy runs once.

    Args:
        checked: refuses a file that is not there or does not have the digest of its contents.
    """

    def __init__(self, checked: Callable[[Path, str], Path]) -> None:
        self._checked = checked
        self._loops: OrderedDict[str, ClosedLoop] = OrderedDict()
        self._scores: OrderedDict[tuple[str, str], dict[str, float]] = OrderedDict()

    def score(self, text: str, policy: str) -> dict[str, float]:
        """Measure a policy.

        Args:
            text: of :func:`packed`.
            policy: as JSON; empty for dense attention.

        Returns:
            ``closed_loop.*``, as named in :data:`~accelsim.exploration.metrics.CLOSED_LOOP`.

        Raises:
            AccelsimError: a model or text that is missing or has changed, or a policy that cannot
                run inside it.
        """
        from accelsim.policies import Policy

        key = text, policy
        if key not in self._scores:
            if len(self._scores) >= _SCORES:
                self._scores.popitem(last=False)
            rule = validate(Policy, json.loads(policy or "{}"), "policy")
            found = self._loop(text).measure(rule)
            self._scores[key] = {
                name: float(getattr(found, _FIELDS.get(own, own)))
                for name, own in ((name, name.partition(".")[2]) for name in CLOSED_LOOP)
            }
        return self._scores[key]

    def _loop(self, text: str) -> ClosedLoop:
        if text not in self._loops:
            self._loops[text] = self._opened(json.loads(text))
            if len(self._loops) > _LOOPS:
                self._loops.popitem(last=False)
        self._loops.move_to_end(text)
        return self._loops[text]

    def _opened(self, section: dict[str, Any]) -> ClosedLoop:
        from accelsim.functional.closed_loop import open_loss

        for name, digest in section["files"].items():
            if digest:  # a folder has none
                self._checked(Path(name), digest)
        settings = dict(section["config"])
        model, texts = settings.pop("model"), settings.pop("text")
        return open_loss(model, texts=texts, held_out=0, **settings)
