"""The composition of parts that a policy file describes."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic

from accelsim.configs import Config, load, parse_override
from accelsim.policies._selection import SelectionPart
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
from accelsim.traces import AttentionTrace

Quantization = Annotated[
    StaticQuantization | ProgressiveQuantization | KiviQuantization,
    pydantic.Field(discriminator="kind"),
]

_REGISTERED: dict[str, type[SelectionPart]] = {}
"""Selections from outside the package, by kind."""


def register_selection(kind: str, part: type[SelectionPart]) -> None:
    """Let ``selection: {kind: ...}`` of a policy name a selection from outside the package.

    Called by :func:`accelsim.functional.selection.register_selector`, which also says how it runs.
    """
    _REGISTERED[kind] = part


def _read_selection(value: Any, builtin: pydantic.ValidatorFunctionWrapHandler) -> Any:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    part = _REGISTERED.get(kind) if isinstance(kind, str) else None
    if part is None:
        return builtin(value)
    try:
        return part.model_validate(value)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(name) for name in first["loc"])
        raise ValueError(f"selection '{kind}': key '{key}': {first['msg']}") from None


Selection = Annotated[
    Annotated[
        H2O | StreamingLLM | Scissorhands | SnapKV | TOVA | Quest | DHSA | EMS | ZeroTPrune,
        pydantic.Field(discriminator="kind"),
    ],
    pydantic.WrapValidator(_read_selection),
    pydantic.SerializeAsAny(),
]
"""Every token selection that a YAML can name by ``kind``; :func:`register_selection` adds more."""


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
            merging = self.selection.kind == "ems"
            if merging and not isinstance(self.quantization, StaticQuantization):
                raise ValueError("'ems' merges stored vectors; expected static quantization")
            if self.heads is not None:
                raise ValueError("'heads' goes with 'tokens'; expected no 'selection' beside it")
        if isinstance(self.quantization, KiviQuantization) and (self.tokens or self.heads):
            raise ValueError("quantization 'kivi' goes with 'selection'; expected no cascade")
        return self

    @property
    def fetched_bits(self) -> tuple[int, int, int]:
        """Bits of the first key fetch, of the LSB plane, and of a value, by the rule of a layer."""
        q = self.quantization
        if isinstance(q, ProgressiveQuantization):
            return q.msb_bits, q.lsb_bits, q.fetched_value_bits
        return q.key_bits, 0, q.value_bits

    def at_layer(self, layer: int, num_layers: int) -> Policy:
        """Return the policy with the value ratio and the bit widths of one layer.

        Raises:
            ConfigError: a list ``..._by_layer`` for another number of layers.
        """
        changes: dict[str, object] = {}
        if self.values is not None:
            changes["values"] = self.values.at_layer(layer, num_layers)
        if not isinstance(self.quantization, KiviQuantization):
            changes["quantization"] = self.quantization.at_layer(layer, num_layers)
        return self.model_copy(update=changes)


def why_not(policy: Policy, trace: AttentionTrace) -> str:
    """Say why a policy does not apply to a trace, or return an empty string.

    Policies of the cache need a causal model that decodes; encoder policies need an encoder.
    """
    rule = policy.selection
    if rule is not None and rule.encoder:
        if trace.causal or trace.decode_tokens:
            return f"policy '{rule.kind}' prunes encoders; expected a trace with causal = false"
        return ""
    cached = rule.kind if rule is not None else policy.quantization.kind
    on_cache = rule is not None or isinstance(policy.quantization, KiviQuantization)
    if on_cache and not (trace.causal and trace.decode_tokens):
        return f"policy '{cached}' acts on the cache of a decoder; expected decode tokens"
    if not trace.has_values:
        return "tensor 'layer.0.value' is missing; expected values, which every policy reads"
    return ""


def why_closed_loop_not(policy: Policy, *, causal: bool, prompt_tokens: int = 0) -> str:
    """Say why a policy cannot run inside a model, or return an empty string."""
    rule = policy.selection
    if rule is not None and rule.encoder and causal:
        return f"policy '{rule.kind}' prunes encoders; expected an encoder model"
    cached = rule is not None or isinstance(policy.quantization, KiviQuantization)
    if not causal and cached and not (rule is not None and rule.encoder):
        kind = rule.kind if rule is not None else policy.quantization.kind
        return f"policy '{kind}' acts on the cache of a decoder; expected a causal model"
    if rule is not None and rule.needs.selection == "once" and not prompt_tokens:
        return f"policy '{rule.kind}' selects once after the prompt; expected a prompt length"
    return ""


def applicable(policy: Policy, trace: AttentionTrace) -> bool:
    """Whether a policy does anything sensible on a trace; see :func:`why_not`."""
    return not why_not(policy, trace)


def load_policy_spec(spec: str) -> Policy:
    """Read a policy given as ``NAME|FILE[:KEY=VALUE,KEY=VALUE]``.

    Raises:
        ConfigError: with file, key and expectation.
    """
    name, _, changes = spec.partition(":")
    pairs = [parse_override(text) for text in changes.split(",") if text]
    return load_policy(name, dict(pairs))


def load_policy(name_or_path: str, overrides: dict[str, object] | None = None) -> Policy:
    """Read a policy preset or YAML file.

    Raises:
        ConfigError: with file, key and expectation.
    """
    return load(Policy, name_or_path, "policies", overrides)
