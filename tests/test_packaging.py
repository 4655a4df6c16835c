"""What an installation brings: the libraries that the package needs, and its own files."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
INSTALLED_AS = {"sklearn": "scikit-learn"}
WITH_TORCH = {"triton"}  # on a GPU alone


def test_what_the_package_asks_for_is_in_the_list_of_everything():
    text = (ROOT / "requirements.txt").read_text()
    whole = {line.partition("#")[0].strip() for line in text.splitlines()} - {""}
    extras = PROJECT["optional-dependencies"]
    assert {*extras["book"], *extras["test"], *PROJECT["dependencies"]} == whole
    assert set(extras) == {"book", "test", "engine"}


def imported(file: Path) -> set[str]:
    """The libraries that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    own = {"reproduce", *sys.stdlib_module_names}
    tops = {name.partition(".")[0] for name in found} - own - WITH_TORCH
    return {INSTALLED_AS.get(name, name) for name in tops}


def test_the_core_brings_what_is_imported_outside_the_report_and_no_more():
    package = ROOT / "reproduce"
    report = {*package.glob("report/**/*.py"), package / "notebook.py"}
    used = set.union(*(imported(f) for f in set(package.rglob("*.py")) - report))
    names = {re.match(r"[A-Za-z0-9-]+", r)[0] for r in PROJECT["dependencies"]}
    assert used == names
    book = {re.match(r"[A-Za-z0-9-]+", r)[0] for r in PROJECT["optional-dependencies"]["book"]}
    assert set.union(*map(imported, report)) <= names | book


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> set[str]:
    """The names of the files in a wheel of what is here."""
    if int(version("setuptools").partition(".")[0]) < 77:
        pytest.skip(f"setuptools is {version('setuptools')}; building takes 77")
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "reproduce", source / "reproduce", ignore=ignore)
    for name in ("results/one/network.json", "tests/test_one.py", "book/one.csv"):
        (source / name).parent.mkdir(parents=True)
        (source / name).touch()
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([sys.executable, *build, "-w", str(source), str(source)], check=True)
    (file,) = source.glob("*.whl")
    return set(zipfile.ZipFile(file).namelist())


def test_a_wheel_holds_the_package_and_its_tables_and_nothing_else(wheel):
    package = ROOT / "reproduce"
    kinds = ("*.py", "*.csv", "py.typed")
    files = {f"reproduce/{f.relative_to(package)}" for k in kinds for f in package.rglob(k)}
    assert {name for name in wheel if ".dist-info/" not in name} == files
    assert "reproduce/py.typed" in files and "reproduce/published/dqa_table1.csv" in files
