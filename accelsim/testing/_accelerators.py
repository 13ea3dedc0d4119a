"""What holds of every accelerator."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from accelsim import configs
from accelsim.energy import EnergyReport, EnergyTable, evaluate
from accelsim.errors import AccelsimError
from accelsim.functional import run_policy
from accelsim.hardware import accelerator_of, load_accelerator, simulate
from accelsim.hardware.activity import Activity
from accelsim.hardware.config import AcceleratorConfig, MemoryConfig
from accelsim.hardware.invariants import check
from accelsim.policies import load_policy_spec
from accelsim.traces import AttentionTrace, synthetic_trace
from accelsim.workloads import Workload

LSBS = "progressive-6-4:quantization.threshold=1.0"
"""A policy under which every query needs the LSB plane."""


class AcceleratorContract:
    """Runs an accelerator on a small synthetic trace.

    Attributes:
        accelerator: preset name or YAML file.
        overrides: dotted key to value, as for ``--set``.
        policies: under which it runs, where it takes the user's policy.
    """

    accelerator: ClassVar[str]
    overrides: ClassVar[Mapping[str, Any]] = {}
    policies: ClassVar[tuple[str, ...]] = ("dense", "static-8", "spatten-pruned", "spatten-full")

    @property
    def machine(self) -> AcceleratorConfig:
        """The configuration."""
        return load_accelerator(self.accelerator, self.overrides)

    @property
    def memory(self) -> MemoryConfig:
        """The memory that it names."""
        return configs.load(MemoryConfig, self.machine.memory, "memories")

    @property
    def decides(self) -> bool:
        """Whether it brings a pruning rule of its own, and takes no policy."""
        return accelerator_of(self.machine.kind).decide is not None

    def workload(self, policy: str) -> Workload:
        """Decisions of a policy, or of the machine itself, on the trace."""
        decide = accelerator_of(self.machine.kind).decide
        if decide is not None:
            return decide(_trace(), self.machine).workload
        return _workload(policy)

    def run(self, policy: str = "dense", **fields: Any) -> Activity:
        """Simulate; ``fields`` replace those of the memory."""
        memory = self.memory.model_copy(update=fields)
        return simulate(self.workload(policy), self.machine, memory)

    def runs(self) -> dict[str, Activity]:
        """A run for each policy; one where the machine decides."""
        return {policy: self.run(policy) for policy in self.policies[: 1 if self.decides else None]}

    def energy(self, activity: Activity) -> EnergyReport:
        """Of a run, with the machine's own table."""
        table = configs.load(EnergyTable, self.machine.energy, "energy")
        return evaluate(activity, table, self.machine, self.memory)

    def test_the_books_of_every_run_balance(self) -> None:
        """Busy, stalled and idle cycles add up; no peak and no queue is exceeded."""
        for policy, activity in self.runs().items():
            assert activity.modules, policy
            check(activity, self.workload(policy))
            for name, module in activity.modules.items():
                spent = module.busy_cycles + sum(module.stall_cycles.values())
                assert spent == activity.cycles, (policy, name)

    def test_the_same_run_gives_the_same_result(self) -> None:
        """Nothing depends on what ran before."""
        assert self.run() == self.run()

    def test_bytes_take_their_time(self) -> None:
        """A run is not shorter than its bytes at the peak of the memory."""
        org, machine = self.memory, self.machine
        if org.kind == "flat":
            return
        channels = getattr(machine, "channels", 1)
        peak = channels * org.bytes_per_tick * org.clock_hz
        for policy, activity in self.runs().items():
            moved = sum(activity.dram_read_bytes.values())
            assert activity.seconds >= moved / peak, policy

    def test_bytes_follow_the_policy(self) -> None:
        """Bits that are stored and tokens that are kept are what is read."""
        if self.decides or not accelerator_of(self.machine.kind).exact_reads:
            return
        wide, narrow, pruned = (
            self.run(policy).dram_read_bytes
            for policy in ("static-12", "static-8", "spatten-pruned")
        )
        for tensor in ("key_msb", "value"):
            assert narrow[tensor] < 0.8 * wide[tensor], tensor
            assert pruned[tensor] < wide[tensor], tensor
        lsbs = self.workload(LSBS).policy_bytes()["key_lsb"]
        assert lsbs > 0
        assert self.run(LSBS).dram_read_bytes["key_lsb"] >= lsbs

    def test_a_slower_memory_is_not_faster(self) -> None:
        """Half the clock of the memory saves no time, but for chance in the order of rows."""
        if self.memory.kind == "flat":
            return
        fast = self.run()
        slow = self.run(clock_hz=self.memory.clock_hz / 2)
        assert slow.cycles >= 0.99 * fast.cycles

    def test_every_counter_is_priced(self) -> None:
        """No counted work is left out of the energy."""
        for policy, activity in self.runs().items():
            left_out = [w for w in self.energy(activity).warnings if "leaves out work" in w]
            assert not left_out, policy

    def test_energy_lies_in_its_interval(self) -> None:
        """The printed value lies between the 5 and 95 % ends, and in the sum of its parts."""
        for policy, activity in self.runs().items():
            report = self.energy(activity)
            assert report.low_j <= report.total_j <= report.high_j, policy
            assert np.isclose(sum(report.energy_j_by_part.values()), report.total_j), policy
            assert min(report.energy_j_by_part.values()) >= 0, policy

    def test_what_cannot_be_is_refused_in_one_line(self) -> None:
        """A size of nothing is an error that names the field."""
        fields = type(self.machine).model_fields
        for name in {"channels", "multipliers", "frequency_hz"} & set(fields):
            message = _refusal(self.accelerator, {**self.overrides, name: 0})
            assert name in message
            assert "\n" not in message


def _refusal(accelerator: str, overrides: Mapping[str, Any]) -> str:
    """What is said of a configuration; empty if it is accepted."""
    try:
        load_accelerator(accelerator, overrides)
    except AccelsimError as error:
        return str(error)
    return ""


@lru_cache(maxsize=1)
def _trace() -> AttentionTrace:
    return synthetic_trace(seed=5, head_dim=64, prefill_tokens=40, decode_tokens=2)


@lru_cache(maxsize=32)
def _workload(policy: str) -> Workload:
    return run_policy(_trace(), load_policy_spec(policy)).workload
