"""SpAtten-e2e (HPCA 2021, §V-B): SpAtten whose multipliers also run the fully connected layers."""

from __future__ import annotations

from typing import Literal

from accelsim.errors import ConfigError
from accelsim.hardware._registry import DEPENDENCIES, Accelerator, accelerator_of
from accelsim.hardware.activity import Activity
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.machines._fully_connected import (
    FC_MACS,
    FcMachine,
    fully_connected,
)
from accelsim.hardware.machines.spatten.config import SpattenConfig
from accelsim.workloads import Workload


class SpattenE2eConfig(SpattenConfig):
    """SpAtten and the model whose fully connected layers it runs between attentions."""

    kind: Literal["spatten-e2e"]  # type: ignore[assignment]
    weight_bits: Literal[8, 12] = 8
    """Of a weight in DRAM, linear symmetric (§V-B)."""
    model: str | None = None
    """The model that the source comes from: preset in ``hw_configs/models``, or a YAML file."""


def _layers(workload: Workload, config: SpattenE2eConfig, memory: MemoryConfig) -> Activity:
    from accelsim.configs import preset_names
    from accelsim.workloads.models import load_model

    if config.model is None:
        raise ConfigError(
            "spatten-e2e: key 'model': expected the model that the source comes from "
            f"(known: {', '.join(preset_names('models'))})"
        )
    shape = load_model(config.model)
    machine = FcMachine(
        config.multiplier_count, config.buffer_bytes, config.channels, config.weight_bits
    )
    return fully_connected(workload, shape, machine, memory, config.frequency_hz)


ACCELERATOR = Accelerator(
    SpattenE2eConfig,
    accelerator_of("spatten").simulate,
    engines=accelerator_of("spatten").engines,
    dependencies=DEPENDENCIES,
    serves=accelerator_of("spatten").serves,
    in_series=_layers,
    counters=(*accelerator_of("spatten").counters, FC_MACS),
)
"""See :class:`accelsim.hardware.Accelerator`."""
