"""A campaign is whole with --whole (make campaign); else a sample that takes seconds."""

from __future__ import annotations

import collections

import pytest
import torch

from tests.campaign import figures

EVERY = 41  # of the sample: one call in so many, a prime, so that it goes through all values
SPARED = 7


def pytest_addoption(parser):
    parser.addoption("--whole", action="store_true", help="the whole campaign, and its figures")


@pytest.fixture
def whole(request) -> bool:
    return request.config.getoption("--whole", False)


@pytest.fixture
def sample(whole):
    """All of a list in the whole campaign, else a few of it."""
    return lambda items: items if whole else items[:: max(1, len(items) // 3)]


@pytest.fixture(autouse=True)
def somewhere_else(monkeypatch, tmp_path):
    """What takes a name for a file writes it here, and nothing is downloaded."""

    def refused(*_, **__):
        raise OSError("no network in a campaign")

    below = tmp_path / "below" / "below"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    monkeypatch.setattr("socket.getaddrinfo", refused)
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


def pytest_terminal_summary(terminalreporter):
    if terminalreporter.config.getoption("--whole", False):
        for group, counts in figures.COUNTS.items():
            tried = sum(counts.values())
            said = ", ".join(f"{n} {counts[n]}" for n in sorted(counts))
            terminalreporter.write_line(f"{group}: {tried} tried: {said}")
            for fault in figures.FAULTS[group][:200]:
                terminalreporter.write_line(f"    {fault}")


def pytest_collection_modifyitems(config, items):
    """Without --whole, of each test's cases one in SPARED."""
    if config.getoption("--whole", False):
        return
    seen: dict[str, int] = collections.Counter()
    dropped = []
    for item in [i for i in items if "campaign" in i.path.parts]:
        name = f"{item.path}::{item.originalname}"
        if seen[name] % SPARED:
            dropped.append(item)
        seen[name] += 1
    config.hook.pytest_deselected(items=dropped)
    gone = set(map(id, dropped))
    items[:] = [i for i in items if id(i) not in gone]
