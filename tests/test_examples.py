"""The examples in docstrings do what they show."""

from __future__ import annotations

import doctest
import importlib

import pytest

EXAMPLES = {
    "attacks.base": 3,
    "attacks.gradient": 1,
    "dither": 3,
    "quantizers": 5,
    "records": 3,
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_in_docstrings_hold(name, capsys):
    module = importlib.import_module(f"reproduce.{name}")
    shown = [t for t in doctest.DocTestFinder().find(module) if t.examples]
    assert len(shown) >= EXAMPLES[name]
    found = doctest.testmod(module)
    assert found.attempted and not found.failed, capsys.readouterr().out
