"""Models that a policy can run inside: our NumPy forward, or any causal model of transformers."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from accelsim.errors import TraceError
from accelsim.traces.capture import Attend, Floats, ModelShape
from accelsim.traces.capture.gguf import OtherModelError, check_for_transformers
from accelsim.traces.capture.huggingface import (
    check_layer,
    check_plain,
    foreign_code,
    generates_text,
    load_pretrained,
    plain_mask,
    quiet,
)
from accelsim.traces.capture.libraries import require
from accelsim.traces.capture.packages import WEIGHT_PACKAGES, load_smollm2

_NAME = "accelsim_policy"
_SINKS = "s_aux"
"""What transformers calls the sinks that a layer gives to its attention function."""
_BOTH_WAYS = frozenset(("paligemma",))
"""Types of models whose prompt is read in both directions, where ``token_type_ids`` is 0."""


class TransformersModel:
    """A causal language model of transformers, whose attention a policy computes.

    The attention function is registered with transformers' ``AttentionInterface``; nothing is
    patched. Weights are read from safetensors (or GGUF), never from a pickle.

    Attributes:
        shape: sizes of the model.

    Args:
        model: folder or id.
        gguf_file: weights inside the folder ``model``, for GGUF.

    Raises:
        TraceError: a model that cannot be loaded or is not a causal language model.
    """

    def __init__(self, model: str, gguf_file: str | None = None) -> None:
        transformers, self._torch = (
            require("transformers", "transformers"),
            require("torch", "torch"),
        )
        self._name, self._where = model, {"gguf_file": gguf_file} if gguf_file else {}
        self._transformers = transformers
        self._attend: Attend | None = None
        self._calls = self._prefix = 0
        with quiet(transformers):
            if gguf_file:
                check_for_transformers(Path(model) / gguf_file)
            config = load_pretrained(transformers.AutoConfig, model, self._where)
            both_ways = config.model_type in _BOTH_WAYS
            if not both_ways and not generates_text(transformers, config, model):
                raise TraceError(f"{model}: is an encoder; expected a causal language model")
            shape = _shape(config.get_text_config())
            transformers.AttentionInterface.register(_NAME, self._attention)
            transformers.AttentionMaskInterface.register(_NAME, plain_mask(transformers))
            options = {"attn_implementation": _NAME, "dtype": self._torch.float32, **self._where}
            if not gguf_file:
                options["use_safetensors"] = True  # the alternative is a pickle
            kind = "AutoModelForImageTextToText" if both_ways else "AutoModelForCausalLM"
            self._network = load_pretrained(getattr(transformers, kind), model, options).eval()
        self.shape = replace(shape, sinks=_sinks(self._network), both_ways=both_ways)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, with what the model's tokenizer adds."""
        return [int(i) for i in self.tokenizer(text)["input_ids"]]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=False))

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer, of transformers."""
        with quiet(self._transformers):
            return load_pretrained(self._transformers.AutoTokenizer, self._name, self._where)

    @cached_property
    def _cache_argument(self) -> str:
        """Name of the cache among the arguments of a model: it changed in transformers 5."""
        parameters = inspect.signature(self._network.forward).parameters
        return "cache" if "cache" in parameters else "past_key_values"

    def new_cache(self) -> Any:
        """Return an empty cache, for :meth:`forward` in several calls."""
        return self._transformers.DynamicCache()

    def forward(
        self,
        token_ids: Sequence[int],
        attend: Attend,
        cache: Any = None,
        last_only: bool = False,
    ) -> Floats:
        """Return the logits [new (1 if ``last_only``), vocabulary], with ``attend`` in every layer.

        Args:
            token_ids: the new tokens.
            attend: attention of one layer.
            cache: what came before them, extended in place; nothing if not given.
            last_only: return the logits of the last token only.

        Raises:
            TraceError: attention that a policy cannot stand for, or token ids the model lacks.
        """
        vocabulary = int(self._network.get_input_embeddings().num_embeddings)
        if min(token_ids) < 0 or max(token_ids) >= vocabulary:
            raise TraceError(
                f"{self._name}: token id {max(token_ids)}; expected 0 to {vocabulary - 1} "
                "(is the text tokenized for another model?)"
            )
        self._attend, self._calls = attend, 0
        told: dict[str, Any] = {} if cache is None else {self._cache_argument: cache}
        if self.shape.both_ways:
            # Of the first pass; all of it where nothing says what its prompt is.
            self._prefix = min(getattr(attend, "prompt_tokens", len(token_ids)), len(token_ids))
            suffix = self._torch.arange(len(token_ids)) >= self._prefix
            told["token_type_ids"] = suffix.int()[None]
        # The last model that was made may have taken the name.
        self._transformers.AttentionInterface.register(_NAME, self._attention)
        with self._torch.inference_mode(), foreign_code(self._name):
            output = self._network(
                input_ids=self._torch.tensor([list(token_ids)]),
                use_cache=cache is not None,
                **told,
            )
        self._attend = None
        if self._calls != self.shape.num_layers:
            raise TraceError(
                f"{self._name}: {self._calls} of {self.shape.num_layers} layers call transformers' "
                "attention interface; expected all"
            )
        logits = output.logits[0]
        return np.asarray((logits[-1:] if last_only else logits).float().numpy())

    def _attention(
        self,
        module: Any,
        query: Any,
        key: Any,
        value: Any,
        attention_mask: Any,
        scaling: float | None = None,
        **options: Any,
    ) -> tuple[Any, None]:
        """Compute attention as transformers asks for it: [1, heads, tokens, head_dim] in."""
        check_layer(self._name, module, self._calls)
        given = options.pop(_SINKS, None)
        check_plain(self._name, options)
        sinks = self.shape.sinks[self._calls] if self.shape.sinks else None
        found = None if given is None else tuple(given.flatten().tolist())
        if found != sinks:
            raise TraceError(
                f"{self._name}: layer {self._calls} has sinks that are not parameters of its "
                "attention; expected those"
            )
        if scaling is not None and not np.isclose(scaling, self.shape.scale):
            raise TraceError(
                f"{self._name}: scores are scaled by {scaling:g}; expected {self.shape.scale:g} "
                "(head_dim^-0.5)"
            )
        window = self.shape.windows[self._calls] if self.shape.windows else None
        self._check_mask(attention_mask, options.get("sliding_window"), window, key.shape[2])
        assert self._attend is not None
        q, k, v = (tensor[0].float().cpu().numpy() for tensor in (query, key, value))
        output = self._attend(self._calls, q, k, v, np.arange(k.shape[1] - q.shape[1], k.shape[1]))
        self._calls += 1
        back = self._torch.from_numpy(np.ascontiguousarray(output, dtype=np.float32))
        return back.to(query.dtype).transpose(0, 1)[None].contiguous(), None

    def _check_mask(self, mask: Any, told: Any, window: int | None, tokens: int) -> None:
        """Refuse a mask that is neither causal nor the window of the layer.

        Raises:
            TraceError: naming what the attention does.
        """
        whole = window is None or window >= tokens
        if isinstance(told, int) and 0 < told < tokens and told != window:
            raise TraceError(
                f"{self._name}: a layer has a sliding window of {told} keys, its configuration "
                f"{'none' if window is None else window}; expected the same"
            )
        if mask is None:
            if whole or told == window:
                return
            raise TraceError(f"{self._name}: a window of {window} keys, but no mask; expected one")
        seen = mask if mask.dtype == self._torch.bool else mask == 0
        before = tokens - seen.shape[-2]
        expected = self._torch.ones_like(seen[0]).tril(before)
        if self.shape.both_ways and not before:
            expected[..., : self._prefix, : self._prefix] = True
        if not whole:
            expected &= ~self._torch.ones_like(seen[0]).tril(before - int(window or 0))
        if not bool((seen[0] == expected).all()):
            raise TraceError(
                f"{self._name}: its attention is masked beyond causality and a sliding window "
                f"within {tokens} tokens; expected a shorter text"
            )


def load_model(model: str) -> Any:
    """Return a causal model by name: ``smollm2``, a ``.gguf`` file, or a folder or id.

    Raises:
        TraceError: it is not found or not understood.
    """
    from accelsim.traces.capture import GgufModel

    if model == "smollm2":
        return load_smollm2()
    if model in WEIGHT_PACKAGES:
        raise TraceError(f"model '{model}': is an encoder; expected a causal language model")
    path = Path(model)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise TraceError(f"{model}: no such file")
        try:
            return GgufModel(path)
        except OtherModelError:
            if importlib.util.find_spec("transformers") is None:
                raise
            return TransformersModel(str(path.parent), path.name)
    if not path.is_dir() and (path.is_absolute() or model.startswith(".")):
        raise TraceError(f"{model}: no such folder")
    return TransformersModel(model)


def positions_of(model: str) -> int:
    """Most tokens that a model of :func:`load_model` has positions for; no weights are read.

    Raises:
        TraceError: it is not found or not understood.
    """
    from accelsim.traces.capture import GgufModel

    path, where = Path(model), {}
    if model == "smollm2":
        return load_smollm2().shape.context_tokens
    if path.suffix == ".gguf":
        try:
            return GgufModel(path).shape.context_tokens
        except OtherModelError:
            if importlib.util.find_spec("transformers") is None:
                raise
        model, where = str(path.parent), {"gguf_file": path.name}
    transformers = require("transformers", "transformers")
    with quiet(transformers):
        config = load_pretrained(transformers.AutoConfig, model, where)
    return _shape(config.get_text_config()).context_tokens


def _shape(config: Any) -> ModelShape:
    heads = int(config.num_attention_heads)
    return ModelShape(
        num_layers=int(config.num_hidden_layers),
        num_query_heads=heads,
        num_kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        context_tokens=int(
            max(getattr(config, "max_position_embeddings", None) or 0, 0) or 1 << 30
        ),
        windows=_windows(config),
    )


def _sinks(network: Any) -> tuple[tuple[float, ...], ...]:
    """Sinks of each layer; empty where there are none."""
    found = {
        module.layer_idx: tuple(module.sinks.detach().float().flatten().tolist())
        for module in network.modules()
        if isinstance(getattr(module, "layer_idx", None), int) and hasattr(module, "sinks")
    }
    return tuple(found[layer] for layer in sorted(found))


def _windows(config: Any) -> tuple[int | None, ...]:
    """Window of each layer, by transformers' names; empty where there is none."""
    window = getattr(config, "sliding_window", None)
    layers = int(config.num_hidden_layers)
    if not window:
        return ()
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * layers
    found = tuple(int(window) if kind == "sliding_attention" else None for kind in kinds)
    return found if any(found) else ()
