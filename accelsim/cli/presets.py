"""``accelsim presets``: what can be named, and where its numbers come from."""

from __future__ import annotations

from typing import Any

import click

from accelsim.cli._options import emit_json, json_option


@click.group("presets")
def command() -> None:
    """List and show the configurations under hw_configs/.

    \b
    Examples:
      accelsim presets list policies
      accelsim presets show spatten-40nm --sources
    """


@command.command("list")
@click.argument("family", required=False)
def list_presets(family: str | None) -> None:
    """Name the presets of one FAMILY, or of all."""
    from accelsim.configs import FAMILIES, config_root, preset_names, read_yaml

    if family is not None:
        _check_family(family)
    for name in FAMILIES if family is None else (family,):
        click.echo(click.style(name, bold=True))
        for preset in preset_names(name):
            text = read_yaml(config_root() / name / f"{preset}.yaml").get("description", "")
            click.echo(f"  {preset:28} {text}")


@command.command("show")
@click.argument("name")
@click.option("--family", metavar="FAMILY", help="Needed if two families share a name.")
@click.option("--sources", is_flag=True, help="Print the source of each number beside it.")
@json_option
def show(name: str, family: str | None, sources: bool, json_file: str | None) -> None:
    """Print preset NAME as it is after 'extends', with defaults filled in."""
    import json

    if family is None:
        family = _family_of(name)
    _check_family(family)
    document = _load(name, family)
    if json_file:
        emit_json(json.dumps(document, indent=2), json_file)
    if json_file != "-":
        for key, value in document.items():
            _print(key, value, sources, 0)


def _check_family(family: str) -> None:
    from accelsim.configs import FAMILIES
    from accelsim.errors import ConfigError, did_you_mean

    if family not in FAMILIES:
        raise ConfigError(
            f"unknown family '{family}'{did_you_mean(family, FAMILIES)} "
            f"(known: {', '.join(FAMILIES)})"
        )


def _family_of(name: str) -> str:
    from accelsim.configs import FAMILIES, preset_names
    from accelsim.errors import ConfigError, did_you_mean

    found = [family for family in FAMILIES if name in preset_names(family)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(f"'{name}' is in {' and '.join(found)}: say which with --family")
    known = [preset for family in FAMILIES for preset in preset_names(family)]
    raise ConfigError(f"unknown preset '{name}'{did_you_mean(name, known)}")


def _load(name: str, family: str) -> dict[str, Any]:
    from accelsim.baselines import Platform
    from accelsim.configs import Config, find, load, read_yaml
    from accelsim.energy import EnergyTable
    from accelsim.hardware import load_accelerator
    from accelsim.hardware.config import MemoryConfig
    from accelsim.policies import Policy
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
    if family not in models:
        return read_yaml(find(name, family))
    return load(models[family], name, family).model_dump(mode="json")


def _print(key: str, value: Any, sources: bool, depth: int) -> None:
    pad = "  " * depth
    if isinstance(value, dict):
        click.echo(f"{pad}{key}:")
        for inner, item in value.items():
            if sources or depth == 0 or not inner.endswith("source"):
                _print(inner, item, sources, depth + 1)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        click.echo(f"{pad}{key}:")
        for record in value:
            shown = {k: v for k, v in record.items() if sources or k != "source"}
            cells = (f"{k}: {_text(v)}" for k, v in shown.items() if v is not None)
            click.echo(f"{pad}  - " + "; ".join(cells))
    else:
        click.echo(f"{pad}{key}: {_text(value)}")


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
