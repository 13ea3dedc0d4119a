"""Capture: record an attention trace while a real model runs.

The models here are also what a closed-loop evaluation runs: each takes an :data:`Attend` function,
which computes the attention of a layer and may prune or quantize as it likes. Names are loaded when
they are used, because models need libraries that the rest of the package does not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelsim.traces.capture._capture import capture
    from accelsim.traces.capture._decoder import KVCache
    from accelsim.traces.capture._gguf_model import GgufModel
    from accelsim.traces.capture._minilm import SentenceEncoder, mean_pool
    from accelsim.traces.capture._recorder import Attend, Floats, Progress, dense_attention
    from accelsim.traces.capture._shape import ModelShape
    from accelsim.traces.capture.packages import load_minilm, load_smollm2
    from accelsim.traces.capture.placement import Placement

_HOMES = {
    "Attend": "_recorder",
    "Floats": "_recorder",
    "Progress": "_recorder",
    "GgufModel": "_gguf_model",
    "KVCache": "_decoder",
    "ModelShape": "_shape",
    "Placement": "placement",
    "SentenceEncoder": "_minilm",
    "capture": "_capture",
    "dense_attention": "_recorder",
    "load_minilm": "packages",
    "load_smollm2": "packages",
    "mean_pool": "_minilm",
}

__all__ = [
    "Attend",
    "Floats",
    "GgufModel",
    "KVCache",
    "ModelShape",
    "Placement",
    "Progress",
    "SentenceEncoder",
    "capture",
    "dense_attention",
    "load_minilm",
    "load_smollm2",
    "mean_pool",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
