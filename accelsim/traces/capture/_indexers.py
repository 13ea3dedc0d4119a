"""Indexers that choose the keys of each query (DeepSeek Sparse Attention), read by hooks of torch.

What they rank by is put together from their projections, as their own code does; the capture's
proof decides whether the keys that the model attended to follow from it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelsim.traces.capture._interface import Stacks, array, hooks_removed, keeping
from accelsim.traces.capture._observed import Indexed, Observed

_ROTATIONS = {
    "DeepseekV32Indexer": "apply_rotary_pos_emb",
    "AXK2Indexer": "apply_rotary_pos_emb",
    "GlmMoeDsaIndexer": "apply_rotary_pos_emb_interleave",
}
"""Class of an indexer, and the function of its file that rotates the first elements of its queries
and keys."""
_PROJECTIONS = ("wq_b", "k_norm", "weights_proj")
_SIZES = ("n_heads", "head_dim", "qk_rope_head_dim", "index_topk", "softmax_scale")


@contextmanager
def indexed(network: Any, observed: Observed, stacks: Stacks) -> Iterator[None]:
    """Record what indexers rank by, and which layers share the choice of another."""
    handles = []
    for module in network.modules():
        known = type(module).__name__ in _ROTATIONS
        if known and all(hasattr(module, name) for name in (*_PROJECTIONS, *_SIZES)):
            handles += _hook(module, observed, stacks)
        # GLM-5's layers that attend to what the last one with an indexer chose.
        elif getattr(module, "skip_topk", False) is True:
            observed.shares_index(stacks.place(module, []))
    with hooks_removed(handles):
        yield


def _hook(module: Any, observed: Observed, stacks: Stacks) -> list[Any]:
    """Put hooks around one indexer."""
    made: dict[str, Any] = {}
    signature = inspect.signature(module.forward)
    rotate = inspect.unwrap(type(module).forward).__globals__[_ROTATIONS[type(module).__name__]]

    def done(_: Any, args: Any, kwargs: Any, result: Any) -> None:
        import torch

        given = signature.bind(*args, **kwargs).arguments
        cos, sin = given["position_embeddings"]
        turning = module.qk_rope_head_dim
        query = made["wq_b"].unflatten(-1, (module.n_heads, module.head_dim))
        key = made["k_norm"].unsqueeze(2)
        turned = rotate(query[..., :turning], key[..., :turning], cos, sin, unsqueeze_dim=2)
        query, key = (
            torch.cat([first, whole[..., turning:]], dim=-1)
            for first, whole in zip(turned, (query, key), strict=True)
        )
        weight = made["weights_proj"].float() * module.n_heads**-0.5 * module.softmax_scale
        found = Indexed(
            array(query[0].transpose(0, 1)), array(key[0, :, 0]), array(weight[0].T),
            int(module.index_topk),
        )  # fmt: skip
        observed.index(stacks.place(module, observed.called), found)
        made.clear()

    return [
        *(getattr(module, n).register_forward_hook(keeping(made, n)) for n in _PROJECTIONS),
        module.register_forward_hook(done, with_kwargs=True),
    ]
