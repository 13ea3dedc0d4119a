"""Policies inside a model: options and texts of ``verify --closed-loop`` and ``tune``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from accelsim.cli._options import emit_json, remaining, stages
from accelsim.cli._presses import for_closed_loop, press_option, recorded

if TYPE_CHECKING:
    from accelsim.exploration import Retrieval
    from accelsim.policies import Policy
    from accelsim.traces.capture import ModelShape

F = TypeVar("F", bound=Callable[..., Any])


def text_options(function: F) -> F:
    """Add the texts that a model is scored on."""
    for option in (
        click.option(
            "--prompt-tokens", default=0, show_default=True, type=click.IntRange(0),
            help="First tokens of a window that attend densely, as a prompt (SnapKV needs some).",
        ),
        click.option(
            "--skip", default=64, show_default=True, type=click.IntRange(0),
            help="First positions of a window that are not scored.",
        ),
        click.option(
            "--window-tokens", default=512, show_default=True, type=click.IntRange(2),
            help="Tokens of a window of a text file.",
        ),
        click.option(
            "--lee", metavar="WHEEL|DIR",
            help="Lee similarity task (minilm): a gensim wheel ('pip download --no-deps gensim') "
            "or a folder with its lee.cor and similarities0-1.txt.",
        ),
        click.option(
            "--text", "texts", metavar="FILE", multiple=True,
            help="Text (repeatable): a text file, a .json file of token ids {\"windows\": {\"name\""
            ": [ids, ...]}}, or 'shipped' for windows of Wikipedia (default for smollm2).",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def task_options(function: F) -> F:
    """Add the retrieval tasks."""
    for option in (
        click.option(
            "--question-in-prompt", is_flag=True,
            help="The question is read before anything is pruned; else the policy chooses what "
            "stays without knowing what will be asked.",
        ),
        click.option(
            "--context", default=1024, show_default=True, type=click.IntRange(1), metavar="TOKENS",
            help="Tokens of an example of a task, question and answer included.",
        ),
        click.option(
            "--examples", default=20, show_default=True, type=click.IntRange(1),
            help="Examples of a task.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def closed_loop_options(function: F) -> F:
    """Add ``--closed-loop`` and what it takes."""
    function = task_options(text_options(function))
    for option in (
        press_option("to run after the prompt of each window, beside the policies"),
        click.option(
            "--store", metavar="DIR",
            help="Where answers of --task are kept, so that a stopped run goes on.",
        ),
        click.option(
            "--task", "tasks", multiple=True, metavar="NAME",
            help="Retrieval task instead of perplexity (repeatable; 'all'): needle, "
            "needle-multikey, needle-multivalue, variable-tracking, common-words, "
            "frequent-words. Made of sentences of --text.",
        ),
        click.option(
            "--windows", type=click.IntRange(1),
            help="Windows of each text to run (default: 4 of a text file, all of token ids; 2 of "
            "the 6 that ship).",
        ),
        click.option(
            "--tokens", "tokens_file", metavar="FILE",
            help='Token ids to score: JSON {"windows": {"name": [ids, ...]}}.',
        ),
        click.option(
            "--model", metavar="NAME|PATH|ID", default="smollm2", show_default=True,
            help="smollm2 or minilm from their packages, a .gguf file, or a folder or id that "
            "transformers loads.",
        ),
        click.option(
            "--closed-loop", is_flag=True, help="Run the policies inside a model, not on a trace."
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def run(
    specs: Sequence[str], options: dict[str, Any], json_file: str | None, out: str | None
) -> None:
    """Run every policy and print one line for each.

    Args:
        specs: policies, or ``all``.
        options: of :func:`closed_loop_options`.
        json_file: where the document goes.
        out: folder for the document and a figure.
    """
    from accelsim.errors import AccelsimError
    from accelsim.functional.closed_loop import check_texts, task_names
    from accelsim.policies import load_policy_spec
    from accelsim.reports import prepare_folder

    model, lee = options["model"], options["lee"]
    texts, tokens_file = list(options["texts"]), options["tokens_file"]
    if texts and tokens_file is not None:
        raise AccelsimError("expected one of --text and --tokens")
    if tokens_file is not None:
        texts = [tokens_file]
    check_texts(model, texts, lee)
    tasks = task_names(options["tasks"])
    if tasks and (lee is not None or tokens_file is not None):
        raise AccelsimError("--task: is made of sentences; expected --text, not --lee or --tokens")
    presses = for_closed_loop(options, tasks)
    every = tuple(specs) == ("all",)
    policies = {} if every else {spec: load_policy_spec(spec) for spec in dict.fromkeys(specs)}
    folder = None if out is None else prepare_folder(out)
    named = options | {"texts": texts, "presses": presses}
    if tasks:
        _tasks(model, tasks, policies if not every else None, named, json_file, folder)
    else:
        _scores(model, policies if not every else None, named, json_file, folder)


def _scores(
    model: str,
    policies: Mapping[str, Policy] | None,
    options: dict[str, Any],
    json_file: str | None,
    folder: Path | None,
) -> None:
    """Perplexity, or the Lee task."""
    from accelsim.reports import write_text

    lee, skip, prompt = options["lee"], options["skip"], options["prompt_tokens"]
    with stages(model) as on_stage:
        windows: list[list[int]] = []
        if lee is not None:
            score, shape = _lee(lee)
        else:
            score, shape, windows = _perplexity(model, options)
        if policies is None:
            policies = _every(shape, causal=lee is None, prompt_tokens=prompt, skip=skip)
        results = {}
        for spec, policy in policies.items():
            results[spec] = score(
                policy, lambda done, total, s=spec: on_stage(f"{s} {done}/{total}")
            ).to_dict()
        for name, own in recorded(model, options["presses"], windows, prompt, folder, on_stage):
            results[name] = score(
                own, lambda done, total, s=name: on_stage(f"{s} {done}/{total}")
            ).to_dict()
    document = {
        "schema": "accelsim.closed-loop/1",
        "mode": "closed-loop",
        "model": model,
        "text": _named(options, lee),
        "skip": skip,
        "prompt_tokens": prompt,
        "results": results,
    }
    if json_file != "-":
        _print(model, results)
    _write(document, json_file, folder)
    if folder is not None:
        write_text(folder / "policies.svg", _figure(model, results))


def _tasks(
    model: str,
    tasks: Sequence[str],
    policies: Mapping[str, Policy] | None,
    options: dict[str, Any],
    json_file: str | None,
    folder: Path | None,
) -> None:
    """Retrieval tasks."""
    from accelsim.exploration import run_retrieval
    from accelsim.functional.closed_loop import task_texts

    context, asked = options["context"], options["question_in_prompt"]
    loaded, examples = task_texts(model, tasks, options["texts"], options["examples"], context)
    if policies is None:
        policies = _every(loaded.shape, causal=True, prompt_tokens=context // 2, skip=context)
    with remaining(model) as tell:
        found = run_retrieval(
            loaded,
            model,
            examples,
            policies,
            question_in_prompt=asked,
            store=options["store"],
            on_progress=tell,
        )
    document = {
        "schema": "accelsim.closed-loop/1",
        "mode": "closed-loop",
        "model": model,
        "text": _named(options, None),
        "context_tokens": context,
        "examples": options["examples"],
        "question_in_prompt": asked,
    } | found.to_dict()
    if json_file != "-":
        _print_tasks(model, context, found)
    _write(document, json_file, folder)


def _named(options: dict[str, Any], lee: str | None) -> str:
    return ", ".join(options["texts"]) or ("lee" if lee else "shipped windows")


def _write(document: dict[str, Any], json_file: str | None, folder: Path | None) -> None:
    from accelsim.reports import write_text

    text = json.dumps(document, indent=2, allow_nan=False)
    if json_file:
        emit_json(text, json_file)
    if folder is not None:
        write_text(folder / "closed-loop.json", text + "\n")


def _every(shape: ModelShape, *, causal: bool, prompt_tokens: int, skip: int) -> dict[str, Policy]:
    """The presets that can run inside the model, by name."""
    from accelsim.configs import preset_names
    from accelsim.functional.closed_loop import why_not_inside
    from accelsim.policies import load_policy

    found = {name: load_policy(name) for name in preset_names("policies")}
    return {
        name: policy
        for name, policy in found.items()
        if not why_not_inside(policy, shape, causal=causal, prompt_tokens=prompt_tokens, skip=skip)
    }


def _figure(model: str, results: dict[str, dict[str, Any]]) -> str:
    from accelsim.reports import policy_figure

    metric = "perplexity" if "perplexity" in next(iter(results.values())) else "pearson"
    points = {name: (row["dram_bytes"], row[metric]) for name, row in results.items()}
    title = f"{Path(model).name}: accuracy against DRAM traffic"
    return policy_figure(points, f"{metric} (closed loop)", title=title, log=metric == "perplexity")


def _perplexity(name: str, options: dict[str, Any]) -> tuple[Any, ModelShape, list[list[int]]]:
    """What scores a policy (or one for each window), the model's shape, and the windows."""
    from accelsim.functional.closed_loop import SHIPPED, Text, load_model, perplexity

    texts = [Text(text) for text in options["texts"] or [SHIPPED]]
    model = load_model(name)
    chosen: dict[str, list[int]] = {}
    for text in texts:
        chosen |= text.windows(model, options["windows"], options["window_tokens"])
    windows = list(chosen.values())
    return (
        lambda policy, tell: perplexity(
            model, windows, policy, skip=options["skip"],
            prompt_tokens=options["prompt_tokens"], on_window=tell,
        ),
        model.shape,
        windows,
    )  # fmt: skip


def _lee(path: str) -> tuple[Any, ModelShape]:
    """What scores a policy, and the model's shape."""
    from accelsim.functional.closed_loop import lee_score, read_lee
    from accelsim.traces.capture import load_minilm

    stories, judged = read_lee(path)
    model = load_minilm()
    return (
        lambda policy, tell: lee_score(model, stories, judged, policy, on_story=tell),
        model.shape,
    )


def _print(model: str, results: dict[str, dict[str, Any]]) -> None:
    from rich.table import Table

    from accelsim.reports import plain_console

    first = next(iter(results.values()))
    metric = "perplexity" if "perplexity" in first else "pearson"
    scope = (
        f"{first['windows']} windows, {first['tokens']} tokens"
        if metric == "perplexity"
        else f"{first['documents']} documents, {first['pairs']} pairs"
    )
    table = Table(
        title=f"{model}, closed loop, {scope}; interval: {first['interval_method']}",
        title_justify="left",
        show_edge=False,
    )
    table.add_column("policy")
    for title in (metric, "95 % interval", "keys scored", "DRAM, MB", "by window"):
        table.add_column(title, justify="right")
    for name, row in results.items():
        low, high = row["interval_95"]
        detail = " ".join(f"{x:.2f}" for x in row.get("by_window", []))
        detail = detail or f"Spearman {row['spearman']:.3f}"
        table.add_row(
            name,
            f"{row[metric]:.3f}",
            f"{low:.3f} to {high:.3f}",
            f"{100 * row['kept_key_fraction']:.1f} %",
            f"{row['dram_bytes'] / 1e6:.1f}",
            detail,
        )
    plain_console().print(table)


def _print_tasks(model: str, context: int, found: Retrieval) -> None:
    from rich.table import Table

    from accelsim.reports import plain_console

    count = next(iter(found.dense.values())).examples
    table = Table(
        title=f"{model}, closed loop, {context} tokens, {count} examples of a task: answers found, "
        "% (95 %, Wilson); KB of DRAM a token",
        title_justify="left",
        show_edge=False,
    )
    table.add_column("policy")
    passed = [task for task in found.dense if task not in found.dropped]
    for task in passed:
        table.add_column(task, justify="right")
    table.add_column("DRAM, KB", justify="right")
    rows = {"12-bit dense": found.dense} | found.scores
    for name, scores in rows.items() if passed else ():
        moved = [scores[task].dram_bytes_per_token / 1e3 for task in passed]
        cells = [share_of(scores[task]) for task in passed]
        table.add_row(name, *cells, " ".join(f"{kb:.1f}" for kb in moved))
    console = plain_console(width=120, soft_wrap=True)
    if passed:
        console.print(table)
    for task in found.dropped:
        console.print(f"{task}: dropped, dense attention finds {share_of(found.dense[task])} %")


def share_of(score: Any) -> str:
    """A score with its interval, in percent."""
    return f"{100 * score.score:.0f} ({100 * score.low:.0f} to {100 * score.high:.0f})"
