"""The attention function that stands in for transformers' own while a model is recorded.

Models ask for attention by name, with queries and keys after positional encoding and before grouped
heads are repeated: what a trace holds. The function put under that name computes what the model's
own file defines as its eager attention, block by block of the queries, and keeps what went in and
what came out. No class is patched, and the name means the same as before afterwards.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from accelsim.errors import TraceError
from accelsim.traces.capture._observed import Call, Observed, Place

_SCORES = 1 << 23
"""Scores of a block: 32 MB in float32."""

# Arguments of an attention function that change nothing (in inference, on one sequence), or that
# the mask expresses too.
PLAIN = frozenset(
    (
        "dropout", "is_causal", "sliding_window", "output_attentions", "output_hidden_states",
        "position_ids", "cache_position", "use_cache", "deterministic", "logits_to_keep",
        "return_dict", "past_key_values", "num_items_in_batch",
    )
)  # fmt: skip
_SINKS = ("s_aux", "sinks")
_SHOWN = frozenset(("softcap", "position_bias", *_SINKS))
"""Those that a trace says in its own words."""
_IN_THE_MASK = frozenset(("indices", "block_indices"))
"""Those that the mask says too, where a model thinks that it runs under sdpa or eager."""
# Those by which a model is known to compute something else.
BEYOND = {
    "softcap": "soft-capped scores",
    "position_bias": "a bias on the scores",
    "s_aux": "learned sinks in the softmax",
    "sinks": "learned sinks in the softmax",
    "indices": "keys chosen by an indexer",
    "block_indices": "blocks of keys chosen by an indexer",
}


def check_known(model: str, options: dict[str, Any], known: frozenset[str]) -> None:
    """Refuse arguments of an attention function that mean something not understood.

    Args:
        model: for errors.
        options: what the model gives its attention function beside queries, keys and values.
        known: names that are understood.

    Raises:
        TraceError: naming what the attention does, or the argument that is not known.
    """
    for name, value in options.items():
        if value is None or value is False or name in known:
            continue
        what = BEYOND.get(name, f"an argument '{name}' that accelsim does not know")
        raise TraceError(f"{model}: attention with {what} does not fit a trace or a policy")


@contextmanager
def standing_in(transformers: Any, name: str, function: Any) -> Iterator[None]:
    """Put a function under the name of one of transformers' own for a while."""
    interface = transformers.AttentionInterface
    before = interface._global_mapping.get(name)
    interface.register(name, function)
    try:
        yield
    finally:
        if before is None:
            interface._global_mapping.pop(name)
        else:
            interface.register(name, before)


class Stacks:
    """Tells where in a model a module is.

    Args:
        network: the model.
        encodes_and_decodes: whether it is an encoder-decoder.
        sees_and_reads: whether it has a vision tower beside a language model.
    """

    def __init__(self, network: Any, encodes_and_decodes: bool, sees_and_reads: bool) -> None:
        self._paths = {id(module): name for name, module in network.named_modules()}
        self._two, self._tower = encodes_and_decodes, sees_and_reads

    def place(self, module: Any, called: list[Place]) -> Place:
        """Return the place of an attention module.

        Args:
            module: that calls its attention.
            called: those that called before in this pass.
        """
        path = self._paths.get(id(module), "")
        if self._tower and (found := re.search(r"(^|\.)vis(ion|ual).*", path)):
            return Place(self._number(found[0]), "vision")
        if self._two and (found := re.search(r"(^|\.)(en|de)coder\b.*", path)):
            if found[2] == "en":
                return Place(self._number(found[0]), "encoder")
            cross = re.search("enc|cross", found[0].partition("decoder")[2], re.IGNORECASE)
            return Place(self._number(found[0]), "decoder", cross is not None)
        layer = getattr(module, "layer_idx", None)
        main = sum(not place.aside for place in called)
        return Place(layer if isinstance(layer, int) else main)

    def _number(self, path: str) -> int:
        """The first number in a path: that of its block or layer."""
        found = re.search(r"\.(\d+)\.", path)
        return int(found[1]) if found else 0


class Shown(NamedTuple):
    """What a mask says.

    Attributes:
        seen: [new, keys] bool.
        bias: [heads, new, keys] float32, or ``None``.
    """

    seen: Any
    bias: Any


def shown_by(model: str, mask: Any, new: int, keys: int, causal: bool, device: Any = None) -> Shown:
    """Read a mask of transformers: none, boolean (true where seen), or added to the scores.

    Args:
        model: for errors.
        mask: [1, heads or 1, new, at least keys], or ``None``.
        new: queries.
        keys: keys.
        causal: what no mask means, of more than one query.
        device: where to make one that is not given.

    Raises:
        TraceError: the heads see different keys.
    """
    import torch

    if mask is None:
        seen = torch.ones((new, keys), dtype=torch.bool, device=device)
        return Shown(seen.tril(keys - new) if causal and new > 1 else seen, None)
    mask, bias = mask[..., :keys], None
    if mask.dtype.is_floating_point:
        # Half of float16's least number is far above -1e9.
        hidden = mask < max(-1e9, torch.finfo(mask.dtype).min / 2)
        if not (hidden | (mask == 0)).all():
            bias = mask.masked_fill(hidden, 0.0)[0].float()
        mask = ~hidden
    seen = mask.bool()[0]
    if not (seen == seen[:1]).all():
        raise TraceError(f"{model}: its heads see different keys; a trace holds one mask a layer")
    return Shown(seen[0].expand(new, keys), bias)


class InterfaceRecorder:
    """Records every layer of a model that calls the attention interface once a forward pass.

    Args:
        observed: what keeps it.
    """

    def __init__(self, observed: Observed) -> None:
        self.observed = observed
        self.stacks: Stacks | None = None

    def __call__(
        self,
        module: Any,
        query: Any,
        key: Any,
        value: Any,
        attention_mask: Any,
        scaling: float | None = None,
        **options: Any,
    ) -> tuple[Any, None]:
        """Compute and keep the attention of a layer: [sequences, heads, tokens, head_dim] in."""
        assert self.stacks is not None, "the network is known before it runs"
        model = self.observed.model
        place = self.stacks.place(module, self.observed.called)
        check_known(model, options, PLAIN | _SHOWN | _IN_THE_MASK)
        given = options.get("is_causal")
        causal = bool(getattr(module, "is_causal", True) if given is None else given)
        outputs, wide = [], _at_least_float32(query.dtype)
        for one in range(len(query)):
            q, k, v = (tensor[one : one + 1].to(wide) for tensor in (query, key, value))
            mask = attention_mask
            if mask is not None and len(mask) > 1:
                mask = mask[one : one + 1]
            sees = causal and not place.cross
            shown = shown_by(model, mask, q.shape[2], k.shape[2], sees, q.device)
            output = _own_output(module, q, k, v, shown, scaling, options)
            outputs.append(output.to(query.dtype))
            own = options.get("position_bias")
            bias = added(None if own is None else own[0], shown.bias)
            sinks = next((options[n] for n in _SINKS if options.get(n) is not None), None)
            softcap = options.get("softcap")
            call = Call(
                array(q[0]),
                array(k[0]),
                array(v[0]),
                array(output[0].transpose(0, 1)),
                seen=shown.seen.cpu().numpy(),
                scale=float(q.shape[-1] ** -0.5 if scaling is None else scaling),
                causal=causal,
                softcap=None if softcap is None else float(softcap),
                sinks=None if sinks is None else tuple(sinks.detach().float().flatten().tolist()),
                bias=None if bias is None else array(bias.expand(q.shape[1], -1, -1)),
                cause=_cause(module, options),
            )
            self.observed.add(place, call)
        return outputs[0] if len(outputs) == 1 else _joined(outputs), None


@contextmanager
def hooks_removed(handles: Iterable[Any]) -> Iterator[None]:
    """Take hooks of torch away when a model has run."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def keeping(made: dict[str, Any], name: str) -> Callable[..., None]:
    """A hook that keeps the first result of a module under a name."""

    def hook(_: Any, args: Any, result: Any) -> None:
        made.setdefault(name, result)

    return hook


def array(tensor: Any) -> Any:
    """A tensor as a float32 array, without a copy where it is one."""
    return tensor.detach().float().cpu().numpy()


def _at_least_float32(dtype: Any) -> Any:
    """The type that attention is computed in: in a narrower one nothing could be proven of it."""
    import torch

    return torch.promote_types(dtype, torch.float32)


def _joined(outputs: list[Any]) -> Any:
    import torch

    return torch.cat(outputs)


def added(one: Any, other: Any) -> Any:
    """The sum of two biases, either of which may be none: [heads or 1, new or 1, keys]."""
    if one is None or other is None:
        return other if one is None else one
    return one + other


def _own_output(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    shown: Shown,
    scaling: float | None,
    options: dict[str, Any],
) -> Any:
    """The model's own attention, [1, tokens, heads, value_dim]."""
    import torch

    own = inspect.unwrap(type(module).forward).__globals__.get("eager_attention_forward")
    if own is None:
        from transformers.integrations import sdpa_attention

        own = sdpa_attention.sdpa_attention_forward
    hidden = torch.finfo(query.dtype).min
    heads, new, keys = query.shape[1], query.shape[2], key.shape[2]
    size = max(_SCORES // (heads * keys), 1)
    given = {"dropout": 0.0, **options}
    if scaling is not None:
        given["scaling"] = scaling
    position_bias = options.get("position_bias")
    parts = []
    for start in range(0, new, size):
        rows = slice(start, start + size)
        seen = shown.seen[rows]
        mask = torch.zeros((1, 1, *seen.shape), dtype=query.dtype, device=query.device)
        if shown.bias is not None:
            mask = shown.bias[None, :, rows].to(query.dtype)
        mask = mask.masked_fill(~seen, hidden)
        if position_bias is not None:
            given["position_bias"] = position_bias[:, :, rows]
        parts.append(own(module, query[:, :, rows], key, value, mask, **given)[0])
    return torch.cat(parts, dim=1)


def _cause(module: Any, options: dict[str, Any]) -> str:
    """What may make an attention more than its arguments say, from what else is known of it."""
    named = {
        "sliding_window": "a sliding window",
        "softcap": "soft-capped scores",
        "attn_logit_softcapping": "soft-capped scores",
        "s_aux": "sinks",
        "sinks": "sinks",
        "indexer": "an indexer",
        "position_bias": "a bias on the scores",
        "rel_attn_bias": "a bias on the scores",
        "alibi": "a bias on the scores",
    }
    found = {
        text
        for name, text in named.items()
        if options.get(name) is not None or getattr(module, name, None) is not None
    }
    return ", ".join(sorted(found)) or "a bias, sinks or a mask inside its own attention function"
