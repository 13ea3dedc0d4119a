"""Write the generated parts of ``spatten.md``: ``python docs/accelerators/make.py``.

The ablation stands between ``<!-- name -->`` marks; the pictures beside the page are of runs, too,
and what they are drawn from lies beside them as CSV.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from accelsim.configs import config_root
from accelsim.exploration import Ablation, AblationPoint, ablate, replay
from accelsim.hardware.timeline import NO_ITEM, Timeline
from accelsim.reports import ablation_figure, timeline_figure, write_picture

PAGE = Path(__file__).parent / "spatten.md"
BEFORE, AFTER = "spatten-paper-serial", "spatten-paper"
SOURCE = "gpt2-small-wikitext2"
ORDER = ("value_prefetch_depth", "key_prefetch_depth", "topk.parallelism", "topk.rows")
"""First in the cumulative series: keys are not fetched further ahead than values."""
DEMO, POLICY = "traces/smollm2-64p-32d.safetensors", "spatten-full"
TOKEN = 2
"""Decode step whose beginning the timeline shows."""
_LINE = re.compile(r"^(?P<indent> *)(?P<key>\w+):(?P<value>[^#]*)(?:#\s*(?P<source>.*))?$")


def sources(preset: str) -> dict[str, str]:
    """Return dotted key to the comment beside it, from the preset's YAML."""
    found: dict[str, str] = {}
    section = ""
    text = (config_root() / "accelerators" / f"{preset}.yaml").read_text(encoding="utf-8")
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        if not match["indent"]:
            section = match["key"] + "."
        key = (section if match["indent"] else "") + match["key"]
        found[key] = (match["source"] or "").strip()
    return found


def ablation_table(result: Ablation) -> str:
    """Return an ablation as Markdown, with the reasons of refusals below."""
    reasons: dict[str, int] = {}
    lines = [
        f"`{BEFORE}`: {result.base.latency_cycles:,} cycles.",
        "",
        "| field | alone | | cumulative | | all but this | |",
        "|---|---|---|---|---|---|---|",
    ]
    for i, d in enumerate(result.fields):
        points = (result.alone[i], result.cumulative[i], result.without[i])
        cells = [cell for point in points for cell in _cells(point, reasons)]
        change = f"`{d.key}` {_text(d.before)} → {_text(d.after)}"
        lines.append(f"| {change} | {' | '.join(cells)} |")
    lines.append("")
    lines += [f"Refused ({number}): {reason}.\n" for reason, number in reasons.items()]
    return "\n".join(lines).rstrip()


def ablation_rows(result: Ablation) -> list[list[Any]]:
    """Return every point of an ablation: header, then series, field, its change and the numbers."""
    whole = result.to_dict()
    names = ["series", "field", "from", "to", *whole["units"], "refused"]
    lines = [{"series": "base", **whole["base"]}]
    for series in ("alone", "cumulative", "without"):
        for d in whole["fields"]:
            change = {"field": d["key"], "from": d["from"], "to": d["to"]}
            lines.append({"series": series, **change, **d[series]})
    return [names, *([line.get(name) for name in names] for line in lines)]


def span_rows(timeline: Timeline) -> list[list[Any]]:
    """Return the spans of a timeline, first cycle and that after the last, with a header."""
    lines: list[list[Any]] = [["track", "first_cycle", "end_cycle", "item", "state", "reads"]]
    for track, first, end, item, state, reads in timeline.spans.tolist():
        label = "" if item == NO_ITEM else timeline.label(item)
        lines.append(
            [timeline.tracks[track], first, end, label, timeline.states[state], max(reads, 0)]
        )
    return lines


def write_table(name: str, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as CSV beside the page."""
    with PAGE.with_name(name).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def put(page: str, name: str, text: str) -> str:
    """Replace what stands between the marks ``name``."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, _, rest = page.partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{PAGE}: no marks for '{name}'")
    return f"{before}{start}\n{text}\n{end}{after}"


def _cells(point: AblationPoint, reasons: dict[str, int]) -> tuple[str, str]:
    if point.refused is not None:
        return f"refused ({reasons.setdefault(point.refused, len(reasons) + 1)})", ""
    return f"{point.latency_cycles:,}", f"{point.speedup:.2f}x"


def _text(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _first_cycle(timeline: Timeline, step: int) -> int:
    """Return when the first unit works for a step."""
    spans = timeline.spans[(timeline.spans[:, 3] != NO_ITEM) & (timeline.spans[:, 4] == 0)]
    return int(spans[timeline.step[spans[:, 3] >> 2] == step, 1].min())


def draw_timeline() -> None:
    """Draw the last layer of one token of the demo and the first layers of the next."""
    whole = replay(DEMO, policy=POLICY, baselines=[], timeline=(None, None)).timeline
    assert whole is not None
    begin = _first_cycle(whole, TOKEN)
    window = (begin - 600, begin + 1100)
    part = replay(DEMO, policy=POLICY, baselines=[], timeline=window).timeline
    assert part is not None
    figure = timeline_figure(part, requests=100)
    axes = figure.axes[0]
    title = f"{Path(DEMO).stem} under {POLICY} on {AFTER}: keys of a layer asked for"
    axes.set_title(title, fontsize=9, pad=14)
    axes.set_xlim(*window)
    rows = np.flatnonzero(np.diff(part.layer, prepend=-1) != 0)
    for row in rows:
        spans = part.spans[(part.spans[:, 3] >> 2 == row) & (part.spans[:, 3] != NO_ITEM)]
        spans = spans[spans[:, 4] == 0]
        name = f"token {part.step[row]}, layer {part.layer[row]}"
        if len(spans) and window[0] < spans[:, 1].min() < window[1] - 150:
            axes.axvline(spans[:, 1].min(), color="k", linewidth=0.8, linestyle=":")
            axes.text(spans[:, 1].min(), -0.6, f" {name}", fontsize=6, va="bottom")
    write_picture(PAGE.with_name("spatten-timeline.svg"), figure)
    write_table("spatten-timeline.csv", span_rows(part))


def main() -> None:
    """Run the ablation and rewrite the page and its pictures."""
    result = ablate(BEFORE, AFTER, SOURCE, order=ORDER)
    page = put(PAGE.read_text(encoding="utf-8"), "ablation", ablation_table(result))
    PAGE.write_text(page, encoding="utf-8")
    write_picture(PAGE.with_name("spatten-ablation.svg"), ablation_figure(result))
    write_table("spatten-ablation.csv", ablation_rows(result))
    draw_timeline()
    print(f"wrote {PAGE} and its pictures")


if __name__ == "__main__":
    main()
