"""Policies, tasks and examples: every answer is measured once, and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelsim.errors import TraceError
from accelsim.exploration._closed_tune import policy_text
from accelsim.exploration._manifest import code_sha256
from accelsim.exploration._store import Store
from accelsim.policies import Policy

if TYPE_CHECKING:
    from accelsim.functional.closed_loop import Answer, Example, TaskScore


@dataclass(frozen=True)
class Retrieval:
    """Scores of some policies on some tasks.

    Attributes:
        dense: task to the score of 12-bit dense attention, measured first.
        scores: policy to task to its score; only tasks that dense attention passes.
        answers: policy to task to its answers, in the order of the examples.
    """

    dense: dict[str, TaskScore]
    scores: dict[str, dict[str, TaskScore]]
    answers: dict[str, dict[str, list[Answer]]]

    @property
    def dropped(self) -> list[str]:
        """Tasks that dense attention fails (:data:`~accelsim.functional.closed_loop.PASSES`)."""
        from accelsim.functional.closed_loop import PASSES

        return [task for task, score in self.dense.items() if score.score < PASSES]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; scores are fractions, 0 to 1."""
        return {
            "unit": "fraction of the answers found",
            "dense": {task: score.to_dict() for task, score in self.dense.items()},
            "dropped": self.dropped,
            "results": {
                name: {
                    task: score.to_dict()
                    | {
                        "by_example": [a.score for a in self.answers[name][task]],
                        "texts": [a.text for a in self.answers[name][task]],
                    }
                    for task, score in tasks.items()
                }
                for name, tasks in self.scores.items()
            },
        }


def run_retrieval(
    model: Any,
    name: str,
    examples: Mapping[str, Sequence[Example]],
    policies: Mapping[str, Policy],
    *,
    question_in_prompt: bool = False,
    store: str | Path | None = None,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Retrieval:
    """Ask every example under dense attention, then under every policy.

    Args:
        model: a :class:`~accelsim.traces.capture.GgufModel` or
            :class:`~accelsim.functional.closed_loop.TransformersModel`.
        name: of the model, in the store.
        examples: of each task, :func:`~accelsim.functional.closed_loop.task_examples`.
        policies: what to keep, by name.
        question_in_prompt: whether the question is read before anything is pruned.
        store: folder where answers are kept, so that a stopped run goes on; none if not given.
        on_progress: told task, answers known and answers expected.

    Raises:
        TraceError: no example, or a policy that does not apply.
    """
    from accelsim.functional.closed_loop import PASSES, Answer, Asked, TaskScore, why_not_inside

    if not examples or not all(examples.values()):
        raise TraceError("no example of a task; expected at least one")
    for spec, policy in policies.items():
        explain = why_not_inside(policy, model.shape, causal=True, prompt_tokens=1)
        if explain:
            raise TraceError(f"{spec}: {explain}")
    with ExitStack() as stack:
        opened = None if store is None else stack.enter_context(Store(store))
        known = {row["key"]: row for row in opened.rows()} if opened else {}

        def ask(task: str, chosen: Mapping[str, Policy]) -> dict[str, list[Answer]]:
            """Answers of each policy, example by example: policies share what is read."""
            found: dict[str, list[Answer]] = {spec: [] for spec in chosen}
            done, total = 0, len(chosen) * len(examples[task])
            for example in examples[task]:
                asked = Asked(model, example, question_in_prompt=question_in_prompt)
                # Policies that store the text alike follow each other.
                for spec in sorted(chosen, key=lambda s: _stored(chosen[s])):
                    on_progress(task, done, total)
                    done += 1
                    facts = [code_sha256(), name, asdict(example), question_in_prompt]
                    text = policy_text(chosen[spec])
                    key = hashlib.sha256(json.dumps([*facts, text]).encode()).hexdigest()
                    if key not in known:
                        answer = asked.answer(chosen[spec])
                        known[key] = {"answer": json.dumps(answer.to_dict())}
                        if opened is not None:
                            row = {"key": key, "status": "ok", "what": task, "policy": text}
                            opened.append(row | {"example": example.number} | known[key])
                    found[spec].append(Answer(**json.loads(known[key]["answer"])))
            return found

        dense = {task: TaskScore.of(ask(task, {"dense": Policy()})["dense"]) for task in examples}
        passed = [task for task, score in dense.items() if score.score >= PASSES]
        answers: dict[str, dict[str, list[Answer]]] = {spec: {} for spec in policies}
        for task in passed if policies else []:
            for spec, own in ask(task, policies).items():
                answers[spec][task] = own
    scores = {
        spec: {task: TaskScore.of(own) for task, own in tasks.items()}
        for spec, tasks in answers.items()
    }
    return Retrieval(dense, scores, answers)


def _stored(policy: Policy) -> str:
    return policy.at_stage("prefill").quantization.model_dump_json()
