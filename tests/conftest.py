"""Settings that every test shares."""

import os

import matplotlib
from hypothesis import settings

matplotlib.use("agg")
# foolbox imports GitPython, which wants a git program at once.
os.environ["GIT_PYTHON_REFRESH"] = "quiet"

settings.register_profile("reproducible", deadline=None, derandomize=True)
settings.load_profile("reproducible")
