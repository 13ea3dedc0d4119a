"""Shapes as sources: a model's sizes, a context and how many tokens follow it, without tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from accelsim.configs import Config, Unit, parse_override, set_dotted, validate
from accelsim.errors import ConfigError
from accelsim.workloads.models import ModelShape, load_model

PREFIX = "shape:"
MAX_CONTEXT = 1 << 20
"""Tokens of a sequence: eight times the longest context of the shipped models."""
MAX_PROMPT_QUERIES = 1 << 24
"""Queries of all layers and heads of a prompt; each is an entry of the query table (20 bytes)."""

Tokens = Annotated[int, Field(ge=0, le=MAX_CONTEXT), Unit("tokens")]


class ShapeSource(Config):
    """A run of a model's attention that needs its sizes only.

    Attributes:
        model: preset of ``hw_configs/models``, or a YAML file.
        context: tokens in the cache before the first decoded one; the prompt's own attention is
            part of the run only if ``decode`` is 0 (a prompt, or an encoder).
        decode: tokens generated one by one.
        batch: copies of the sequence that run together, each with keys and values of its own.
        like: trace (a file, or a name in ``traces/``) from which is drawn what depends on data; by
            default the shipped trace of the model's kind.
        seed: of what is drawn.
    """

    model: str
    context: Annotated[int, Field(ge=1, le=MAX_CONTEXT), Unit("tokens")]
    decode: Tokens = 0
    batch: Annotated[int, Field(ge=1, le=4096), Unit("sequences")] = 1
    like: str | None = None
    seed: Annotated[int, Field(ge=0, le=(1 << 32) - 1), Unit("(a seed)")] = 0

    def __str__(self) -> str:
        """The text that names it, with what is not left at its default."""
        given = {
            name: value
            for name, value in self.model_dump().items()
            if name != "model" and value != type(self).model_fields[name].default
        }
        return f"{PREFIX}{self.model}:" + ",".join(f"{name}={v}" for name, v in given.items())

    def load(self) -> ModelShape:
        """Read the model.

        Raises:
            ConfigError: no such model, one that no machine runs, more tokens than a run may have.
        """
        shape = load_model(self.model)
        where = f"{PREFIX}{self.model}"
        if shape.not_run:
            raise ConfigError(f"{where}: {shape.not_run}")
        if self.decode and not shape.causal:
            raise ConfigError(f"{where}: key 'decode': an encoder decodes nothing; expected 0")
        if self.context + self.decode > MAX_CONTEXT:
            raise ConfigError(
                f"{where}: {self.context + self.decode:,} tokens; expected at most {MAX_CONTEXT:,}"
            )
        queries = self.context * shape.query_heads * shape.layers
        if not self.decode and queries > MAX_PROMPT_QUERIES:
            most = MAX_PROMPT_QUERIES // (shape.query_heads * shape.layers)
            raise ConfigError(
                f"{where}: key 'context': a prompt of {self.context:,} tokens; expected at most "
                f"{most:,} for this model (decode steps take contexts up to {MAX_CONTEXT:,})"
            )
        return shape


def is_shape(source: object) -> bool:
    """Whether a source names a shape."""
    return isinstance(source, str) and source.startswith(PREFIX)


def read_shape(text: str, given: Mapping[str, Any] | None = None) -> ShapeSource:
    """Read ``shape:MODEL[:KEY=VALUE,KEY=VALUE]``.

    Args:
        text: as above.
        given: further keys, which go before those of the text.

    Raises:
        ConfigError: a key or value that is not expected.
    """
    model, _, keys = text.removeprefix(PREFIX).partition(":")
    data: dict[str, Any] = {"model": model}
    for pair in filter(None, keys.split(",")):
        name, value = parse_override(pair)
        set_dotted(data, name, value)
    data |= given or {}
    where = f"{PREFIX}{model}"
    if "context" not in data and data.keys() <= ShapeSource.model_fields.keys():
        raise ConfigError(
            f"{where}: key 'context' is missing; expected the tokens in the cache, as in "
            "--context 32768 or shape:MODEL:context=32768,decode=64"
        )
    return validate(ShapeSource, data, where)
