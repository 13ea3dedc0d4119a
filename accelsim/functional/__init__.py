"""Functional model: what a policy does to real queries, keys and values.

Names are imported on first use: the kernels bring Numba, which takes a second to load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelsim.attention.topk import PARALLELISM, TopK, topk_engine
    from accelsim.functional._attends import Looks
    from accelsim.functional._machine import run_machine
    from accelsim.functional._record import PolicyRun
    from accelsim.functional._run import run_policy
    from accelsim.functional._verify import VerifyResult, verify, verify_fixed_point
    from accelsim.functional.cases import functional_cases

__all__ = [
    "PARALLELISM",
    "Looks",
    "PolicyRun",
    "TopK",
    "VerifyResult",
    "functional_cases",
    "run_machine",
    "run_policy",
    "topk_engine",
    "verify",
    "verify_fixed_point",
]

_HOMES = {
    "PARALLELISM": "accelsim.attention.topk",
    "Looks": "accelsim.functional._attends",
    "PolicyRun": "accelsim.functional._record",
    "TopK": "accelsim.attention.topk",
    "VerifyResult": "accelsim.functional._verify",
    "functional_cases": "accelsim.functional.cases",
    "run_machine": "accelsim.functional._machine",
    "run_policy": "accelsim.functional._run",
    "topk_engine": "accelsim.attention.topk",
    "verify": "accelsim.functional._verify",
    "verify_fixed_point": "accelsim.functional._verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
