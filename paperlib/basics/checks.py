"""What arguments may be: said once, in `ALLOWED` by their usual names or where a function is
defined, by `@checked` or `check_fields`, which also check it. No torch here.

A *spec* is a function (name, value, seen). It raises ValueError or TypeError, with the argument's
name and value, for a value that is not allowed. `seen` holds the call's arguments by name, and the
sizes that letters of shapes have stood for so far.
"""

import functools
import inspect
import math
import types
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, TypeVar, Union, get_args, get_origin

Spec = Callable[..., None]
F = TypeVar("F", bound=Callable)


def checked(**specs: Spec) -> Callable[[F], F]:
    """Decorator: check the arguments before the function runs: those named in `ALLOWED`, and then
    these, in this order. Not checked is what is left out, or None where the annotation has it.

    >>> @checked(rate=number("(0, 1]"))
    ... def drop(x, rate=0.5):
    ...     return x * rate
    >>> drop(4, rate=2)
    Traceback (most recent call last):
    ValueError: rate must be a finite number in (0, 1], got 2
    """

    def decorate(function: F) -> F:
        parameters = inspect.signature(function).parameters
        names = tuple(parameters)
        missing = {n for n, p in parameters.items() if types.NoneType in get_args(p.annotation)}
        usual = {name: ALLOWED[name] for name in names if name in ALLOWED and name not in specs}
        every = usual | specs

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            seen = {**dict(zip(names, args, strict=False)), **kwargs}
            for name, spec in every.items():
                if name in seen and not (seen[name] is None and name in missing):
                    spec(name, seen[name], seen)
            return function(*args, **kwargs)

        return call

    return decorate


def check_fields(thing: Any, **specs: Spec) -> None:
    """Check every field of a dataclass by its annotation, and by its spec, here or in `ALLOWED`.

    An int is no bool and no float, a float may be an int, and numbers are finite.
    """
    for field in fields(thing):
        value = getattr(thing, field.name)
        if not _is(value, field.type):
            kind = getattr(field.type, "__name__", field.type)
            kind = field.type if get_args(field.type) else kind
            error = ValueError if isinstance(value, Real) else TypeError
            found = f"{type(value).__name__} {value!r:.80}"
            raise error(f"{field.name} must be {kind}, with finite numbers, got {found}")
        spec = (ALLOWED | specs).get(field.name)
        if spec and value is not None:
            spec(field.name, value, {})


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotation."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return not isinstance(value, float) or math.isfinite(value)
    if origin in (Union, types.UnionType):
        return any(_is(value, part) for part in parts)
    if kind in (int, float):
        number = type(value) is int or (kind is float and isinstance(value, float))
        return number and -math.inf < value < math.inf
    if not isinstance(value, origin or types.NoneType if kind is None else origin or kind):
        return False
    if origin is tuple and parts[-1] is not ...:
        return len(value) == len(parts) and all(map(_is, value, parts))
    if origin in (tuple, Sequence):
        return not isinstance(value, str) and all(_is(each, parts[0]) for each in value)
    return origin is not dict or all(_is(v, parts[1]) for v in value.values())


# ------------------------------------------------------------------------------------------- specs


def require(condition: Any, text: str) -> None:
    """Raise ValueError with this text unless the condition holds."""
    if not condition:
        raise ValueError(text)


def number(allowed: str = "(-inf, inf)", whole: bool = False, binds: str = "") -> Spec:
    """A finite number in an interval. A bool is none. `binds` is the letter that it stands for.

    >>> number("[1, 8]", whole=True)("bits", 2.0)
    Traceback (most recent call last):
    ValueError: bits must be an integer in [1, 8], got 2.0
    """
    low, high = map(float, allowed[1:-1].split(","))
    kind, text = (Integral, "an integer") if whole else (Real, "a finite number")

    def check(name: str, value: Any, seen: dict | None = None) -> None:
        good = isinstance(value, kind) and not isinstance(value, bool)
        good = good and (low <= value if allowed[0] == "[" else low < value)
        if not (good and (value <= high if allowed[-1] == "]" else value < high)):
            error = ValueError if isinstance(value, Real) else TypeError
            raise error(f"{name} must be {text} in {allowed}, got {value!r}")
        if binds:
            seen[binds] = value

    return check


finite, positive, weight = number(), number("(0, inf)"), number("[0, inf)")
share, below_one = number("(0, 1]"), number("[0, 1)")
count, natural = number("[1, inf)", whole=True), number("[0, inf)", whole=True)
integer, bits = number(whole=True), number("[1, 8]", whole=True)


def above(other: str, spec: Spec) -> Spec:
    """What the spec allows, above another argument."""

    def check(name: str, value: Any, seen: dict) -> None:
        spec(name, value, seen)
        least = seen.get(other, -math.inf)
        require(value > least, f"{name} must be above {other}, got {value} and {least}")

    return check


def kind_of(*kinds: type) -> Spec:
    """
    >>> kind_of(tuple)("images", [])
    Traceback (most recent call last):
    TypeError: images must be a tuple, got list []
    """
    wanted = " or ".join(kind.__name__ for kind in kinds)

    def check(name: str, value: Any, seen: dict | None = None) -> None:
        if not isinstance(value, kinds):
            raise TypeError(f"{name} must be a {wanted}, got {type(value).__name__} {value!r:.80}")

    return check


def one_of(name: str, value: Any, known: Collection) -> None:
    """
    >>> one_of("schedule", "day", ("epoch", "step"))
    Traceback (most recent call last):
    ValueError: unknown schedule 'day'; known: epoch, step
    """
    require(value in tuple(known), f"unknown {name} {value!r}; known: {', '.join(map(str, known))}")


def choice(known: Collection) -> Spec:
    """One of a few values."""
    return lambda name, value, seen=None: one_of(name, value, known)


def anything(name: str, value: Any, seen: dict | None = None) -> None:
    """What the function itself looks at."""


def word(name: str, value: Any, seen: dict | None = None) -> None:
    """A string that is not empty."""
    kind_of(str)(name, value)
    require(value, f"{name} must not be empty, got {value!r}")


def several(spec: Spec, least: int = 1) -> Spec:
    """A sequence, not a string, of at least so many values that the spec allows.

    >>> several(word)("layers", "maps")
    Traceback (most recent call last):
    TypeError: layers must be a Sequence, but no string, got 'maps'
    """

    def check(name: str, value: Any, seen: dict | None = None) -> None:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise TypeError(f"{name} must be a Sequence, but no string, got {value!r:.80}")
        enough = f"{name} must hold {least} or more, got {len(value)}: {value!r:.60}"
        require(len(value) >= least, enough)
        for each in value:
            spec(f"each of {name}", each, seen)

    return check


def three(spec: Spec) -> Spec:
    """A number for each channel."""

    def check(name: str, value: Any, seen: dict | None = None) -> None:
        several(spec, 3)(name, value)
        require(len(value) == 3, f"{name} must be a number for each channel, got {value!r}")

    return check


def shaped(name: str, value: Any, what: str, shape: str, good: bool, seen: dict | None) -> None:
    """Check the shape of an array or tensor, which must not be empty, with `good`, what is known of
    its type.

    shape  such as "N C 3 _": a letter stands for one size, `_` for any, and `...`, at the end, for
           as many axes as it stood for before.
    """
    wanted, found, seen = shape.split(), tuple(value.shape), {} if seen is None else seen
    known = ", ".join(str(seen.get(letter, letter)) for letter in wanted)
    if wanted[-1] == "...":
        wanted.pop()
        good = good and len(found) >= len(wanted)
        good = good and (not wanted or seen.setdefault("...", len(found)) == len(found))
    else:
        good = good and len(found) == len(wanted)
    if good and 0 not in found:
        for letter, size in zip(wanted, found, strict=False):
            expected = size if letter == "_" else seen.get(letter, size)
            good = good and size == (int(letter) if letter.isdigit() else expected)
            if good:
                seen[letter] = size
    if not good or 0 in found:
        raise ValueError(f"{name} must be {what} ({known}), not empty, got {value.dtype} {found}")


def arrays(kinds: str, shape: str, low: float = -math.inf, high: float = math.inf) -> Spec:
    """A numpy array. kinds  of its dtype, "i" or "f". low, high  of its values; they are finite."""

    def check(name: str, value: Any, seen: dict | None = None) -> None:
        if not hasattr(getattr(value, "dtype", None), "kind"):
            raise TypeError(f"{name} must be a numpy array, got {value!r:.80}")
        what = "an array of integers" if kinds == "i" else "an array of numbers"
        shaped(name, value, what, shape, value.dtype.kind in kinds, seen)
        least, most = value.min(), value.max()
        good = low <= least and most <= high and math.isfinite(least) and math.isfinite(most)
        require(good, f"{name} must lie in {low}..{high}, finite, found {least} .. {most}")

    return check


# What an argument or a field of this name may be, wherever it has one.
ALLOWED: dict[str, Spec] = {
    **dict.fromkeys(("name", "model", "method", "loss", "augmentation"), word),
    **dict.fromkeys(("seed", "draw", "image", "padding", "replicates"), natural),
    **dict.fromkeys(("warmup", "warmup_steps", "init_epochs"), natural),
    **dict.fromkeys(("batch", "count", "views", "top", "stddev_group", "evaluate_every"), count),
    **dict.fromkeys(("k", "p1", "p2", "dim", "negatives", "population"), count),
    **dict.fromkeys(("train", "test", "size", "start", "threads"), count),
    **dict.fromkeys(("bits", "weight_bits", "activation_bits", "kept_bits"), bits),
    **dict.fromkeys(("temperature", "lr", "init_lr"), positive),
    **dict.fromkeys(("alpha", "beta", "gamma", "delta", "theta", "grad_scale"), weight),
    **dict.fromkeys(("distance_weight", "angle_weight"), weight),
    **dict.fromkeys(("weight_decay", "quantizer_lr"), weight),
    **dict.fromkeys(("smoothing", "momentum"), below_one),
    **dict.fromkeys(("cmi_weight", "estimate"), finite),
    **dict.fromkeys(("budget", "rate"), share),
    **dict.fromkeys(("mirror", "per_channel", "transposed", "download"), kind_of(bool)),
    "confidence": number("(0, 1)"),
    "levels": number("[2, 256]", whole=True),
    "classes": number("[1, inf)", whole=True, binds="C"),
    "precision": choice(("float32", "bfloat16")),
    "mean": three(number("[0, 1]")),
    "std": three(number("(0, 1]")),
    "augmentations": several(word),
    "temperatures": several(positive, 0),
    "counts": several(count, 0),
}
