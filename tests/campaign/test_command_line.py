"""Every flag of the command line and every parameter of the run notebooks, given what is wrong."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
from pathlib import Path

import nbformat
import pytest

from reproduce import notebook
from reproduce.cli import main
from reproduce.cli.arguments import parser
from reproduce.names import DATASETS, PAPERS, SCALES, SUITES
from tests.campaign import figures, odd
from tests.campaign.kinds import is_whole

pytestmark = pytest.mark.usefixtures("folders")

TEXTS = [
    "", "3", "-1", "nan", "1e5", "9" * 400, "no such", "\x1b[31mred", "two\nlines", "None", "True",
    "../../x", "\N{FULLWIDTH DIGIT ONE}", " 1h", "1h ", "0s", "9m", "\N{GRINNING FACE}", "a\0b",
    "--json", "~nosuchuser", "1_000", "0x10", "١",
]  # fmt: skip
ALLOWED = {
    "paper": lambda v: v in PAPERS,
    "scale": lambda v: v in SCALES,
    "dataset": lambda v: v in DATASETS,
    "suite": lambda v: v in ("network", *SUITES),
    "seed": lambda v: re.fullmatch("[0-9]{1,7}", v) and int(v) <= 10**6,
    "time_budget": lambda v: v == "9m",
}


def flags() -> list[tuple[str, argparse.Action]]:
    """(command, flag) of all that takes a value."""
    (commands,) = parser("")._subparsers._group_actions
    return [
        (name, action)
        for name, command in commands.choices.items()
        for action in command._actions
        if action.option_strings and action.nargs != 0
    ]


FLAGS = flags()


def ended(argv: list[str]) -> tuple[int, str]:
    """(exit code, what was said on stderr) of a command line, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(argv)
        except SystemExit as end:
            code = end.code
    return code, err.getvalue()


@pytest.mark.parametrize(
    ("command", "action"), FLAGS, ids=[f"{c}{a.option_strings[0]}" for c, a in FLAGS]
)
def test_a_wrong_flag_ends_with_code_2_and_one_line_that_nothing_steers(command, action, sample):
    where = {"--paper": "dqa", "--scale": "smoke", "--suite": "network"}
    if command == "run":
        where["--key"] = "00000000"  # whatever else is right: nothing is run
    flag = action.option_strings[0]
    others = [part for name, v in where.items() if name != flag for part in (name, v)]
    for text in sample(TEXTS):
        code, said = ended([command, *others, f"{flag}={text}"])
        right = ALLOWED.get(action.dest, lambda v: False)(text)
        line = said.strip().splitlines()[-1] if said.strip() else ""
        told = all(c.isprintable() for c in line) and len(line) < 1500 and "rror: " in line
        outcome = (
            "refused" if code == 2 and told else "accepted" if code == 0 and right else "wrong"
        )
        figures.count("command line", f"{command} {flag}={text[:30]!r}", outcome, f"{code} {line}")
        assert outcome != "wrong", (text, code, said)


NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("run_*.ipynb"))
RIGHT = {
    "paper": lambda v: v in PAPERS,
    "dataset": lambda v: v in DATASETS,
    "activation": lambda v: v in ("relu", "fixed", "dynamic"),
    "bits": lambda v: is_whole(v) and type(v) is int and 1 <= v <= 3,
    "mixed": lambda v: type(v) is bool,
    "dithered": lambda v: type(v) is bool,
    "halftone": lambda v: type(v) is str,  # read for the other paper alone
    "suite": lambda v: v in SUITES,
    "scale": lambda v: v in SCALES,
    "seed": lambda v: type(v) is int and 0 <= v <= 10**6,
    "key": lambda v: False,
}


def cells(path: Path) -> tuple[str, str]:
    """The parameters, and the cell that checks them and says what is to be run."""
    code = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    return code[0].source, code[1].source.replace("record = notebook.run", "# ")


def declared() -> list[tuple[Path, str]]:
    found = []
    for path in NOTEBOOKS:
        here: dict = {}
        exec(cells(path)[0], here)
        found += [(path, name) for name in here["__annotations__"]]
    return found


DECLARED = declared()


@pytest.mark.parametrize(("path", "name"), DECLARED, ids=[f"{p.stem}-{n}" for p, n in DECLARED])
def test_a_wrong_parameter_of_a_notebook_is_refused_before_anything_is_run(path, name, sample):
    parameters, checking = cells(path)
    for what, make in sample(list(odd.PLAIN.items())):
        value = make()
        here: dict = {"In": ["", parameters, f"{name} = 'given'", checking]}
        exec(compile(parameters, "cell", "exec", dont_inherit=True), here)
        here[name] = value
        right = bool(isinstance(value, str | int | bool) and RIGHT[name](value))
        call = compile(checking, str(notebook.__file__), "exec", dont_inherit=True)
        outcome, said = figures.judge(lambda: exec(call, here), name, value, right)  # noqa: B023
        figures.count("notebooks", f"{path.stem} {name}={what}", outcome, said)
        assert outcome in ("refused", "accepted"), (what, outcome, said)
