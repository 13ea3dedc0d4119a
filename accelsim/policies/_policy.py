"""The composition of parts that a policy file describes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import pydantic

from accelsim.configs import Config, load, parse_override
from accelsim.policies._selection import FROM_PROBABILITIES, IN_BOTH_DIRECTIONS, Stage
from accelsim.policies._stages import (
    STAGES,
    Quantization,
    Selection,
    StageParts,
    resolve_stages,
)
from accelsim.policies.heads import CascadeHeads
from accelsim.policies.kivi import KiviQuantization
from accelsim.policies.quantization import ProgressiveQuantization, StaticQuantization
from accelsim.policies.tokens import CascadeTokens
from accelsim.policies.values import LocalValues
from accelsim.traces import (
    OTHER_HEADS,
    OTHER_KV_HEADS,
    OTHER_WIDTHS,
    OWN_SCALE,
    AttentionTrace,
)


class Policy(Config):
    """What is pruned and how much is fetched; a part that is absent does nothing.

    The parts hold for every query. ``prefill`` and ``decode`` change them for one stage: all
    queries of a prompt (or of an encoder) together, or the single queries that follow. What a token
    or head cascade removes for good in the prompt stays removed in decode, whatever decode says.

    Attributes:
        description: one sentence for ``accelsim presets``.
        source: where rule and ratios come from; ``ours`` where we chose them.
        assumptions: what the source does not say and we chose.
        tokens: cascade token pruning.
        selection: another rule that selects tokens, instead of ``tokens``.
        heads: cascade head pruning.
        values: local value pruning.
        quantization: stored widths; 12-bit static if absent, the width of SpAtten's multipliers.
        prefill: parts that differ for a prompt or an encoder.
        decode: parts that differ for the queries after a prompt.
    """

    description: str = ""
    source: str = ""
    assumptions: tuple[str, ...] = ()
    tokens: CascadeTokens | None = None
    selection: Selection | None = None
    heads: CascadeHeads | None = None
    values: LocalValues | None = None
    quantization: Quantization = StaticQuantization()
    prefill: StageParts | None = None
    decode: StageParts | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _resolve_stages(cls, data: Any) -> Any:
        return resolve_stages(data) if isinstance(data, dict) else data

    @pydantic.model_validator(mode="after")
    def _check_parts(self) -> Policy:
        stages = self.by_stage()
        for stage, policy in stages.items():
            problem = _conflict(policy)
            if problem:
                raise ValueError(problem if stages["prefill"] is self else f"{stage}: {problem}")
        if len(_readings(stages.values())) > 1:
            raise ValueError("'accumulate' differs between tokens and heads or between stages")
        if stages["prefill"] is not self:
            _check_together(stages["prefill"], stages["decode"])
        lengths = _listed(self)
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"'{name}' has {length}" for name, length in lengths.items())
            raise ValueError(f"lists by layer: {told} entries; expected one for each layer")
        return self

    @property
    def num_layers(self) -> int | None:
        """Layers of the model that lists ``..._by_layer`` are for; ``None``: of any model."""
        return next(iter(_listed(self).values()), None)

    @property
    def fetched_bits(self) -> tuple[int, int, int]:
        """Bits of the first key fetch, of the LSB plane, and of a value, by the rule of a layer."""
        q = self.quantization
        if isinstance(q, ProgressiveQuantization):
            return q.msb_bits, q.lsb_bits, q.fetched_value_bits
        return q.key_bits, 0, q.value_bits

    def at_stage(self, stage: Stage) -> Policy:
        """Return the policy of one stage, with nothing left to override."""
        if self.prefill is None and self.decode is None:
            return self
        changes: dict[str, object] = {"prefill": None, "decode": None}
        parts = self.prefill if stage == "prefill" else self.decode
        for name in () if parts is None else parts.model_fields_set:
            part = getattr(parts, name)
            off = StaticQuantization() if name == "quantization" else None
            changes[name] = off if part is None else part
        return self.model_copy(update=changes)

    def by_stage(self) -> dict[Stage, Policy]:
        """Return :meth:`at_stage` of both stages."""
        return {stage: self.at_stage(stage) for stage in STAGES}

    def at_layer(self, layer: int, num_layers: int) -> Policy:
        """Return the policy with the value ratio and the bit widths of one layer.

        Raises:
            ConfigError: a list ``..._by_layer`` for another number of layers.
        """
        changes = _parts_of_layer(self, layer, num_layers)
        for stage in STAGES:
            parts: StageParts | None = getattr(self, stage)
            if parts is not None:
                own = _parts_of_layer(parts, layer, num_layers)
                given = parts.model_fields_set
                update = {name: part for name, part in own.items() if name in given}
                changes[stage] = parts.model_copy(update=update)
        return self.model_copy(update=changes)


def _listed(policy: Policy) -> dict[str, int]:
    """Lengths of all lists ``..._by_layer``, by part and name."""
    found: dict[str, int] = {}
    for where, parts in (("", policy), ("prefill.", policy.prefill), ("decode.", policy.decode)):
        for part_name in StageParts.model_fields if parts is not None else ():
            part = getattr(parts, part_name)
            for name in () if part is None else type(part).model_fields:
                values = getattr(part, name)
                if name.endswith("_by_layer") and values is not None:
                    found[f"{where}{part_name}.{name}"] = len(values)
    return found


def _parts_of_layer(parts: Policy | StageParts, layer: int, num_layers: int) -> dict[str, object]:
    changes: dict[str, object] = {}
    if parts.values is not None:
        changes["values"] = parts.values.at_layer(layer, num_layers)
    q = parts.quantization
    if q is not None:
        changes["quantization"] = q.at_layer(layer, num_layers)
    return changes


def _conflict(policy: Policy) -> str:
    """Say which parts of one stage exclude each other, or return an empty string."""
    rule = policy.selection
    if rule is not None:
        if policy.tokens is not None:
            return "give 'tokens' or 'selection', not both"
        if rule.needs.merges and not isinstance(policy.quantization, StaticQuantization):
            return f"'{rule.kind}' merges stored vectors; expected static quantization"
        if rule.needs.merges and policy.values is not None:
            return f"'{rule.kind}' multiplies its merged values itself; expected no 'values'"
        if policy.heads is not None:
            return "'heads' goes with 'tokens'; expected no 'selection' beside it"
    if isinstance(policy.quantization, KiviQuantization) and (policy.tokens or policy.heads):
        return "quantization 'kivi' goes with 'selection'; expected no cascade"
    return ""


def _readings(policies: Iterable[Policy]) -> set[str]:
    """How the cascades of some stages accumulate."""
    parts = [part for p in policies for part in (p.tokens, p.heads)]
    return {part.accumulate for part in parts if part is not None}


def _check_together(prefill: Policy, decode: Policy) -> None:
    """Refuse stages that cannot follow each other on one cache."""
    for stage, here, other in (("prefill", prefill, decode), ("decode", decode, prefill)):
        if not (here.tokens or here.heads):
            continue
        if other.selection is not None or isinstance(other.quantization, KiviQuantization):
            raise ValueError(
                f"{stage}: a cascade of tokens or heads goes on through both stages; expected no "
                "'selection' and no 'kivi' cache in the other one"
            )
    first, then = prefill.selection, decode.selection
    if first is None or then is None or first == then:
        return
    if first.kind != then.kind:
        raise ValueError(
            f"prefill: selection '{first.kind}' before '{then.kind}' in decode; expected one kind "
            "in both stages, or none in one of them"
        )
    if not first.in_prompt:
        raise ValueError(
            f"prefill: selection '{first.kind}' leaves a prompt dense; expected its settings under "
            "'decode' or in common"
        )


_IN_THE_CASCADE = frozenset(
    (
        OWN_SCALE, "sliding windows", "sliding windows on both sides", "chunks", "a prefix",
        "stored masks", "soft-capped scores", "sinks", "ALiBi", "a relative bias",
        "a stored bias", "cross attention", "latent attention", "values of another width than keys",
        "causal and full layers side by side", OTHER_HEADS, OTHER_KV_HEADS, OTHER_WIDTHS,
    )
)  # fmt: skip
"""What :meth:`accelsim.traces.AttentionTrace.beyond` may name for SpAtten's own policies."""


def by_layer(policy: Policy, trace: AttentionTrace) -> bool:
    """Whether a selector decides layer by layer in a stage that a trace has; else step by step."""
    tokens = {"prefill": trace.prefill_tokens, "decode": trace.decode_tokens}
    return any(
        p.selection is not None
        or isinstance(p.quantization, KiviQuantization)
        or (trace.causal and any(c and c.accumulate == "layers" for c in (p.tokens, p.heads)))
        for stage, p in policy.by_stage().items()
        if tokens[stage]
    )


def beside(policy: Policy, stage: Stage = "prefill") -> Policy:
    """What holds of a policy where nothing is selected: in an encoder or a tower beside another
    stack, all of whose outputs that reads, and in cross attention under a rule of a cache.

    Tokens and heads stay. Stored widths and local value pruning are those of a stage; what would be
    a KIVI cache is read in full precision.
    """
    own = policy.at_stage(stage)
    changes: dict[str, object] = {"tokens": None, "heads": None, "selection": None}
    if isinstance(own.quantization, KiviQuantization):
        full = own.quantization.full_bits
        widths = {"key_bits": full, "value_bits": full}
        changes["quantization"] = StaticQuantization.model_validate(widths)
    return own.model_copy(update=changes)


def why_not(policy: Policy, trace: AttentionTrace) -> str:
    """Say why a policy does not apply to a trace, or return an empty string.

    Policies of the cache need a causal model that decodes; encoder policies need an encoder. Of
    several stacks, the policy holds in the one whose tokens the trace counts (:func:`beside`). Of a
    batch, it must apply to every sequence.
    """
    for sequence in trace.sequences:
        explain = _why_not_one(policy, sequence)
        if explain:
            return explain
    return ""


def _why_not_one(policy: Policy, trace: AttentionTrace) -> str:
    """The same of one sequence."""
    stacks = trace.stacks()
    if not any(stack.aside for stack in stacks):
        return _why_not(policy, trace)
    for name, length in _listed(policy).items():
        return (
            f"policy: key '{name}' has {length} entries, one for each layer of a stack; the trace "
            f"has {len(stacks)} stacks; expected one of them (--group)"
        )
    for stack in stacks:
        explain = _why_not(beside(policy) if stack.aside else policy, stack.trace)
        if explain:
            return f"{stack.name}: {explain}"
    return ""


def _why_not(policy: Policy, trace: AttentionTrace) -> str:
    """The same of one stack."""
    explain = _other_depth(policy, trace.num_layers)
    if explain:
        return explain
    decodes = trace.decode_tokens > 0
    rule, kivi = _on_cache(policy, causal=trace.causal or decodes)
    by_selector = rule is not None or kivi or by_layer(policy, trace)
    served = _by_selector(rule, kivi) if by_selector else _IN_THE_CASCADE
    if (
        decodes
        and not (trace.causal or by_selector)
        and "layers" in _readings(policy.by_stage().values())
    ):
        return "policy 'accumulate: layers' decodes causal models only; expected causal = true"
    beyond = trace.beyond()
    if OTHER_HEADS in beyond and any(p.heads for p in policy.by_stage().values()):
        return (
            f"layer {beyond[OTHER_HEADS]} has {OTHER_HEADS}; a cascade that prunes heads follows "
            "them from layer to layer, and expects the same ones (or 'heads: none')"
        )
    for word, layer in beyond.items():
        if word not in served:
            name = "kivi" if kivi else "accumulate: layers" if rule is None else rule.kind
            who = f"policy '{name}'" if by_selector and word in _IN_THE_CASCADE else "a policy"
            return f"layer {layer} has {word}, which {who} does not support"
    if by_selector and decodes and not trace.causal and not served >= IN_BOTH_DIRECTIONS:
        name = "kivi" if rule is None else rule.kind
        return f"policy '{name}' reads a prompt in one direction; expected causal = true"
    if rule is not None and rule.encoder:
        if trace.causal or trace.decode_tokens:
            return f"policy '{rule.kind}' prunes encoders; expected a trace with causal = false"
        return rule.why_not(trace)
    if (rule is not None or kivi) and not decodes:
        name = "kivi" if rule is None else rule.kind
        return f"policy '{name}' acts on the cache of a decoder; expected decode tokens"
    if not trace.has_values:
        return "tensor 'layer.0.value' is missing; expected values, which every policy reads"
    return "" if rule is None else rule.why_not(trace)


def _by_selector(rule: Selection | None, kivi: bool) -> frozenset[str]:
    """What :meth:`accelsim.traces.AttentionTrace.beyond` may name where a selector decides."""
    served = {OWN_SCALE} | (FROM_PROBABILITIES if rule is None else rule.follows)
    if rule is None or (rule.follows and not (rule.encoder or rule.drops_queries)):
        served |= {"cross attention"}
    if kivi and rule is None:
        served |= IN_BOTH_DIRECTIONS
    if rule is None or not rule.needs.merges:
        served |= {"values of another width than keys"} | (set() if kivi else {"latent attention"})
    return frozenset(served)


def _other_depth(policy: Policy, num_layers: int) -> str:
    """Say that a policy is for models of another depth, or return an empty string."""
    if policy.num_layers in (None, num_layers):
        return ""
    name, length = next(iter(_listed(policy).items()))
    return f"policy: key '{name}' has {length} entries; expected {num_layers}, one for each layer"


def _on_cache(policy: Policy, *, causal: bool) -> tuple[Selection | None, bool]:
    """Selection of a policy in any stage that takes place, and whether a cache is KIVI's.

    An encoder has no decode stage.
    """
    stages = policy.by_stage()
    taking_place = [stages["decode"], stages["prefill"]] if causal else [stages["prefill"]]
    rules = [p.selection for p in taking_place if p.selection is not None]
    kivi = any(isinstance(p.quantization, KiviQuantization) for p in taking_place)
    return rules[0] if rules else None, kivi


def why_closed_loop_not(
    policy: Policy,
    *,
    causal: bool,
    prompt_tokens: int = 0,
    skip: int | None = None,
    num_layers: int | None = None,
    token_ids: Sequence[int] | None = None,
    sinks: bool = False,
    both_ways: bool = False,
) -> str:
    """Say why a policy cannot run inside a model, or return an empty string.

    Args:
        policy: what to keep.
        causal: whether the model generates.
        prompt_tokens: first tokens that are read as a prompt.
        skip: first position whose prediction is scored, if any is.
        num_layers: layers of the model, if known.
        token_ids: the text, if known.
        sinks: whether the softmax of the model has sinks.
        both_ways: whether the queries of its prompt see later tokens of it.
    """
    explain = "" if num_layers is None else _other_depth(policy, num_layers)
    if explain:
        return explain
    rule, kivi = _on_cache(policy, causal=causal)
    if rule is not None and rule.encoder and causal:
        return f"policy '{rule.kind}' prunes encoders; expected an encoder model"
    if not causal and (rule is not None or kivi) and not (rule is not None and rule.encoder):
        kind = "kivi" if rule is None else rule.kind
        return f"policy '{kind}' acts on the cache of a decoder; expected a causal model"
    if rule is not None and rule.needs.selection == "once" and not prompt_tokens:
        return f"policy '{rule.kind}' selects once after the prompt; expected a prompt length"
    if rule is not None and token_ids is not None:
        explain = rule.why_not_text(token_ids, prompt_tokens)
        if explain:
            return explain
    explain = _why_model_not(policy, rule, kivi, sinks=sinks, both_ways=both_ways)
    if explain:
        return explain
    if both_ways and not prompt_tokens:
        return "the model reads its prompt in both directions; expected a prompt length"
    early = causal and skip is not None and skip + 1 < prompt_tokens
    prefill = policy.at_stage("prefill")
    cascades = (prefill.tokens or prefill.heads) and "steps" in _readings([prefill])
    if early and both_ways:
        return (
            "the model reads its prompt in both directions, so predictions in it have seen later "
            f"tokens; expected none of them scored (skip >= {prompt_tokens - 1})"
        )
    if early and (cascades or (prefill.selection is not None and prefill.selection.foresees)):
        return (
            "the policy ranks a prompt as a whole, so predictions in it have seen later tokens; "
            f"expected none of them scored (skip >= {prompt_tokens - 1})"
        )
    return ""


def _why_model_not(
    policy: Policy, rule: Selection | None, kivi: bool, *, sinks: bool, both_ways: bool
) -> str:
    """Say that a rule does not follow how a model attends, or return an empty string."""
    by_layers = "layers" in _readings(policy.by_stage().values())
    if rule is None and not kivi and not by_layers:
        return ""
    name = "accumulate: layers" if rule is None and by_layers else "kivi"
    name = name if rule is None else rule.kind
    served = _by_selector(rule, kivi)
    if sinks and "sinks" not in served:
        return f"policy '{name}' does not support the sinks of the model"
    if both_ways and not served >= IN_BOTH_DIRECTIONS:
        return f"policy '{name}' reads a prompt in one direction, the model in both"
    return ""


def applicable(policy: Policy, trace: AttentionTrace) -> bool:
    """Whether a policy does anything sensible on a trace; see :func:`why_not`."""
    return not why_not(policy, trace)


def load_policy_spec(spec: str) -> Policy:
    """Read a policy given as ``NAME|FILE[:KEY=VALUE,KEY=VALUE]``.

    Raises:
        ConfigError: with file, key and expectation.
    """
    return load_policy(*split_policy(spec))


def split_policy(spec: str) -> tuple[str, dict[str, Any]]:
    """Split ``NAME|FILE[:KEY=VALUE,KEY=VALUE]`` into what is loaded and what is changed in it.

    Raises:
        ConfigError: a change that is none.
    """
    name, _, changes = (spec, "", "") if os.path.isfile(spec) else spec.partition(":")
    return name, dict(
        parse_override(text, f"policy {name}:") for text in changes.split(",") if text
    )


def load_policy(name_or_path: str, overrides: dict[str, object] | None = None) -> Policy:
    """Read a policy preset or YAML file.

    Raises:
        ConfigError: with file, key and expectation.
    """
    return load(Policy, name_or_path, "policies", overrides)
