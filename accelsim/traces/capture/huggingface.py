"""Capture from any Hugging Face model that goes through transformers' attention interface."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelsim.errors import AccelsimError, TraceError
from accelsim.traces.capture._interface import (
    PLAIN,
    InterfaceRecorder,
    check_known,
    standing_in,
)
from accelsim.traces.capture._numpy import check_context, cut_prompt
from accelsim.traces.capture._recorder import Progress, choose_layers
from accelsim.traces.capture._run import Run
from accelsim.traces.capture.gguf import check_for_transformers
from accelsim.traces.capture.packages import file_sha256, require

_LM_HEADS = ("ForCausalLM", "LMHeadModel")
_NAMES = ("sdpa", "eager")
"""Implementations to stand in for: models without the first have the second."""


def check_plain(model: str, options: dict[str, Any], tokens: int) -> None:
    """Refuse attention that is more than softmax(scale * Q K^T) V over all keys so far.

    Args:
        model: for errors.
        options: what the model gives its attention function beside queries, keys and values.
        tokens: tokens so far.

    Raises:
        TraceError: naming what the attention does, or the argument that is not known.
    """
    check_known(model, options, PLAIN)
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
        reads_images = type(config) in transformers.AutoModelForImageTextToText._model_mapping
        generates = generates_text(transformers, config, model) or reads_images
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
        options = {"dtype": torch.float32, **where}
        if not gguf_file:
            options["use_safetensors"] = True  # the alternative is a pickle
        recorder = InterfaceRecorder(
            model, None if layers is None else chosen, num_layers, (len(ids), decode), progress
        )
        kind = _class_of(transformers, config, generates)
        name, network = _load(kind, model, options)
        with standing_in(transformers, name, recorder):
            ids = _decode(torch, network, ids, decode, recorder)
        del network
    return Run(
        model=Path(model).name if Path(model).exists() else model,
        weights=_provenance(config, model, gguf_file),
        forward=f"transformers {transformers.__version__}, torch {torch.__version__} float32"
        + (", greedy decoding" if decode else ""),
        token_ids=ids,
        prefill_tokens=len(ids) - decode,
        causal=recorder.causal(),
        scale=recorder.scale(),
        layers=recorder.layers(),
        model_layers=num_layers,
        tensors=recorder.tensors(),
        outputs=recorder.outputs(),
        entries=recorder.entries(),
        causes=recorder.causes(),
    )


def _load(kind: Any, model: str, options: dict[str, Any]) -> tuple[str, Any]:
    """Load a model with the first implementation of :data:`_NAMES` that it supports."""
    for name in _NAMES:
        try:
            return name, load_pretrained(
                kind, model, {"attn_implementation": name, **options}
            ).eval()
        except TraceError as error:
            if name == _NAMES[-1] or "scaled_dot_product_attention" not in str(error):
                raise
    raise AssertionError("the last name either loads or raises")


def _class_of(transformers: Any, config: Any, generates: bool) -> Any:
    if not generates:
        return transformers.AutoModel
    if type(config) in transformers.AutoModelForCausalLM._model_mapping:
        return transformers.AutoModelForCausalLM
    return transformers.AutoModelForImageTextToText


def _decode(
    torch: Any, network: Any, prompt: list[int], steps: int, attention: InterfaceRecorder
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
