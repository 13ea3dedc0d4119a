"""Attention modules that do not go through transformers' attention interface.

Each is read by hooks of torch: what comes out of its query, key and value projections, what it is
called with, and what goes into its output projection. What is made of them here is no more than a
claim; the capture's proof decides whether it is right.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from accelsim.errors import TraceError
from accelsim.traces.capture._interface import (
    Shown,
    Stacks,
    added,
    array,
    hooks_removed,
    keeping,
    shown_by,
)
from accelsim.traces.capture._observed import Call, Observed


class _Parts(NamedTuple):
    """An attention, as torch tensors.

    Attributes:
        query: [heads, new, head_dim].
        key: [kv_heads, new, head_dim].
        value: [kv_heads, new, head_dim].
        scale: factor of the scores.
        shown: what the mask says.
        bias: added to the scaled scores, [heads, new or 1, keys], or ``None``.
        causal: whether it looks back only.
    """

    query: Any
    key: Any
    value: Any
    scale: float
    shown: Shown
    bias: Any = None
    causal: bool = True


class _Reading(NamedTuple):
    """One call of a module.

    Attributes:
        model: for errors.
        module: the module.
        given: its arguments by name.
        made: what its projections returned, by their names.
        keys: keys that it has by now.
    """

    model: str
    module: Any
    given: Mapping[str, Any]
    made: Mapping[str, Any]
    keys: int

    def heads(self, name: str, count: int) -> Any:
        """What a projection returned, [heads, new, head_dim]."""
        return self.made[name][0].unflatten(-1, (count, -1)).transpose(0, 1)

    def shown(self, mask: Any, causal: bool = True) -> Shown:
        """What a mask says."""
        made = next(iter(self.made.values()))
        return shown_by(self.model, mask, made.shape[1], self.keys, causal, made.device)


def _gpt_neo(call: _Reading) -> _Parts:
    module = call.module
    query, key, value = (call.heads(f"{n}_proj", module.num_heads) for n in "qkv")
    new = query.shape[1]
    shown = call.shown(call.given.get("attention_mask"))
    local = module.bias[0, 0, call.keys - new : call.keys, : call.keys].bool()
    return _Parts(query, key, value, 1.0, shown._replace(seen=shown.seen & local))


def _bloom(call: _Reading) -> _Parts:
    module = call.module
    query, key, value = (part[0] for part in module._reshape(call.made["query_key_value"]))
    bias = call.given["alibi"].view(module.num_heads, 1, -1)
    shown = call.shown(call.given.get("attention_mask"))
    return _Parts(query, key, value, module.inv_norm_factor, shown, module.beta * bias)


def _falcon(call: _Reading) -> _Parts:
    # ALiBi, where there is, has been added to the mask.
    module = call.module
    query, key, value = (
        part.transpose(1, 2) for part in module._split_heads(call.made["query_key_value"])
    )
    if call.given.get("alibi") is None:
        rotate = inspect.unwrap(type(module).forward).__globals__["apply_rotary_pos_emb"]
        query, key = rotate(query, key, *call.given["position_embeddings"])
    # The new architecture repeats its keys and values for each query head.
    step = key.shape[1] // module.num_kv_heads
    shown = call.shown(call.given.get("attention_mask"))
    return _Parts(query[0], key[0, ::step], value[0, ::step], module.inv_norm_factor, shown)


def _mpt(call: _Reading) -> _Parts:
    module = call.module
    fused = call.made["Wqkv"][0]
    if module.clip_qkv:
        fused = fused.clamp(min=-module.clip_qkv, max=module.clip_qkv)
    query, key, value = (
        part.unflatten(-1, (module.n_heads, -1)).transpose(0, 1) for part in fused.chunk(3, dim=-1)
    )
    mask, bias = call.given.get("attention_mask"), call.given.get("position_bias")
    shown = call.shown(None if mask is None else ~mask)
    if bias is not None:
        bias = bias[:, :, max(0, bias.shape[2] - call.keys) :]
    return _Parts(query, key, value, module.softmax_scale, shown, bias)


def _mpnet(call: _Reading) -> _Parts:
    module, bias = call.module, call.given.get("position_bias")
    query, key, value = (call.heads(n, module.num_attention_heads) for n in "qkv")
    return _Parts(
        query, key, value, module.attention_head_size**-0.5,
        call.shown(call.given.get("attention_mask"), causal=False),
        None if bias is None else bias[0], causal=False,
    )  # fmt: skip


def _deberta(call: _Reading) -> _Parts:
    module, given = call.module, call.given
    query, key, value = (
        call.heads(f"{n}_proj", module.num_attention_heads) for n in ("query", "key", "value")
    )
    terms = 1 + sum(n in module.pos_att_type for n in ("c2p", "p2c"))
    bias = None
    if module.relative_attention:
        bias = module.disentangled_attention_bias(
            query, key, given.get("relative_pos"), given.get("rel_embeddings"), terms
        )
    return _Parts(
        query, key, value, 1.0 / math.sqrt(query.shape[-1] * terms),
        call.shown(given["attention_mask"], causal=False), bias, causal=False,
    )  # fmt: skip


_READERS: dict[str, tuple[Callable[[_Reading], _Parts], tuple[str, ...], str]] = {
    "GPTNeoSelfAttention": (_gpt_neo, ("q_proj", "k_proj", "v_proj"), "out_proj"),
    "BloomAttention": (_bloom, ("query_key_value",), "dense"),
    "FalconAttention": (_falcon, ("query_key_value",), "dense"),
    "MptAttention": (_mpt, ("Wqkv",), "out_proj"),
    "MPNetSelfAttention": (_mpnet, ("q", "k", "v"), "o"),
    "DisentangledSelfAttention": (_deberta, ("query_proj", "key_proj", "value_proj"), ""),
}
"""Reader, projections and output projection of each class; without the last, it returns its own."""


@contextmanager
def hooked(network: Any, observed: Observed, stacks: Stacks) -> Iterator[None]:
    """Record the modules that a reader is for, while a model runs."""
    handles = []
    for module in network.modules():
        found = _READERS.get(type(module).__name__)
        # A class of the same name may be another (DeBERTa's first version).
        if found is not None and all(hasattr(module, name) for name in found[1]):
            handles += _hook(module, observed, stacks)
    with hooks_removed(handles):
        yield


def _hook(module: Any, observed: Observed, stacks: Stacks) -> list[Any]:
    """Put hooks around one module."""
    reader, projections, last = _READERS[type(module).__name__]
    made: dict[str, Any] = {}
    output: list[Any] = []
    signature = inspect.signature(module.forward)

    def done(_: Any, args: Any, kwargs: Any, result: Any) -> None:
        rows = output[0] if last and output else result[0]
        if (last and not output) or set(made) != set(projections):
            raise TraceError(
                f"{observed.model}: {type(module).__name__} does not call its projections; "
                "accelsim cannot tell what it computes"
            )
        given = signature.bind(*args, **kwargs).arguments
        given |= given.pop("kwargs", {})
        call = _Reading(observed.model, module, given, dict(made), observed.seen_tokens)
        observed.add(stacks.place(module, observed.called), _call(reader(call), rows))
        # Only now: a reader may call the projections again.
        made.clear()
        output.clear()

    return [
        # Relative embeddings go through the same projections, after the tokens.
        *(getattr(module, n).register_forward_hook(keeping(made, n)) for n in projections),
        *([getattr(module, last).register_forward_pre_hook(lambda _, a: output.append(a[0]))]
          if last else []),
        module.register_forward_hook(done, with_kwargs=True),
    ]  # fmt: skip


def _call(parts: _Parts, rows: Any) -> Call:
    """Turn an attention into what is kept of it; ``rows`` is its output, [1, new, width]."""
    heads, dtype = parts.query.shape[0], str(parts.query.dtype).removeprefix("torch.")
    bias = added(parts.bias, parts.shown.bias)
    return Call(
        array(parts.query),
        array(parts.key),
        array(parts.value),
        array(rows[0].unflatten(-1, (heads, -1)).transpose(0, 1)),
        seen=parts.shown.seen.cpu().numpy(),
        scale=float(parts.scale),
        causal=parts.causal,
        bias=None if bias is None else array(bias.expand(heads, -1, -1)),
        cause=f"{dtype} in an attention module of its own kind; expected float32 or float64"
        if dtype in ("bfloat16", "float16")
        else "an attention module that accelsim reads by itself",
    )
