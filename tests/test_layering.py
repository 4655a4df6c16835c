"""The package's modules stand in layers, functions are small, and nothing names a machine."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

import reproduce

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(reproduce.__file__).resolve().parent

# Each layer may import what stands below it, and nothing beside it; within a folder all may.
LAYERS = [
    {"__main__", "notebook"},
    {"runner", "report"},
    {"auditing", "papers", "progress"},
    {"evaluation", "records", "training"},
    {"attacks", "pipeline"},
    {"data", "dither", "models", "published", "quantizers"},
    {"checks", "kernels", "names", "storage"},
]
DEPTH = {name: depth for depth, names in enumerate(LAYERS) for name in names}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
SOURCES = [*MODULES, *(ROOT / "benchmarks").glob("*.py"), *(ROOT / "notebooks").glob("*.py")]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT).with_suffix(""))


def layer(path: Path) -> str:
    """The name in LAYERS that a module's file belongs to: its own, or its subpackage's."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(source: str) -> set[str]:
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
    return {name for name in imported(source) - {own} if DEPTH[name] <= DEPTH[own]}


def test_there_are_at_most_seven_layers():
    assert len(LAYERS) <= 7


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_module_imports_only_from_the_layers_below_it(path):
    own = layer(path)
    assert own in DEPTH, f"{own} has no place in LAYERS yet"
    assert not out_of_place(own, path.read_text(encoding="utf-8"))


def test_every_name_in_the_layers_is_a_module():
    assert DEPTH.keys() == {layer(path) for path in MODULES}


@pytest.mark.parametrize(
    ("own", "other", "allowed"),
    [("training", "data", True), ("data", "models", False), ("attacks", "training", False)],
)
def test_a_layer_may_import_what_is_below_and_neither_beside_nor_above(own, other, allowed):
    assert out_of_place(own, f"import reproduce.{other}") == (set() if allowed else {other})


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
    assert imported(source) == names


# --- Functions ------------------------------------------------------------------------------------

MOST = 5


def too_wide(source: str) -> list[str]:
    """Functions that take more than MOST arguments by position; self and cls do not count.

    Steps of autograd, which torch calls by position, and kernels, compiled ones, may take more.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            names = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
            decorators = " ".join(map(ast.unparse, getattr(node, "decorator_list", [])))
            if names[:1] == ["ctx"] or "triton.jit" in decorators or decorators == "fused":
                continue
            if len(names) - (names[:1] in (["self"], ["cls"])) > MOST:
                found.append(f"line {node.lineno}: {getattr(node, 'name', 'lambda')}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_no_function_takes_more_than_five_arguments_by_position(path):
    assert not too_wide(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("arguments", "wide"),
    [
        ("a, b, c, d, e", False),
        ("a, b, c, d, e, f", True),
        ("a, b, c, /, d, e, f=1", True),
        ("self, a, b, c, d, e", False),
        ("a, b, *, c, d, e, f", False),
        ("a, b, c, d, e, *args, **options", False),
    ],
)
def test_arguments_by_name_alone_are_as_many_as_one_likes(arguments, wide):
    assert bool(too_wide(f"def f({arguments}): pass")) == wide
    assert bool(too_wide(f"f = lambda {arguments}: 0")) == wide


# --- Names of machines ----------------------------------------------------------------------------


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
