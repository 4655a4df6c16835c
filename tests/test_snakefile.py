"""What the Snakefile makes jobs of, without running one; skipped where Snakemake is missing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reproduce import runner
from reproduce.papers import registry

ROOT = Path(__file__).resolve().parent.parent
SNAKEMAKE = shutil.which("snakemake", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")

pytestmark = pytest.mark.skipif(SNAKEMAKE is None, reason="snakemake is not installed")


def planned(folder: Path, *words: str, **filters: str) -> list[str]:
    """The rules of the jobs that a dry run in a folder names."""
    asked = {"scale": "smoke", "dataset": "digits", "seed": "0"} | filters
    config = [f"{name}={value}" for name, value in ({"python": sys.executable} | asked).items()]
    command = [SNAKEMAKE, "--dry-run", "--snakefile", ROOT / "Snakefile", "--directory", folder,
               "--cores", "1", *words, "--config", *config]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return re.findall(r"^(?:local)?rule (\w+):$", done.stdout + done.stderr, re.MULTILINE)


def test_a_suite_is_a_job_after_the_trainings_it_needs_and_what_is_done_is_none(folders):
    networks = list(registry.networks("dqa", "smoke", 0))
    one, other = [n for n in networks if n.dataset == "digits"][:2]
    asked = f"table_{one.key}", f"trial_{other.key}"
    expected = {"data_digits", *asked, f"network_{one.key}", f"network_{other.key}"}
    found = planned(folders, *asked)
    assert len(found) == len(expected) and set(found) == expected
    runner.run(one, runner.Stop())
    assert set(planned(folders, *asked)) == expected - {f"network_{one.key}"}


def test_each_question_has_a_listing_of_its_own_and_the_same_question_the_same(folders):
    networks = [n for n in registry.networks("dqa", "smoke", 0) if n.dataset == "digits"]
    cells = {n.cell: n.key for n in networks[:2]}

    def listings() -> dict[Path, set[str]]:
        files = (folders / ".snakemake" / "jobs").glob("listing*")
        lines = {file: file.read_text().splitlines() for file in files}
        return {file: {json.loads(x)["network"] for x in some} for file, some in lines.items()}

    for cell in (*cells, *cells):
        assert planned(folders, cell=cell)
    assert sorted(map(sorted, listings().values())) == sorted([key] for key in cells.values())
