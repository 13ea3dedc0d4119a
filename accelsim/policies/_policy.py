"""The composition of parts that a policy file describes."""

from __future__ import annotations

from typing import Annotated

import pydantic

from accelsim.configs import Config, load
from accelsim.policies.heads import CascadeHeads
from accelsim.policies.quantization import ProgressiveQuantization, StaticQuantization
from accelsim.policies.tokens import CascadeTokens
from accelsim.policies.values import LocalValues

Quantization = Annotated[
    StaticQuantization | ProgressiveQuantization, pydantic.Field(discriminator="kind")
]


class Policy(Config):
    """What is pruned and how much is fetched; a part that is absent does nothing.

    Attributes:
        description: one sentence for ``accelsim presets``.
        source: where rule and ratios come from; ``ours`` where we chose them.
        tokens: cascade token pruning.
        heads: cascade head pruning.
        values: local value pruning.
        quantization: stored widths; 12-bit static if absent, the width of SpAtten's multipliers.
    """

    description: str = ""
    source: str = ""
    tokens: CascadeTokens | None = None
    heads: CascadeHeads | None = None
    values: LocalValues | None = None
    quantization: Quantization = StaticQuantization()


def load_policy(name_or_path: str, overrides: dict[str, object] | None = None) -> Policy:
    """Read a policy preset or YAML file.

    Raises:
        ConfigError: with file, key and expectation.
    """
    return load(Policy, name_or_path, "policies", overrides)
