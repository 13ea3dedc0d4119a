"""What every part of a policy shares: checked ratios and the description for `presets`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeVar

import pydantic

from accelsim.configs import Config, Unit
from accelsim.errors import ConfigError

Ratio = Annotated[float, pydantic.Field(gt=0.0, le=1.0)]
"""A keep ratio: the fraction that survives, in (0, 1]."""

Fraction = Annotated[float, pydantic.Field(ge=0.0, le=1.0)]
"""A fraction that may be nothing at all, in [0, 1]."""

MAX_TOKENS = 1 << 24
"""Longest context that a policy may count in."""

Count = Annotated[int, pydantic.Field(ge=0, le=MAX_TOKENS), Unit("tokens")]
Positive = Annotated[int, pydantic.Field(ge=1, le=MAX_TOKENS), Unit("tokens")]
Layers = Annotated[int, pydantic.Field(ge=0, le=10_000), Unit("layers")]
Channels = Annotated[int, pydantic.Field(ge=1, le=1 << 16), Unit("channels")]
Iterations = Annotated[int, pydantic.Field(ge=1, le=10_000), Unit("iterations")]
MinKeys = Annotated[int, pydantic.Field(ge=0, le=MAX_TOKENS), Unit("keys")]
"""Least number of keys with which a part acts; below, it prunes and selects nothing."""

ROUNDING_GUARD = 1e-9
"""Subtracted before a ceiling, so that 0.7 * 10 keeps 7 vectors although it is 7.000000000000001
in binary floating point: the counts are those of exact arithmetic."""


T = TypeVar("T")


def of_layer(key: str, values: Sequence[T], layer: int, num_layers: int) -> T:
    """Return a layer's entry of a list that a policy gives ``..._by_layer``.

    Raises:
        ConfigError: the list is not as long as the model is deep.
    """
    if len(values) != num_layers:
        raise ConfigError(
            f"policy: key '{key}' has {len(values)} entries; expected {num_layers}, one for each "
            "layer"
        )
    return values[layer]


class PolicyPart(Config):
    """One composable part of a policy; its docstring names the paper and the hardware it asks for.

    A new part is one file with a subclass, one optional field in
    :class:`~accelsim.policies.Policy`, and one YAML that uses it.
    """
