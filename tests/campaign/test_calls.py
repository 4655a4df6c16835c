"""No public function takes a wrong value for a right one, or ends deep in another library."""

from __future__ import annotations

import warnings

import pytest

from tests.campaign import figures
from tests.campaign.calls import Call, calls
from tests.campaign.conftest import EVERY


def is_of_reports(call: Call) -> bool:
    """Tables and figures take what the package makes, from pages alone: counted, not held to it."""
    return call.name.startswith("report.")


def tried(call: Call) -> str:
    torn, value = call.make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcome, said = figures.judge(torn, call.argument, value, call.kind.allows(value))
    if outcome in ("unclear", "deep") and call.kind.odd in ("own", "objects"):
        outcome = "python"  # what the package makes itself: Python's own words will do
    group = "reports" if is_of_reports(call) else "calls"
    figures.count(group, call.what, outcome, said)
    return outcome


@pytest.mark.filterwarnings("ignore")
def test_every_public_name_refuses_what_is_wrong(whole):
    found = [call for call in calls() if whole or not is_of_reports(call)]
    bad = {}
    for call in found if whole else found[::EVERY]:
        outcome = tried(call)
        if outcome in ("wrong", "deep", "hung") and not is_of_reports(call):
            bad[call.what] = outcome
    assert not bad
