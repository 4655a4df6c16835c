"""Settings that every test shares."""

import os

import matplotlib
import pytest
import torch
from hypothesis import settings

from reproduce import data, models, runner
from reproduce.training import Settings, train

matplotlib.use("agg")
# foolbox imports GitPython, which wants a git program at once.
os.environ["GIT_PYTHON_REFRESH"] = "quiet"

settings.register_profile("reproducible", deadline=None, derandomize=True)
settings.load_profile("reproducible")


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    """Units are run there in every test: bit-for-bit promises hold on no GPU."""
    monkeypatch.setattr(runner, "device", lambda: torch.device("cpu"))


@pytest.fixture
def folders(monkeypatch, tmp_path):
    """Results and a cache of the test's own; returns the folder that holds both."""
    monkeypatch.setenv("REPRODUCE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("REPRODUCE_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture(scope="session")
def lenet_on_digits():
    """A LeNet trained for seconds on the digits, in eval mode, and the digits."""
    dataset = data.load("digits")
    torch.manual_seed(0)
    model = models.lenet()
    train(model, dataset.x_train, dataset.y_train, Settings(epochs=6, lr=2e-3), 0)
    return model.eval(), dataset
