"""Both reports in Chromium at three widths, light and dark: they fit, nothing is cut or said."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from accelsim.cli import main
from accelsim.reports._page_table import Table, table_html
from accelsim.traces import save_trace, synthetic_trace
from accelsim.units import si

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
WIDTHS = (1440, 768, 390)
CUT = """() => {
  // Text that leaves the window, and that no box around it scrolls to.
  const scrolls = e => e && (/(auto|scroll)/.test(getComputedStyle(e).overflowX) ||
                             scrolls(e.parentElement));
  return [...document.querySelectorAll('h1, h2, p, td, th, figcaption, summary, svg')]
    .filter(e => { const box = e.getBoundingClientRect();
                   return (box.right > innerWidth + 1 || box.left < -1) && !scrolls(e); })
    .map(e => e.tagName + ': ' + e.textContent.slice(0, 40)); }"""
INK = """() => {
  // Texts, and what is drawn as text, whose colour is that of the page.
  const rgb = text => text.match(/[0-9.]+/g).slice(0, 3).map(Number);
  const page = rgb(getComputedStyle(document.body).backgroundColor);
  return [...document.querySelectorAll('body *')]
    .filter(e => e.children.length === 0 && e.textContent.trim() && e.getClientRects().length)
    .filter(e => !['SCRIPT', 'STYLE'].includes(e.tagName) && !e.closest('details, figure > svg'))
    .filter(e => { const style = getComputedStyle(e);
                   const ink = rgb(e instanceof SVGElement ? style.fill : style.color);
                   return Math.max(...ink.map((c, i) => Math.abs(c - page[i]))) < 60; })
    .map(e => e.tagName + ': ' + e.textContent.slice(0, 40)); }"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of ``compare --out``, the one of ``report``, and their data."""
    folder = tmp_path_factory.mktemp("looks")
    trace = synthetic_trace(
        num_layers=2, num_query_heads=2, num_kv_heads=2, head_dim=64,
        prefill_tokens=12, decode_tokens=3,
    )  # fmt: skip
    save_trace(trace, folder / "small.safetensors")
    policies = [x for name in ("dense", "spatten-full", "static-8") for x in ("--policy", name)]
    main(["compare", str(folder / "small.safetensors"), *policies, "--out", str(folder)])
    main(["report", str(folder / "compare.json"), "--out", str(folder / "interactive.html")])
    main(["report", str(folder / "compare.json"), "--out", str(folder / "report.md")])
    return {
        "static": folder / "report.html",
        "interactive": folder / "interactive.html",
        "markdown": folder / "report.md",
        "data": folder / "compare.json",
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["static", "interactive", "markdown"])
def test_a_summary_in_words_is_on_top(pages: dict[str, Path], kind: str) -> None:
    results = json.loads(pages["data"].read_text())["results"]
    text = html.unescape(re.sub(r"<[^>]+>|\\", "", pages[kind].read_text(encoding="utf-8")))
    top = text[text.index("dense: ") :][:1500]
    for name in results:
        assert f"{name}: " in top
    run = results["spatten-full"]
    busiest = max(m["busy_cycles"] for m in run["modules"].values())
    share = f"{100 * busiest / run['metrics']['latency_cycles']:.3g} % of the time"
    assert share in top
    assert "is the busiest block" in top


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["static", "interactive"])
def test_pages_fit_and_can_be_read(
    browser: Any, pages: dict[str, Path], kind: str, scheme: str, tmp_path: Path
) -> None:
    page = browser.new_page(color_scheme=scheme)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(pages[kind].as_uri())
        if kind == "interactive":
            page.wait_for_selector("body[data-rendered]", timeout=30_000)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width
        assert page.evaluate(CUT) == []
        assert page.evaluate(INK) == []
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        bright = sum(map(int, re.findall(r"\d+", ground)[:3])) > 384
        assert bright == (scheme == "light")
        shot = page.screenshot(path=tmp_path / f"{kind}-{width}-{scheme}.png", full_page=True)
        assert len(shot) > 20_000
    assert said == []
    page.close()


def copied(page: Any, title: str, kind: str) -> list[str]:
    """Press the button of a table; return the lines of the clipboard."""
    page.locator(f"h2:text-is('{title}') + .copy button[data-as={kind}]").click()
    page.wait_for_selector(f"h2:text-is('{title}') + .copy button:text-is('copied')")
    return str(page.evaluate("navigator.clipboard.readText()")).splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "title", "label"),
    [("static", "DRAM", "all reads"), ("interactive", "Metrics", "dram_read_bytes (B)")],
)
def test_tables_are_copied_as_csv_markdown_and_latex(
    browser: Any, pages: dict[str, Path], kind: str, title: str, label: str
) -> None:
    results = json.loads(pages["data"].read_text())["results"]
    reads = [run["metrics"]["dram_read_bytes"] for run in results.values()]
    if kind == "static":  # as people read it; in full where a cell is a number
        reads = [si(number, "B") for number in reads]
    context = browser.new_context()
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(pages[kind].as_uri())
    head, *rows = csv.reader(copied(page, title, "CSV"))
    assert head[1:] == list(results)
    (row,) = [row for row in rows if row[0] == label]
    assert row[1:] == [str(number) for number in reads]

    markdown = copied(page, title, "Markdown")
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in markdown}) == 1
    name = label.replace("_", r"\_")
    assert f"| {name} | {' | '.join(map(str, reads))} |" in markdown

    latex = copied(page, title, "LaTeX")
    columns = "r" * len(results)
    assert (latex[0], latex[-1]) == (rf"\begin{{tabular}}{{l{columns}}}", r"\end{tabular}")
    assert rf"{name} & {' & '.join(map(str, reads))} \\" in latex
    context.close()


def test_both_pages_have_their_tables_from_one_builder() -> None:
    evil = "<b>|&"
    table = table_html(Table(evil, ["", evil], [[evil, 0.1234567], [None, True]], sorts=False))
    assert "<b>" not in table
    assert '<td data-n="0.1234567">0.123457</td>' in table
    assert '<td class="text">–</td><td class="text">True</td>' in table
    assert "class=sorts" not in table
