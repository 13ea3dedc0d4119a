"""Capture from any Hugging Face model that goes through transformers' attention interface."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from accelsim.errors import AccelsimError, TraceError
from accelsim.traces import TEXT
from accelsim.traces.capture._beside import Beside, Importance
from accelsim.traces.capture._indexers import indexed
from accelsim.traces.capture._inputs import Inputs, Media, Reader
from accelsim.traces.capture._interface import (
    PLAIN,
    InterfaceRecorder,
    Stacks,
    check_known,
    standing_in,
)
from accelsim.traces.capture._modules import hooked
from accelsim.traces.capture._numpy import check_context
from accelsim.traces.capture._observed import STACKS, Observed
from accelsim.traces.capture._recorder import Progress, choose_layers
from accelsim.traces.capture._run import Run
from accelsim.traces.capture.gguf import check_for_transformers
from accelsim.traces.capture.libraries import require
from accelsim.traces.capture.packages import file_sha256
from accelsim.traces.capture.placement import ON_CPU, Placement, TorchPlacement

_LM_HEADS = ("ForCausalLM", "LMHeadModel")
_NOTHING = Media()
_NAMES = ("sdpa", "eager")
"""Implementations to stand in for: models without the first have the second."""


def check_plain(model: str, options: dict[str, Any]) -> None:
    """Refuse attention that is more than softmax(scale * Q K^T) V over the keys of its mask.

    Args:
        model: for errors.
        options: what the model gives its attention function beside queries, keys and values.

    Raises:
        TraceError: naming what the attention does, or the argument that is not known.
    """
    check_known(model, options, PLAIN)


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
            f"{model}: its forward pass fails ({type(error).__name__}: {reason})"
        ) from error


def run_transformers(
    model: str,
    text: str | Sequence[int],
    prefill: int | None,
    decode: int,
    layers: Sequence[int] | None,
    progress: Progress,
    gguf_file: str | None = None,
    media: Media = _NOTHING,
    stack: str | None = None,
    hidden: Sequence[int] = (),
    importance: Importance | None = None,
    placement: Placement = ON_CPU,
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
        media: images and sound.
        stack: the only one to record, of a model that has several; all if ``None``.
        hidden: layers of which to record what they are given.
        importance: of patches, where it is to be recorded.
        placement: how it runs.

    Raises:
        TraceError: a model that cannot be loaded, or whose attention a trace cannot hold.
    """
    transformers, torch = require("transformers", "transformers"), require("torch", "torch")
    where = {"gguf_file": gguf_file} if gguf_file else {}
    with quiet(transformers), ExitStack() as opened:
        if gguf_file:
            check_for_transformers(Path(model) / gguf_file)
        runs = TorchPlacement(torch, placement, model, gguf_file is not None)
        config = load_pretrained(transformers.AutoConfig, model, where)
        kind = _kind(transformers, config, model)
        if decode and not kind.decodes:
            raise TraceError(f"{model}: {_why_not_decode(config)}; expected --decode 0")
        depth = _depth(config)
        chosen = choose_layers(layers, depth, model)
        reader = Reader(model, kind.network, config, where, load_pretrained)
        reader.check(bool(text), media, kind.decodes)
        sees = {"image", "text"} <= set(reader.takes) and bool(media.images)
        _check_stack(model, stack, kind.pair, sees, decode)
        read = reader.read(text, media, prefill)
        prompt = [_first_token(config, model)] if kind.pair else read.ids
        _check_context(config, kind, len(read.ids), len(prompt) + decode, model)
        progress("weights", 0, 0)
        options = dict(where) if gguf_file else {"use_safetensors": True}  # or it is a pickle
        loading = opened.enter_context(runs.loading())
        name, network = _load(kind, model, options | loading)
        network = runs.placed(network)
        attending = 2 * _depth(config, decoder=True) if kind.pair else depth
        wanted = None if layers is None else chosen
        observed = Observed(model, wanted, attending, 1 + decode, progress, stack)
        # PaliGemma reads its prompt in both directions and decodes after it.
        observed.prefix = type(config) in transformers.AutoModelForImageTextToText._model_mapping
        recorder = InterfaceRecorder(observed)
        recorder.stacks = stacks = Stacks(network, kind.pair, sees)
        if importance is not None and (not sees or observed.alone):
            raise TraceError(
                f"{model}: importance of patches is a score of image tokens; expected a language "
                "model that is given --image FILE, and no --group vision"
            )
        beside = Beside(model, sees, hidden, importance)
        with (
            standing_in(transformers, name, recorder),
            hooked(network, observed, stacks),
            indexed(network, observed, stacks),
            beside.watching(network, observed),
        ):
            ids = _decode(torch, network, runs, read.given, prompt, decode, observed, kind.pair)
        observed.check_stacks(STACKS[:2] if kind.pair else STACKS[2:] if sees else ())
        if observed.alone:
            ids = read.ids if stack == "encoder" else []
        del network
    of_tokens: dict[str, Any] = {}
    if not observed.alone:
        of_tokens = _of_tokens(read, decode)
        kinds = of_tokens.get("token_type")
        of_tokens |= beside.tensors(observed.places(), kinds, observed.tokens())
    labels, causes, main = observed.labels(), observed.causes(), observed.main()
    recorded = observed.finish()
    return Run(
        model=Path(model).name if Path(model).exists() else model,
        weights=_provenance(config, model, gguf_file),
        forward=f"transformers {transformers.__version__}, torch {torch.__version__} {runs}"
        + (", greedy decoding" if decode else ""),
        token_ids=ids,
        prefill_tokens=observed.tokens() - decode,
        causal=observed.causal(),
        scale=observed.scale(),
        layers=labels,
        model_layers=observed.attentions(),
        tensors=recorded.tensors,
        outputs=recorded.outputs,
        entries=recorded.entries,
        causes=causes,
        main=main,
        files=tuple(f"file: {path.name}, sha256 {file_sha256(path)}" for path in media.files),
        of_tokens=of_tokens,
    )


def _check_stack(model: str, stack: str | None, pair: bool, sees: bool, decode: int) -> None:
    """Refuse a stack that a model does not have.

    Args:
        model: for errors.
        stack: the one to record.
        pair: whether the model is an encoder with a decoder.
        sees: whether it is given images beside its text.
        decode: decoding steps.
    """
    there = STACKS[:2] if pair else STACKS[2:] if sees else ()
    if stack is not None and stack not in there:
        names = " or ".join(there) or "none, as this is one stack"
        raise TraceError(f"{model}: group '{stack}': expected {names}")
    if stack in ("encoder", "vision") and decode:
        raise TraceError(f"{model}: its {stack} does not decode; expected --decode 0")


def _of_tokens(read: Inputs, decode: int) -> dict[str, Any]:
    """What each token is, decoded ones included, which are text."""
    if read.token_type is None or read.frame is None:
        return {}
    return {
        "token_type": np.concatenate([read.token_type, np.full(decode, TEXT, dtype=np.int8)]),
        "frame": np.concatenate([read.frame, np.full(decode, -1, dtype=np.int16)]),
    }


class _Kind(NamedTuple):
    """What sort of model it is.

    Attributes:
        loader: class of transformers that loads it.
        decodes: whether it generates text.
        pair: whether it is an encoder with a decoder.
        network: class of the model itself.
    """

    loader: Any
    decodes: bool
    pair: bool = False
    network: Any = None


def _kind(transformers: Any, config: Any, model: str) -> _Kind:
    """What sort of model a configuration describes."""
    lone = [n for n in config.architectures or () if n.endswith("EncoderModel")]
    if lone and hasattr(transformers, lone[0]):
        network = getattr(transformers, lone[0])
        return _Kind(network, decodes=False, network=network)

    def first(*loaders: Any, decodes: bool = True, pair: bool = False) -> _Kind | None:
        for loader in loaders:
            if type(config) in loader._model_mapping:
                network = loader._model_mapping[type(config)]
                # One of several, by the configuration.
                network = network[0] if isinstance(network, tuple) else network
                return _Kind(loader, decodes, pair, network)
        return None

    found = None
    if config.is_encoder_decoder:
        found = first(
            transformers.AutoModelForSeq2SeqLM, transformers.AutoModelForSpeechSeq2Seq, pair=True
        )
    sees = transformers.AutoModelForImageTextToText
    if not found and (
        type(config) in sees._model_mapping or generates_text(transformers, config, model)
    ):
        found = first(transformers.AutoModelForCausalLM, sees)
    found = found or first(transformers.AutoModel, decodes=False)
    return found or _Kind(transformers.AutoModel, decodes=False)


def _depth(config: Any, decoder: bool = False) -> int:
    """Layers of a model, of the deeper stack where it has two; or of its decoder."""
    own = config.get_text_config()
    both = int(own.num_hidden_layers)
    decoders = [getattr(own, name, None) for name in ("decoder_layers", "num_decoder_layers")]
    deep = next((int(n) for n in decoders if n and config.is_encoder_decoder), both)
    return deep if decoder else max(both, deep)


def _first_token(config: Any, model: str) -> int:
    """The token that a decoder starts with."""
    first = getattr(config, "decoder_start_token_id", None)
    if first is None:
        first = getattr(config, "bos_token_id", None)
    if first is None:
        raise TraceError(f"{model}: config.json: key 'decoder_start_token_id': expected a token id")
    return int(first)


def _check_context(config: Any, kind: _Kind, read: int, tokens: int, model: str) -> None:
    """Refuse more tokens than a model has positions for."""
    own = config.get_text_config()
    limits = [getattr(own, n, None) for n in ("max_position_embeddings", "max_target_positions")]
    # XLNet says -1: any number.
    known = [n for n in limits if isinstance(n, int) and n > 0]
    most = max(read, tokens) if kind.pair else tokens
    check_context(most, known[0] if known else most, model)


def _load(kind: _Kind, model: str, options: dict[str, Any]) -> tuple[str, Any]:
    """Load a model with the first implementation of :data:`_NAMES` that it supports.

    Raises:
        TraceError: it cannot be loaded, or its weights lack some of an attention, which would be
            random.
    """
    for name in _NAMES:
        given = {"attn_implementation": name, "output_loading_info": True, **options}
        try:
            network, found = load_pretrained(kind.loader, model, given)
        except TraceError as error:
            if name == _NAMES[-1] or "scaled_dot_product_attention" not in str(error):
                raise
            continue
        lost = [key for key in found["missing_keys"] if re.search("att[ne].*weight$", key, re.I)]
        if lost:
            raise TraceError(
                f"{model}: its weights lack {sorted(lost)[0][-80:]} and {len(lost) - 1} more of "
                f"{type(network).__name__}; expected all"
            )
        return name, network.eval()
    raise AssertionError("the last name either loads or raises")


def _decode(
    torch: Any,
    network: Any,
    runs: TorchPlacement,
    given: dict[str, Any],
    prompt: list[int],
    steps: int,
    observed: Observed,
    pair: bool,
) -> list[int]:
    """Run the prompt, then greedy decoding steps over the model's own cache.

    Args:
        torch: the library.
        network: the model.
        runs: how it runs.
        given: what its first pass is called with.
        prompt: token ids that its layers see in the first pass; of a decoder, its first.
        steps: of decoding.
        observed: told when a pass begins and ends.
        pair: whether it is an encoder with a decoder.
    """
    from transformers.modeling_outputs import BaseModelOutput

    ids = list(prompt)
    tokens = "decoder_input_ids" if pair else "input_ids"
    given = runs.given(given)
    if pair:
        given[tokens] = runs.tokens(ids)
    with torch.inference_mode():
        for step in range(steps + 1):
            cached = {"use_cache": True} if steps else {}
            observed.begin(len(ids) if step == 0 else 1)
            with foreign_code(observed.model), runs.reading():
                output = network(**given, **cached)
            observed.end()
            if step < steps:
                # Renamed in transformers 5.
                name = "cache" if "cache" in output else "past_key_values"
                ids.append(int(output.logits[0, -1].argmax()))
                given = {name: output[name], tokens: runs.tokens(ids[-1:])}
                if pair:
                    hidden = output.encoder_last_hidden_state
                    given["encoder_outputs"] = BaseModelOutput(last_hidden_state=hidden)
    return ids


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
    # Reading a .gguf file draws a bar that knows of neither.
    gguf: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    bar, gguf.tqdm = gguf.tqdm, functools.partial(gguf.tqdm, disable=True)
    try:
        yield
    finally:
        gguf.tqdm = bar
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
