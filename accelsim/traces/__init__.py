"""Traces: queries, keys and values of real models, and the file they are kept in."""

from accelsim.traces._dense import DenseRows, dense_rows
from accelsim.traces._file import (
    MemoryTensors,
    check_target,
    load_trace,
    save_trace,
    tokens_sha256,
    validate_trace,
)
from accelsim.traces._layers import Bias, Group, Layer, LayerEntry, Mask
from accelsim.traces._schema import header_schema
from accelsim.traces._shipped import trace_names, trace_path
from accelsim.traces._skew import LayerSkew, layer_skew
from accelsim.traces._synthetic import synthetic_trace
from accelsim.traces._trace import OWN_SCALE, SCHEMA, SCHEMA_2, AttentionTrace

__all__ = [
    "OWN_SCALE",
    "SCHEMA",
    "SCHEMA_2",
    "AttentionTrace",
    "Bias",
    "DenseRows",
    "Group",
    "Layer",
    "LayerEntry",
    "LayerSkew",
    "Mask",
    "MemoryTensors",
    "check_target",
    "dense_rows",
    "header_schema",
    "layer_skew",
    "load_trace",
    "save_trace",
    "synthetic_trace",
    "tokens_sha256",
    "trace_names",
    "trace_path",
    "validate_trace",
]
