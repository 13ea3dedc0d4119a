"""JSON Schemas of what other programs read: a result, and the header of a trace."""

import inspect
import json
import re
from typing import Any

from accelsim.exploration import RunResult
from accelsim.exploration.metrics import ACCURACY, METRICS
from accelsim.hardware import accelerator_kinds, accelerator_of
from accelsim.traces import AttentionTrace

DIALECT = "https://json-schema.org/draft/2020-12/schema"
COUNT = {"type": "integer", "minimum": 0}
NUMBER = {"type": "number"}
NUMBER_OR_NULL = {"type": ["number", "null"]}
WHOLE_TEXT = {"type": "string", "pattern": "^[0-9]+$"}


def attributes(cls: type) -> dict[str, str]:
    """Return the section ``Attributes`` of a docstring of Google's style."""
    _, _, section = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, re.M)
    return {name: " ".join(text.split()) for name, text in entries}


def mapping(of: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return the schema of names to values of one kind."""
    return {"type": "object", "additionalProperties": of, **more}


def counters() -> dict[str, Any]:
    """Return the schema of each counter of each kind of accelerator, by name."""
    declared = [c for kind in accelerator_kinds() for c in accelerator_of(kind).declared]
    return {c.name: {**COUNT, "description": f"{c.counts}; unit: {c.unit}"} for c in declared}


def result() -> dict[str, Any]:
    """Return the schema of ``accelsim replay --json``."""
    says = attributes(RunResult)
    metrics = {
        name: {**NUMBER_OR_NULL, "description": f"{metric.label or name}, {metric.unit or 'count'}"}
        for name, metric in METRICS.items()
    }
    accuracy = {name.removeprefix("accuracy."): NUMBER_OR_NULL for name in ACCURACY}
    platform = dict.fromkeys(
        (
            *("latency_s", "energy_j", "dram_bytes"),
            *("speedup", "speedup_low", "speedup_high"),
            *("energy_ratio", "energy_ratio_low", "energy_ratio_high"),
        ),
        NUMBER_OR_NULL,
    )
    module = {
        "busy_cycles": COUNT,
        "stall_cycles": mapping(COUNT, description="cycles by reason"),
        "operations": NUMBER_OR_NULL,
        "peak_operations_per_cycle": NUMBER_OR_NULL,
    }
    properties: dict[str, Any] = {
        "schema": {"const": "accelsim.result/1"},
        "metrics": mapping(
            NUMBER_OR_NULL,
            properties=metrics,
            required=["latency_cycles", "latency_s", "dram_read_bytes", "energy_j"],
        ),
        "dram_read_bytes_by_tensor": mapping(
            COUNT, required=["query", "key_msb", "key_lsb", "value"]
        ),
        "energy_j_by_part": mapping(NUMBER),
        "energy_j_by_entry": mapping(NUMBER),
        "area_mm2_by_module": mapping(NUMBER),
        "energy": {
            "type": "object",
            "properties": {
                "reading": {"type": "string"},
                "totals": mapping(
                    mapping(
                        NUMBER,
                        required=["energy_j", "energy_j_low", "energy_j_high", "average_power_w"],
                    ),
                    required=["accesses", "everything"],
                ),
                "left_out": {"type": "array", "items": {"type": "string"}},
                "power_w_by_part": mapping(NUMBER),
                "stages": {
                    **mapping(
                        {
                            "type": "object",
                            "properties": {
                                "latency_s": NUMBER,
                                "energy_j": NUMBER,
                                "energy_accesses_j": NUMBER,
                                "average_power_w": NUMBER,
                                "power_w_by_part": mapping(NUMBER),
                            },
                        }
                    ),
                    "type": ["object", "null"],
                },
            },
            "required": ["reading", "totals", "left_out", "power_w_by_part"],
        },
        "accuracy": {
            "type": ["object", "null"],
            "properties": {"mode": {"type": "string"}, **accuracy},
            "required": ["mode", "relative_output_error"],
        },
        "modules": mapping(
            {
                "type": "object",
                "properties": module,
                "required": ["busy_cycles", "stall_cycles"],
            }
        ),
        "queues": mapping(
            {
                "type": "object",
                "properties": {"depth": COUNT, "high_water": COUNT, "unit": {"type": "string"}},
                "required": ["depth", "high_water"],
            }
        ),
        "baselines": mapping(
            {
                "type": "object",
                "properties": {"kind": {"type": "string"}, **platform},
                "required": ["kind", *platform],
            }
        ),
        "counters": mapping(
            COUNT,
            properties=counters(),
        ),
        "per_layer": {"type": "array", "items": {"type": "object", "required": ["layer"]}},
        "policy_read_bytes_by_head": {
            "type": "array",
            "items": mapping(COUNT, required=["layer", "head"]),
        },
        "warnings": {"type": "array", "items": {"type": "string"}},
        "manifest": {
            "type": "object",
            "required": ["versions", "source", "engine", "dependencies", "configs", "command"],
        },
    }
    for name, schema in properties.items():
        if name in says:
            schema["description"] = says[name]
    properties["counters"]["description"] = "events of the machine, which energy tables price"
    return {
        "$schema": DIALECT,
        "title": "accelsim.result/1",
        "type": "object",
        "properties": properties,
        "required": list(properties),
    }


def trace() -> dict[str, Any]:
    """Return the schema of ``__metadata__`` in a trace's safetensors header: texts only."""
    says = attributes(AttentionTrace)
    properties: dict[str, Any] = {
        "accelsim.schema": {"type": "string", "pattern": "^attention-trace/[0-9]+$"},
        "model": {"type": "string"},
        "source": {"type": "string"},
        "tokens_sha256": {"type": "string", "pattern": "^([0-9a-f]{64})?$"},
        "num_layers": WHOLE_TEXT,
        "num_query_heads": WHOLE_TEXT,
        "num_kv_heads": WHOLE_TEXT,
        "head_dim": WHOLE_TEXT,
        "causal": {"enum": ["true", "false"]},
        "prefill_tokens": WHOLE_TEXT,
        "decode_tokens": WHOLE_TEXT,
        "scale": {"type": "string", "pattern": r"^[0-9.]+(e[+-]?[0-9]+)?$"},
        "recorded_under": {"type": "string", "minLength": 1},
        "text": {"type": "string"},
    }
    for name in set(properties) & set(says):
        properties[name] = {**properties[name], "description": says[name]}
    return {
        "$schema": DIALECT,
        "title": "__metadata__ of attention-trace",
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name != "text"],
        "additionalProperties": {"type": "string"},
    }


SCHEMAS = {"result": result, "trace-header": trace}


def pages() -> dict[str, str]:
    """Text of each file by its name below ``reference/``."""
    texts = {}
    for name, schema in SCHEMAS.items():
        texts[f"schemas/{name}.json"] = json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
    texts["schemas/index.md"] = (
        "# JSON of results and traces\n\n"
        "[JSON Schemas](https://json-schema.org) of what other programs read and write. Keys may "
        "be added in later versions; none changes its name or meaning.\n"
    )
    about = {
        "result": "`accelsim replay SOURCE --json FILE`. Numbers are plain numbers, never texts, "
        "never NaN; `null` is what the run has not. `accelsim compare --json` holds one under "
        "`results` for each policy.",
        "trace-header": "`__metadata__` in the header of a trace's "
        "[safetensors](https://github.com/huggingface/safetensors) file; "
        "the tensors are in [traces](../../traces.md).",
    }
    for name, text in about.items():
        texts["schemas/index.md"] += (
            f"\n## {name}\n{text} As a file: [{name}.json]({name}.json).\n\n"
            f"```{{literalinclude}} {name}.json\n:language: json\n```\n"
        )
    return texts
