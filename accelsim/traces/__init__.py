"""Traces: queries, keys and values of real models, and the file they are kept in."""

from accelsim.traces._file import (
    MemoryTensors,
    check_target,
    load_trace,
    save_trace,
    tokens_sha256,
    validate_trace,
)
from accelsim.traces._shipped import trace_names, trace_path
from accelsim.traces._skew import LayerSkew, layer_skew
from accelsim.traces._synthetic import synthetic_trace
from accelsim.traces._trace import SCHEMA, AttentionTrace

__all__ = [
    "SCHEMA",
    "AttentionTrace",
    "LayerSkew",
    "MemoryTensors",
    "check_target",
    "layer_skew",
    "load_trace",
    "save_trace",
    "synthetic_trace",
    "tokens_sha256",
    "trace_names",
    "trace_path",
    "validate_trace",
]
