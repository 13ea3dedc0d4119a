"""The first visit: a real trace where pruning matters, what it buys, what it loses, and why.

Nothing here is written beforehand: every number comes from the runs of this call, the platforms'
measured kernels, or the loss that a policy's preset states with its source.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from accelsim import configs
from accelsim.baselines import AttentionShape, Platform, evaluate_baselines
from accelsim.exploration import Comparison, RunResult, compare
from accelsim.hardware import accelerator_of
from accelsim.hardware.config import AcceleratorConfig
from accelsim.policies import Budgeted, load_policy
from accelsim.reports._html import render
from accelsim.reports._page_table import Table
from accelsim.reports._words import bound_of, times
from accelsim.traces import load_trace, trace_path
from accelsim.units import percent, si

TRACE = "smollm2-512p-32d"
DENSE, TUNED, PAPER = "dense", "tova-smollm2-1pct", "spatten-full"
MODEL, CONTEXT = "llama-3-8b", 32_768
PLATFORMS = {"a100": "A100", "h100": "H100"}
_MEASURED = "measured-kernel"
_DECODED = 2
"""Tokens decoded behind the long context: the first evicts, the second is as all that follow."""
DEMO_STEPS = 6
"""How often ``on_step`` is called."""

Span = tuple[float, float, float]
"""Seconds: median, 5 % and 95 %."""


@dataclass(frozen=True)
class Demo:
    """What the demo found.

    Attributes:
        results: the shipped trace on ``spatten-paper``, by policy.
        long: the long context by what ran, dense first.
        gpu_s: platform to stage (``prompt``, ``token``, ``long``) to seconds with their interval.
        words: ten lines: what is good, what is lost, why.
        tables: the same numbers side by side.
    """

    results: Comparison
    long: Comparison
    gpu_s: Mapping[str, Mapping[str, Span]]
    words: list[str]
    tables: list[Table]

    def to_html(self) -> str:
        """Return one page: words, tables, the plots of the trace, manifests."""
        title = "accelsim: a tuned policy beside dense attention, the paper's schedule and GPUs"
        return render(self.results, title, words=self.words, tables=self.tables)

    def to_dict(self) -> dict[str, Any]:
        """Return the ``accelsim.demo/1`` document."""
        return {
            "schema": "accelsim.demo/1",
            "words": self.words,
            "tables": [vars(table) for table in self.tables],
            "gpu_s": {name: dict(spans) for name, spans in self.gpu_s.items()},
            "trace": self.results.to_dict()["results"],
            "long": self.long.to_dict()["results"],
        }


def demo(on_step: Callable[[str], None] = lambda text: None) -> Demo:
    """Run the demo: a shipped trace of SmolLM2, then a long context of Llama 3 8B's shape.

    Args:
        on_step: called with what is done next, :data:`DEMO_STEPS` times.

    Raises:
        AccelsimError: the trace or a preset does not ship with this installation.
    """
    trace = load_trace(trace_path(TRACE))
    shape = AttentionShape.from_trace(trace)
    results = Comparison()
    for policy in (DENSE, TUNED, PAPER):
        on_step(f"{TRACE} ({trace.prefill_tokens} + {trace.tokens - trace.prefill_tokens} tokens) "
                f"under {policy}")  # fmt: skip
        results |= compare(trace_path(TRACE), [policy], baselines=list(PLATFORMS))
    rule = load_policy(TUNED).selection
    assert isinstance(rule, Budgeted)
    budget = rule.budget(trace.prefill_tokens)
    share = budget / trace.prefill_tokens
    same = round(share * CONTEXT)
    long = Comparison()
    for label, policy, kept, decode in (
        (DENSE, DENSE, None, 1),
        (f"{budget} tokens", TUNED, budget, _DECODED),
        (f"{percent(share)} of the context", TUNED, same, _DECODED),
    ):
        on_step(f"shape:{MODEL}, {CONTEXT:,} tokens in the cache, {label}")
        run = compare(
            f"shape:{MODEL}:context={CONTEXT},decode={decode},like={TRACE}",
            [policy],
            overrides={} if kept is None else {"policy.selection.budget_tokens": kept},
            baselines=list(PLATFORMS),
        )
        long[label] = run[policy]
    steps = trace.tokens - trace.prefill_tokens
    gpu = {
        name: {
            "prompt": _gpu_s(shape, name, decoding=False),
            "token": _each(_gpu_s(shape, name, decoding=True), steps),
            "long": _span(long[DENSE].baselines[f"{name}/{_MEASURED}"]),
        }
        for name in PLATFORMS
    }
    tables = [_trace_table(results, gpu, steps), _long_table(long, gpu)]
    return Demo(results, long, gpu, _words(results, long, gpu, steps), tables)


def _gpu_s(shape: AttentionShape, name: str, *, decoding: bool) -> Span:
    """Seconds of the measured kernels for one stage of a dense run."""
    calls = tuple(call for call in shape.calls if (call.queries == 1) == decoding)
    found = evaluate_baselines(replace(shape, calls=calls), [name])
    return _span(found[f"{name}/{_MEASURED}"])


def _each(span: Span, parts: int) -> Span:
    median, low, high = span
    return median / parts, low / parts, high / parts


def _span(row: Mapping[str, Any]) -> Span:
    return row["latency_s"], row["latency_low_s"], row["latency_high_s"]


def loss_of(policy: str) -> str:
    """Return what a preset says was measured inside the model, or an empty string."""
    told = load_policy(policy).assumptions
    return " ".join(text for text in told if text.startswith(("Loss ", "Retrieval ")))


def _prompt_s(result: RunResult) -> float:
    return _seconds(result, result.metrics["prefill_latency_cycles"])


def _token_s(result: RunResult) -> float:
    return _seconds(result, result.metrics["decode_cycles_per_token"])


def _seconds(result: RunResult, cycles: float) -> float:
    metrics = result.metrics
    return float(cycles * metrics["latency_s"] / metrics["latency_cycles"])


def _token_bytes(result: RunResult, steps: int) -> float:
    return float(result.metrics["decode_policy_read_bytes"] / steps)


def _first_and_later_s(result: RunResult) -> tuple[float, float]:
    """Seconds of the first decoded token and of the last one."""
    told = result.activity.completion_cycles
    first = max(told[: len(told) // _DECODED])
    return _seconds(result, first), _seconds(result, result.metrics["latency_cycles"] - first)


def _shown(span: Span) -> str:
    """``599 µs (454–808)``: the interval in the unit of the median."""
    text = si(span[0], "s")
    unit = 10.0 ** round(math.log10(span[0] / float(text.split()[0])))
    return f"{text} ({span[1] / unit:.3g}–{span[2] / unit:.3g})"


def _beside(ours: float, span: Span) -> str:
    """How our time compares with a platform's, at the median and over its interval."""
    ratios = [seconds / ours for seconds in span]
    faster = ratios[0] >= 1
    median, low, high = ratios if faster else (1 / r for r in (ratios[0], ratios[2], ratios[1]))
    return f"{median:.3g} times {'faster' if faster else 'slower'} ({low:.3g} to {high:.3g})"


def _words(
    results: Comparison, long: Comparison, gpu: Mapping[str, Mapping[str, Span]], steps: int
) -> list[str]:
    """Ten lines: what is good, what is lost, and why."""
    dense, tuned, paper = (results[name] for name in (DENSE, TUNED, PAPER))
    kept, same = list(long)[1:]
    (first, later), (_, same_later) = (_first_and_later_s(long[name]) for name in (kept, same))
    token = {name: _token_s(run) for name, run in results.items()}
    prompt = {name: _prompt_s(run) for name, run in results.items()}
    moved = {name: _token_bytes(run, steps) for name, run in results.items()}
    joules = {name: run.metrics["energy_accesses_j"] for name, run in results.items()}
    at_length = _latency_s(long[DENSE])
    return [
        f"Good: {TUNED} decodes a token {times(token[TUNED] / token[DENSE], 'faster', 'slower')} "
        f"than dense, with {times(moved[TUNED] / moved[DENSE], 'fewer', 'more')} bytes of keys and "
        f"values; prompt and decoding cost {times(joules[TUNED] / joules[DENSE], 'less', 'more')} "
        "energy of accesses.",
        f"Good: one sequence decodes {_against(token[TUNED], gpu, 'token')}, dense and measured. A "
        "GPU gains from batches, which are not shown here.",
        f"Lost: inside the model. {loss_of(TUNED) or _NO_LOSS}",
        f"{_prompt_against(prompt[TUNED] / prompt[DENSE])}. Why: the policy prunes behind a prompt "
        f"only, and a prompt is multiplications ({_busy(dense, 'qk_unit')} of the dense run the "
        "query x key unit is busy).",
        f"Lost: the prompt is {_against(prompt[TUNED], gpu, 'prompt')}. Why: "
        f"{_multipliers(dense)}.",
        f"Not tuned: {PAPER}, the paper's schedule, decodes "
        f"{times(token[PAPER] / token[DENSE], 'faster', 'slower')} than dense, with "
        f"{times(moved[PAPER] / moved[DENSE], 'fewer', 'more')} bytes and an output error of "
        f"{_error(paper)} ({_error(tuned)} tuned), open loop. {loss_of(PAPER) or _NO_LOSS}",
        f"Why: {bound_of(paper)}.",
        f"Long: behind {CONTEXT:,} tokens of {MODEL}'s shape dense takes {si(at_length, 's')} a "
        f"token, {_against(at_length, gpu, 'long')}.",
        f"Long: with {kept} kept it takes {si(later, 's')}, {_against(later, gpu, 'long')}, behind "
        f"a first token of {si(first, 's')} that ranks the whole prompt; with the share that was "
        f"tuned, {same}, {si(same_later, 's')}, {_against(same_later, gpu, 'long')}.",
        f"Not known: what either loses at {CONTEXT:,} tokens. The policy was tuned at 512.",
    ]


_NO_LOSS = "No loss inside a model is stated for it."


def _prompt_against(share: float) -> str:
    """How long a prompt takes, as a share of dense."""
    if abs(share - 1) < 0.01:
        return "Not gained: the prompt takes as long as dense"
    what = "Good" if share < 1 else "Lost"
    return f"{what}: the prompt is {times(share, 'faster', 'slower')} than dense"


def _against(ours: float, gpu: Mapping[str, Mapping[str, Span]], stage: str) -> str:
    return " and ".join(
        f"{_beside(ours, spans[stage])} than an {PLATFORMS[name]}" for name, spans in gpu.items()
    )


def _multipliers(result: RunResult) -> str:
    """Peak rates of the machine in the manifest and of the platforms."""
    machine = result.manifest["configs"]["accelerator"]
    config = configs.validate(accelerator_of(machine["kind"]).config, machine, "manifest")
    assert isinstance(config, AcceleratorConfig)
    ours = 2.0 * config.multiplier_count * config.frequency_hz
    theirs = []
    for name, told in PLATFORMS.items():
        measured = configs.load(Platform, name, "baselines").measured_kernel
        assert measured is not None
        theirs.append(f"{si(measured.peak_flop_per_s, 'op/s')} an {told}")
    return f"its multipliers do {si(ours, 'op/s')}, {', '.join(theirs)}"


def _busy(result: RunResult, block: str) -> str:
    return percent(result.modules[block]["busy_cycles"] / result.metrics["latency_cycles"])


def _latency_s(result: RunResult) -> float:
    return float(result.metrics["latency_s"])


def _trace_table(results: Comparison, gpu: Mapping[str, Mapping[str, Span]], steps: int) -> Table:
    """Prompt and a decoded token apart, by policy, then GPUs with their intervals."""
    rows: list[list[Any]] = [
        [
            name,
            si(_prompt_s(run), "s"),
            si(_token_s(run), "s"),
            si(_token_bytes(run, steps), "B"),
            _error(run),
        ]
        for name, run in results.items()
    ]
    rows += [
        [f"{PLATFORMS[name]}, dense", _shown(of["prompt"]), _shown(of["token"]), "–", "–"]
        for name, of in gpu.items()
    ]
    columns = ["", "prompt (5–95 %)", "a token (5–95 %)", "its bytes", "error, open loop"]
    return Table("SmolLM2, 512 tokens of prompt and 32 decoded", columns, rows, sorts=False)


def _long_table(long: Comparison, gpu: Mapping[str, Mapping[str, Span]]) -> Table:
    """A decoded token behind the long context."""
    rows: list[list[Any]] = []
    for name, run in long.items():
        if name == DENSE:
            steps, first, later = 1, "–", _latency_s(run)
        else:
            steps, (evicting, later) = _DECODED, _first_and_later_s(run)
            first = si(evicting, "s")
        rows.append([name, si(later, "s"), first, si(_token_bytes(run, steps), "B")])
    rows += [
        [f"{PLATFORMS[name]}, dense", _shown(of["long"]), "–", "–"] for name, of in gpu.items()
    ]
    columns = ["", "a token (5–95 %)", "the first, which evicts", "its bytes"]
    title = f"Shape of {MODEL}, {CONTEXT:,} tokens in the cache"
    return Table(title, columns, rows, sorts=False)


def _error(result: RunResult) -> str:
    return percent((result.accuracy or {}).get("relative_output_error"))


def demo_to_text(found: Demo) -> None:
    """Print the tables and the ten lines to standard output."""
    from rich.table import Table as Lines
    from rich.text import Text

    from accelsim.reports._console import plain_console

    console = plain_console(width=100, soft_wrap=True)
    for table in found.tables:
        shown = Lines(show_edge=False, pad_edge=False, title=table.title, title_justify="left")
        for at, name in enumerate(table.columns):
            shown.add_column(name, justify="right" if at else "left", overflow="fold")
        for row in table.rows:
            shown.add_row(*(Text(str(cell)) for cell in row))
        console.print(shown)
    for sentence in found.words:
        console.print(Text(sentence))
