"""The package's modules stand in layers, and the repository names no one's machine."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

import reproduce

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(reproduce.__file__).resolve().parent

# Each layer may import what stands below it. Nothing in the last one imports a sibling.
LAYERS = [
    {"__main__", "benchmark"},
    {"claims"},
    {"experiments"},
    {"units"},
    {"hardened", "norms", "pipeline_checks", "substitutes"},
    {"trials", "variants"},
    {"grids"},
    {"dqa", "other_attacks", "trial_figures", "trial_records"},
    {"double", "figures"},
    {"embedding", "results"},
    {"evaluation"},
    {"training"},
    {"attacks", "pipeline"},
    {"dither", "models", "quantizers"},
    {"checks", "data", "kernels", "published", "storage"},
]
DEPTH = {name: depth for depth, names in enumerate(LAYERS) for name in names}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def layer(path: Path) -> str:
    """The name in LAYERS that a module's file belongs to: its own, or its subpackage's."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def siblings_imported(source: str) -> set[str]:
    """Names of modules of the package that `source` imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    inside = [name.split(".") for name in found if name.startswith("reproduce.")]
    return {parts[1] for parts in inside if parts[1] != "__version__"}


def out_of_place(own: str, source: str) -> set[str]:
    """What module `own` imports from its own layer or from one above it."""
    return {name for name in siblings_imported(source) - {own} if DEPTH[name] <= DEPTH[own]}


@pytest.mark.parametrize("path", MODULES, ids=layer)
def test_a_module_imports_only_from_the_layers_below_it(path):
    own = layer(path)
    assert own in DEPTH, f"{own} has no place in LAYERS yet"
    assert not out_of_place(own, path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("own", "imported", "allowed"),
    [("training", "data", True), ("data", "models", False), ("attacks", "training", False)],
)
def test_a_layer_may_import_what_is_below_and_neither_beside_nor_above(own, imported, allowed):
    assert out_of_place(own, f"import reproduce.{imported}") == (set() if allowed else {imported})


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import reproduce.data", {"data"}),
        ("from reproduce import data, __version__", {"data"}),
        ("from reproduce.data import load", {"data"}),
        ("def f():\n    from reproduce.published import dqa", {"published"}),
        ("import torch", set()),
    ],
)
def test_every_form_of_import_is_seen(source, names):
    assert siblings_imported(source) == names


def test_no_tracked_file_names_a_path_of_someones_machine():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is not a git checkout")
    private = re.compile(r"(?<![\w.])/(?:home|Users|root|work)/\w+")
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b"\0"
        if b"\0" not in content:
            found += [f"{name}: {path}" for path in private.findall(content.decode("utf-8"))]
    assert not found
