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

from accelsim.errors import AccelsimError, TraceError
from accelsim.traces.capture._numpy import check_context, cut_prompt
from accelsim.traces.capture._recorder import Progress, Recorder, choose_layers
from accelsim.traces.capture._run import Run
from accelsim.traces.capture.gguf import check_for_transformers
from accelsim.traces.capture.packages import file_sha256, require

_NAME = "accelsim_recorder"
_LM_HEADS = ("ForCausalLM", "LMHeadModel")
# Arguments of an attention function that change nothing (in inference, on one sequence), or that
# the mask expresses too.
_PLAIN = frozenset(
    (
        "dropout", "is_causal", "sliding_window", "output_attentions", "output_hidden_states",
        "position_ids", "cache_position", "use_cache", "deterministic", "logits_to_keep",
        "return_dict", "past_key_values", "num_items_in_batch",
    )
)  # fmt: skip
# Those by which a model is known to compute more than softmax(scale * Q K^T) V.
_BEYOND = {
    "softcap": "soft-capped scores",
    "position_bias": "a bias on the scores",
    "s_aux": "learned sinks in the softmax",
    "sinks": "learned sinks in the softmax",
    "indices": "keys chosen by an indexer",
    "block_indices": "blocks of keys chosen by an indexer",
}


def check_plain(model: str, options: dict[str, Any], tokens: int) -> None:
    """Refuse attention that is more than softmax(scale * Q K^T) V over all keys so far.

    Args:
        model: for errors.
        options: what the model gives its attention function beside queries, keys and values.
        tokens: tokens so far.

    Raises:
        TraceError: naming what the attention does, or the argument that is not known.
    """
    for name, value in options.items():
        if value is None or value is False or name in _PLAIN:
            continue
        what = _BEYOND.get(name, f"an argument '{name}' that accelsim does not know")
        raise TraceError(f"{model}: attention with {what} does not fit a trace or a policy")
    window = options.get("sliding_window")
    if isinstance(window, int) and 0 < window < tokens:
        raise TraceError(
            f"{model}: its attention is masked beyond causality (a sliding window of {window}) "
            f"within {tokens} tokens; expected a shorter text"
        )


def check_layer(model: str, module: Any, call: int) -> None:
    """Refuse a model whose n-th call of the attention function is not that of its n-th layer.

    Raises:
        TraceError: naming both.
    """
    layer = getattr(module, "layer_idx", None)
    if isinstance(layer, int) and layer != call:
        raise TraceError(
            f"{model}: attention call {call} is of layer {layer}; expected one call a layer, in "
            "order"
        )


@contextmanager
def foreign_code(model: str) -> Iterator[None]:
    """Explain what goes wrong inside a model's own code.

    Raises:
        TraceError: whatever it was, in one line.
    """
    try:
        yield
    except AccelsimError:
        raise
    except Exception as error:  # a forward pass raises what its code leads it to
        reason = " ".join(str(error).split())[:160]
        raise TraceError(
            f"{model}: its forward pass on token ids alone fails ({type(error).__name__}: {reason})"
        ) from error


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
    with quiet(transformers):
        if gguf_file:
            check_for_transformers(Path(model) / gguf_file)
        config = load_pretrained(transformers.AutoConfig, model, where)
        generates = generates_text(transformers, config, model)
        if decode and not generates:
            raise TraceError(f"{model}: {_why_not_decode(config)}; expected --decode 0")
        num_layers = int(config.get_text_config().num_hidden_layers)
        chosen = choose_layers(layers, num_layers, model)
        ids = _prompt(transformers, model, text, prefill, where)
        limit = getattr(config.get_text_config(), "max_position_embeddings", None)
        # XLNet says -1: any number.
        tokens = len(ids) + decode
        check_context(tokens, limit if isinstance(limit, int) and limit > 0 else tokens, model)
        progress("weights", 0, 0)
        options = {"attn_implementation": _NAME, "dtype": torch.float32, **where}
        if not gguf_file:
            options["use_safetensors"] = True  # the alternative is a pickle
        progress_to = Recorder(chosen, progress, num_layers * (1 + decode))
        recorder = _Attention(progress_to, model, num_layers, decode > 0)
        transformers.AttentionInterface.register(_NAME, recorder)
        transformers.AttentionMaskInterface.register(_NAME, plain_mask(transformers))
        kind = transformers.AutoModelForCausalLM if generates else transformers.AutoModel
        network = load_pretrained(kind, model, options).eval()
        ids = _decode(torch, network, ids, decode, recorder)
    return Run(
        model=Path(model).name if Path(model).exists() else model,
        weights=_provenance(config, model, gguf_file),
        forward=f"transformers {transformers.__version__}, torch {torch.__version__} float32"
        + (", greedy decoding" if decode else ""),
        token_ids=ids,
        prefill_tokens=len(ids) - decode,
        causal=bool(recorder.causal),
        scale=recorder.scale,
        layers=chosen,
        model_layers=num_layers,
        tensors=recorder.recorder.tensors(),
    )


class _Attention:
    """The attention function: records, then computes as transformers' own does.

    Attributes:
        calls: attention calls of the current forward pass; the n-th is that of layer n.
        tokens: tokens so far, those of the current forward pass included.
        causal: whether the model masks later tokens.
        scale: factor of the scores.
    """

    def __init__(self, recorder: Recorder, model: str, num_layers: int, decodes: bool) -> None:
        self.recorder = recorder
        self.model = model
        self.num_layers = num_layers
        self.decodes = decodes
        self.calls = 0
        self.tokens = 0
        self.causal: bool | None = None
        self.scale = 0.0

    def begin(self, new: int) -> None:
        """Start a forward pass of ``new`` tokens."""
        self.calls = 0
        self.tokens += new

    def end(self) -> None:
        """Check a forward pass.

        Raises:
            TraceError: more or fewer calls than layers.
        """
        if self.calls != self.num_layers:
            raise TraceError(
                f"{self.model}: {self.calls} of {self.num_layers} layers call transformers' "
                "attention interface; expected each once"
            )

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

        check_layer(self.model, module, self.calls)
        if key.shape[2] != self.tokens:
            raise TraceError(
                f"{self.model}: layer {self.calls} sees {key.shape[2]} of {self.tokens} tokens (a "
                "sliding window?); expected a shorter text"
            )
        given = options.get("is_causal")
        causal = bool(getattr(module, "is_causal", True) if given is None else given)
        self._check_mask(attention_mask, causal)
        check_plain(self.model, options, self.tokens)
        if self.decodes and not causal:
            raise TraceError(
                f"{self.model}: its attention is bidirectional, which does not decode; expected "
                "--decode 0"
            )
        if self.causal not in (None, causal):
            raise TraceError(
                f"{self.model}: some layers are causal and others are not; a trace is one of them"
            )
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
            new = ids if step == 0 else ids[-1:]
            cached = {"use_cache": True, **cache} if steps else {}
            attention.begin(len(new))
            with foreign_code(attention.model):
                output = network(input_ids=torch.tensor([new]), **cached)
            attention.end()
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
    tokenizer = load_pretrained(
        transformers.AutoTokenizer, model, {"truncation_side": "right", **where}
    )
    cut = {} if prefill is None else {"truncation": True, "max_length": prefill}
    return cut_prompt(tokenizer(text, **cut)["input_ids"], prefill, model)


def load_pretrained(kind: Any, model: str, options: dict[str, Any]) -> Any:
    """Load a configuration, tokenizer or model.

    Raises:
        TraceError: why it cannot be loaded, in one line.
    """
    try:
        return kind.from_pretrained(model, **options)
    except Exception as error:  # each loader raises what its files lead it to
        raise TraceError(f"{model}: {_why_not_loaded(kind, model, error)}") from None


def _why_not_loaded(kind: Any, model: str, error: Exception) -> str:
    """What stops transformers from loading a model, in one line."""
    folder, reason = Path(model), " ".join(str(error).split())
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if any(name in reason for name in ("accelsim_recorder", "accelsim_policy")):
        return "its attention does not go through transformers' attention interface"
    if names and "Tokenizer" in kind.__name__ and "tokenizer.json" not in names:
        return f"transformers cannot load a tokenizer; expected tokenizer.json ({reason[:100]})"
    pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
    if pickles and not any(name.endswith(".safetensors") for name in names):
        return f"its weights are a pickle ({pickles[0]}), which may run code; expected .safetensors"
    return f"transformers cannot load it ({reason[:160] or type(error).__name__})"


def _why_not_decode(config: Any) -> str:
    if config.get_text_config() is not config:
        return "takes more than text, and only a pass over text alone is recorded of such models"
    return "is an encoder, which does not decode"


def generates_text(transformers: Any, config: Any, model: str) -> bool:
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


def plain_mask(transformers: Any) -> Any:
    """The mask builder: none for plain causal or bidirectional attention, else a boolean one."""
    return transformers.masking_utils.sdpa_mask


def _provenance(config: Any, model: str, gguf_file: str | None) -> str:
    if not Path(model).is_dir():
        commit = getattr(config, "_commit_hash", None)
        return f"Hugging Face {model}" + (f", commit {commit}" if commit else "")
    names = [gguf_file] if gguf_file else sorted(p.name for p in Path(model).glob("*.safetensors"))
    return ", ".join(f"{name} sha256 {file_sha256(Path(model) / name)}" for name in names)


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
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
