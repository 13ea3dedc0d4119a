"""What rules of visual tokens look at beside queries and keys, read by hooks of torch.

The embedding of each token, how attention and FFN of a decoder layer change it, what a layer is
given, and the attention of [CLS] to the patches in a vision tower.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import TraceError
from accelsim.traces import IMAGE
from accelsim.traces.capture._interface import array, hooks_removed
from accelsim.traces.capture._observed import Call, Observed, Place

_TOWER = re.compile(r"(^|\.)vis(ion|ual)")
_CLASS = ("class_embedding", "cls_token")
"""Parameters of embeddings that begin with a token of the whole image."""

Rows = list[NDArray[np.float32]]


class Beside:
    """Collects it, pass by pass.

    Args:
        model: for errors.
        sees: whether the model is given images; else only what layers are given is kept.
        hidden: numbers of the layers of which that is kept.
    """

    def __init__(self, model: str, sees: bool, hidden: Collection[int]) -> None:
        self._model, self._sees, self._hidden = model, sees, frozenset(hidden)
        self._embedding: Rows = []
        self._given: dict[int, Rows] = {}
        self._changes: dict[int, tuple[Rows, Rows]] = {}
        self._class: dict[int, Rows] = {}

    @contextmanager
    def watching(self, network: Any, observed: Observed) -> Iterator[None]:
        """Put hooks on the decoder layers of a model, and look at its tower.

        Raises:
            TraceError: a layer of which something is to be kept and that is not of the usual form.
        """
        if not self._sees and not self._hidden:
            yield
            return
        handles, found = [], set()
        modules = dict(network.named_modules())
        for path, module in modules.items():
            attention, ffn = getattr(module, "self_attn", None), getattr(module, "mlp", None)
            layer = getattr(attention, "layer_idx", None)
            if ffn is None or not isinstance(layer, int) or _TOWER.search(path):
                continue
            found.add(layer)
            above = modules.get(path.rpartition(".layers.")[0])
            handles.append(
                module.register_forward_pre_hook(
                    self._enters(layer, getattr(above, "norm", None)), with_kwargs=True
                )
            )
            if self._sees:
                own: tuple[Rows, Rows] = ([], [])
                self._changes[layer] = own
                handles += [
                    part.register_forward_hook(self._changed(rows), with_kwargs=True)
                    for part, rows in zip((attention, ffn), own, strict=True)
                ]
        if missing := sorted(self._hidden - found):
            raise TraceError(
                f"{self._model}: layer {missing[0]} is no decoder layer whose input can be "
                "recorded (self_attn, mlp and a norm after the last)"
            )
        has_class = any(
            hasattr(module, name) and _TOWER.search(path)
            for path, module in modules.items()
            for name in _CLASS
        )
        observed.on_tower = self._tower if self._sees and has_class else None
        try:
            with hooks_removed(handles):
                yield
        finally:
            observed.on_tower = None

    def tensors(self, places: list[Place], token_type: Any, tokens: int) -> dict[str, Any]:
        """Tensors of a trace.

        Args:
            places: of its layers.
            token_type: [tokens], or ``None``.
            tokens: that it counts.
        """
        made: dict[str, Any] = {}
        if self._embedding and self._sees:
            made["embedding"] = np.concatenate(self._embedding)
        for index, place in enumerate(places):
            if place.group is not None:
                continue
            if parts := self._given.get(place.layer):
                made[f"layer.{index}.hidden"] = np.concatenate(parts)
            changes = self._changes.get(place.layer, ([], []))
            if all(changes):
                made[f"layer.{index}.transition"] = np.stack([np.concatenate(c) for c in changes])
        rows = {layer: np.concatenate(parts, axis=1) for layer, parts in self._class.items()}
        made |= {f"vision.layer.{layer}.cls": row for layer, row in rows.items()}
        kinds = np.zeros(0) if token_type is None else token_type
        images: NDArray[np.int64] = np.flatnonzero(kinds == IMAGE)
        if rows and {row.shape[1] for row in rows.values()} == {len(images)}:
            # VTC-CLS: what follows the last layer but one is not read by the language model.
            summed = [rows[layer].mean(axis=0) for layer in sorted(rows)[:-1] or rows]
            score = np.zeros((len(places), tokens), dtype=np.float32)
            score[:, images] = np.sum(summed, axis=0)
            made["score.vtc_cls"] = score
        wrong = [n for n, t in made.items() if tokens not in t.shape and n.startswith(("em", "la"))]
        if wrong:
            raise TraceError(
                f"{self._model}: '{wrong[0]}' has shape {made[wrong[0]].shape}; expected {tokens} "
                "tokens"
            )
        return made

    def _enters(self, layer: int, norm: Any) -> Callable[..., None]:
        def hook(_: Any, args: Any, kwargs: Any) -> None:
            given = args[0] if args else kwargs["hidden_states"]
            if layer == 0:
                self._embedding.append(array(given[0]))
            if layer in self._hidden:
                if norm is None:
                    raise TraceError(f"{self._model}: has no norm after its last layer")
                self._given.setdefault(layer, []).append(array(norm(given)[0]))

        return hook

    def _changed(self, rows: Rows) -> Callable[..., None]:
        def hook(_: Any, args: Any, kwargs: Any, result: Any) -> None:
            import torch

            before = (args[0] if args else kwargs["hidden_states"])[0]
            after = (result[0] if isinstance(result, tuple) else result)[0]
            size = before.norm(dim=-1)
            # A token whose embedding is zero (padding) has no norm to compare with.
            ratio = torch.where(size > 0, after.norm(dim=-1) / size, 0.0)
            cosine = torch.nn.functional.cosine_similarity(before, after, dim=-1)
            rows.append(array(torch.stack([ratio, cosine], dim=-1)))

        return hook

    def _tower(self, place: Place, call: Call) -> None:
        """Keep what [CLS] gives to the patches of an image."""
        group = len(call.query) // len(call.key)
        key = np.repeat(call.key, group, axis=0).astype(np.float64)
        scores = np.einsum("hd,hkd->hk", call.query[:, 0].astype(np.float64), key) * call.scale
        scores[:, ~call.seen[0]] = -np.inf
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        self._class.setdefault(place.layer, []).append(weights[:, 1:].astype(np.float32))
