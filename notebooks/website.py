"""What the site has beside its pages: titles and pictures on cards, dates, a map, a page for what
is not there.

Named in _config.yml as an extension of Sphinx. A card's picture and the map need whole addresses;
they are made where _config.yml names the site's own (html: baseurl), and left out elsewhere.
"""

from __future__ import annotations

import html
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from docutils import nodes

ROOT = Path(__file__).resolve().parent.parent
OWN = re.compile(r"(?:book|notebooks)/([^/.]+)(?:\.(?:md|ipynb|py)$|/)")  # what a page is made of
NOT_FOUND = """<h1>There is no such page</h1>
<p>It may have been renamed. The <a href="index.html">first page</a> leads to all others, and
<a href="search.html">the search</a> finds what they say.</p>"""


def setup(app) -> dict:
    """The hook of Sphinx."""
    app.connect("html-page-context", describe)
    app.connect("html-collect-pages", not_found)
    app.connect("build-finished", write_map)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def describe(app, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Give each page its own title on cards, a picture and a date, and the first page its title
    once."""
    title = context.get("title", "")
    if pagename == app.config.root_doc:
        context["docstitle"] = ""
    elif title:
        own = html.escape(html.unescape(re.sub("<[^>]+>", "", title)))
        tag = f'<meta content="{app.config.html_title}" property="og:title" />'
        context["metatags"] = context.get("metatags", "").replace(
            tag, tag.replace(app.config.html_title, own)
        )
    context["last_updated"] = changed(ROOT).get(pagename)
    # A list may hold list items only, and these entries are none to a screen reader.
    listed = '<div role="list" class="citation-list">'
    context["body"] = context.get("body", "").replace(listed, "<div>")
    base = app.config.html_baseurl.rstrip("/")
    if base:
        picture = first_picture(app, doctree)
        tag = f'<meta content="{base}/{picture}" property="og:image" />' if picture else ""
        # What is not found is asked for below any folder.
        tag += f'<base href="{base}/" />' if pagename == "404" else ""
        context["metatags"] = context.get("metatags", "") + tag


def first_picture(app, doctree: nodes.document | None) -> str | None:
    """The first figure of a page, by its address below the site."""
    for image in doctree.findall(nodes.image) if doctree else ():
        if image["uri"] in app.builder.images:
            return f"{app.builder.imagedir}/{app.builder.images[image['uri']]}"
    return None


@cache
def changed(root: Path) -> dict[str, str]:
    """{page of the book: the day of the last commit that changed it, its notebook, its program or
    its folder}; empty outside a checkout. What it reads of the records is in the executed page."""
    command = ["git", "log", "--format=day %cs", "--name-only", "--", "book", "notebooks"]
    try:
        log = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    days: dict[str, str] = {}
    for line in filter(None, log.splitlines()):
        if line.startswith("day "):
            day = line.removeprefix("day ")
        elif own := OWN.match(line):
            days.setdefault(own[1], day)
    return days


def not_found(app) -> Iterator[tuple[str, dict, str]]:
    """The page that a server shows for an address without one."""
    yield "404", {"title": "There is no such page", "body": NOT_FOUND}, "page.html"


def write_map(app, exception: Exception | None) -> None:
    """Write sitemap.xml, of the pages of the table of contents."""
    base = app.config.html_baseurl.rstrip("/")
    if exception or not base or app.builder.format != "html":
        return
    entries = []
    for page in sorted(app.env.found_docs):
        day = changed(ROOT).get(page)
        date = f"<lastmod>{day}</lastmod>" if day else ""
        entries.append(f"<url><loc>{html.escape(f'{base}/{page}.html')}</loc>{date}</url>\n")
    head = '<?xml version="1.0" encoding="utf-8"?>\n'
    head += '<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
    text = f"{head}{''.join(entries)}</urlset>\n"
    (Path(app.outdir) / "sitemap.xml").write_text(text, encoding="utf-8")
