"""Traces: queries, keys and values of real models, and the file they are kept in."""

from accelsim.traces._file import (
    MemoryTensors,
    load_trace,
    save_trace,
    tokens_sha256,
    validate_trace,
)
from accelsim.traces._synthetic import synthetic_trace
from accelsim.traces._trace import SCHEMA, AttentionTrace

__all__ = [
    "SCHEMA",
    "AttentionTrace",
    "MemoryTensors",
    "load_trace",
    "save_trace",
    "synthetic_trace",
    "tokens_sha256",
    "validate_trace",
]
