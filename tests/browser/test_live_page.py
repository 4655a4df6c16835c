"""The live page in a browser, opened as a file: what its text says, with a mouse and with keys.

Run after the build, as the other tests of this folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "_build" / "html" / "live.html"
CHROMIUM = shutil.which("chromium")
MISSING = [
    *([] if CHROMIUM else ["chromium"]),
    *([] if shutil.which("node") else ["node"]),
    *([] if (HERE / "node_modules" / "playwright-core").is_dir() else ["playwright-core (npm ci)"]),
]

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="no site in _build/html: make book")


@pytest.fixture(scope="module")
def seen() -> dict:
    if MISSING:
        pytest.skip(f"not installed: {', '.join(MISSING)}")
    environment = os.environ | {"CHROMIUM": CHROMIUM}
    command = ["node", HERE / "live.mjs", PAGE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_seven_stands_until_the_rule_changes_or_no_gradient_is_asked_for(seen):
    assert seen["first"].startswith("It stands") and seen["first"].endswith("says 7.")
    assert seen["sigmoid"].startswith("Broken by step")
    assert seen["square"].startswith("Broken by query")


def test_noise_after_dithering_does_not_arrive(seen):
    assert seen["double"].startswith("Nothing got through")
    assert seen["changed"] == "0 of 3,072 values changed"


def test_the_address_holds_what_was_chosen_and_sets_it_for_another_reader(seen):
    assert seen["address"] == "#rule=sigmoid"
    sent = {"digit": "2", "activation": "relu", "eps": "76.5", "size": "24", "noise": "before"}
    assert sent.items() <= seen["sent"].items()


def test_a_digit_is_drawn_with_keys_alone(seen):
    assert seen["drawn"].startswith("Without an attack the network says 1")


def test_the_address_of_a_drawn_digit_draws_it_again_and_is_short(seen):
    assert seen["again"] == seen["drawing"] and seen["unsaid"]
    assert seen["drawing"]["says"] and 250 < seen["length"] < 2000


def test_what_an_address_says_wrongly_is_passed_over_and_named_in_a_line(seen):
    assert seen["ignored"].startswith("Ignored in the address: eps=999 (allowed: 0 to 128")
    for line in seen["malformed"]:
        assert line.startswith("Ignored in the address: ink=") and len(line) < 120
    assert len(set(seen["malformed"])) > 1


def test_nothing_is_asked_of_another_server_and_no_error_is_written(seen):
    assert seen["requests"] == [] and seen["errors"] == []


def test_without_javascript_there_is_a_picture_instead(seen):
    assert seen["fallback"] == 0 and seen["without"] > 0 and seen["hidden"]
