"""The cycle engine: SpAtten as released, cycle by cycle, written from the specification.

No constant in it is fitted. One file per group of blocks, each a compiled step function over flat
arrays; ``_clock`` calls them once a cycle, sinks first.
"""

from accelsim.hardware.machines.spatten_rtl.cycle._engine import CycleMachine, simulate

__all__ = ["CycleMachine", "simulate"]
