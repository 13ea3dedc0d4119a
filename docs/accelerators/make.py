"""Write the generated parts of ``spatten.md``: ``python docs/accelerators/make.py``.

The table of fields and the ablation stand between ``<!-- name -->`` marks; the pictures beside the
page come from the same runs.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from accelsim.configs import config_root
from accelsim.exploration import Ablation, AblationPoint, ablate, differences, replay
from accelsim.hardware import load_accelerator
from accelsim.reports import ablation_figure, write_picture, write_timeline

PAGE = Path(__file__).parent / "spatten.md"
BEFORE, AFTER = "spatten-rtl", "spatten-paper"
SOURCE = "gpt2-small-wikitext2"
ORDER = ("index_pattern", "rounding", "requant_bits", "topk.source_of_passes")
"""First in the cumulative series: without its own indexes the machine refuses the others."""
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


def field_table() -> str:
    """Return every field that differs, with both values and the source of each, as Markdown."""
    old, new = sources(BEFORE), sources(AFTER)
    lines = [f"| field | `{BEFORE}` | source | `{AFTER}` | source |", "|---|---|---|---|---|"]
    for d in differences(load_accelerator(BEFORE), load_accelerator(AFTER)):
        cells = (f"`{d.key}`", _text(d.before), old[d.key], _text(d.after), new[d.key])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


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


def main() -> None:
    """Run the ablation and rewrite the page and its pictures."""
    result = ablate(BEFORE, AFTER, SOURCE, order=ORDER)
    page = put(PAGE.read_text(encoding="utf-8"), "fields", field_table())
    page = put(page, "ablation", ablation_table(result))
    PAGE.write_text(page, encoding="utf-8")
    write_picture(PAGE.with_name("spatten-ablation.svg"), ablation_figure(result))
    first = replay(SOURCE, BEFORE, baselines=[], timeline=(0, 20_000)).timeline
    assert first is not None
    title = f"{SOURCE} on {BEFORE}, event engine"
    write_timeline(PAGE.with_name("spatten-timeline.svg"), first, title=title)
    print(f"wrote {PAGE} and its pictures")


if __name__ == "__main__":
    main()
