"""The pages of the book: which there are, and whether each is its notebook, executed.

Named in _config.yml as an extension of Sphinx, so that a site with a missing, stale or empty page
is not built.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import yaml

NOTEBOOKS = Path(__file__).resolve().parent
BOOK = NOTEBOOKS.parent / "book"


def names(notebooks: Path = NOTEBOOKS) -> list[str]:
    """Of all page notebooks: those that are no run_*.ipynb, in alphabetical order."""
    return sorted(p.stem for p in notebooks.glob("*.ipynb") if not p.stem.startswith("run_"))


def listed(book: Path = BOOK) -> list[str]:
    """The pages of the table of contents, in a reader's order."""

    def files(entry: dict) -> Iterator[str]:
        yield from (entry[kind] for kind in ("root", "file") if kind in entry)
        for group in ("parts", "chapters", "sections"):
            for inner in entry.get(group, ()):
                yield from files(inner)

    return list(files(yaml.safe_load((book / "_toc.yml").read_text(encoding="utf-8"))))


def problems(book: Path = BOOK, notebooks: Path = NOTEBOOKS) -> list[str]:
    """What keeps the pages of the table of contents from being built, a line each."""
    pages = listed(book)
    found = [
        f"book/_toc.yml: {n} is listed twice" for n in sorted(set(pages)) if pages.count(n) > 1
    ]
    for name in dict.fromkeys(pages):
        page, source = book / f"{name}.ipynb", notebooks / f"{name}.ipynb"
        if (book / f"{name}.md").exists():
            if source.exists() or page.exists():
                found.append(f"book/{name}.md: {name}.ipynb is there as well; remove one")
        elif not source.exists():
            found.append(f"book/{name}: neither book/{name}.md nor notebooks/{name}.ipynb is there")
        elif not page.exists():
            found.append(f"book/{name}.ipynb is missing: execute it")
        else:
            try:
                cells = _cells(page)
                wrong = differs(cells, _cells(source)) or unfinished(cells) or repeated(cells)
            except (ValueError, KeyError, TypeError, AttributeError):
                wrong = "it or its notebook is damaged"
            if wrong:
                found.append(f"book/{name}.ipynb: {wrong}; execute notebooks/{name}.ipynb again")
    return found


def differs(page: list[dict], source: list[dict]) -> str | None:
    """In what the cells of a page are not those of its notebook."""
    parts = ("id", "cell_type", "source", "metadata")
    if len(page) != len(source):
        return f"it has {len(page)} cells, its notebook {len(source)}"
    for number, (one, other) in enumerate(zip(page, source, strict=True), 1):
        for part in parts:
            if _text(one[part]) != _text(other[part]):
                return f"cell {number} has another {part} than in its notebook"
    return None


def unfinished(page: list[dict]) -> str | None:
    """What is missing of the outputs of an executed page."""
    code = [cell for cell in page if cell["cell_type"] == "code" and _text(cell["source"]).strip()]
    if any(cell["execution_count"] is None for cell in code):
        return "not every cell was executed"
    outputs = [output for cell in code for output in cell["outputs"]]
    if any(output["output_type"] == "error" for output in outputs):
        return "a cell failed, or left by sys.exit"
    return None if outputs else "it has no outputs"


def repeated(page: list[dict]) -> str | None:
    """Which values a page names alike: its text would show one of them."""
    given = [
        output["metadata"]["scrapbook"]["name"]
        for cell in page
        for output in cell.get("outputs", ())
        if "scrapbook" in output.get("metadata", {})
    ]
    twice = sorted(name for name, times in Counter(given).items() if times > 1)
    return f"glued twice: {', '.join(twice)}" if twice else None


def _cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def _text(part: object) -> object:
    """Notebooks hold a text as one string, or as its lines."""
    return "".join(part) if isinstance(part, list) else part


def setup(app) -> dict:
    """The hook of Sphinx. Raises ExtensionError, which names all pages that are not as they should
    be."""
    from sphinx.errors import ExtensionError

    found = problems()
    if found:
        raise ExtensionError("\n".join(["the pages cannot be built:", *found]))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
