"""Traces: queries, keys and values of real models, and the file they are kept in."""

from accelsim.traces._decisions import (
    DECISIONS_SCHEMA,
    Decisions,
    LayerDecisions,
    SelectionCost,
    layer_decisions,
    load_decisions,
    save_decisions,
    segments,
)
from accelsim.traces._dense import DenseRows, dense_rows
from accelsim.traces._file import (
    MemoryTensors,
    check_target,
    digest_of_file,
    load_trace,
    save_trace,
    tokens_sha256,
    validate_trace,
)
from accelsim.traces._layers import Bias, Group, Indexer, Layer, LayerEntry, Mask
from accelsim.traces._schema import header_schema
from accelsim.traces._sequences import batch_of
from accelsim.traces._shipped import trace_names, trace_path
from accelsim.traces._skew import LayerSkew, layer_skew
from accelsim.traces._stacks import Stack
from accelsim.traces._synthetic import synthetic_trace
from accelsim.traces._trace import (
    IMAGE,
    OTHER_HEADS,
    OTHER_KV_HEADS,
    OTHER_WIDTHS,
    OWN_SCALE,
    SCHEMA,
    SCHEMA_2,
    SYSTEM,
    TEXT,
    TOKEN_TYPES,
    VIDEO,
    AttentionTrace,
    Index,
)

__all__ = [
    "DECISIONS_SCHEMA",
    "IMAGE",
    "OTHER_HEADS",
    "OTHER_KV_HEADS",
    "OTHER_WIDTHS",
    "OWN_SCALE",
    "SCHEMA",
    "SCHEMA_2",
    "SYSTEM",
    "TEXT",
    "TOKEN_TYPES",
    "VIDEO",
    "AttentionTrace",
    "Bias",
    "Decisions",
    "DenseRows",
    "Group",
    "Index",
    "Indexer",
    "Layer",
    "LayerDecisions",
    "LayerEntry",
    "LayerSkew",
    "Mask",
    "MemoryTensors",
    "SelectionCost",
    "Stack",
    "batch_of",
    "check_target",
    "dense_rows",
    "digest_of_file",
    "header_schema",
    "layer_decisions",
    "layer_skew",
    "load_decisions",
    "load_trace",
    "save_decisions",
    "save_trace",
    "segments",
    "synthetic_trace",
    "tokens_sha256",
    "trace_names",
    "trace_path",
    "validate_trace",
]
