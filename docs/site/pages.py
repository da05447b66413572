"""A hook of mkdocs: which files of the repository are in the site, and what of them reads differently there.

Every file keeps its path in the repository as its name for mkdocs, so that links are written once and lead to
the same pages on a code host and in the site. In the site's addresses, `docs/` is left out.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent.parent
PATTERNS = (
    "README.md",
    "docs/*.md",
    "docs/examples/*",
    "docs/images/*",
    "docs/site/*.css",
    "docs/site/*.svg",
    "results/README.md",
    "results/examples/digits/report.html",
    "benchmarks/RESULTS.md",
)
EXAMPLE = "results/examples/digits"
"""A link to this folder leads to its report: the site has no list of a folder's files."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace what mkdocs found in `docs/` by the files of `PATTERNS`; those of the theme stay."""
    theirs = [file for file in files if file.src_dir != config.docs_dir]
    paths = sorted(path.relative_to(ROOT) for pattern in PATTERNS for path in ROOT.glob(pattern))
    return Files([*theirs, *(_make_file(path.as_posix(), config) for path in paths)])


def _make_file(path: str, config: MkDocsConfig) -> File:
    file = File(path, str(ROOT), config.site_dir, config.use_directory_urls)
    file.dest_uri = file.dest_uri.removeprefix("docs/")
    return file


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write a page as Python-Markdown reads it."""
    markdown = re.sub(rf"(\]\([./]*{EXAMPLE})/?\)", r"\1/report.html)", markdown)
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        _name_language(part) if part.startswith("```") else _separate_lists(part) for part in parts
    )


def _name_language(block: str) -> str:
    """Leave the language alone on the first line of a block of code: ```plan NAME is for the tests."""
    return re.sub(r"^(```\w+) .*", r"\1", block)


def _separate_lists(text: str) -> str:
    """Put a blank line before a list that begins right below its introduction, where code hosts need none."""
    blocks = text.split("\n\n")
    return "\n\n".join(
        block if re.match(r"\s*[-|]", block) else re.sub(r"\n- ", "\n\n- ", block, count=1)
        for block in blocks
    )
