"""Names and what they stand for: losses, quantizers, networks, augmentations, data sets."""

import inspect
import pkgutil
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, TypeVar

T = TypeVar("T")


class Registry(dict[str, T]):
    """A dict in which a name stands for one thing: an unknown one and a second one are ValueErrors.

    What is not registered has the name "module:variable", so that a run can name what another
    package has.

    kind  what is registered, for the message.

    >>> colours = Registry("colour")
    >>> colours["red"] = 0xFF0000
    >>> colours["red"] = 0xEE0000
    Traceback (most recent call last):
    ValueError: colour 'red' is registered already: delete it first
    >>> colours["blue"]
    Traceback (most recent call last):
    ValueError: unknown colour 'blue'; known: red
    >>> colours["math:pi"]
    3.141592653589793
    """

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    def __setitem__(self, name: str, entry: T) -> None:
        if name in self:
            raise ValueError(f"{self.kind} {name!r} is registered already: delete it first")
        super().__setitem__(name, entry)

    def __missing__(self, name: str) -> T:
        error = None
        if ":" in name:
            try:
                return pkgutil.resolve_name(name)
            except (ValueError, ImportError, AttributeError) as why:
                error = why
        raise ValueError(f"unknown {self.kind} {name!r}; known: {', '.join(self)}") from error


def options_of(function: Callable, given: Iterable[str]) -> dict[str, Any]:
    """The arguments of a function, class or partial of one that are not `given` to it, with their
    defaults.

    >>> options_of(lambda fs, ft, weight=25.0: 0, ("fs", "ft"))
    {'weight': 25.0}
    """
    parameters = inspect.signature(function).parameters
    given = {*given, *getattr(function, "keywords", ())}
    return {name: p.default for name, p in parameters.items() if name not in given}


def import_all(package: str, path: Iterable[str]) -> None:
    """Import every module of a package, so that a new file's entries are there without being listed
    anywhere.
    """
    for module in pkgutil.iter_modules(path):
        import_module(f"{package}.{module.name}")
