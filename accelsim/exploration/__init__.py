"""Exploration: one run, many runs. A point is a source, a policy and an accelerator."""

from accelsim.exploration._ablate import Ablation, AblationPoint, ablate, differences
from accelsim.exploration._closed_tune import Tuning, tune_model
from accelsim.exploration._diff import diff
from accelsim.exploration._many import Request, replay_many
from accelsim.exploration._resolve import DEFAULT_ACCELERATOR, DEFAULT_POLICY
from accelsim.exploration._result import Comparison, RunResult
from accelsim.exploration._retrieval import Retrieval, run_retrieval
from accelsim.exploration._run import Runner, compare, replay
from accelsim.exploration._search import goals, search
from accelsim.exploration._stored_points import Front, Results, load_results, pareto_front
from accelsim.exploration._sweep import summary as sweep_summary
from accelsim.exploration._sweep import sweep
from accelsim.exploration._tune import TuneResult, tune

__all__ = [
    "DEFAULT_ACCELERATOR",
    "DEFAULT_POLICY",
    "Ablation",
    "AblationPoint",
    "Comparison",
    "Front",
    "Request",
    "Results",
    "Retrieval",
    "RunResult",
    "Runner",
    "TuneResult",
    "Tuning",
    "ablate",
    "compare",
    "diff",
    "differences",
    "goals",
    "load_results",
    "pareto_front",
    "replay",
    "replay_many",
    "run_retrieval",
    "search",
    "sweep",
    "sweep_summary",
    "tune",
    "tune_model",
]
