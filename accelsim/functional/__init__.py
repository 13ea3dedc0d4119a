"""Functional model: what a policy does to real queries, keys and values.

Names are imported on first use: the kernels bring Numba, which takes a second to load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelsim.functional._cases import functional_cases
    from accelsim.functional._run import PolicyRun, run_policy
    from accelsim.functional._verify import VerifyResult, verify_fixed_point
    from accelsim.functional.topk import PARALLELISM, TopK, topk_engine

__all__ = [
    "PARALLELISM",
    "PolicyRun",
    "TopK",
    "VerifyResult",
    "functional_cases",
    "run_policy",
    "topk_engine",
    "verify_fixed_point",
]

_HOMES = {
    "PolicyRun": "_run",
    "VerifyResult": "_verify",
    "functional_cases": "_cases",
    "run_policy": "_run",
    "verify_fixed_point": "_verify",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'topk')}"), name)
