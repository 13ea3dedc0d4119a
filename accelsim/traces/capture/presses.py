"""Presses of kvpress inside a model: which keys they keep, as decisions beside a trace.

A press runs through its own hooks on a model of transformers. It says nothing of what it keeps: it
shortens the cache, or marks slots of it. So the cache is compared with the keys and values that the
model put into it, vector by vector, after each forward pass.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim import yaml_reader
from accelsim.errors import AccelsimError, TraceError, did_you_mean
from accelsim.traces import (
    Decisions,
    SelectionCost,
    layer_decisions,
    tokens_sha256,
)
from accelsim.traces.capture._capture import locate
from accelsim.traces.capture._recorder import Progress, no_progress
from accelsim.traces.capture.huggingface import generates_text, load_pretrained, quiet
from accelsim.traces.capture.libraries import require
from accelsim.traces.capture.packages import WEIGHT_PACKAGES

_NAME = re.compile(r"[a-z][a-z0-9]*")
_REFUSED = {
    "duoattention": "patterns of heads that it downloads",
    "qfilter": "trained filters that it downloads",
    "kvzap": "a trained model that it downloads",
    "fastkvzip": "trained gates that it downloads",
    "restorekv": "trained adapters that it downloads",
    "expectedattentionstats": "statistics that it downloads",
    "lukv": "budget curves that it downloads",
    "finch": "a question behind a token of its own",
    "kvzip": "a chat template and passes over the text again",
    "kvgrad": "gradients",
    "kvcompose": "passes of its own",
    "composed": "a list of presses",
    "prefilldecoding": "two presses",
}
"""Presses that need what a model and a text alone do not give, and what that is."""


@dataclass(frozen=True)
class PressSpec:
    """A press as ``--press`` takes it: ``NAME[(INNER)][:RATIO][,KEY=VALUE...]``.

    Attributes:
        name: class of kvpress without ``Press``, in small letters: ``snapkv``, ``adakv``.
        inner: press that a wrapper wraps.
        ratio: part of the cache to remove.
        options: further arguments.
    """

    name: str
    inner: PressSpec | None = None
    ratio: float | None = None
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        """The text again."""
        head = self.name if self.inner is None else f"{self.name}({self.inner})"
        tail = [] if self.ratio is None else [f"{self.ratio:g}"]
        tail += [f"{key}={value}" for key, value in self.options]
        return f"{head}:{','.join(tail)}" if tail else head

    @property
    def slug(self) -> str:
        """A name for files."""
        return re.sub(r"[^A-Za-z0-9.]+", "-", str(self)).strip("-")


def parse_press(text: str) -> PressSpec:
    """Read the text of ``--press``.

    Raises:
        TraceError: says what was expected.
    """
    problem = TraceError(
        f"--press '{text[:80]}': expected NAME[(INNER)][:RATIO][,KEY=VALUE...], as in snapkv:0.5 "
        "or adakv(snapkv,window_size=32):0.5"
    )
    head, tail = _split(text.strip())
    name, bracket, rest = (part.strip() for part in head.partition("("))
    inner = None
    if bracket:
        if not rest.endswith(")"):
            raise problem
        inner = parse_press(rest[:-1])
    if not _NAME.fullmatch(name):
        raise problem
    ratio, options = None, []
    for part in _parts(tail):
        key, equals, value = part.partition("=")
        if equals and key.strip().isidentifier():
            try:
                options.append((key.strip(), yaml_reader.read(value)))
            except yaml_reader.YamlError:
                raise problem from None
            continue
        try:
            number = float(part)
        except ValueError:
            raise problem from None
        if ratio is not None or not 0 <= number < 1:
            raise TraceError(f"--press '{text[:80]}': expected one ratio to remove, in [0, 1)")
        ratio = number
    return PressSpec(name, inner, ratio, tuple(options))


def _split(text: str) -> tuple[str, str]:
    """Name with its brackets, and what follows the first ``:`` or ``,`` outside them."""
    depth = 0
    for at, letter in enumerate(text):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(letter, 0)
        if letter in ":," and depth == 0:
            return text[:at], text[at + 1 :]
    return text, ""


def _parts(text: str) -> Iterator[str]:
    """Parts between commas outside of brackets."""
    depth, start = 0, 0
    for at, letter in enumerate(text):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            yield text[start:at].strip()
            start = at + 1
    if text[start:].strip():
        yield text[start:].strip()


@lru_cache(maxsize=1)
def _kvpress() -> Any:
    """Import kvpress, and take back what its import changes in transformers.

    It puts its own functions before transformers' attention functions, where they would hide those
    that other captures put there; :func:`_patched` puts them there while a press runs.

    Raises:
        TraceError: it is not installed; names the command that installs it.
    """
    require("transformers", "transformers")
    logging.getLogger("kvpress").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it imports
            module = importlib.import_module("kvpress")
    except ImportError as error:
        missing = getattr(error, "name", None) or "kvpress"
        # Of the standard library until 3.12; kvpress pins a fire that imports it.
        if missing == "pipes":
            raise TraceError(
                "a press needs kvpress, which runs on Python 3.12 and older (its fire imports "
                "'pipes')"
            ) from None
        raise TraceError(
            f"a press needs the package kvpress ('{missing}' is missing): "
            "pip install 'accelsim[press]'"
        ) from None
    interface = _interface()
    ours = {
        name: function
        for name, function in interface._local_mapping.items()
        if getattr(function, "__module__", "") == "kvpress.attention_patch"
    }
    for name in ours:
        interface._local_mapping.pop(name)
    return module, ours


def _interface() -> Any:
    return importlib.import_module("transformers.modeling_utils").ALL_ATTENTION_FUNCTIONS


@contextmanager
def _patched() -> Iterator[None]:
    """Let slots that a press marks be masked, as kvpress does."""
    interface, functions = _interface(), _kvpress()[1]
    interface._local_mapping.update(functions)
    try:
        yield
    finally:
        for name in functions:
            interface._local_mapping.pop(name, None)


def press_names() -> list[str]:
    """Names that ``--press`` may have with the installed kvpress, sorted.

    Raises:
        TraceError: kvpress is not installed.
    """
    return sorted(set(_classes()) - set(_REFUSED))


def _classes() -> dict[str, Any]:
    module = _kvpress()[0]
    abstract = ("base", "scorer")
    names = {
        name.removesuffix("Press").lower(): getattr(module, name)
        for name in module.__all__
        if name.endswith("Press")
    }
    return {name: kind for name, kind in names.items() if name not in abstract}


def build_press(spec: PressSpec) -> Any:
    """Return the press of kvpress that a text describes.

    Raises:
        TraceError: no such press or argument, or one that needs more than a model and a text.
    """
    classes = _classes()
    if spec.name not in classes:
        raise TraceError(
            f"--press '{spec}': kvpress {version('kvpress')} has no press '{spec.name}'"
            f"{did_you_mean(spec.name, classes)}"
        )
    if spec.name in _REFUSED:
        raise TraceError(
            f"--press '{spec}': it needs {_REFUSED[spec.name]}; expected a press of keys, values "
            "and queries alone"
        )
    arguments = dict(spec.options)
    kind, fields = classes[spec.name], _arguments(classes[spec.name])
    if spec.inner is not None:
        arguments["base_press" if "base_press" in fields else "press"] = build_press(spec.inner)
    own_ratio = "compression_ratio" in fields
    if own_ratio and spec.ratio is not None:
        arguments["compression_ratio"] = spec.ratio
    unknown = [name for name in arguments if name not in fields]
    if unknown:
        name = unknown[0]
        wrong = "wraps no other press" if name == "press" else f"has no argument '{name}'"
        raise TraceError(f"--press '{spec}': {spec.name} {wrong}{did_you_mean(name, fields)}")
    with _explained(spec, "cannot be made"):
        press = kind(**arguments)
        if not own_ratio and spec.ratio is not None:
            press.compression_ratio = spec.ratio
    return press


def _arguments(kind: Any) -> list[str]:
    return [name for name in inspect.signature(kind).parameters if not name.startswith("_")]


@contextmanager
def _explained(spec: PressSpec, what: str) -> Iterator[None]:
    """Say what goes wrong inside kvpress in one line.

    Raises:
        TraceError: naming the press and the reason.
    """
    try:
        yield
    except AccelsimError:
        raise
    except Exception as error:  # a press asserts and raises what it likes
        reason = " ".join(str(error).split())[:150] or "no reason given"
        raise TraceError(f"--press '{spec}': {what} ({type(error).__name__}: {reason})") from None


class PressRecorder:
    """A causal model of transformers in which presses run.

    Attributes:
        model: name of the model.
        num_layers, num_kv_heads: of the model.

    Args:
        model: ``smollm2``, a ``.gguf`` file, or a folder or id that transformers loads.
        progress: told when weights are loaded.

    Raises:
        TraceError: kvpress is not installed, or a model that cannot be loaded or does not generate.
    """

    def __init__(self, model: str, progress: Progress = no_progress) -> None:
        _kvpress()
        self._torch = require("torch", "torch")
        transformers = self._transformers = require("transformers", "transformers")
        path, _ = locate(model)
        gguf = path is not None and path.suffix == ".gguf"
        folder = str(path.parent if path is not None and gguf else path or model)
        where = {"gguf_file": path.name} if path is not None and gguf else {}
        progress("weights", 0, 0)
        with quiet(transformers):
            config = load_pretrained(transformers.AutoConfig, folder, where)
            if not generates_text(transformers, config, model):
                raise TraceError(f"{model}: is an encoder; expected a causal language model")
            options = {"attn_implementation": "sdpa", "dtype": self._torch.float32, **where}
            if not where:
                options["use_safetensors"] = True  # the alternative is a pickle
            self._network = load_pretrained(
                transformers.AutoModelForCausalLM, folder, options
            ).eval()
        packaged = WEIGHT_PACKAGES.get(model)
        self.model = packaged.model if packaged else Path(model).name if path else model
        text = config.get_text_config()
        self._heads = int(text.num_attention_heads)
        self.num_layers = int(text.num_hidden_layers)
        self.num_kv_heads = int(getattr(text, "num_key_value_heads", None) or self._heads)
        self._width = int(text.hidden_size)
        self._head_dim = int(getattr(text, "head_dim", None) or self._width // self._heads)
        parameters = inspect.signature(self._network.forward).parameters
        self._cache_argument = "cache" if "cache" in parameters else "past_key_values"

    def record(
        self,
        spec: PressSpec,
        token_ids: Sequence[int],
        prompt_tokens: int,
        *,
        trace_sha256: str = "",
        model: str = "",
    ) -> Decisions:
        """Run a prompt, and the tokens after it where a press acts on them, under a press.

        Args:
            spec: the press.
            token_ids: prompt and what follows it.
            prompt_tokens: tokens of the prompt.
            trace_sha256: of the trace that the decisions belong to.
            model: what that trace calls the model; this one's name if not given.

        Raises:
            TraceError: a press that keeps fewer tokens than it protects, that the model lacks
                something for, or that changes keys or values.
        """
        press = build_press(spec)
        if not 0 < prompt_tokens <= len(token_ids):
            raise TraceError(
                f"--press '{spec}': {prompt_tokens} tokens of a prompt; expected 1 to "
                f"{len(token_ids)}"
            )
        _check_budget(spec, press, prompt_tokens)
        sets = self._run(spec, press, [int(i) for i in token_ids], prompt_tokens)
        ratio = _ratio(press, spec)
        sizes = Sizes(
            prompt_tokens, self._head_dim, self._heads, self.num_kv_heads, self._width,
            max(1, int(prompt_tokens * (1 - (ratio or 0.0)))),
        )  # fmt: skip
        return Decisions(
            press=str(spec),
            source=f"kvpress {version('kvpress')}, transformers "
            f"{self._transformers.__version__}, torch {self._torch.__version__} float32: "
            + " ".join(repr(press).split())[:400],
            model=model or self.model,
            tokens_sha256=tokens_sha256(np.asarray(token_ids)),
            trace_sha256=trace_sha256,
            num_kv_heads=self.num_kv_heads,
            prefill_tokens=prompt_tokens,
            decode_tokens=len(token_ids) - prompt_tokens,
            layers=tuple(layer_decisions(each) for each in sets),
            ratio=ratio,
            cost=selection_cost(press, sizes),
        )

    def _run(
        self, spec: PressSpec, press: Any, ids: list[int], prompt: int
    ) -> list[list[tuple[int, list[NDArray[np.int64]]]]]:
        """Changes of the kept sets of each layer."""
        torch, network = self._torch, self._network
        watch = _Watch(self._transformers.DynamicCache(), self.num_kv_heads)
        own, calls = press.forward_hook, [ids[:prompt]]
        if _acts_in_decoding(press):
            calls += [[token] for token in ids[prompt:-1]]
        sets: list[list[tuple[int, list[NDArray[np.int64]]]]] = [[] for _ in range(self.num_layers)]

        def hook(module: Any, inputs: Any, kwargs: dict[str, Any], output: Any) -> Any:
            # Names that transformers changed or dropped since the kvpress that is installed.
            given = dict(kwargs)
            if given.get("past_key_values") is None:
                given["past_key_values"] = given.get("cache")
            given["cache_position"] = watch.positions
            return own(module, inputs, given, output)

        press.forward_hook = hook
        before = network.config._attn_implementation
        eager = any(type(part).__name__ == "ObservedAttentionPress" for part in _chain(press))
        try:
            if eager:  # gives the probabilities of the prompt
                network.set_attn_implementation("eager")
            with (
                torch.random.fork_rng(devices=[]),
                torch.inference_mode(),
                quiet(self._transformers),
                _patched(),
                _explained(spec, f"does not run inside {self.model}"),
            ):
                torch.manual_seed(0)
                with press(network):
                    layers = _layers_of(network)
                    for module in layers:
                        module.masked_key_indices = None
                    for step, new in enumerate(calls):
                        watch.begin(torch, len(new))
                        network(
                            input_ids=torch.tensor([new]), position_ids=watch.positions[None],
                            use_cache=True, **{self._cache_argument: watch.cache},
                        )  # fmt: skip
                        for number, module in enumerate(layers):
                            found = watch.changed(number, module.masked_key_indices, str(spec))
                            if found is not None:
                                sets[number].append((step, found))
        finally:
            press.forward_hook = own
            if eager:
                network.set_attn_implementation(before)
        return sets


def _layers_of(network: Any) -> list[Any]:
    body = getattr(network.model, "language_model", network.model)
    return [layer.self_attn for layer in body.layers]


class _Watch:
    """What a model put into its cache, and what is left of it.

    Attributes:
        cache: of transformers.
        positions: of the tokens of this pass, a tensor [new].
    """

    def __init__(self, cache: Any, kv_heads: int) -> None:
        self.cache, self._heads = cache, kv_heads
        self._update = cache.update
        cache.update = self._noted
        self._seen = 0
        self._given: dict[int, list[NDArray[np.float32]]] = {}
        self._held: dict[int, list[NDArray[np.int64]]] = {}
        self._kept: dict[int, list[NDArray[np.int64]]] = {}
        self.positions: Any = None

    def begin(self, torch: Any, new: int) -> None:
        """Start a pass of ``new`` tokens."""
        self.positions = torch.arange(self._seen, self._seen + new)
        self._seen += new

    def _noted(self, key: Any, value: Any, layer: int, *rest: Any, **options: Any) -> Any:
        both = np.concatenate([key[0].float().numpy(), value[0].float().numpy()], axis=2)
        self._given.setdefault(layer, []).append(both)
        return self._update(key, value, layer, *rest, **options)

    def changed(self, layer: int, masked: Any, press: str) -> list[NDArray[np.int64]] | None:
        """Tokens that each KV head keeps, if not simply those of before and the new ones.

        Args:
            layer: whose cache.
            masked: batches, heads and slots that the press masked, if any.
            press: for errors.

        Raises:
            TraceError: the cache holds vectors that the model did not put there.
        """
        store, whole = self.cache.layers[layer], np.concatenate(self._given[layer], axis=1)
        self._given[layer] = [whole]
        cached = np.concatenate(
            [store.keys[0].float().numpy(), store.values[0].float().numpy()], axis=2
        )
        new = np.arange(self._seen - len(self.positions), self._seen)
        hidden = np.zeros(cached.shape[:2], dtype=np.bool_)
        if masked is not None:
            hidden[np.asarray(masked[1]), np.asarray(masked[2])] = True
        held, kept = [], []
        nothing = [new[:0]] * self._heads
        for head in range(self._heads):
            slots = np.concatenate([self._held.get(layer, nothing)[head], new])
            own, at = cached[head], ~hidden[head]
            if len(slots) != len(own) or (own[at] != whole[head, slots[at]]).any():
                slots = _found(own, whole[head], layer, press)
            held.append(slots)
            kept.append(np.sort(slots[at]))
        before = self._kept.get(layer, nothing)
        self._held[layer], self._kept[layer] = held, kept
        same = all(
            np.array_equal(np.concatenate([old, new]), now)
            for old, now in zip(before, kept, strict=True)
        )
        return None if same else kept


def _found(
    cached: NDArray[np.float32], given: NDArray[np.float32], layer: int, press: str
) -> NDArray[np.int64]:
    """Token of each vector [slots, 2 * head_dim] among those given [tokens, 2 * head_dim]."""
    places: dict[bytes, int] = {row.tobytes(): token for token, row in enumerate(given)}
    if len(places) < len(given):
        raise TraceError(
            f"--press '{press}': layer {layer} has tokens with equal keys and values, so that what "
            "is kept cannot be told"
        )
    found = [places.get(row.tobytes(), -1) for row in cached]
    if min(found, default=0) < 0 or len(set(found)) < len(found):
        raise TraceError(
            f"--press '{press}': it changes keys or values (layer {layer}); decisions hold which "
            "tokens stay"
        )
    return np.array(found, dtype=np.int64)


def _chain(press: Any) -> list[Any]:
    """A press and those inside it."""
    inner = getattr(press, "press", None) or getattr(press, "base_press", None)
    return [press] if inner is None else [press, *_chain(inner)]


def _acts_in_decoding(press: Any) -> bool:
    return any(
        "Decoding" in type(part).__name__ or getattr(part, "decoding", False)
        for part in _chain(press)
    )


def _ratio(press: Any, spec: PressSpec) -> float | None:
    """Part to remove that was asked for; none for presses that take another measure."""
    if _acts_in_decoding(press):
        return None
    for part in (spec, spec.inner):
        if part is not None and part.ratio is not None:
            return part.ratio
    return None


_PROTECTED = ("window_size", "n_sink", "num_sinks", "sink_size_start", "sink_size_end")


def _check_budget(spec: PressSpec, press: Any, prompt: int) -> None:
    """Refuse a budget below what a press protects: it then chooses among equals.

    Raises:
        TraceError: names both numbers.
    """
    ratio = _ratio(press, spec)
    if ratio is None or type(press).__name__ in ("BlockPress", "ChunkPress", "ChunkKVPress"):
        return
    core = _chain(press)[-1]
    named = {name: getattr(core, name, 0) for name in _PROTECTED}
    protected, kept = (
        sum(n for n in named.values() if isinstance(n, int)),
        int(prompt * (1 - ratio)),
    )
    if ratio > 0 and kept < protected:
        told = ", ".join(f"{name} {n}" for name, n in named.items() if n)
        raise TraceError(
            f"--press '{spec}': keeps {kept} of {prompt} tokens, fewer than it protects ({told}); "
            f"expected a ratio of at most {max(1 - protected / prompt, 0):.2f}, or a longer prompt"
        )


@dataclass(frozen=True)
class Sizes:
    """Of one layer and one selection.

    Attributes:
        tokens: that are selected from.
        head_dim: elements of a key.
        heads: query heads.
        kv_heads: KV heads.
        width: of the residual stream.
        kept: tokens that stay.
    """

    tokens: int
    head_dim: int
    heads: int
    kv_heads: int
    width: int
    kept: int


def selection_cost(press: Any, sizes: Sizes) -> SelectionCost | None:
    """What a press asks for to select once in one layer; ``None`` where we have not counted it.

    Queries, and keys before rotation, count as at hand; probabilities that a press observes too.
    """
    name = type(press).__name__.removesuffix("Press").lower()
    count = _COSTS.get(name)
    return None if count is None else count(press, sizes)


def _cost(vectors: int, products: int, sorted_: int) -> SelectionCost:
    return SelectionCost(int(vectors), int(products), int(sorted_))


def _window(press: Any, s: Sizes) -> SelectionCost:
    keys = s.kv_heads * s.tokens
    return _cost(keys, press.window_size * s.heads * s.tokens * s.head_dim, keys)


def _expected(press: Any, s: Sizes) -> SelectionCost:
    keys = s.kv_heads * s.tokens
    products = s.heads * s.tokens * s.head_dim
    if press.use_covariance:  # of the queries, then a quadratic form of each key
        products += 2 * s.heads * s.tokens * s.head_dim**2
    values = keys if press.use_vnorm else 0
    return _cost(keys + values, products + values * s.head_dim, keys)


def _leverage(press: Any, s: Sizes) -> SelectionCost:
    keys, sketch = s.kv_heads * s.tokens, press.sketch_dimension
    # Sketch, Gram matrix, solution, scores.
    return _cost(keys, keys * (s.head_dim * sketch + 2 * sketch**2 + sketch), keys)


def _non_causal(press: Any, s: Sizes) -> SelectionCost:
    keys, chunk = s.kv_heads * s.tokens, min(press.chunk_size, s.tokens)
    return _cost(2 * keys, (s.heads * s.tokens * chunk + keys) * s.head_dim, keys)


def _compactor(press: Any, s: Sizes) -> SelectionCost:
    a, b = _leverage(press, s), _non_causal(press, s)
    return _cost(a.vectors + b.vectors, a.products + b.products, s.kv_heads * s.tokens)


def _wrapped(
    change: Callable[[Any, Sizes, SelectionCost], SelectionCost],
) -> Callable[[Any, Sizes], SelectionCost | None]:
    def count(press: Any, sizes: Sizes) -> SelectionCost | None:
        inner = selection_cost(press.press, sizes)
        return None if inner is None else change(press, sizes, inner)

    return count


def _critical(sorts: int) -> Callable[[Any, Sizes, SelectionCost], SelectionCost]:
    """Values through the output projection, and more sorting."""
    return lambda press, s, inner: _cost(
        inner.vectors + s.kv_heads * s.tokens,
        inner.products + s.heads * s.tokens * s.head_dim * s.width,
        sorts * s.kv_heads * s.tokens,
    )


def _block(press: Any, s: Sizes) -> SelectionCost | None:
    total, at = [0, 0, 0], s.kept
    while at < s.tokens:
        new = min(press.block_size, s.tokens - at)
        own = selection_cost(
            press.press, Sizes(s.kept + new, s.head_dim, s.heads, s.kv_heads, s.width, s.kept)
        )
        if own is None:
            return None
        total = [a + b for a, b in zip(total, (own.vectors, own.products, own.sorted), strict=True)]
        at += new
    return _cost(*total)


_COSTS: dict[str, Callable[[Any, Sizes], SelectionCost | None]] = {
    "streamingllm": lambda press, s: _cost(0, 0, 0),
    "random": lambda press, s: _cost(0, 0, s.kv_heads * s.tokens),
    "knorm": lambda press, s: _cost(
        s.kv_heads * s.tokens, s.kv_heads * s.tokens * s.head_dim, s.kv_heads * s.tokens
    ),
    # Lengths, unit vectors and their sum; then a cosine each.
    "keydiff": lambda press, s: _cost(
        2 * s.kv_heads * s.tokens, 3 * s.kv_heads * s.tokens * s.head_dim, s.kv_heads * s.tokens
    ),
    "snapkv": _window,
    "pyramidkv": _window,
    "tova": lambda press, s: _cost(
        s.kv_heads * s.tokens, s.heads * s.tokens * s.head_dim, s.tokens
    ),
    "observedattention": lambda press, s: _cost(0, 0, s.kv_heads * s.tokens),
    "expectedattention": _expected,
    # Scaling and deviation of keys and values; two sorts in each part and one of all.
    "lagkv": lambda press, s: _cost(
        2 * s.kv_heads * s.tokens, 4 * s.kv_heads * s.tokens * s.head_dim, 3 * s.kv_heads * s.tokens
    ),
    "leveragescore": _leverage,
    "cur": lambda press, s: _cost(
        2 * s.kv_heads * s.tokens, 2 * s.kv_heads * s.tokens * s.head_dim, s.kv_heads * s.tokens
    ),
    "noncausalattn": _non_causal,
    "compactor": _compactor,
    "chunk": _wrapped(lambda press, s, inner: inner),
    "chunkkv": _wrapped(
        lambda press, s, inner: _cost(
            inner.vectors, inner.products, -(-s.tokens // press.chunk_length)
        )
    ),
    "block": _block,
    "adakv": _wrapped(
        lambda press, s, inner: _cost(inner.vectors, inner.products, 2 * s.kv_heads * s.tokens)
    ),
    "criticalkv": _wrapped(_critical(2)),
    "criticaladakv": _wrapped(_critical(3)),
}


__all__ = [
    "PressRecorder",
    "PressSpec",
    "Sizes",
    "build_press",
    "parse_press",
    "press_names",
    "selection_cost",
]
