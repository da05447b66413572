"""The documentation site: built without warnings, complete, and independent of any other server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

import tune_swa
from helpers.programs import ROOT
from tune_swa.results.api import Results

REPORT = "results/examples/digits/report.html"


class _References(HTMLParser):
    """Links of a page, and what it loads by itself."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        for name in ("href", "src"):
            target = given.get(name)
            if target and not target.startswith("data:"):
                (self.links if tag == "a" else self.loaded).append(target)


@pytest.fixture(scope="module")
def site(module_path: Path) -> Path:
    command = ["-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(module_path / "site")]
    built = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert (built.returncode, built.stdout + built.stderr) == (0, "")
    return module_path / "site"


def written_pages(site: Path) -> list[Path]:
    return [page for page in sorted(site.rglob("*.html")) if page.name not in ("404.html", "report.html")]


def test_every_document_is_a_page(site: Path) -> None:
    documents = [ROOT / "README.md", ROOT / "results" / "README.md", *(ROOT / "docs").glob("*.md")]
    titles = {re.findall(r"<h1[^>]*>(.*?)<", page.read_text())[0] for page in written_pages(site)}
    assert {re.findall(r"^# (.*)$", d.read_text(), re.MULTILINE)[0] for d in documents} <= titles


def test_pages_load_nothing_from_elsewhere_and_links_lead_somewhere(site: Path) -> None:
    pages = written_pages(site)
    assert len(pages) > 15
    for page in pages:
        found = _References(page)
        assert not [target for target in found.loaded if "//" in target], page
        for target in found.links + found.loaded:
            path = unquote(re.split("[?#]", target)[0])
            assert "://" in target or (page.parent / path).exists(), f"{page.name}: {target}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\W*(https?:)?//", sheet.read_text()), sheet


def test_lists_are_lists(site: Path) -> None:
    """Also those without a blank line before them, which code hosts take for lists."""
    for page in written_pages(site):
        text = re.sub(r"<(pre|code).*?</\1>", "", page.read_text(), flags=re.DOTALL)
        assert not re.search(r"<p>[^<]*\n[-*|] ", text), page.name
        assert "```" not in text, page.name


def test_the_example_report_is_in_the_site(site: Path) -> None:
    assert (site / REPORT).read_bytes() == (ROOT / REPORT).read_bytes()
    links = _References(site / "index.html").links
    assert links.count(REPORT) >= 2  # the README's, and that of every page


def test_the_reference_has_every_public_name(site: Path) -> None:
    named = set(re.findall(r'id="tune_swa\.([\w.]+)"', (site / "api.html").read_text()))
    public = {name for name in tune_swa.__all__ if not name.startswith("_")}
    assert public <= {name.rpartition(".")[2] for name in named}
    members = {name for name in vars(Results) if not name.startswith("_")}
    assert {f"results.api.Results.{name}" for name in members | set(Results.__annotations__)} - named == {
        "results.api.Results._copy"
    }
