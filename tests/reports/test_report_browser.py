"""Reports in a real headless browser: no error in the console, no request, the numbers shown."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import accelsim
from accelsim.exploration import replay
from accelsim.reports.interactive import report

ROOT = Path(__file__).parents[2]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def opened(browser: Any, path: Path) -> Any:
    """Open a report; fail on anything in the console or any request beside the file."""
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append("a dialog opened"), dialog.dismiss()))
    page.on("request", lambda request: said.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-rendered]", timeout=30_000)
    assert said == [path.as_uri()]
    return page


def rows_of(page: Any, title: str) -> list[list[str]]:
    script = """title => {
      const heading = [...document.querySelectorAll('h2')].find(h => h.textContent === title);
      return [...heading.nextElementSibling.nextElementSibling.querySelectorAll('tbody tr')].map(
        row => [...row.cells].map(c => c.dataset.n ?? c.textContent)); }"""
    found: list[list[str]] = page.evaluate(script, title)
    return found


def test_a_result_shows_the_numbers_of_its_json(browser: Any, tmp_path: Path) -> None:
    trace = ROOT / "traces" / "minilm-128.safetensors"
    document = replay(trace, policy="spatten-encoder-tokens").to_dict()
    # A hostile trace: its name, and the names of what it holds.
    evil = "<img src=x onerror=alert(1)></script><script>alert(1)</script>"
    document["manifest"]["source"] = f"{evil}.safetensors"
    document["warnings"] += [evil]
    document["energy_j_by_part"][evil] = 1e-6
    source = tmp_path / "result.json"
    source.write_text(json.dumps(document))
    page = opened(browser, report(source, tmp_path / "report.html"))

    shown = {row[0].split(" ")[0]: row[1] for row in rows_of(page, "Metrics")}
    numbers = {name: None if text == "–" else float(text) for name, text in shown.items()}
    assert numbers == document["metrics"]
    drawn = page.evaluate("document.querySelectorAll('.chart svg.marks').length")
    assert drawn == 8
    assert evil in page.inner_text("body")


def test_a_store_sorts_and_draws_every_point(browser: Any, tmp_path: Path) -> None:
    sweep = tmp_path / "small.yaml"
    sweep.write_text(
        f"kind: sweep\nsources: [{ROOT / 'traces' / 'minilm-128.safetensors'}]\n"
        "axes: [{key: accelerator.multipliers, values: [512, 64, 128]}]\n"
    )
    results = accelsim.sweep(sweep, tmp_path / "store")
    page = opened(browser, report(tmp_path / "store", tmp_path / "report.html"))
    keys = {row["key"][:12] for row in results.rows}
    assert {row[0] for row in rows_of(page, "Points")} == keys
    page.click("th:text-is('accelerator.multipliers')")
    assert [row[3] for row in rows_of(page, "Points")] == ["64", "128", "512"]
    page.click("th:text-is('accelerator.multipliers')")
    assert [row[3] for row in rows_of(page, "Points")] == ["512", "128", "64"]
    assert (
        page.evaluate("document.querySelectorAll('#chart-0 .mark-symbol.role-mark path').length")
        == 3
    )
