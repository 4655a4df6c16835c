"""The package's docstrings as the API page shows them.

Named in _config.yml as an extension of Sphinx. In the code a docstring is plain text with blocks
that begin with "Args:", "Returns:", "Raises:" or "Source:". Here a block becomes a field of a list,
what is indented keeps its lines, names in backticks become code, and no star or bar is markup.
"""

from __future__ import annotations

import re

BLOCK = re.compile(r"(Args|Returns|Raises|Source):\s*(.*)")


def setup(app) -> dict:
    """The hook of Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", show)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def show(app, what: str, name: str, *of) -> None:
    """Rewrite the lines of a docstring, the last thing that Sphinx hands over, in their place."""
    of[-1][:] = fields(of[-1])


def fields(lines: list[str]) -> list[str]:
    """A docstring's lines as reStructuredText."""
    found: list[str] = []
    block = example = False
    for line in lines:
        text = line.strip()
        example = bool(text) and (example or text.startswith(">>>"))
        if match := BLOCK.match(line):
            found += [] if block else [""]
            found.append(f":{match[1]}: {plain(match[2])}")
            block = True
        elif example:
            found += [""] if text.startswith(">>>") and block else []
            found.append(text)
            block = False
        elif block and text:
            found.append(f"    {plain(text)}")
        elif line.startswith(" "):
            found.append(f"| {plain(text)}")
        else:
            found.append(plain(text))
            block = False
    return [*found, ""]


def plain(text: str) -> str:
    """Text of which only names in backticks are markup."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(
        f"`{part}`" if part.startswith("`") else re.sub(r"([\\*|]|_\b)", r"\\\1", part)
        for part in parts
    )
