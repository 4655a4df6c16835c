"""Notebooks are stored without outputs; pages are those notebooks, executed, and nothing else."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = sorted((ROOT / "book").glob("*.ipynb"))


def stem(path: Path) -> str:
    return path.stem


def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """notebooks/execute.py, at work on two empty folders."""
    spec = importlib.util.spec_from_file_location("execute", ROOT / "notebooks" / "execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.delenv("MPLBACKEND", raising=False)
    for name in ("NOTEBOOKS", "BOOK"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(module, name, tmp_path / name)
    return module


def write(path: Path, *sources: str) -> None:
    """A notebook of one title and a code cell for each of `sources`."""
    code = [new_code_cell(source, id=f"code-{i}") for i, source in enumerate(sources)]
    code[0].metadata["tags"] = ["parameters"]
    nbformat.write(new_notebook(cells=[new_markdown_cell("# T", id="title"), *code]), path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=stem)
def test_a_stored_notebook_has_no_outputs_and_one_cell_of_parameters(path):
    code = [cell for cell in cells(path) if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in code) == 1
    assert len({cell["id"] for cell in cells(path)}) == len(cells(path))


def test_the_book_holds_every_page_and_no_other():
    expected = {path.name for path in NOTEBOOKS if not path.name.startswith("run_")}
    assert {path.name for path in PAGES} == expected


@pytest.mark.parametrize("path", PAGES, ids=stem)
def test_a_page_is_its_notebook_executed_as_it_stands(path):
    notebook = cells(ROOT / "notebooks" / path.name)
    assert [cell["source"] for cell in cells(path)] == [cell["source"] for cell in notebook]
    assert [cell["metadata"] for cell in cells(path)] == [cell["metadata"] for cell in notebook]


@pytest.mark.parametrize("path", PAGES, ids=stem)
def test_a_page_shows_no_error_no_warning_and_no_address_in_memory(path):
    outputs = [output for cell in cells(path) for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert not re.findall(r"\bat 0x[0-9a-f]{6,}", json.dumps(outputs))


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
    write(execute.NOTEBOOKS / "sound.ipynb", "1 + 1")
    write(execute.NOTEBOOKS / "run_model.ipynb", "1 / 0")
    (execute.BOOK / "broken.ipynb").write_text("as it was")
    assert execute.main([]) == (
        "notebooks/broken.ipynb, In [2]: ZeroDivisionError: division by zero\n"
        "    numerator = 1\n"
        "    numerator / 0\n"
        "notebooks/dead.ipynb: Kernel died"
    )
    assert (execute.BOOK / "broken.ipynb").read_text() == "as it was"
    assert sorted(path.name for path in execute.BOOK.iterdir()) == ["broken.ipynb", "sound.ipynb"]


def test_a_page_that_does_not_exist_is_named_beside_those_that_do(execute):
    write(execute.NOTEBOOKS / "tour.ipynb", "eps = 0.3")
    assert execute.main(["tuor"]) == "no such page: tuor; there are: tour"
