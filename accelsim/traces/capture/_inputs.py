"""What a model is given: token ids, images, sound, through the model's own processors."""

from __future__ import annotations

import importlib.util
import warnings
import wave
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import TraceError
from accelsim.traces import IMAGE, TEXT, VIDEO
from accelsim.traces.capture._numpy import cut_prompt

Load = Callable[[Any, str, dict[str, Any]], Any]
"""Loads something of transformers, or says in one line why it cannot."""


_WORDS = {"text": "text", "image": "images", "audio": "sound"}


@dataclass(frozen=True)
class Media:
    """Files that a model is given beside its text.

    Attributes:
        images: of the prompt, in order.
        audio: a WAV file.
    """

    images: tuple[Path, ...] = ()
    audio: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        return (*self.images, *((self.audio,) if self.audio else ()))

    def check(self) -> None:
        """Refuse files that are not there, before a model is loaded.

        Raises:
            TraceError: names the first.
        """
        for path in self.files:
            if not path.is_file():
                what = "a WAV file" if path == self.audio else "an image"
                raise TraceError(f"{path}: no such file; expected {what}")


@dataclass(frozen=True)
class Inputs:
    """What the first forward pass is called with.

    Attributes:
        given: its arguments, torch tensors by name.
        ids: token ids of the text, [tokens]; none where a model takes no text.
        token_type: [tokens] int8, of a model that reads images within its text.
        frame: [tokens] int16, which image a token is of.
    """

    given: dict[str, Any]
    ids: list[int] = field(default_factory=list)
    token_type: NDArray[np.int8] | None = None
    frame: NDArray[np.int16] | None = None


class Reader:
    """Turns a text, images and sound into what a model takes.

    Args:
        model: folder or id.
        network: class of the model.
        config: of the model.
        where: file of the weights, for GGUF.
        load: loads processors.
    """

    def __init__(
        self, model: str, network: Any, config: Any, where: dict[str, Any], load: Load
    ) -> None:
        self._model, self._config, self._where, self._load = model, config, where, load
        self.takes = takes(network)

    def check(self, text: bool, media: Media, generates: bool) -> None:
        """Refuse what the model does not take, and the lack of what it needs.

        Args:
            text: whether there is a text.
            media: files.
            generates: whether it is a language model, which needs no image.

        Raises:
            TraceError: in one line.
        """
        kinds = " and ".join(_WORDS[kind] for kind in self.takes if kind in _WORDS)
        for kind, files, option in (
            ("image", media.images, "--image"),
            ("audio", media.audio, "--audio"),
        ):
            if files and kind not in self.takes:
                raise TraceError(f"{self._model}: takes {kinds}; expected no {option}")
            needed = kind in self.takes and (not generates or kind == "audio")
            if needed and not files:
                raise TraceError(f"{self._model}: takes {kinds}; expected {option} FILE")
        reads = "text" in self.takes and "audio" not in self.takes
        if text and not reads:
            raise TraceError(f"{self._model}: takes {_WORDS[self.takes[0]]}; expected no text")
        if reads and not text and not (media.images and generates):
            raise TraceError(f"{self._model}: takes {kinds}; expected --text or --text-file")

    def read(self, text: str | Sequence[int], media: Media, prefill: int | None) -> Inputs:
        """Return what the first pass is given.

        Raises:
            TraceError: a file that cannot be read, or a prompt that cannot be cut so.
        """
        import torch
        import transformers

        if media.audio is not None:
            self._uncut(prefill)
            extractor = self._load(transformers.AutoFeatureExtractor, self._model, {})
            rate = int(extractor.sampling_rate)
            sound = read_wav(media.audio, rate)
            made = self._made(extractor, raw_speech=sound, sampling_rate=rate)
            return Inputs(
                {name: made[name] for name in ("input_features", "input_values") if name in made}
            )
        if not media.images:
            ids = self._tokens(transformers, text, prefill)
            return Inputs({"input_ids": torch.tensor([ids])}, ids)
        pictures = [read_image(path) for path in media.images]
        if "text" not in self.takes:
            self._uncut(prefill)
            processor = self._load(transformers.AutoImageProcessor, self._model, {})
            return Inputs(dict(self._made(processor, images=pictures)))
        assert isinstance(text, str), "images come with a text"
        return self._both(transformers, text, pictures, prefill)

    def _both(
        self, transformers: Any, text: str, pictures: list[Any], prefill: int | None
    ) -> Inputs:
        """Text and images together."""
        try:
            processor = self._load(transformers.AutoProcessor, self._model, {})
        except TraceError as error:
            if importlib.util.find_spec("torchvision") is None:
                raise TraceError(
                    f"{self._model}: transformers cannot load its processor, which may need "
                    "torchvision (pip install torchvision)"
                ) from error
            raise
        prompt, within = text, hasattr(processor, "image_token")
        if within:
            prompt = _with_images(processor, text, len(pictures))
        # Some take a list of images, some a list for each text; each takes the latter or says so.
        made = self._made(processor, text=[prompt], images=pictures)
        given = {name: value for name, value in made.items() if name != "attention_mask"}
        ids = [int(n) for n in given["input_ids"][0]]
        cut = cut_prompt(ids, prefill, self._model)
        if not within:
            given["input_ids"] = given["input_ids"][:, : len(cut)]
            return Inputs(given, cut)
        kinds, frame = self._types(ids)
        if (kinds[len(cut) :] != TEXT).any():
            least = int(np.flatnonzero(kinds != TEXT)[-1]) + 1
            raise TraceError(
                f"{self._model}: --prefill {prefill} cuts an image; expected at least {least}"
            )
        for name, value in given.items():
            if value.shape[:2] == (1, len(ids)):
                given[name] = value[:, : len(cut)]
        return Inputs(given, cut, kinds[: len(cut)], frame[: len(cut)])

    def _types(self, ids: Sequence[int]) -> tuple[NDArray[np.int8], NDArray[np.int16]]:
        """What each token is, and which run of image tokens it is of."""
        kinds = np.full(len(ids), TEXT, dtype=np.int8)
        for kind, names in (
            (IMAGE, ("image_token_id", "image_token_index")),
            (VIDEO, ("video_token_id", "video_token_index")),
        ):
            own = next(
                (n for a in names if (n := getattr(self._config, a, None)) is not None), None
            )
            kinds[np.array(ids) == own] = kind
        seen = kinds != TEXT
        starts = seen & ~np.concatenate([[False], seen[:-1]])
        frame = np.where(seen, np.cumsum(starts) - 1, -1)
        return kinds, frame.astype(np.int16)

    def _made(self, processor: Any, **given: Any) -> Any:
        """What a processor makes of it, as tensors."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the library's own workings
                return processor(**given, return_tensors="pt")
        except Exception as error:  # a processor raises what its code leads it to
            reason = " ".join(str(error).split())[:140]
            raise TraceError(
                f"{self._model}: its processor fails ({type(error).__name__}: {reason})"
            ) from error

    def _tokens(
        self, transformers: Any, text: str | Sequence[int], prefill: int | None
    ) -> list[int]:
        """Token ids, with the special tokens that the model's tokenizer adds."""
        if not isinstance(text, str):
            return cut_prompt(text, None, self._model)
        options = {"truncation_side": "right", **self._where}
        tokenizer = self._load(transformers.AutoTokenizer, self._model, options)
        cut = {} if prefill is None else {"truncation": True, "max_length": prefill}
        return cut_prompt(tokenizer(text, **cut)["input_ids"], prefill, self._model)

    def _uncut(self, prefill: int | None) -> None:
        if prefill is not None:
            raise TraceError(f"{self._model}: takes {_WORDS[self.takes[0]]}; expected no --prefill")


def takes(network: Any) -> tuple[str, ...]:
    """What a model takes: some of text, image, video, audio."""
    own = getattr(network, "input_modalities", None)
    parts = getattr(getattr(network, "config_class", None), "sub_configs", None)
    if parts == {} and getattr(network, "__name__", "").endswith("ForCausalLM"):
        own = "text"  # Gemma 4's says what its sibling with towers takes
    if own is None:  # before transformers 5
        names = {"pixel_values": "image", "input_features": "audio", "input_values": "audio"}
        own = names.get(getattr(network, "main_input_name", ""), "text")
    return (own,) if isinstance(own, str) else tuple(own)


def _with_images(processor: Any, text: str, images: int) -> str:
    """The prompt of a language model that sees images before its text."""
    token = str(processor.image_token)
    if token in text:
        return text
    if getattr(processor, "chat_template", None):
        content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": text}]
        turns = [{"role": "user", "content": content}]
        return str(processor.apply_chat_template(turns, add_generation_prompt=True))
    return f"{token} " * images + text


def read_image(path: Path) -> Any:
    """Read an image, in colours.

    Raises:
        TraceError: it is none.
    """
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except Exception as error:  # PIL raises what the file leads it to
        reason = getattr(error, "strerror", None) or "not an image that Pillow reads"
        raise TraceError(f"{path}: cannot be read ({reason}); expected an image") from None


_SAMPLES: dict[int, tuple[np.dtype[Any], float, float]] = {
    1: (np.dtype("u1"), 128.0, 128.0),
    2: (np.dtype("<i2"), 0.0, 32768.0),
    4: (np.dtype("<i4"), 0.0, 2147483648.0),
}
"""Type, zero and full scale of the samples of a WAV file, by their bytes."""


def read_wav(path: Path, rate: int) -> NDArray[np.float32]:
    """Read a WAV file, its channels averaged, [samples] from -1 to 1.

    Args:
        path: PCM of 8, 16 or 32 bits.
        rate: samples a second.

    Raises:
        TraceError: it is none, or of another rate.
    """
    try:
        with wave.open(str(path), "rb") as stream:
            found, width, channels = (
                stream.getframerate(), stream.getsampwidth(), stream.getnchannels()
            )  # fmt: skip
            data = stream.readframes(stream.getnframes())
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror}); expected WAV") from None
    except (wave.Error, EOFError, ValueError):
        raise TraceError(f"{path}: is no PCM WAV file; expected one") from None
    if found != rate:
        raise TraceError(f"{path}: has {found} samples a second; expected {rate}, as the model")
    if width not in _SAMPLES:
        raise TraceError(f"{path}: has samples of {8 * width} bits; expected 8, 16 or 32")
    kind, zero, scale = _SAMPLES[width]
    whole = len(data) // (width * channels) * width * channels
    samples = np.frombuffer(data[:whole], dtype=kind).astype(np.float32)
    if not samples.size:
        raise TraceError(f"{path}: holds no samples; expected some")
    return np.asarray(((samples - zero) / scale).reshape(-1, channels).mean(axis=1), np.float32)
