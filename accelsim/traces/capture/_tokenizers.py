"""Tokenizers that GGUF files carry: byte-level BPE, and SentencePiece with byte fall-back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelsim.errors import TraceError
from accelsim.traces.capture.gguf import OTHERS, OtherModelError, missing, wrong
from accelsim.traces.capture.libraries import require

_SPACE = "▁"
_NORMAL, _USER_DEFINED = 1, 4
"""``tokenizer.ggml.token_type`` of plain pieces, and of texts that are never split."""

_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 and Qwen3 cut a text before BPE (``pre_tokenizer`` of their tokenizer.json)."""


def build_tokenizer(path: Path, fields: Mapping[str, Any]) -> Any:
    """Return the tokenizer of a file, of the library ``tokenizers``.

    Args:
        path: for errors.
        fields: metadata of the file.

    Raises:
        OtherModelError: a tokenizer that is not one of those here.
        TraceError: naming the key that is missing or wrong.
    """
    library = require("tokenizers", "tokenizers")
    name = "tokenizer.ggml.model"
    kind = _given(path, fields, name)
    tokens = _texts(path, fields, "tokenizer.ggml.tokens")
    if kind == "gpt2":
        built = _byte_level(path, fields, library, tokens)
    elif kind == "llama":
        built = _sentence_piece(path, fields, library, tokens)
    else:
        raise _other(path, name, kind, "'gpt2' or 'llama'")
    types = fields.get("tokenizer.ggml.token_type", [])
    whole = [t for t, of in zip(tokens, types, strict=False) if of == _USER_DEFINED]
    built.add_tokens([library.AddedToken(text, normalized=False) for text in whole])
    return built


def first_tokens(path: Path, fields: Mapping[str, Any], tokens: int) -> list[int]:
    """Ids that the tokenizer of a file puts before a text.

    Args:
        path: for errors.
        fields: metadata of the file.
        tokens: of the vocabulary.

    Raises:
        TraceError: the file wants one, and names none.
    """
    # llama.cpp: SentencePiece puts it there unless the file says otherwise.
    default = fields.get("tokenizer.ggml.model") == "llama"
    first = fields.get("tokenizer.ggml.bos_token_id")
    if not fields.get("tokenizer.ggml.add_bos_token", default):
        return []
    if isinstance(first, bool) or not isinstance(first, int) or not 0 <= first < tokens:
        raise wrong(
            path, "tokenizer.ggml.bos_token_id", first, "a token, since add_bos_token is set"
        )
    return [first]


def _byte_level(path: Path, fields: Mapping[str, Any], library: Any, tokens: list[str]) -> Any:
    """BPE over bytes, after the cuts of SmolLM or Qwen2."""
    name = "tokenizer.ggml.pre"
    kind = _given(path, fields, name)
    pairs = [tuple(merge.split(" ", 1)) for merge in _texts(path, fields, "tokenizer.ggml.merges")]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    for pair in pairs:
        if len(pair) != 2 or not {*pair, "".join(pair)} <= vocabulary.keys():
            raise TraceError(
                f"{path}: GGUF key 'tokenizer.ggml.merges': {' '.join(pair)[:40]!r}; "
                "expected two tokens whose joint is one, all in the vocabulary"
            )
    before = library.pre_tokenizers
    if kind == "smollm":  # digits one by one, then GPT-2's cuts
        cuts = [before.Digits(individual_digits=True), before.ByteLevel(add_prefix_space=False)]
    elif kind == "qwen2":
        cuts = [
            before.Split(library.Regex(_QWEN2), "isolated"),
            before.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    else:
        raise _other(path, name, kind, "'smollm' or 'qwen2'")
    built = library.Tokenizer(library.models.BPE(vocab=vocabulary, merges=pairs))
    if kind == "qwen2":
        built.normalizer = library.normalizers.NFC()
    built.pre_tokenizer = before.Sequence(cuts)
    built.decoder = library.decoders.ByteLevel()
    return built


def _sentence_piece(path: Path, fields: Mapping[str, Any], library: Any, tokens: list[str]) -> Any:
    """BPE over characters whose merges follow from scores, unknown ones as bytes."""
    scores, types = (
        _numbers(path, fields, f"tokenizer.ggml.{name}", len(tokens))
        for name in ("scores", "token_type")
    )
    unknown = fields.get("tokenizer.ggml.unknown_token_id", 0)
    if isinstance(unknown, bool) or not isinstance(unknown, int) or not 0 <= unknown < len(tokens):
        raise wrong(path, "tokenizer.ggml.unknown_token_id", unknown, "a token")
    vocabulary = {token: i for i, token in enumerate(tokens)}
    model = library.models.BPE(
        vocab=vocabulary, merges=_merges(vocabulary, scores, types), byte_fallback=True,
        fuse_unk=True, unk_token=tokens[unknown],
    )  # fmt: skip
    built = library.Tokenizer(model)
    spaces = library.normalizers.Replace(" ", _SPACE)
    if fields.get("tokenizer.ggml.add_space_prefix", True):
        prefix = library.normalizers.Prepend(_SPACE)
        built.normalizer = library.normalizers.Sequence([prefix, spaces])
    else:
        built.normalizer = spaces
    after = library.decoders
    built.decoder = after.Sequence([after.Replace(_SPACE, " "), after.ByteFallback(), after.Fuse()])
    return built


def _merges(
    vocabulary: Mapping[str, int], scores: Sequence[float], types: Sequence[int]
) -> list[tuple[str, str]]:
    """Pairs of pieces in the order in which they are joined: by the score of what they become."""
    plain = [token for token, i in vocabulary.items() if types[i] == _NORMAL]
    plain.sort(key=lambda token: -scores[vocabulary[token]])
    found = []
    for token in plain:
        cuts = ((token[:at], token[at:]) for at in range(1, len(token)))
        known = [(a, b) for a, b in cuts if a in vocabulary and b in vocabulary]
        found += sorted(known, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    return found


def _given(path: Path, fields: Mapping[str, Any], name: str) -> Any:
    value = fields.get(name)
    if value is None:
        raise missing(path, name)
    return value


def _texts(path: Path, fields: Mapping[str, Any], name: str) -> list[str]:
    value: Any = _given(path, fields, name)
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise TraceError(f"{path}: GGUF key '{name}': expected a list of texts")
    return value


def _numbers(path: Path, fields: Mapping[str, Any], name: str, count: int) -> list[Any]:
    value = _given(path, fields, name)
    right = isinstance(value, list) and len(value) == count
    if not right or not all(isinstance(number, (int, float)) for number in value):
        raise TraceError(f"{path}: GGUF key '{name}': expected a list of {count} numbers")
    return list(value)


def _other(path: Path, name: str, value: Any, expected: str) -> TraceError:
    return OtherModelError(f"{path}: {name} is '{value}'; expected {expected}{OTHERS}")
