"""SpAtten as published, clock cycle by clock cycle: the reference of the event engine.

Written from docs/accelerators/spatten-published.md alone. A block of that page is one function: key
fork and query x key unit in ``_keys``, softmax and decision in ``_softmax``, top-k and filter in
``_select``, selector and order of layers in ``_groups``, values in ``_values``, fetcher, crossbar
and DRAM ports in ``_fetcher``. ``_plan`` makes the tables that they read, ``_clock`` calls them.
"""

from accelsim.hardware.machines.spatten.cycle._engine import CycleMachine, simulate

__all__ = ["CycleMachine", "simulate"]
