"""The site builds strictly, asks for nothing, holds every key, and reads well on a phone."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import accelsim
from accelsim.errors import TraceError
from accelsim.exploration import RunResult, replay
from accelsim.traces import load_trace, save_trace, synthetic_trace

ROOT = Path(__file__).parents[2]
SITE = ROOT / "docs" / "site"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
PACKAGES = ("sphinx", "furo", "myst_parser", "sphinx_click", "mmdr")


def of_site(name: str) -> Any:
    """A module of ``docs/site``."""
    sys.path.insert(0, str(SITE))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(SITE))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as ``make docs`` does."""
    for package in PACKAGES:
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("docs") / "site"
    run = subprocess.run(
        [sys.executable, SITE / "build.py", folder], capture_output=True, text=True, cwd=ROOT
    )
    assert run.returncode == 0, run.stderr
    assert not run.stderr
    return folder


def text_of(page: Path) -> str:
    return re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_a_broken_link_stops_the_build(tmp_path: Path) -> None:
    for package in PACKAGES:
        pytest.importorskip(package)
    for text in ("gone.md", "index.md#gone", "#gone"):
        (tmp_path / "index.md").write_text(f"# Start\n[gone]({text})\n")
        options = ["-q", "-E", "-W", "-c", SITE, "-b", "html", tmp_path, tmp_path / "out"]
        run = subprocess.run(
            [sys.executable, "-m", "sphinx", *options], capture_output=True, text=True, cwd=ROOT
        )
        assert run.returncode == 1
        assert "xref_missing" in run.stderr


@pytest.mark.slow
def test_pages_ask_for_nothing_beyond_the_site(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 60
    for page in pages:
        text = page.read_text(encoding="utf-8")
        fetched = re.findall(r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=\"([^\"]+)", text)
        for target in fetched:
            assert not re.match(r"(https?:)?//", target), f"{page.name}: {target}"
            if not target.startswith(("data:", "#")):
                assert (page.parent / target.partition("?")[0]).exists(), f"{page.name}: {target}"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//", style.read_text(encoding="utf-8"))
    assert '"refetch"' in (site / "searchindex.js").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_modules_are_there_and_private_ones_are_not(site: Path) -> None:
    start = (site / "docs/reference/api/accelsim.html").read_text(encoding="utf-8")
    for name in accelsim.__all__:
        assert f'id="accelsim.{name}"' in start or name == "__version__"
    pages = [page.stem for page in (site / "docs/reference/api").glob("*.html")]
    assert "accelsim.hardware" in pages
    assert not [name for name in pages if "._" in name]


@pytest.mark.slow
def test_every_verb_and_option_is_there(site: Path) -> None:
    from accelsim.cli import VERBS, cli

    text = text_of(site / "docs/reference/cli.html")
    for verb in VERBS:
        command = cli.get_command(None, verb)  # type: ignore[arg-type]
        assert f"accelsim {verb}" in text
        for option in command.params if command else ():
            names = (
                option.opts if isinstance(option, click.Option) else [option.human_readable_name]
            )
            assert all(name in text for name in names), f"{verb} {names}"


@pytest.mark.slow
def test_every_key_of_every_file_is_there(site: Path) -> None:
    schemas = of_site("schemas")
    for family, classes in schemas.roots().items():
        text = (site / f"docs/reference/yaml/{family}.html").read_text(encoding="utf-8")
        for cls in schemas.order(classes):
            assert f'id="yaml-{family}-{schemas.slug(cls)}"' in text
            for name, field in cls.model_fields.items():
                assert f'<span class="pre">{field.alias or name}</span>' in text, f"{cls} {name}"
    text = text_of(site / "docs/reference/yaml/memories.html")
    assert "whole number, from 1 to 4,096 bytes; default 32." in text
    assert "Bytes of one read or write burst." in text
    assert "Ramulator" in text


def test_keys_are_told_with_type_bounds_unit_and_default() -> None:
    pytest.importorskip("sphinx")
    schemas = of_site("schemas")
    from accelsim.baselines import Platform
    from accelsim.hardware.config import MemoryConfig

    def entry(cls: Any, name: str) -> str:
        text: str = schemas.entry("x", cls, name, cls.model_fields[name], [cls])
        return text

    assert "number, from 1000 to 1e12 Hz; default ``1e9``." in entry(MemoryConfig, "clock_hz")
    assert "one of ``1``, ``2``; default ``1``." in entry(MemoryConfig, "command_buses")
    assert "bytes or ``null``; default ``null``." in entry(MemoryConfig, "interleave_bytes")
    assert "W; required." in entry(Platform, "load_power_w")
    assert "Power under load" in entry(Platform, "load_power_w")


def jsonschema_of(name: str) -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    schema = of_site("documents").SCHEMAS[name]()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.fixture(scope="module")
def decoder() -> Any:
    return synthetic_trace(head_dim=64, num_layers=2, prefill_tokens=12, decode_tokens=3)


def documents(decoder: Any) -> Iterator[RunResult]:
    yield replay(decoder, policy="spatten-full", baselines=["titan-xp", "h100"], streamed=True)
    yield replay(decoder, accelerator="a3-base", baselines=[])
    yield replay("traces/spatten-gpt2/small.csv", "spatten-rtl-eighth", baselines=[])


@pytest.mark.slow
def test_results_follow_their_schema(decoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    check = jsonschema_of("result")
    for result in documents(decoder):
        document = json.loads(result.to_json())
        check.validate(document)
        for key in check.schema["required"]:
            assert not check.is_valid({k: v for k, v in document.items() if k != key})
        assert not check.is_valid(document | {"metrics": document["metrics"] | {"latency_s": "1"}})


def test_headers_follow_their_schema(decoder: Any, tmp_path: Path) -> None:
    check = jsonschema_of("trace-header")
    mine = tmp_path / "mine.safetensors"
    save_trace(decoder, mine)
    for path in (*sorted((ROOT / "traces").glob("*.safetensors")), mine):
        check.validate(header(path)["__metadata__"])
    whole = header(mine)
    for key in check.schema["required"]:
        less = {k: v for k, v in whole["__metadata__"].items() if k != key}
        assert not check.is_valid(less)
        broken = tmp_path / "broken.safetensors"
        data = mine.read_bytes()[8 + int.from_bytes(mine.read_bytes()[:8], "little") :]
        text = json.dumps(whole | {"__metadata__": less}).encode()
        broken.write_bytes(len(text).to_bytes(8, "little") + text + data)
        with pytest.raises(TraceError, match=re.escape(key)):
            load_trace(broken)


def header(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        found: dict[str, Any] = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return found


WIDTHS = (1440, 768, 390)
LOOKED_AT = (
    "index.html",
    "docs/start.html",
    "docs/accelerators/spatten.html",
    "docs/validation.html",
    "docs/reference/cli.html",
    "docs/reference/yaml/energy.html",
    "docs/reference/schemas/index.html",
    "docs/reference/api/accelsim.hardware.html",
)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_every_width(site: Path, scheme: str) -> None:
    """Nothing is wider than the window, nothing is said in the console, nothing is fetched."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(color_scheme=scheme)
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on(
            "request",
            lambda request: None if request.url.startswith("file:") else said.append(request.url),
        )
        for name in LOOKED_AT:
            page.goto((site / name).as_uri())
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 900})
                wide = page.evaluate("document.documentElement.scrollWidth")
                assert wide <= width, f"{name} at {width}"
            ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
            bright = sum(map(int, re.findall(r"\d+", ground)[:3])) > 384
            assert bright == (scheme == "light"), name
        page.goto((site / "search.html").as_uri() + "?q=refetch")
        page.wait_for_selector("ul.search li")
        browser.close()
        assert not said
