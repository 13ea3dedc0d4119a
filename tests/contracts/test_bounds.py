"""Every number of a configuration has an upper bound with a unit, and nothing breaks at it."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import annotated_types
import pytest

import accelsim
from accelsim import configs, replay
from accelsim.configs import Config, Unit
from accelsim.errors import AccelsimError
from accelsim.hardware import accelerator_kinds, accelerator_of
from accelsim.hardware.config import MemoryConfig
from accelsim.traces import save_trace, synthetic_trace

ROOT = Path(__file__).parents[2]
CSV = ROOT / "traces/spatten-gpt2/small.csv"


def schemas() -> list[type[Config]]:
    """Every schema of the package."""
    for module in pkgutil.walk_packages(accelsim.__path__, "accelsim."):
        if module.name.split(".")[1] in ("hardware", "energy", "baselines", "policies"):
            importlib.import_module(module.name)

    def below(model: type[Config]) -> Iterator[type[Config]]:
        for sub in model.__subclasses__():
            yield sub
            yield from below(sub)

    found = {m for m in below(Config) if m.__module__.startswith("accelsim.")}
    return sorted(found, key=lambda m: (m.__module__, m.__name__))


def numbers(annotation: Any, about: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """What is said about each ``int`` and ``float`` of an annotation."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        yield from numbers(arguments[0], (*about, *arguments[1:]))
    elif annotation in (int, float):
        yield about
    elif origin is not typing.Literal:
        for argument in arguments[1:] if origin is dict else arguments:
            yield from numbers(argument, about)


def flat(about: tuple[Any, ...]) -> list[Any]:
    return [part for entry in about for part in getattr(entry, "metadata", [entry])]


EXPLORED = ("Range", "Sampling", "SearchConfig", "FinalistsConfig")
"""Of searches: bounded, their units are those of their axes."""


@pytest.mark.parametrize("model", schemas(), ids=lambda m: m.__name__)
def test_every_number_has_an_upper_bound_and_a_unit(model: type[Config]) -> None:
    for name, field in model.model_fields.items():
        for about in numbers(field.annotation, tuple(field.metadata)):
            parts = flat(about)
            tops = [p.le for p in parts if isinstance(p, annotated_types.Le)]
            assert tops, f"{model.__name__}.{name} has no upper bound"
            units = [p.name for p in parts if isinstance(p, Unit)]
            is_share = max(tops) <= 1
            few = max(tops) <= 4  # matrices of a feed-forward layer
            assert units or is_share or few or model.__name__ in EXPLORED, f"{name} has no unit"


def ends(model: type[Config], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Dotted keys of plain numbers, each with its upper and its lower bound."""
    for name, field in model.model_fields.items():
        inner = configs.models_in(field.annotation)
        for sub in inner if name not in ("timing", "ramulator") else []:
            yield from ends(sub, f"{prefix}{name}.")
        for about in [] if inner else numbers(field.annotation, tuple(field.metadata)):
            parts = flat(about)
            for kind, side in ((annotated_types.Le, "le"), (annotated_types.Ge, "ge")):
                for part in parts:
                    if isinstance(part, kind):
                        yield prefix + name, getattr(part, side)


BEYOND = [1e300, -1e300, 10**20, -(10**20), 2**63, 10**4000, True, "8", None, [1], {"a": 1}]


@pytest.mark.parametrize("kind", ["memory", *accelerator_kinds()])
def test_beyond_a_bound_is_one_line_with_the_unit(kind: str) -> None:
    model = MemoryConfig if kind == "memory" else accelerator_of(kind).config
    for key in dict(ends(model)):
        for value in BEYOND:
            data: dict[str, Any] = {"description": "x", "source": "x"}
            if kind != "memory":
                data["kind"] = kind
            configs.set_dotted(data, key, value)
            try:
                configs.validate(model, data, "x.yaml")
            except AccelsimError as error:
                message = str(error)
                assert len(message) <= 300
                assert "\n" not in message
                assert f"key '{key}" in message, message
            else:
                # ``null`` is what an optional field is by default.
                assert value is None, f"{key} = {value} is accepted"


def test_the_message_of_a_bound() -> None:
    with pytest.raises(AccelsimError) as caught:
        replay(CSV, overrides={"channels": 10**12})
    assert "key 'channels': expected less than or equal to 1024 channels, got 1000000000000" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("memory.banks", 256, "banks in a channel"),
        ("memory.refresh_interval", 4, "leaves no time to read"),
        ("frequency_hz", 1e-320, "1000 Hz"),
        ("buffer_lines", 99999999999999999999, "32768 lines"),
        ("buffer_lines", 1_000_000, "32768 lines"),
        ("topk.parallelism", 2**64, "65536 a cycle"),
        ("reset_cycles", 2**63, "100000 cycles"),
        ("memory.pseudochannels", 10**6, "64 pseudo-channels"),
        ("memory.bankgroups", 10**12, "64 bank groups"),
    ],
)
def test_machines_that_cannot_be(key: str, value: Any, message: str) -> None:
    overrides = {"memory.bankgroups": 4, "memory.refresh": True, key: value}
    with pytest.raises(AccelsimError) as caught:
        replay(CSV, accelerator="spatten-rtl", overrides=overrides)
    assert message in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("machine", "engine"),
    [
        ("spatten-paper", "event"),
        ("spatten-paper", "cycle"),
        ("spatten-rtl", "event"),
        ("spatten-rtl", "cycle"),
        ("a3-base", "event"),
        ("mnnfast", "event"),
    ],
)
def test_a_machine_at_its_bounds_runs_or_says_why(
    machine: str, engine: str, tmp_path: Path
) -> None:
    """Each field at either end, one at a time, of machine and memory."""
    trace = tmp_path / "t.safetensors"
    save_trace(synthetic_trace(num_layers=1, prefill_tokens=16, decode_tokens=2), trace)
    source = CSV if machine == "spatten-rtl" else trace
    kind = configs.resolve(machine, "accelerators")[0].get("kind", "spatten")
    keys = [*ends(accelerator_of(kind).config)]
    keys += [(f"memory.{key}", value) for key, value in ends(MemoryConfig)]
    assert len(keys) > 20
    ran = 0
    for key, value in keys:
        with contextlib.suppress(AccelsimError):
            result = replay(source, machine, engine=engine, baselines=[], overrides={key: value})
            ran += 1
            assert result.metrics["latency_cycles"] > 0
    assert ran > len(keys) // 2
