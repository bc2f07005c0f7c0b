"""Checks of arguments. Each raises ValueError with the argument's name and value. No torch here."""

from collections.abc import Callable, Collection
from typing import Any


def require(condition: Any, text: str) -> None:
    """Raise ValueError with this text unless the condition holds."""
    if not condition:
        raise ValueError(text)


def positive(name: str, value: float) -> None:
    """
    >>> positive("alpha", 0)
    Traceback (most recent call last):
    ValueError: alpha must be positive, got 0
    """
    require(value > 0, f"{name} must be positive, got {value}")


def at_least(name: str, value: float, least: float) -> None:
    """
    >>> at_least("beta", -1, 0)
    Traceback (most recent call last):
    ValueError: beta must be at least 0, got -1
    """
    require(value >= least, f"{name} must be at least {least}, got {value}")


def within(name: str, value: float, low: float, high: float) -> None:
    """
    >>> within("count", 9, 1, 8)
    Traceback (most recent call last):
    ValueError: count must lie in 1..8, got 9
    """
    require(low <= value <= high, f"{name} must lie in {low}..{high}, got {value}")


def whole(name: str, value: int, low: int, high: int) -> None:
    """
    >>> whole("bits", 2.0, 1, 8)
    Traceback (most recent call last):
    ValueError: bits must be an integer in 1..8, got 2.0
    """
    good = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    require(good, f"{name} must be an integer in {low}..{high}, got {value!r}")


def share(name: str, value: float) -> None:
    """
    >>> share("rate", 0)
    Traceback (most recent call last):
    ValueError: rate must lie in (0, 1], got 0
    """
    require(0 < value <= 1, f"{name} must lie in (0, 1], got {value}")


def below_one(name: str, value: float) -> None:
    """
    >>> below_one("momentum", 1)
    Traceback (most recent call last):
    ValueError: momentum must lie in [0, 1), got 1
    """
    require(0 <= value < 1, f"{name} must lie in [0, 1), got {value}")


def optional(check: Callable, name: str, value: Any, *bounds: Any) -> None:
    """
    >>> optional(at_least, "size", None, 1)
    """
    if value is not None:
        check(name, value, *bounds)


def kind_of(name: str, value: Any, kind: type) -> None:
    """Raise TypeError unless the value is of this kind.

    >>> kind_of("images", [], tuple)
    Traceback (most recent call last):
    TypeError: images must be a tuple, got list
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, got {type(value).__name__}")


def one_of(name: str, value: Any, known: Collection) -> None:
    """
    >>> one_of("schedule", "day", ("epoch", "step"))
    Traceback (most recent call last):
    ValueError: unknown schedule 'day'; known: epoch, step
    """
    require(value in known, f"unknown {name} {value!r}; known: {', '.join(map(str, known))}")
