"""The site beside its pages: records as pages, links to them, titles, dates, a map."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from docutils import nodes

from reproduce import records
from reproduce.records import Record, Run
from reproduce.report import tables
from tests.test_pages import load

CREATED = "2026-01-02T03:04:05+00:00"
RUN = Run(
    wall_s=120,
    device="a <b>",
    versions={"torch": "2"},
    commit="c" * 40,
    dirty=False,
    created=CREATED,
)
DATA = {"name": "digits", "sha256": "d" * 64}


@pytest.fixture
def archive(monkeypatch, folders):
    """notebooks/archive.py, over a network of two measurements."""
    asked = {"kind": "dqa", "seed": 0}
    network = records.key(asked)
    of = {"folder": f"dqa-digits/laptop-x-seed0-{network}", "dataset": DATA, "run": RUN}
    records.write(Record(name="network", configuration=asked, values={"loss": [2.0, 0.5]}, **of))
    evaluation = {"kind": "evaluation", "network": network}
    bits = np.array([True, True, False, True])
    records.write(Record(name="pgd", configuration=evaluation, bits=bits, **of))
    norms = np.array([0, 1, 3, np.inf], np.float32)
    records.write(Record(name="cw", configuration=evaluation | {"attack": 1}, norms=norms, **of))
    return load("archive", monkeypatch)


def only(archive):
    (page,) = archive.pages(None)
    return page


def test_a_network_has_one_page_with_every_measurement_what_was_asked_and_what_came_out(archive):
    name, context, _ = only(archive)
    body = context["body"]
    keys = [r.key for r in records.every()]
    assert name == f"records/{next(records.every()).folder}" and len(keys) == 3
    assert [body.count(f'id="record-{key}"') for key in keys] == [1, 1, 1]
    assert "3 of 4 right (75.00 %)" in body, "three of the four bits"
    assert "2 of 3 broken, median l2 norm 2" in body, "one was misjudged as it stands, one held"
    assert "loss 0.5" in body and "2.0 min on a &lt;b&gt;" in body
    assert body.count("digest ") == 3 and "&quot;kind&quot;: &quot;evaluation&quot;" in body


def test_a_run_that_failed_says_why_on_the_page(archive):
    (first, *_) = records.every()
    asked = {"kind": "evaluation", "network": first.folder[-8:], "seed": 1}
    of = {"folder": first.folder, "dataset": DATA, "run": RUN, "configuration": asked}
    records.write(Record(name="nes", error="out of <memory>\nat line 1", **of))
    assert "failed: out of &lt;memory&gt;<" in only(archive)[1]["body"]


def test_every_run_has_a_place_of_its_own_and_a_key_leads_to_what_succeeded_else_to_the_last_try(
    archive,
):
    network, pgd = (r for r in records.every() if r.name in ("network", "pgd"))
    never = replace(pgd, name="nes", configuration=pgd.configuration | {"seed": 1}, bits=None)
    days = ("2026-01-01", "2026-01-03")
    tries = [RUN] + [replace(RUN, created=CREATED.replace("2026-01-02", d)) for d in days]
    for record in (network, pgd, never):
        for run in tries:
            of = {"run": run, "bits": None, "values": {}, "error": "out of memory"}
            records.write(replace(record, **of))
    page, context, _ = only(archive)
    ids = re.findall(r' id="([^"]+)"', context["body"])
    assert len(ids) == len(set(ids)) == 3 + 9
    assert "loss 0.5" in context["body"], "the training that succeeded is the one described"
    places = {r.key: archive.addresses()[r.key] for r in (network, pgd, never)}
    assert places[network.key] == f"{page}.html#record-{network.key}"
    assert places[pgd.key] == f"{page}.html#record-{pgd.key}"
    assert places[never.key] == f"{page}.html#record-{never.key}-failed-2026-01-03T030405+0000"
    assert len(archive.addresses()) == 4
    assert {place.partition("#")[2] for place in archive.addresses().values()} <= set(ids)


def test_the_key_of_a_record_leads_to_its_row_from_any_depth_and_no_other_code_does(archive):
    key = next(r.key for r in records.every() if r.name == "pgd")
    codes = [nodes.literal("", text) for text in (key, "00000000", "bits")]
    paragraph = nodes.paragraph("", "", *codes)
    tree = nodes.section("", paragraph)
    app = SimpleNamespace(builder=SimpleNamespace(format="html"))
    archive.link_keys(app, tree, "deep/page")
    (link,) = tree.findall(nodes.reference)
    assert link["refuri"] == f"../{only(archive)[0]}.html#record-{key}"
    assert (
        paragraph.astext() == f"{key}00000000bits" and len(list(tree.findall(nodes.literal))) == 3
    )
    archive.link_keys(app, tree, "deep/page")
    assert len(list(tree.findall(nodes.reference))) == 1


def test_a_table_names_the_record_of_each_row_and_refuses_a_row_without_one():
    def results(key):
        return SimpleNamespace(network=SimpleNamespace(key=key))

    frame = pd.DataFrame({"network": ["ReLU", "*fixed*", "new"], "%": [1.0, 2.0, 3.0]})
    of = {
        "ReLU": results("aaaaaaaa"),
        "fixed": [results("bbbbbbbb"), results("cccccccc")],
        "new": [],
    }
    lines = tables.markdown(frame, of=of).splitlines()
    assert lines[0] == "| network | % | record |"
    assert lines[2:] == [
        "| ReLU | 1.0 | `aaaaaaaa` |",
        "| *fixed* | 2.0 | `bbbbbbbb`<br>`cccccccc` |",
        "| new | 3.0 | – |",
    ]
    line = "ReLU: `aaaaaaaa` · fixed: `bbbbbbbb` `cccccccc` · new: –"
    assert tables.listed(of) == line, "beside a figure"
    with pytest.raises(KeyError, match="new"):
        tables.markdown(frame, of={n: of[n] for n in ("ReLU", "fixed")})


# --- Cards, dates, the map ------------------------------------------------------------------------


@pytest.fixture
def website(monkeypatch):
    return load("website", monkeypatch)


def site(base="", **more):
    config = SimpleNamespace(html_title="Book", root_doc="index", html_baseurl=base)
    return SimpleNamespace(config=config, **more)


def test_a_page_bears_its_own_title_on_cards_and_the_first_page_its_title_once(website):
    tag = '<meta content="Book" property="og:title" />'
    first, other = (
        {"title": t, "docstitle": "Book", "metatags": tag} for t in ("Book", "<i>A</i> & B")
    )
    website.describe(site(), "index", "page.html", first, None)
    website.describe(site(), "one", "page.html", other, None)
    assert (first["title"], first["docstitle"], first["metatags"]) == ("Book", "", tag)
    assert other["metatags"] == '<meta content="A &amp; B" property="og:title" />'
    assert other["docstitle"] == "Book"


def test_a_card_has_the_pages_first_figure_only_where_the_site_has_an_address(website):
    tree = nodes.section("", nodes.image(uri="a/plain.svg"), nodes.image(uri="a/figure.png"))
    builder = SimpleNamespace(images={"a/figure.png": "hash.png"}, imagedir="_images")
    context, without = {"title": "T"}, {"title": "T"}
    website.describe(site("https://example.org/b/", builder=builder), "one", "", context, tree)
    website.describe(site(builder=builder), "one", "", without, tree)
    picture = "https://example.org/b/_images/hash.png"
    assert context["metatags"] == f'<meta content="{picture}" property="og:image" />'
    assert without["metatags"] == ""


def test_a_map_lists_every_page_once_and_is_made_only_where_the_site_has_an_address(
    website, tmp_path, monkeypatch
):
    monkeypatch.setattr(website, "changed", lambda root: {"one": "2026-01-02"})
    env = SimpleNamespace(found_docs={"one", "index"})
    more = {"env": env, "outdir": tmp_path, "builder": SimpleNamespace(format="html")}
    website.write_map(site(**more), None)
    assert not list(tmp_path.iterdir())
    website.write_map(site("https://example.org/b", **more), None)
    lines = (tmp_path / "sitemap.xml").read_text().splitlines()
    assert lines[2:4] == [
        "<url><loc>https://example.org/b/index.html</loc></url>",
        "<url><loc>https://example.org/b/one.html</loc><lastmod>2026-01-02</lastmod></url>",
    ]


def test_a_page_bears_the_day_of_its_last_commit_and_none_outside_a_checkout(website, tmp_path):
    assert website.changed(tmp_path / "gone") == {}

    def commit(name, day):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(day)
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        when = f"{day}T00:00:00+0000"
        environment = {"GIT_COMMITTER_DATE": when, "GIT_AUTHOR_DATE": when, "PATH": "/usr/bin:/bin"}
        for command in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", day]):
            subprocess.run(["git", *command], cwd=tmp_path, env=environment, check=True)

    commit("book/one.md", "2026-01-02")
    commit("notebooks/two.ipynb", "2026-02-03")
    commit("book/one.md", "2026-03-04")
    commit("book/three/one.js", "2026-04-05")
    for name in ("book/_static/two.svg", "results/one/two.json", "book/two.svg", "tests/one.py"):
        commit(name, "2026-05-06")
    days = {name: website.changed(tmp_path)[name] for name in ("one", "two", "three")}
    assert days == {"one": "2026-03-04", "two": "2026-02-03", "three": "2026-04-05"}


# --- The API page ---------------------------------------------------------------------------------


def test_blocks_of_a_docstring_become_fields_names_code_and_nothing_else_markup(monkeypatch):
    docstrings = load("docstrings", monkeypatch)
    lines = """\
Give 2**bits levels of `x`, |x| <= 1.

    a  b_

Args:    x: (...) float.
         bits: 1..8.
Returns: `y`.

>>> 2**3
8
"""
    assert docstrings.fields(lines.splitlines()) == [
        r"Give 2\*\*bits levels of ``x``, \|x\| <= 1.",
        "",
        r"| a  b\_",
        "",
        "",
        ":Args: x: (...) float.",
        "    bits: 1..8.",
        ":Returns: ``y``.",
        "",
        ">>> 2**3",
        "8",
        "",
    ]
