"""The page "Use it on your own model" does what it says: its blocks run, in their order."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "book" / "use.md"


def test_every_block_of_code_on_the_page_runs_in_its_order(capsys):
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == text.count("```python") > 5
    names: dict = {}
    for block in blocks:
        # Empty lines, so that an error names the line of the page.
        before = text[: text.index(block)].count("\n")
        exec(compile("\n" * before + block, str(PAGE), "exec"), names)
    assert "broken" in capsys.readouterr().out
    assert not names["worst"].all() and names["unaware"].sum() >= names["aware"].sum()
