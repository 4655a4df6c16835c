"""What is missing of the experiments, as jobs: one a training, one a suite of measurements of a network.

    snakemake --cores 2 --config scale=smoke
    snakemake --profile profiles/slurm --config paper=dqa scale=paper

Any filter of `python -m reproduce list` can be given as a config value: paper, scale, seed, dataset,
cell, suite; and python, the interpreter. A job that was stopped goes on where it was when it is
started again. Records are nobody's output here: Snakemake removes what a failed job has made, and a
record that is finished is worth keeping. What stands for a job is a mark in .snakemake/jobs.
"""

import hashlib
import json
import subprocess
from collections import defaultdict
from pathlib import Path

PYTHON = config.get("python", "python")
FILTERS = ("paper", "scale", "seed", "dataset", "cell", "suite")
ASKED = [f"--{name}={config[name]}" for name in FILTERS if name in config]


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:8]


LISTING = Path(f".snakemake/jobs/listing-{digest(' '.join(ASKED))}.jsonl")
if workflow.is_main_process:
    LISTED = subprocess.check_output(
        [PYTHON, "-m", "reproduce", "list", "--json", *ASKED], text=True
    )
    LISTED = "".join(
        line for line in LISTED.splitlines(True) if not Path(json.loads(line)["path"]).exists()
    )
    LISTING.parent.mkdir(parents=True, exist_ok=True)
    LISTING.write_text(LISTED)
else:  # a job: of what was missing when all began, or a suite half done had another mark by now
    LISTED = LISTING.read_text()
MISSING = [json.loads(line) for line in LISTED.splitlines()]
TRAININGS = {u["key"] for u in MISSING if u["suite"] == "network"}

JOBS = defaultdict(list)
for unit in MISSING:
    JOBS[unit["network"], unit["suite"]].append(unit)


def mark(network, suite):
    """Of what is missing now: what goes missing later, or is added to a suite, is another job."""
    asked = "".join(sorted(unit["key"] for unit in JOBS[network, suite]))
    return f".snakemake/jobs/{network}-{suite}-{digest(asked)}"


rule all:
    input:
        [mark(*job) for job in JOBS],


for name in sorted({unit["dataset"] for unit in MISSING}):

    rule:
        name:
            f"data_{name}"
        output:
            touch(f".snakemake/jobs/data-{name}"),
        localrule: True
        params:
            name=name,
        shell:
            "{PYTHON} -c 'from reproduce import data; data.load(\"{params.name}\")'"


for (network, suite), members in JOBS.items():

    rule:
        name:
            f"{suite}_{network}"
        input:
            [mark(k, "network") for k in sorted({k for u in members for k in u["needs"]} & TRAININGS)],
            f".snakemake/jobs/data-{members[0]['dataset']}",
        output:
            touch(mark(network, suite)),
        params:
            network=network,
            suite=suite,
        threads: 1
        resources:
            mem_mb=6_000,
        shell:
            "{PYTHON} -m reproduce run --key {params.network} --suite {params.suite}"
