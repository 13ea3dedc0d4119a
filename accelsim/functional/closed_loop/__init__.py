"""Closed loop: perplexity and task scores with the policy inside the running model."""

from accelsim.functional.closed_loop._attend import (
    PolicyAttention,
    forward,
    policy_attention,
    why_not_inside,
)
from accelsim.functional.closed_loop._lee import LeeScore, lee_score, read_lee
from accelsim.functional.closed_loop._loss import (
    PASSES,
    ClosedLoop,
    LeeLoss,
    Loss,
    PerplexityLoss,
    TaskLoss,
)
from accelsim.functional.closed_loop._models import (
    TransformersModel,
    load_model,
    positions_of,
)
from accelsim.functional.closed_loop._perplexity import (
    Perplexity,
    cut_windows,
    perplexity,
    read_windows,
    shipped_windows,
)
from accelsim.functional.closed_loop._presses import recorded_policies
from accelsim.functional.closed_loop._retrieval import Answer, Asked, TaskScore, retrieval
from accelsim.functional.closed_loop._tasks import TASKS, Example, task_examples
from accelsim.functional.closed_loop._texts import (
    SHIPPED,
    Text,
    check_texts,
    open_loss,
    task_names,
    task_texts,
)

__all__ = [
    "PASSES",
    "SHIPPED",
    "TASKS",
    "Answer",
    "Asked",
    "ClosedLoop",
    "Example",
    "LeeLoss",
    "LeeScore",
    "Loss",
    "Perplexity",
    "PerplexityLoss",
    "PolicyAttention",
    "TaskLoss",
    "TaskScore",
    "Text",
    "TransformersModel",
    "check_texts",
    "cut_windows",
    "forward",
    "lee_score",
    "load_model",
    "open_loss",
    "perplexity",
    "policy_attention",
    "positions_of",
    "read_lee",
    "read_windows",
    "recorded_policies",
    "retrieval",
    "shipped_windows",
    "task_examples",
    "task_names",
    "task_texts",
    "why_not_inside",
]
