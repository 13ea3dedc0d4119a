"""JSON Schema of the metadata of a trace, for other writers and readers."""

from __future__ import annotations

from typing import Any

import pydantic

from accelsim.traces._file import REQUIRED
from accelsim.traces._layers import LayerEntry
from accelsim.traces._sequences import SequenceEntry
from accelsim.traces._trace import SCHEMA, SCHEMA_2

_COUNT = {"type": "string", "pattern": "^[0-9]{1,9}$"}
_NUMBER = {"type": "string", "pattern": r"^[0-9.]+([eE][-+]?[0-9]+)?$"}


def header_schema() -> dict[str, Any]:
    """Return the JSON Schema of ``__metadata__``, ``layers`` and ``sequences`` parsed from texts.

    It says what each key may hold; what keys say together (heads that divide, sinks of the right
    number) is in ``docs/traces.md``, and checked by :func:`accelsim.traces.load_trace`.
    """
    layers = pydantic.TypeAdapter(list[LayerEntry]).json_schema(ref_template="#/$defs/{model}")
    definitions = layers.pop("$defs")
    sequences = pydantic.TypeAdapter(list[SequenceEntry]).json_schema(
        ref_template="#/$defs/{model}"
    )
    definitions |= sequences.pop("$defs")
    for definition in definitions.values():
        definition.pop("description", None)
        for field in definition["properties"].values():
            field.pop("title", None)
    properties: dict[str, Any] = {name: {"type": "string"} for name in REQUIRED}
    properties |= {
        "accelsim.schema": {"enum": [SCHEMA, SCHEMA_2]},
        "causal": {"enum": ["true", "false"]},
        "scale": _NUMBER,
        "text": {"type": "string"},
        "proof_error": _NUMBER,
        "layers": layers,
        "sequences": sequences,
    }
    counts = ("num_layers", "num_query_heads", "num_kv_heads", "head_dim")
    properties |= dict.fromkeys((*counts, "prefill_tokens", "decode_tokens"), _COUNT)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Metadata of an attention trace",
        "description": "All values are strings; 'layers' and 'sequences' are texts of the JSON "
        "described here.",
        "type": "object",
        "required": list(REQUIRED),
        "properties": properties,
        "$defs": definitions,
    }
