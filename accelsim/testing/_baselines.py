"""What holds of every platform that a run is compared with."""

from __future__ import annotations

from typing import Any, ClassVar

from accelsim.baselines import AttentionShape, Call, evaluate_baselines


class BaselineContract:
    """Evaluates dense attention on a platform.

    Attributes:
        platform: preset name or YAML file.
    """

    platform: ClassVar[str]

    def rows(self, context: int = 1024, queries: int = 1, steps: int = 1) -> dict[str, Any]:
        """Twelve layers of 12 heads of 64 elements, in every reading of the platform."""
        call = Call(12 * steps, queries, context, causal=True)
        return evaluate_baselines(AttentionShape((call,), 12, 12, 64), [self.platform])

    def test_times_and_energies_are_positive(self) -> None:
        """Energy with idle power is more than without; an interval holds its value."""
        rows = self.rows()
        assert rows
        for name, row in rows.items():
            assert row["latency_s"] > 0, name
            assert row["dram_bytes"] > 0, name
            if row["energy_j"] is not None:
                assert 0 < row["energy_j"] <= row["energy_with_idle_j"], name
            if row.get("latency_low_s") is not None:
                assert row["latency_low_s"] <= row["latency_s"] <= row["latency_high_s"], name
                assert row["energy_low_j"] <= row["energy_j"] <= row["energy_high_j"], name

    def test_more_work_takes_no_less_time(self) -> None:
        """Longer contexts and more steps."""
        for name, row in self.rows().items():
            assert self.rows(context=8192)[name]["latency_s"] >= row["latency_s"], name
            twice = self.rows(steps=2)[name]["latency_s"]
            assert 1.9 * row["latency_s"] <= twice <= 2.1 * row["latency_s"], name

    def test_the_same_work_costs_the_same(self) -> None:
        """Nothing depends on what ran before."""
        assert self.rows() == self.rows()
