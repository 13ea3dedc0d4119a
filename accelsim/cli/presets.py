"""``accelsim presets``: what can be named, and where its numbers come from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from accelsim.cli._options import emit_json, json_option

BENCHMARKS = "benchmarks"
TRACES = "traces"
"""What ships beside the families of ``hw_configs/``."""


@click.group("presets")
def command() -> None:
    """List and show the configurations under hw_configs/, the benchmarks and the shipped traces.

    A model NAME is run as 'accelsim replay shape:NAME --context TOKENS'.

    \b
    Examples:
      accelsim presets list policies
      accelsim presets list benchmarks
      accelsim presets show spatten-full > my.yaml
      accelsim presets show spatten-40nm --sources
    """


@command.command("list")
@click.argument("family", required=False)
def list_presets(family: str | None) -> None:
    """Name the presets of one FAMILY, or of all; also 'benchmarks' and 'traces'."""
    if family is not None:
        _check_family(family)
    for name in families() if family is None else (family,):
        click.echo(click.style(name, bold=True))
        for preset, text in _described(name):
            click.echo(f"  {preset:28} {text}")


@command.command("show")
@click.argument("name")
@click.option("--family", metavar="FAMILY", help="Needed if two families share a name.")
@click.option(
    "--sources", is_flag=True, help="List the numbers, each with its source, instead of the YAML."
)
@json_option
def show(name: str, family: str | None, sources: bool, json_file: str | None) -> None:
    """Print preset NAME as YAML, as it is after 'extends' and with defaults filled in.

    The output, in a file, is the same configuration: accelsim replay … --policy my.yaml.
    """
    import json

    import yaml

    if family is None:
        family = _family_of(name)
    _check_family(family)
    document = _load(name, family)
    if json_file:
        emit_json(json.dumps(document, indent=2), json_file)
    if json_file == "-":
        return
    if sources:
        for label, numbers, source in _with_sources(document, name):
            click.echo(f"{label}: {numbers}" if numbers else label)
            click.echo(f"    {source}")
        return
    # What was read as it stands may say ``null`` and mean it.
    shown = document if family in ("sweeps", BENCHMARKS) else _given(document)
    click.echo(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=100), nl=False)


def families() -> tuple[str, ...]:
    """Families of presets, the benchmarks and the traces."""
    from accelsim.configs import FAMILIES

    return (*FAMILIES, BENCHMARKS, TRACES)


def names(family: str) -> list[str]:
    """Names of one family."""
    from accelsim.configs import preset_names
    from accelsim.traces import trace_names
    from accelsim.workloads import benchmark_names

    if family == TRACES:
        return trace_names()
    return benchmark_names() if family == BENCHMARKS else preset_names(family)


def _described(family: str) -> Iterator[tuple[str, str]]:
    from accelsim.configs import config_root, read_yaml
    from accelsim.traces import load_trace, trace_names
    from accelsim.workloads import benchmark_path

    if family == TRACES:
        for name in trace_names():
            trace = load_trace(name)
            shape = f"{trace.num_layers} layers, {trace.prefill_tokens} + {trace.decode_tokens}"
            yield name, f"{trace.model}, {shape} tokens: {trace.path}"
        return
    for name in names(family):
        path = config_root() / family / f"{name}.yaml"
        if family == BENCHMARKS:
            path = benchmark_path(name)
        yield name, str(read_yaml(path).get("description", ""))


def _check_family(family: str) -> None:
    from accelsim.errors import ConfigError, did_you_mean

    known = families()
    if family not in known:
        raise ConfigError(
            f"unknown family '{family}'{did_you_mean(family, known)} (known: {', '.join(known)})"
        )


def _family_of(name: str) -> str:
    from accelsim.errors import ConfigError, did_you_mean

    found = [family for family in families() if name in names(family)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(f"'{name}' is in {' and '.join(found)}: say which with --family")
    known = [preset for family in families() for preset in names(family)]
    raise ConfigError(f"unknown preset '{name}'{did_you_mean(name, known)}")


def _load(name: str, family: str) -> dict[str, Any]:
    from accelsim.baselines import Platform
    from accelsim.configs import Config, find, load, read_yaml
    from accelsim.energy import EnergyTable
    from accelsim.errors import ConfigError
    from accelsim.hardware import load_accelerator
    from accelsim.hardware.config import MemoryConfig
    from accelsim.policies import Policy
    from accelsim.workloads import benchmark_path
    from accelsim.workloads.models import ModelShape

    models: dict[str, type[Config]] = {
        "memories": MemoryConfig,
        "energy": EnergyTable,
        "baselines": Platform,
        "policies": Policy,
        "models": ModelShape,
    }
    if family == "accelerators":
        return load_accelerator(name).model_dump(mode="json")
    if family == TRACES:
        raise ConfigError(f"'{name}' is a trace; see 'accelsim inspect {name}'")
    if family == BENCHMARKS:
        return read_yaml(benchmark_path(name))
    if family not in models:
        return read_yaml(find(name, family))
    return load(models[family], name, family).model_dump(mode="json")


def _given(value: Any) -> Any:
    """Leave out what is not set: a key without a value is an error in most places."""
    if isinstance(value, dict):
        return {key: _given(item) for key, item in value.items() if item is not None}
    return [_given(item) for item in value] if isinstance(value, list) else value


def _with_sources(value: Any, label: str) -> Iterator[tuple[str, str, str]]:
    """Yield every section or row that names a source: its name, its numbers, its source."""
    if isinstance(value, list):
        for row in value:
            named = row if isinstance(row, dict) else {}
            names = [str(named[k]) for k in ("counter", "name", "op", "kind") if k in named]
            yield from _with_sources(row, " ".join([label, *names[:1]]))
    if not isinstance(value, dict):
        return
    own = {k: v for k, v in value.items() if type(v) in (int, float)}
    texts = [str(v) for k, v in value.items() if k.endswith("source") and v]
    if texts:
        yield label, ", ".join(f"{k} {v:.6g}" for k, v in own.items()), "; ".join(texts)
    for key, item in value.items():
        yield from _with_sources(item, key)
