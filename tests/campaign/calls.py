"""Every public function and class of the package, each argument in turn given what is wrong."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import reproduce
from tests.campaign import odd
from tests.campaign.kinds import Kind, is_asked, kind_of


@dataclass(frozen=True)
class Call:
    """One argument of one function, given one odd value, all others being right."""

    name: str
    function: Callable
    argument: str
    kind: Kind
    value: str
    others: dict[str, Callable[[], object]]
    splat: bool

    @property
    def what(self) -> str:
        return f"{self.name}({self.argument}={self.value})"

    def make(self) -> tuple[Callable[[], object], object]:
        """(the call, the odd value)"""
        value = odd.GRIDS[self.kind.odd][self.value]()
        given = {name: good() for name, good in self.others.items()}
        if self.splat:
            return (lambda: self.function(*given.values(), value)), value
        return (lambda: self.function(**given, **{self.argument: value})), value


def modules() -> list[str]:
    found = pkgutil.walk_packages(reproduce.__path__, "reproduce.")
    return sorted(m.name for m in found if m.name != "reproduce.kernels.dither_triton")


def is_given_out(one: object) -> bool:
    """Protocols, errors and tuples with names: what the package gives, or asks to be written."""
    if not inspect.isclass(one):
        return False
    named_tuple = issubclass(one, tuple) and hasattr(one, "_fields")
    return named_tuple or issubclass(one, BaseException) or getattr(one, "_is_protocol", False)


def is_shown(module: str, name: str) -> bool:
    """Whether a name is public: where a subpackage has __all__, that says it for its modules."""
    parts = module.split(".")
    above = importlib.import_module(".".join(parts[:2]))
    shown = getattr(above, "__all__", None) if len(parts) > 2 else None
    return shown is None or name in shown or module in WHOLE


WHOLE = ("reproduce.attacks.diagnostics",)  # used under its own name


def public() -> Iterator[tuple[str, Callable]]:
    """("module.name", function or class), from the names of the modules themselves."""
    for name in modules():
        module = importlib.import_module(name)
        for public_name, one in sorted(vars(module).items()):
            own = getattr(one, "__module__", None) == name and callable(one)
            place = f"{name.partition('.')[2]}.{public_name}"
            shown = not public_name.startswith("_") and is_shown(name, public_name)
            if own and shown and not is_given_out(one) and is_asked(place):
                yield place, one


def calls() -> Iterator[Call]:
    for name, function in public():
        parameters = inspect.signature(function).parameters
        kinds = {n: kind_of(name, p) for n, p in parameters.items()}
        needed = {
            n: kinds[n].good
            for n, p in parameters.items()
            if p.default is p.empty and p.kind not in _SPLATS
        }
        for argument, kind in kinds.items():
            if parameters[argument].kind is inspect.Parameter.VAR_KEYWORD:
                continue
            splat = parameters[argument].kind is inspect.Parameter.VAR_POSITIONAL
            others = {n: good for n, good in needed.items() if n != argument}
            for value in odd.GRIDS[kind.odd]:
                yield Call(name, function, argument, kind, value, others, splat)


_SPLATS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
