"""Rules that other accelerators bring with them: what A3 and MNNFast do to real tensors.

Unlike a :class:`accelsim.policies.Policy`, such a rule is part of a machine and runs only on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accelsim.functional.rivals._workload import RivalWorkload, undecided

if TYPE_CHECKING:
    from accelsim.functional.rivals._a3 import A3Rule, greedy_candidates, run_a3
    from accelsim.functional.rivals._mnnfast import MnnFastRule, run_mnnfast

__all__ = [
    "A3Rule",
    "MnnFastRule",
    "RivalWorkload",
    "greedy_candidates",
    "run_a3",
    "run_mnnfast",
    "undecided",
]

_HOMES = {
    "A3Rule": "_a3",
    "greedy_candidates": "_a3",
    "run_a3": "_a3",
    "MnnFastRule": "_mnnfast",
    "run_mnnfast": "_mnnfast",
}


def __getattr__(name: str) -> Any:
    # The kernels bring Numba, which takes a second to load.
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
