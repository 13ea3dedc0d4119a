"""The contract of every accelerator that leaves the decisions to the policy."""

from __future__ import annotations

from functools import cache

import pytest

from accelsim.configs import load, preset_names
from accelsim.errors import InvariantError
from accelsim.functional import run_policy
from accelsim.hardware import Accelerator, accelerator_of, load_accelerator, simulate
from accelsim.hardware.activity import Activity
from accelsim.hardware.config import AcceleratorConfig, MemoryConfig
from accelsim.policies import load_policy_spec
from accelsim.testing import AcceleratorContract
from accelsim.traces import synthetic_trace
from accelsim.workloads import Workload

TRACE = synthetic_trace(seed=5, head_dim=64, prefill_tokens=40, decode_tokens=2)
NAMES = preset_names("accelerators")


class TestEveryAccelerator(AcceleratorContract):
    """The contract, preset by preset."""

    @pytest.fixture(autouse=True, params=NAMES)
    def _name(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(type(self), "accelerator", request.param, raising=False)
        if load_accelerator(request.param).kind == "spatten-e2e":
            monkeypatch.setattr(type(self), "overrides", {"model": "gpt2-small"})


@cache
def workload(policy: str) -> Workload:
    return run_policy(TRACE, load_policy_spec(policy)).workload


def test_a_machine_that_reads_too_little_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelsim.hardware import _registry

    def lazy(
        workload: Workload, config: AcceleratorConfig, memory: MemoryConfig, engine: str
    ) -> Activity:
        return Activity(10, 1e9, {"key_msb": 1, "value": 1})

    real = accelerator_of("mnnfast")
    monkeypatch.setitem(_registry._REGISTERED, "lazy", Accelerator(real.config, lazy))
    machine = load_accelerator("mnnfast").model_copy(update={"kind": "lazy"})
    memory = load(MemoryConfig, machine.memory, "memories")
    with pytest.raises(InvariantError, match="1 bytes of key_msb were fetched; the decisions name"):
        simulate(workload("static-8"), machine, memory)


DRAWN = [name for name in NAMES if accelerator_of(load_accelerator(name).kind).wiring is not None]


@pytest.mark.parametrize("name", DRAWN)
def test_the_diagram_has_the_modules_and_queues_of_a_result(name: str) -> None:
    machine = load_accelerator(name)
    memory = load(MemoryConfig, machine.memory, "memories")
    kind = accelerator_of(machine.kind)
    work = workload("spatten-full") if kind.decide is None else kind.decide(TRACE, machine).workload
    activity = simulate(work, machine, memory)
    assert kind.wiring is not None
    wires = kind.wiring(machine, memory)
    ends = {end for wire in wires for end in (wire.source, wire.target)}
    assert ends == set(activity.modules) | {"DRAM"}
    depths = {wire.name: wire.depth for wire in wires if wire.depth is not None}
    assert depths == {queue: found.depth for queue, found in activity.queues.items()}
    for module, counted in activity.modules.items():
        assert counted.peak_operations_per_cycle is None or counted.operations is not None, module


def test_published_machines_and_their_rivals_are_drawn() -> None:
    assert {load_accelerator(name).kind for name in DRAWN} >= {"spatten", "a3", "mnnfast"}
