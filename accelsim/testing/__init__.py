"""Contracts: tests that everyone's policy, accelerator, memory, executor and baseline must pass.

Inherit one in a test file, name what is to be tested, and pytest runs its tests::

    from accelsim.testing import AcceleratorContract

    class TestMine(AcceleratorContract):
        accelerator = "mine.yaml"
"""

from accelsim.testing._accelerators import AcceleratorContract
from accelsim.testing._baselines import BaselineContract
from accelsim.testing._executors import ExecutorContract
from accelsim.testing._memories import MemoryContract
from accelsim.testing._policies import PolicyContract

__all__ = [
    "AcceleratorContract",
    "BaselineContract",
    "ExecutorContract",
    "MemoryContract",
    "PolicyContract",
]
