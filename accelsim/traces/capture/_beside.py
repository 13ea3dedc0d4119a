"""What rules of visual tokens look at beside queries and keys, read by hooks of torch.

The embedding of each token, how attention and FFN of a decoder layer change it, what a layer is
given, and in a vision tower the attention of [CLS] to the patches, and of patches to each other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

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


class Importance(NamedTuple):
    """Which patches of an image rate the others (VFlowOpt, Yang et al., ICCV 2025, and its code).

    Attributes:
        layer: of the vision tower, counted from 0.
        threshold: a patch rates if what it receives in that layer, mean over heads and patches, is
            more than so many times the mean of all patches.
    """

    layer: int
    threshold: float


class Beside:
    """Collects it, pass by pass.

    Args:
        model: for errors.
        sees: whether the model is given images; else only what layers are given is kept.
        hidden: numbers of the layers of which that is kept.
        importance: of patches, where it is to be kept as ``score.vflowopt``.
    """

    def __init__(
        self,
        model: str,
        sees: bool,
        hidden: Collection[int],
        importance: Importance | None = None,
    ) -> None:
        self._model, self._sees, self._hidden = model, sees, frozenset(hidden)
        self._importance = importance
        self._rated: Rows = []
        self._first_patch = 0
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
        self._first_patch = int(has_class)
        watched = has_class or self._importance is not None
        observed.on_tower = self._tower if self._sees and watched else None
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
        if self._importance is not None:
            made["score.vflowopt"] = self._score(len(places), tokens, images)
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
        """Keep what the patches of an image are given by [CLS], and by those that rate them."""
        rates = self._importance is not None and place.layer == self._importance.layer
        if self._first_patch:
            rows = _attention(call, slice(0, 1))[:, 0, 1:]
            self._class.setdefault(place.layer, []).append(rows.astype(np.float32))
        if not rates or self._importance is None:
            return
        patches = slice(self._first_patch, None)
        given = _attention(call, patches)[:, :, patches].mean(axis=0)
        received = given.mean(axis=0)
        times = received / received.mean()
        raters = times > self._importance.threshold
        if not raters.any():
            raise TraceError(
                f"{self._model}: no patch receives more than {self._importance.threshold:g} times "
                f"the mean in layer {place.layer} of the vision tower; the most is "
                f"{times.max():.3g} times; expected a smaller threshold"
            )
        self._rated.append(given[raters].mean(axis=0).astype(np.float32))

    def _score(self, layers: int, tokens: int, images: NDArray[np.int64]) -> NDArray[np.float32]:
        """What the patches are given by those that rate them, for all layers of a trace."""
        assert self._importance is not None
        if not self._rated:
            raise TraceError(
                f"{self._model}: layer {self._importance.layer} is no layer of a vision tower that "
                "was given an image"
            )
        found = np.concatenate(self._rated)
        if len(found) != len(images):
            raise TraceError(
                f"{self._model}: {len(found)} patches for {len(images)} image tokens; expected a "
                "model with one token for each patch"
            )
        score = np.zeros((layers, tokens), dtype=np.float32)
        score[:, images] = found
        return score


def _attention(call: Call, rows: slice) -> NDArray[np.float64]:
    """Probabilities [heads, rows, keys] of some queries of a tower."""
    key = np.repeat(call.key, len(call.query) // len(call.key), axis=0).astype(np.float64)
    scores = call.query[:, rows].astype(np.float64) @ key.transpose(0, 2, 1) * call.scale
    scores[:, ~call.seen[rows]] = -np.inf
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    return np.asarray(weights / weights.sum(axis=2, keepdims=True))
