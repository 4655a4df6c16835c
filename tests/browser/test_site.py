"""The built site, as a reader's browser and a reader's links find it.

Run after the build: `make browser`, or as the last step of `make test`. The tests of what a browser
shows need chromium and node, and what `npm ci` installs in this folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

HERE = Path(__file__).resolve().parent
SITE = HERE.parents[1] / "_build" / "html"
RECORDS = sorted((SITE / "records").glob("*/*.html"), key=lambda page: page.stat().st_size)
# The pages of records are made alike: the shortest, the longest and one between stand for them.
PAGES = sorted(SITE.glob("*.html")) + sorted({*RECORDS[:1], *RECORDS[len(RECORDS) // 2 :][:1]})
PAGES += RECORDS[-1:]
CHROMIUM = shutil.which("chromium")
MISSING = [
    *([] if CHROMIUM else ["chromium"]),
    *([] if shutil.which("node") else ["node"]),
    *(
        f"{p} (npm ci)"
        for p in ("playwright-core", "axe-core")
        if not (HERE / "node_modules" / p).is_dir()
    ),
]

pytestmark = pytest.mark.skipif(not PAGES, reason="no site in _build/html: make book")


def below(page: Path) -> str:
    return page.relative_to(SITE).as_posix()


each = pytest.mark.parametrize("page", PAGES, ids=below)


# --- What a browser shows -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def visited() -> dict:
    """{page: {state: what is wrong there}}, of all pages in one browser."""
    if MISSING:
        pytest.skip(f"not installed: {', '.join(MISSING)}")
    command = ["node", HERE / "visit.mjs", SITE, *map(below, PAGES)]
    environment = os.environ | {"CHROMIUM": CHROMIUM}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def wrong(visited: dict, page: Path, what: str) -> dict:
    return {state: found[what] for state, found in visited[below(page)].items() if found[what]}


@each
def test_no_rule_of_accessibility_is_broken_seriously_in_light_or_dark(visited, page):
    assert wrong(visited, page, "serious") == {}


@each
def test_no_page_is_wider_than_its_window(visited, page):
    assert wrong(visited, page, "overflow") == {}


@each
def test_no_page_asks_another_server_for_anything(visited, page):
    assert wrong(visited, page, "requests") == {}


@each
def test_no_page_writes_an_error_to_the_console(visited, page):
    assert wrong(visited, page, "errors") == {}


@each
def test_every_text_stands_out_from_its_ground_at_least_as_4_5_to_1(visited, page):
    assert wrong(visited, page, "contrast") == {}


# --- Links ----------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page links to, and the anchors that it has."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = {"", "top"}
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list) -> None:
        found = dict(attrs)
        self.anchors |= {found[name] for name in ("id", "name") if found.get(name)}
        self.links |= {found[n] for n in ("href", "src", "data-src") if found.get(n) is not None}


def dead(file: Path, known: dict[Path, set[str]]) -> list[str]:
    """The links of a page to files or anchors that are not there."""
    found = []
    for link in sorted(Page(file).links):
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
        if not target.is_file():
            found.append(link)
        elif target.suffix == ".html" and parts.fragment:
            if target not in known:
                known[target] = Page(target).anchors
            if unquote(parts.fragment) not in known[target]:
                found.append(link)
    return found


def test_every_link_within_the_site_leads_to_a_file_and_an_anchor_that_are_there():
    known: dict[Path, set[str]] = {}
    found = {below(page): dead(page, known) for page in [*PAGES, *RECORDS]}
    assert {page: links for page, links in found.items() if links} == {}


def test_a_dead_link_and_a_dead_anchor_are_found(tmp_path):
    other = tmp_path / "other.html"
    other.write_text('<p id="here"><a name="there">')
    page = tmp_path / "page.html"
    links = ["other.html#here", "other.html#there", "https://example.org/x", "#top", "mailto:a@b"]
    lost = ["gone.html", "other.html#gone", "#gone"]
    page.write_text("".join(f'<a href="{link}">' for link in links + lost) + '<img src="gone.png">')
    assert dead(page, {}) == sorted([*lost, "gone.png"])
