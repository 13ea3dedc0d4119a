"""Capture from any Hugging Face model, through an attention function registered for it.

transformers calls the attention of every model by name, with queries and keys after positional
encoding and before grouped heads are repeated: what a trace holds. Nothing is patched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from accelsim.errors import TraceError
from accelsim.traces.capture._numpy import check_context, cut_prompt
from accelsim.traces.capture._packages import file_sha256, require
from accelsim.traces.capture._recorder import Progress, Recorder, choose_layers
from accelsim.traces.capture._run import Run

_NAME = "accelsim_recorder"
_LM_HEADS = ("ForCausalLM", "LMHeadModel")
# Arguments of an attention function by which it computes more than softmax(scale * Q K^T) V.
_BEYOND_SCHEMA = {
    "softcap": "soft-capped scores",
    "position_bias": "a bias on the scores",
    "s_aux": "learned sinks in the softmax",
}


def run_transformers(
    model: str,
    text: str | Sequence[int],
    prefill: int | None,
    decode: int,
    layers: Sequence[int] | None,
    progress: Progress,
    gguf_file: str | None = None,
) -> Run:
    """Record a model that transformers can load.

    Args:
        model: folder or id.
        text: the prompt; or its token ids, already cut.
        prefill: tokens of the prompt to use; all if ``None``.
        decode: greedy decoding steps; 0 for an encoder.
        layers: which layers to record; all if ``None``.
        progress: called as the model runs.
        gguf_file: weights inside the folder ``model``, for GGUF.

    Raises:
        TraceError: a model that cannot be loaded, or whose attention a trace cannot hold.
    """
    transformers, torch = require("transformers", "transformers"), require("torch", "torch")
    where = {"gguf_file": gguf_file} if gguf_file else {}
    with _quiet(transformers):
        config = _load(transformers.AutoConfig, model, where)
        generates = _generates(transformers, config, model)
        if decode and not generates:
            raise TraceError(f"{model}: is an encoder, which does not decode; expected --decode 0")
        num_layers = int(config.get_text_config().num_hidden_layers)
        chosen = choose_layers(layers, num_layers, model)
        ids = _prompt(transformers, model, text, prefill, where)
        limit = getattr(config.get_text_config(), "max_position_embeddings", None)
        check_context(len(ids) + decode, limit or len(ids) + decode, model)
        progress("weights", 0, 0)
        options = {"attn_implementation": _NAME, "dtype": torch.float32, **where}
        if not gguf_file:
            options["use_safetensors"] = True  # the alternative is a pickle
        recorder = _Attention(Recorder(chosen, progress, num_layers * (1 + decode)), model)
        transformers.AttentionInterface.register(_NAME, recorder)
        transformers.AttentionMaskInterface.register(_NAME, _plain_mask(transformers))
        kind = transformers.AutoModelForCausalLM if generates else transformers.AutoModel
        network = _load(kind, model, options).eval()
        ids = _decode(torch, network, ids, decode, recorder)
    if recorder.calls < num_layers:
        raise TraceError(
            f"{model}: {recorder.calls} of {num_layers} layers call transformers' attention "
            "interface; expected all"
        )
    return Run(
        model=Path(model).name if Path(model).exists() else model,
        weights=_provenance(config, model, gguf_file),
        forward=f"transformers {transformers.__version__}, torch {torch.__version__} float32"
        + (", greedy decoding" if decode else ""),
        token_ids=ids,
        prefill_tokens=len(ids) - decode,
        causal=recorder.causal,
        scale=recorder.scale,
        layers=chosen,
        model_layers=num_layers,
        tensors=recorder.recorder.tensors(),
    )


class _Attention:
    """The attention function: records, then computes as transformers' own does.

    Attributes:
        calls: attention calls of the current forward pass; the n-th is that of layer n.
        causal: whether the model masks later tokens.
        scale: factor of the scores.
    """

    def __init__(self, recorder: Recorder, model: str) -> None:
        self.recorder = recorder
        self.model = model
        self.calls = 0
        self.causal = False
        self.scale = 0.0

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
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        for name, meaning in _BEYOND_SCHEMA.items():
            if options.get(name) is not None:
                raise TraceError(f"{self.model}: attention with {meaning} does not fit a trace")
        given = options.get("is_causal")
        causal = bool(getattr(module, "is_causal", True) if given is None else given)
        self._check_mask(attention_mask, causal)
        scale = float(query.shape[-1] ** -0.5 if scaling is None else scaling)
        if self.scale not in (0.0, scale):
            raise TraceError(
                f"{self.model}: layers scale their scores differently ({self.scale}, {scale}); "
                "a trace holds one scale"
            )
        self.scale, self.causal = scale, causal
        new = query.shape[2]
        rows = (t[0, :, -new:].float().cpu().numpy() for t in (query, key, value))
        self.recorder.add(self.calls, *rows)
        self.calls += 1
        output: tuple[Any, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return output

    def _check_mask(self, mask: Any, causal: bool) -> None:
        """Refuse sliding windows and the like: a trace is causal or it is not."""
        if mask is None:
            return
        seen = (mask if mask.dtype.is_floating_point is False else mask == 0)[0].cpu().numpy()
        new, context = seen.shape[-2:]
        plain = np.ones((new, context), dtype=bool)
        if causal:
            plain = np.tril(plain, context - new)
        if not (seen == plain).all():
            raise TraceError(
                f"{self.model}: its attention is masked beyond causality (a sliding window?) "
                f"within {context} tokens; expected a shorter text"
            )


def _decode(
    torch: Any, network: Any, prompt: list[int], steps: int, attention: _Attention
) -> list[int]:
    """Run the prompt, then greedy decoding steps over the model's own cache."""
    ids = list(prompt)
    cache: dict[str, Any] = {}
    with torch.inference_mode():
        for step in range(steps + 1):
            attention.calls = 0
            new = ids if step == 0 else ids[-1:]
            cached = {"use_cache": True, **cache} if steps else {}
            output = network(input_ids=torch.tensor([new]), **cached)
            if step < steps:
                # Renamed in transformers 5.
                name = "cache" if "cache" in output else "past_key_values"
                cache = {name: output[name]}
                ids.append(int(output.logits[0, -1].argmax()))
    return ids


def _prompt(
    transformers: Any,
    model: str,
    text: str | Sequence[int],
    prefill: int | None,
    where: dict[str, str],
) -> list[int]:
    """Token ids, with the special tokens that the model's tokenizer adds."""
    if not isinstance(text, str):
        return cut_prompt(text, None, model)
    tokenizer = _load(transformers.AutoTokenizer, model, {"truncation_side": "right", **where})
    cut = {} if prefill is None else {"truncation": True, "max_length": prefill}
    return cut_prompt(tokenizer(text, **cut)["input_ids"], prefill, model)


def _load(kind: Any, model: str, options: dict[str, Any]) -> Any:
    try:
        return kind.from_pretrained(model, **options)
    except Exception as error:  # each loader raises what its files lead it to
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise TraceError(f"{model}: transformers cannot load it ({reason})") from None


def _generates(transformers: Any, config: Any, model: str) -> bool:
    """Whether a model is a causal language model, from its configuration alone."""
    if config.is_encoder_decoder:
        raise TraceError(f"{model}: is an encoder-decoder; expected a causal model or an encoder")
    if any(name.endswith(_LM_HEADS) for name in config.architectures or ()):
        return True
    lists = transformers.models.auto.modeling_auto
    return (
        type(config) in transformers.AutoModelForCausalLM._model_mapping
        and config.model_type not in lists.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    )


def _plain_mask(transformers: Any) -> Any:
    """The mask builder: none for plain causal or bidirectional attention, else a boolean one."""
    return transformers.masking_utils.sdpa_mask


def _provenance(config: Any, model: str, gguf_file: str | None) -> str:
    if not Path(model).is_dir():
        commit = getattr(config, "_commit_hash", None)
        return f"Hugging Face {model}" + (f", commit {commit}" if commit else "")
    names = [gguf_file] if gguf_file else sorted(p.name for p in Path(model).glob("*.safetensors"))
    return ", ".join(f"{name} sha256 {file_sha256(Path(model) / name)}" for name in names)


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Silence the library's own bars and warnings; ours say what matters."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
