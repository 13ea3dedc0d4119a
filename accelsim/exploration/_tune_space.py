"""What ``tune`` can turn inside a model: rules with budgets by layer, and widths by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelsim.errors import AccelsimError, did_you_mean
from accelsim.policies import Budgeted, Policy, SelectionPart

CAUSAL_RULES = ("widths", "spatten", "tova", "h2o", "streaming_llm", "knorm", "keydiff", "snapkv")
"""Rules that are tried for a model that generates, if none are named (ours); those that select once
after a prompt only where there is one."""
ENCODER_RULES = ("widths", "spatten")

_SHARES = (1.0, 0.75, 0.5, *(n / 32 for n in range(15, 4, -1)), 0.125)
"""Tokens of a cache as a share of the tuned windows (our choice; so are all ladders here)."""
_RATIOS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
"""Keep ratios of SpAtten's cascade."""
_VALUES = (1.0, 0.75, 0.5)
"""Keep ratios of local value pruning."""
_WIDTHS: dict[str, tuple[int, ...]] = {
    "static": (12, 10, 8, 6, 4),
    "channel": (12, 10, 8, 6, 4),
    "kivi": (8, 4),
}
_STORED: dict[str, dict[str, Any]] = {
    "static": {"kind": "static", "scale": "per_token"},
    "channel": {"kind": "static", "scale": "per_token", "key_scale": "per_channel"},
    "kivi": {"kind": "kivi", "group_tokens": 64, "group_channels": 32, "residual_tokens": 32},
}
_SELECTIONS: dict[str, dict[str, Any]] = {
    "h2o": {"share": "kv_head"},
    "quest": {"share": "kv_head"},
    "scissorhands": {"share": "kv_head"},
}
"""Settings beside the budget: the query heads of a group decide together, because what one of them
keeps is read for all of them."""

Settings = dict[str, tuple[int, ...]]
"""Knob to its step on the ladder in every layer."""


@dataclass(frozen=True)
class Family:
    """Policies of one rule and one way to store vectors.

    Attributes:
        rule: ``widths`` (nothing pruned), ``spatten`` (cascade of tokens and local values), or the
            kind of a selection with a budget.
        store: ``static`` (a scale for each token), ``channel`` (keys have one for each channel) or
            ``kivi``.
        causal: whether the model generates.
        tokens: tokens of a sample.
    """

    rule: str
    store: str
    causal: bool
    tokens: int

    @property
    def name(self) -> str:
        """Rule and store."""
        return f"{self.rule}+{self.store}"

    @property
    def nested(self) -> bool:
        """Whether a layer cannot keep what the layer before dropped."""
        return self.rule == "spatten"

    @property
    def ladders(self) -> dict[str, tuple[Any, ...]]:
        """Values of every knob, from nothing pruned on."""
        found: dict[str, tuple[Any, ...]] = {}
        if self.rule == "spatten":
            found |= {"keep": _RATIOS, "values": _VALUES}
        elif self.rule != "widths":
            found["keep"] = tuple(max(1, round(share * self.tokens)) for share in _SHARES)
        found["key_bits"] = found["value_bits"] = _WIDTHS[self.store]
        return found

    def probe(self, knob: str) -> int:
        """Step at which a knob's damage is measured: strong enough to be seen alone."""
        if knob == "keep":
            return _RATIOS.index(0.5) if self.rule == "spatten" else _SHARES.index(0.25)
        return {"static": 3, "channel": 3, "kivi": 1}[self.store] if knob != "values" else 2

    def policy(self, settings: Mapping[str, Sequence[int]]) -> Policy:
        """Return settings as a policy; a knob that nobody turned is left out."""
        ladders = self.ladders
        chosen = {
            knob: [ladders[knob][step] for step in steps]
            for knob, steps in settings.items()
            if any(steps) or knob.endswith("_bits")
        }
        data: dict[str, Any] = {"quantization": self._stored(chosen)}
        keep = chosen.get("keep")
        if self.rule == "spatten":
            if keep is not None:
                data["tokens"] = self._cascade(keep)
            if "values" in chosen:
                data["values"] = {"keep_by_layer": chosen["values"]}
            off = {part: "none" for part in ("tokens", "values") if part in data}
            if off and self.causal:
                data["prefill"] = off
        elif keep is not None:
            alike = len(set(keep)) == 1
            budget = {"budget_tokens": keep[0]} if alike else {"budget_tokens_by_layer": keep}
            data["selection"] = {"kind": self.rule, **budget, **_SELECTIONS.get(self.rule, {})}
        return Policy.model_validate(data)

    def _stored(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        stored = dict(_STORED[self.store])
        for knob in ("key_bits", "value_bits"):
            widths = chosen[knob]
            alike = len(set(widths)) == 1
            stored |= {knob: widths[0]} if alike else {f"{knob}_by_layer": widths}
        return stored

    def _cascade(self, keep: Sequence[float]) -> dict[str, Any]:
        if not self.causal:
            return {"keep_by_layer": keep, "protect": {"first": 1, "recent": 0}}
        # Read layer by layer a model runs all tokens at once; see CascadeTokens.
        return {
            "keep_by_layer": keep,
            "accumulate": "layers",
            "per_query": True,
            "floor_tokens": self.tokens // 4,
        }


def families(
    rules: Sequence[str], *, causal: bool, tokens: int, prompt: bool = False
) -> list[Family]:
    """Return the families of some rules.

    Args:
        rules: names; the default ones if empty.
        causal: whether the model generates.
        tokens: tokens of a sample.
        prompt: whether the first tokens of a sample attend densely, as a prompt.

    Raises:
        AccelsimError: a rule that is not known, or does not go with the model.
    """
    acting = _budgeted(prompt=prompt)
    known = ("widths", "spatten", *acting) if causal else ENCODER_RULES
    default = [rule for rule in CAUSAL_RULES if rule in known] if causal else ENCODER_RULES
    found = []
    for rule in rules or default:
        if rule not in known:
            raise AccelsimError(
                f"rule '{rule}'{did_you_mean(rule, known)}: expected one of {', '.join(known)}"
            )
        found.append(Family(rule, "channel", causal, tokens))
        if causal and rule not in ("spatten", "ems"):
            found.append(Family(rule, "kivi", causal, tokens))
    return found


def _budgeted(*, prompt: bool) -> list[str]:
    """Kinds of the selections with a budget that act; some need a prompt."""
    from typing import get_args

    return [
        get_args(part.model_fields["kind"].annotation)[0]
        for part in SelectionPart.every_kind()
        if issubclass(part, Budgeted)
        and not part.encoder
        and (prompt or part.needs.selection != "once")
    ]
