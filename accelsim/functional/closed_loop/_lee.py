"""The Lee task: does an encoder see the similarity of news stories that people see?"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import TraceError
from accelsim.functional.closed_loop._attend import policy_attention, why_not_inside
from accelsim.policies import Policy

_FOLDER = "gensim/test/test_data/"
_STORIES, _JUDGEMENTS = "lee.cor", "similarities0-1.txt"
_RESAMPLES = 1000


@dataclass(frozen=True)
class LeeScore:
    """Correlation of cosine similarities with human judgements.

    Attributes:
        pearson: linear correlation over all pairs of documents.
        spearman: rank correlation.
        low, high: 95 % interval of Pearson's, bootstrap over documents.
        documents: how many.
        pairs: how many.
        kept_key_fraction: query-key pairs scored, of those dense attention scores.
        dram_bytes: traffic of keys and values, each fetched once for the queries of a head.
    """

    pearson: float
    spearman: float
    low: float
    high: float
    documents: int
    pairs: int
    kept_key_fraction: float
    dram_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "mode": "closed-loop",
            "pearson": self.pearson,
            "spearman": self.spearman,
            "interval_95": [self.low, self.high],
            "interval_method": "bootstrap over documents, of Pearson",
            "documents": self.documents,
            "pairs": self.pairs,
            "kept_key_fraction": self.kept_key_fraction,
            "dram_bytes": self.dram_bytes,
        }


def read_lee(path: str | Path) -> tuple[list[str], NDArray[np.float64]]:
    """Read stories and judgements out of a gensim wheel, or a folder that holds the two files.

    The wheel is only a container (``pip download --no-deps gensim``); nothing of it is imported.

    Returns:
        50 stories, and judged similarities [50, 50] in [0, 1].

    Raises:
        TraceError: not such a wheel or folder.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raw = [(path / name).read_bytes() for name in (_STORIES, _JUDGEMENTS)]
        else:
            with zipfile.ZipFile(path) as wheel:
                raw = [wheel.read(_FOLDER + name) for name in (_STORIES, _JUDGEMENTS)]
        stories = [line for line in raw[0].decode("latin-1").splitlines() if line.strip()]
        judged = np.array(
            [line.split() for line in raw[1].decode("utf-8-sig").splitlines()], dtype=np.float64
        )
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise TraceError(
            f"{path}: expected a gensim wheel or a folder with {_STORIES} and {_JUDGEMENTS} "
            f"({error})"
        ) from None
    if judged.shape != (len(stories), len(stories)):
        raise TraceError(
            f"{path}: {len(stories)} stories but judgements of shape {judged.shape}; "
            "expected one for each pair"
        )
    return stories, judged


def lee_score(
    model: Any,
    stories: Sequence[str],
    judged: NDArray[np.float64],
    policy: Policy,
    *,
    on_story: Callable[[int, int], None] = lambda done, total: None,
) -> LeeScore:
    """Embed every story with ``policy`` inside the encoder, and correlate.

    An embedding is the mean of the last hidden states over the tokens that survive.

    Args:
        model: a :class:`~accelsim.traces.capture.SentenceEncoder`.
        stories: texts.
        judged: human similarity of each pair.
        policy: what to keep.
        on_story: told how many are done.

    Raises:
        TraceError: a policy that does not apply to an encoder.
    """
    found = embeddings(model, stories, policy, on_story)
    similar, pairs = found.similar, document_pairs(np.arange(len(stories)))
    draws = np.random.default_rng(0).integers(0, len(stories), size=(_RESAMPLES, len(stories)))
    resampled = [pearson_of(similar, judged, document_pairs(draw)) for draw in draws]
    low, high = np.percentile(resampled, [2.5, 97.5])
    return LeeScore(
        pearson_of(similar, judged, pairs),
        float(np.corrcoef(_ranks(similar[pairs]), _ranks(judged[pairs]))[0, 1]),
        float(low),
        float(high),
        len(stories),
        len(pairs[0]),
        found.kept_key_fraction,
        found.dram_bytes,
    )


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of some documents under a policy.

    Attributes:
        vectors: [documents, width], of unit length.
        kept_key_fraction: query-key pairs scored, of those dense attention scores.
        dram_bytes: traffic of keys and values.
    """

    vectors: NDArray[np.float64]
    kept_key_fraction: float
    dram_bytes: int

    @property
    def similar(self) -> NDArray[np.float64]:
        """Cosine of each pair, [documents, documents]."""
        return np.asarray(self.vectors @ self.vectors.T)


def embeddings(
    model: Any,
    stories: Sequence[str],
    policy: Policy,
    on_story: Callable[[int, int], None] = lambda done, total: None,
) -> Embeddings:
    """Embed every story with ``policy`` inside the encoder; see :func:`lee_score`."""
    explain = why_not_inside(policy, model.shape, causal=False)
    if explain:
        raise TraceError(explain)
    rows, kept, visible, moved = [], 0, 0, 0
    for number, story in enumerate(stories):
        ids = model.encode(story)
        attend = policy_attention(policy, model.shape, len(ids), causal=False)
        hidden = model.forward(ids, attend)
        rows.append(hidden[attend.alive].mean(axis=0))
        kept, visible = kept + attend.kept_keys, visible + attend.visible_keys
        moved += attend.dram_bytes
        on_story(number + 1, len(stories))
    vectors = np.array(rows, dtype=np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Embeddings(vectors, kept / visible, moved)


def document_pairs(draw: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of different documents of a resample, the lower one first."""
    first, second = np.triu_indices(len(draw), 1)
    a, b = draw[first], draw[second]
    a, b = a[a != b], b[a != b]
    return np.minimum(a, b), np.maximum(a, b)


def pearson_of(
    similar: NDArray[np.float64],
    judged: NDArray[np.float64],
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> float:
    """Linear correlation over some pairs."""
    return float(np.corrcoef(similar[pairs], judged[pairs])[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks with ties averaged."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], dtype=np.float64)
