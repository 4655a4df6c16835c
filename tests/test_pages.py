"""Notebooks are stored without outputs; pages are those notebooks, executed, and nothing else."""

from __future__ import annotations

import importlib.util
import json
import re
import socket
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = sorted((ROOT / "book").glob("*.ipynb"))
TEXTS = sorted((ROOT / "book").glob("*.md"))


def stem(path: Path) -> str:
    return path.stem


def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def prose(path: Path) -> str:
    """The Markdown of a page or of a text."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    return "\n\n".join(source(c) for c in cells(path) if c["cell_type"] == "markdown")


def load(name: str, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "notebooks")
    spec = importlib.util.spec_from_file_location(name, ROOT / "notebooks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pages(monkeypatch):
    return load("pages", monkeypatch)


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """notebooks/execute.py, at work on two empty folders."""
    module = load("execute", monkeypatch)
    monkeypatch.delenv("MPLBACKEND", raising=False)
    for name in ("NOTEBOOKS", "BOOK"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(module, name, tmp_path / name)
    return module


def write(path: Path, *sources: str, outputs: tuple = (), count: int | None = None) -> None:
    """A notebook of one title and a code cell for each of `sources`, all with these outputs."""
    options = {"outputs": list(outputs), "execution_count": count}
    code = [new_code_cell(s, id=f"code-{i}", **options) for i, s in enumerate(sources)]
    code[0].metadata["tags"] = ["parameters"]
    nbformat.write(new_notebook(cells=[new_markdown_cell("# T", id="title"), *code]), path)


# --- The pages of this book -----------------------------------------------------------------------


@pytest.mark.parametrize("path", NOTEBOOKS, ids=stem)
def test_a_stored_notebook_has_no_outputs_and_one_cell_of_parameters(path):
    code = [cell for cell in cells(path) if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in code) == 1
    assert len({cell["id"] for cell in cells(path)}) == len(cells(path))


def test_every_page_of_the_contents_is_there_is_its_notebook_and_was_executed(pages):
    assert pages.problems() == []


def test_the_contents_list_every_page_and_text(pages):
    assert sorted(pages.listed()) == sorted(p.stem for p in [*PAGES, *TEXTS])
    assert pages.names() == sorted(p.stem for p in PAGES)


@pytest.mark.parametrize("path", PAGES, ids=stem)
def test_a_page_shows_no_error_no_warning_and_no_address_in_memory(path):
    outputs = [output for cell in cells(path) for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert not re.findall(r"\bat 0x[0-9a-f]{6,}", json.dumps(outputs))


@pytest.mark.parametrize("path", [*PAGES, *TEXTS], ids=stem)
def test_a_page_names_no_folder_and_no_name_of_the_machine_that_made_it(path):
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"(?<![\w.])/(?:root|home|work|Users|tmp)/\w+", text)
    assert str(ROOT) not in text
    host = socket.gethostname()
    assert len(host) < 6 or host not in text


def test_the_site_names_no_folder_and_no_name_of_the_machine_that_built_it():
    built = [f for f in (ROOT / "_build" / "html").rglob("*") if f.suffix in (".html", ".js")]
    if not built:
        pytest.skip("the site is not built: _build/html is not there")
    host, named = socket.gethostname(), []
    for file in built:
        text = file.read_text(encoding="utf-8", errors="replace")
        private = re.search(r"(?<![\w./])/(?:root|home|work|Users|tmp)/\w+", text)
        if private or str(ROOT) in text or (len(host) >= 6 and host in text):
            named.append(str(file.relative_to(ROOT)))
    assert not named


@pytest.mark.parametrize("path", PAGES, ids=stem)
def test_every_figure_has_a_text_for_those_who_do_not_see_it(path):
    pasted = prose(path)
    for cell in cells(path):
        for output in cell.get("outputs", []):
            if not any("image/" in kind for kind in output.get("data", {})):
                continue
            name = output["metadata"].get("scrapbook", {}).get("name")
            if name is not None:
                figure = re.search(rf"{{glue:figure}} {re.escape(name)}\n((?::.*\n)*)", pasted)
                alt = figure and re.search(r":alt: (.+)", figure[1])
                assert alt and len(alt[1]) > 30, f"{name} has no alt text"
            else:
                alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
                assert len(alt) > 30, source(cell)


@pytest.mark.parametrize("path", [*PAGES, *TEXTS], ids=stem)
def test_a_page_has_one_title_and_leads_to_pages_that_are_there(path, pages):
    text = re.sub(r"^(`{3,}|~{3,}).*?^\1", "", prose(path), flags=re.DOTALL | re.MULTILINE)
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1
    linked = set(re.findall(r"\]\(([a-z_0-9]+)\.(?:ipynb|md)(?:#[^)]*)?\)", prose(path)))
    assert linked <= set(pages.listed())


@pytest.mark.parametrize("path", PAGES, ids=stem)
def test_a_page_has_no_bar_that_hides_code(path):
    tags = {tag for cell in cells(path) for tag in cell["metadata"].get("tags", [])}
    assert not tags & {"hide-input", "hide-cell", "hide-output"}


def test_the_site_asks_no_other_server_for_anything():
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert "sphinx-mathjax-offline" in config["sphinx"]["config"]["extensions"]
    assert "sphinx_thebe" not in config["sphinx"]["config"]["extensions"]
    for file in (ROOT / "book" / "_static").iterdir():
        text = file.read_bytes().replace(b"http://www.w3.org/2000/svg", b"")
        assert b"http:" not in text and b"https:" not in text, file


# --- What keeps a page from the site --------------------------------------------------------------

SHOWN = new_output("execute_result", data={"text/plain": "2"}, execution_count=1)
LEFT = new_output("error", ename="SystemExit", evalue="0", traceback=[])
GLUED = new_output("display_data", metadata={"scrapbook": {"name": "left"}})


@pytest.fixture
def book(tmp_path):
    """A book of a text and two pages, as they should be."""
    for folder in ("book", "notebooks"):
        (tmp_path / folder).mkdir()
    contents = {"root": "index", "parts": [{"chapters": [{"file": "one", "sections": []}]}]}
    contents["parts"][0]["chapters"][0]["sections"] = [{"file": "two"}]
    (tmp_path / "book" / "_toc.yml").write_text(yaml.safe_dump({"format": "jb-book"} | contents))
    (tmp_path / "book" / "index.md").write_text("# T")
    for name in ("one", "two"):
        write(tmp_path / "notebooks" / f"{name}.ipynb", f"1 + 1  # {name}")
        write(tmp_path / "book" / f"{name}.ipynb", f"1 + 1  # {name}", outputs=(SHOWN,), count=1)
    return tmp_path


def test_a_book_as_it_should_be_has_no_problem(book, pages):
    assert pages.listed(book / "book") == ["index", "one", "two"]
    assert pages.problems(book / "book", book / "notebooks") == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda page, nb: page.unlink(), "is missing"),
        (lambda page, nb: nb.unlink(), "neither"),
        (lambda page, nb: page.write_text("{"), "damaged"),
        (lambda page, nb: page.write_text("{}"), "damaged"),
        (lambda page, nb: write(nb, "1 + 1"), "cell 2 has another source"),
        (lambda page, nb: write(nb, "1 + 1  # one", "2"), "2 cells, its notebook 3"),
        (lambda page, nb: page.with_name("two.ipynb").replace(page), "another source"),
        (lambda page, nb: write(page, "1 + 1  # one", count=1), "no outputs"),
        (lambda page, nb: write(page, "1 + 1  # one", outputs=(SHOWN,)), "not every cell"),
        (lambda page, nb: write(page, "1 + 1  # one", outputs=(LEFT,), count=1), "sys.exit"),
        (lambda page, nb: page.with_suffix(".md").write_text("# T"), "remove one"),
        (
            lambda page, nb: write(page, "1 + 1  # one", outputs=(GLUED, GLUED), count=1),
            "glued twice: left",
        ),
    ],
)
def test_a_page_that_is_missing_stale_swapped_or_empty_is_named(book, pages, spoil, said):
    spoil(book / "book" / "one.ipynb", book / "notebooks" / "one.ipynb")
    found = pages.problems(book / "book", book / "notebooks")
    about = [line for line in found if line.startswith("book/one")]
    assert len(about) == 1 and said in about[0]


def test_a_site_with_a_page_that_is_missing_is_not_built(book, pages, monkeypatch):
    monkeypatch.setattr(pages.problems, "__defaults__", (book / "book", book / "notebooks"))
    assert pages.setup(SimpleNamespace(connect=lambda *_: 0))["parallel_read_safe"]
    (book / "book" / "two.ipynb").unlink()
    with pytest.raises(Exception, match=r"cannot be built:\nbook/two\.ipynb is missing"):
        pages.setup(None)


# --- Executing ----------------------------------------------------------------------------------


def test_a_page_executed_again_is_the_same_to_the_byte_and_is_not_rewritten(execute):
    write(
        execute.NOTEBOOKS / "page.ipynb",
        "import sys\nimport matplotlib.pyplot as plt",
        "print('noise', file=sys.stderr)\nprint('shown')\nplt.plot([1, 2]);",
    )
    assert execute.main([]) is None
    page = execute.BOOK / "page.ipynb"
    content, inode = page.read_bytes(), page.stat().st_ino
    assert execute.main(["page"]) is None
    assert page.read_bytes() == content
    assert page.stat().st_ino == inode
    outputs = cells(page)[-1]["outputs"]
    assert [output.get("name", "figure") for output in outputs] == ["stdout", "figure"]
    assert "image/png" in outputs[1]["data"]


def test_a_page_that_fails_keeps_the_old_one_is_named_and_does_not_stop_the_others(execute):
    write(execute.NOTEBOOKS / "broken.ipynb", "eps = 0.3", "numerator = 1\nnumerator / 0")
    write(execute.NOTEBOOKS / "dead.ipynb", "import os\nos._exit(1)")
    (execute.NOTEBOOKS / "garbled.ipynb").write_text('{"cells": [')
    write(execute.NOTEBOOKS / "left.ipynb", "1 + 1", "import sys\nsys.exit(0)", "2 + 2")
    write(execute.NOTEBOOKS / "silent.ipynb", "eps = 0.3")
    write(execute.NOTEBOOKS / "sound.ipynb", "1 + 1")
    write(execute.NOTEBOOKS / "run_model.ipynb", "1 / 0")
    (execute.BOOK / "broken.ipynb").write_text("as it was")
    lines = execute.main([]).splitlines()
    assert lines[:3] == [
        "notebooks/broken.ipynb, In [2]: ZeroDivisionError: division by zero",
        "    numerator = 1",
        "    numerator / 0",
    ]
    assert lines[3] == "notebooks/dead.ipynb: Kernel died"
    assert lines[4].startswith("notebooks/garbled.ipynb: damaged: ")
    assert lines[5].startswith("notebooks/left.ipynb: ")
    assert lines[6:] == ["notebooks/silent.ipynb: it has no outputs"]
    assert (execute.BOOK / "broken.ipynb").read_text() == "as it was"
    assert sorted(path.name for path in execute.BOOK.iterdir()) == ["broken.ipynb", "sound.ipynb"]


def test_a_page_that_does_not_exist_is_named_beside_those_that_do(execute):
    write(execute.NOTEBOOKS / "tour.ipynb", "eps = 0.3")
    assert execute.main(["tuor"]) == "no such page: tuor; there are: tour"


def executed(execute, capsys, *arguments: str) -> list[str]:
    """The pages that are executed, as the program names them."""
    assert execute.main(list(arguments)) is None
    return [line.split()[0] for line in capsys.readouterr().out.splitlines()]


def test_a_page_is_executed_again_where_its_notebook_its_content_or_a_record_changed(
    execute, folders, capsys
):
    record = folders / "results" / "paper" / "network" / "pgd.json"
    record.parent.mkdir(parents=True)
    record.write_text("90")
    read = f"from pathlib import Path\nleft = int(Path({str(record)!r}).read_text())"
    write(execute.NOTEBOOKS / "one.ipynb", read, "assert left < 95\nprint(left)")
    write(execute.NOTEBOOKS / "two.ipynb", "1 + 1")
    both = ["book/one.ipynb", "book/two.ipynb"]
    assert executed(execute, capsys) == both
    assert executed(execute, capsys) == []
    record.write_text("93")
    assert executed(execute, capsys) == both
    assert "93" in (execute.BOOK / "one.ipynb").read_text()
    write(execute.NOTEBOOKS / "two.ipynb", "2 + 2")
    assert executed(execute, capsys) == ["book/two.ipynb"]
    (execute.BOOK / "one.ipynb").write_text("{}")
    assert executed(execute, capsys) == ["book/one.ipynb"]
    assert executed(execute, capsys, "two") == ["book/two.ipynb"], "what is named is executed"

    record.write_text("97")
    for _ in range(2):  # and what failed is no less due
        failed = execute.main([])
        first, *cell = failed.splitlines()
        assert first.startswith("notebooks/one.ipynb, In [2]: AssertionError")
        assert cell == ["    assert left < 95", "    print(left)"]
    assert "93" in (execute.BOOK / "one.ipynb").read_text()


def test_every_page_is_due_where_the_package_changed(execute, folders, tmp_path, monkeypatch):
    package = tmp_path / "package"
    package.mkdir()
    monkeypatch.setattr(
        execute, "reproduce", SimpleNamespace(__file__=str(package / "__init__.py"))
    )
    seen = [execute.shared()]
    for name, content in (("a.py", "x = 1"), ("a.py", "x = 2"), ("a.csv", "x"), ("b.py", "x = 2")):
        (package / name).write_text(content)
        seen.append(execute.shared())
    profile = tmp_path / "profiles" / "slurm" / "config.yaml"
    profile.parent.mkdir(parents=True)
    for content in ("jobs: 1", "jobs: 2"):
        profile.write_text(content)
        seen.append(execute.shared())
    (package / "a.pyc").write_text("not read")
    assert execute.shared() == seen[-1] and len(set(seen)) == len(seen)


def test_a_record_of_scale_smoke_makes_no_page_due_and_any_other_all(execute, folders):
    seen = []
    for name in ("smoke-x-seed0-0a1b2c3d", "laptop-x-seed0-0a1b2c3d"):
        folder = folders / "results" / "dqa-digits" / name
        folder.mkdir(parents=True)
        for file in ("network.json", "pgd-0a1b2c3d.json", "stages.npz", "weights.safetensors"):
            seen.append(execute.shared())
            (folder / file).write_text("{}")
    assert len(set(seen[:5])) == 1, "smoke"
    assert len({*seen[4:], execute.shared()}) == 5
