"""The composition of parts that a policy file describes."""

from __future__ import annotations

from typing import Annotated

import pydantic

from accelsim.configs import Config, load
from accelsim.policies.dhsa import DHSA
from accelsim.policies.ems import EMS
from accelsim.policies.h2o import H2O
from accelsim.policies.heads import CascadeHeads
from accelsim.policies.kivi import KiviQuantization
from accelsim.policies.quantization import ProgressiveQuantization, StaticQuantization
from accelsim.policies.quest import Quest
from accelsim.policies.scissorhands import Scissorhands
from accelsim.policies.snapkv import SnapKV
from accelsim.policies.streaming_llm import StreamingLLM
from accelsim.policies.tokens import CascadeTokens
from accelsim.policies.tova import TOVA
from accelsim.policies.values import LocalValues
from accelsim.policies.zero_tprune import ZeroTPrune

Quantization = Annotated[
    StaticQuantization | ProgressiveQuantization | KiviQuantization,
    pydantic.Field(discriminator="kind"),
]

Selection = Annotated[
    H2O | StreamingLLM | Scissorhands | SnapKV | TOVA | Quest | DHSA | EMS | ZeroTPrune,
    pydantic.Field(discriminator="kind"),
]
"""Every token selection that a YAML can name by ``kind``."""


class Policy(Config):
    """What is pruned and how much is fetched; a part that is absent does nothing.

    Attributes:
        description: one sentence for ``accelsim presets``.
        source: where rule and ratios come from; ``ours`` where we chose them.
        assumptions: what the source does not say and we chose.
        tokens: cascade token pruning.
        selection: another rule that selects tokens, instead of ``tokens``.
        heads: cascade head pruning.
        values: local value pruning.
        quantization: stored widths; 12-bit static if absent, the width of SpAtten's multipliers.
    """

    description: str = ""
    source: str = ""
    assumptions: tuple[str, ...] = ()
    tokens: CascadeTokens | None = None
    selection: Selection | None = None
    heads: CascadeHeads | None = None
    values: LocalValues | None = None
    quantization: Quantization = StaticQuantization()

    @pydantic.model_validator(mode="after")
    def _check_parts(self) -> Policy:
        if self.selection is not None:
            if self.tokens is not None:
                raise ValueError("give 'tokens' or 'selection', not both")
            if self.heads is not None:
                raise ValueError("'heads' goes with 'tokens'; expected no 'selection' beside it")
        if isinstance(self.quantization, KiviQuantization) and (self.tokens or self.heads):
            raise ValueError("quantization 'kivi' goes with 'selection'; expected no cascade")
        return self


def load_policy(name_or_path: str, overrides: dict[str, object] | None = None) -> Policy:
    """Read a policy preset or YAML file.

    Raises:
        ConfigError: with file, key and expectation.
    """
    return load(Policy, name_or_path, "policies", overrides)
