"""Contenders interleaved round by round, and what may be said of their rounds. No torch here.

The speed of a shared machine drifts by a fifth within minutes. Contenders that take turns in every
round meet the same drift, so the ratio of two of them is taken within each round, and the median
over the rounds is what is reported.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

ROLES = ("ours", "baseline", "limit")


@dataclass(frozen=True)
class Contender:
    """Something to time: `run()` does `work` units (images, floating-point operations, bytes)."""

    name: str
    run: Callable[[], Any]
    work: float


@dataclass(frozen=True)
class Row:
    """One line of a suite: a rate, higher is better, in every round.

    role      "ours", "baseline" or "limit". unit  of the rate.
    baseline, limit  names of the rows of the same suite that it is compared with, "" for none.
    target    what it should reach, in words. headline  whether it stands in the short table.
    Raises ValueError for an unknown role or rates that are not positive.
    """

    name: str
    role: str
    rounds: tuple[float, ...]
    unit: str = "images/s"
    baseline: str = ""
    limit: str = ""
    target: str = ""
    headline: bool = False

    def __post_init__(self):
        if self.role not in ROLES:
            raise ValueError(
                f"unknown role {self.role!r} of row {self.name!r}; known: {', '.join(ROLES)}"
            )
        if not self.rounds or not all(rate > 0 for rate in self.rounds):
            raise ValueError(f"row {self.name!r} needs positive rates, got {self.rounds}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "Row":
        """Raises TypeError for an unknown field."""
        return Row(**{**values, "rounds": tuple(values["rounds"])})


def interleave(
    contenders: Sequence[Contender],
    repetitions: int,
    *,
    synchronise: Callable[[], Any] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
    report: Callable[[str], Any] = lambda line: None,
) -> dict[str, tuple[float, ...]]:
    """Rates (work per second) of every contender in every round, after one round of warm-up that is
    not counted.

    Each round starts with another contender, so that none always follows the same one. synchronise
    waits for the device; called before each reading of the clock. report  is given a line a round.

    Raises ValueError for fewer than one repetition or two contenders of one name.

    >>> ticks = iter(range(100))
    >>> interleave([Contender("a", lambda: None, 3.0)], 2, clock=lambda: next(ticks))
    {'a': (3.0, 3.0)}
    """
    if repetitions < 1:
        raise ValueError(f"at least 1 repetition is needed, got {repetitions}")
    names = [c.name for c in contenders]
    if len(set(names)) < len(names):
        raise ValueError(f"contenders need names of their own, got {names}")
    rates: dict[str, list[float]] = {name: [] for name in names}
    for k in range(repetitions + 1):
        began = time.perf_counter()
        shift = k % len(contenders)
        for contender in (*contenders[shift:], *contenders[:shift]):
            synchronise()
            started = clock()
            contender.run()
            synchronise()
            seconds = clock() - started
            if k:
                rates[contender.name].append(contender.work / seconds)
        report(
            f"{f'round {k} of {repetitions}' if k else 'warm-up'}: "
            f"{time.perf_counter() - began:.1f} s"
        )
    return {name: tuple(values) for name, values in rates.items()}


def combine(parts: Sequence[tuple[float, Sequence[float]]]) -> tuple[float, ...]:
    """The rate of doing several things one after the other for every image, round by round.

    parts  (how many times each image goes through it, rates of the rounds).

    >>> combine([(2, (10.0, 20.0)), (1, (5.0, 10.0))])
    (2.5, 5.0)
    """
    return tuple(
        1 / sum(times / rate for (times, _), rate in zip(parts, at, strict=True))
        for at in zip(*(rates for _, rates in parts), strict=True)
    )


def best(rounds: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The highest rate of each round, of several ways to do the same.

    >>> best([(1.0, 4.0), (2.0, 3.0)])
    (2.0, 4.0)
    """
    return tuple(map(max, zip(*rounds, strict=True)))


def ratios(numerator: Sequence[float], denominator: Sequence[float]) -> tuple[float, float, float]:
    """(median, least, greatest) of the ratios within the rounds. Raises ValueError if they have not
    as many rounds.

    >>> ratios((2.0, 8.0, 3.0), (1.0, 2.0, 1.0))
    (3.0, 2.0, 4.0)
    """
    if len(numerator) != len(denominator):
        raise ValueError(f"{len(numerator)} rounds cannot be compared with {len(denominator)}")
    return spread([a / b for a, b in zip(numerator, denominator, strict=True)])


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """(median, least, greatest)."""
    return statistics.median(values), min(values), max(values)


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of log cost against log size by least squares: 1 is linear, 0 constant.

    Raises ValueError for fewer than two sizes or a value that is not positive.

    >>> round(exponent([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    if len(sizes) < 2 or not all(v > 0 for v in (*sizes, *costs)):
        raise ValueError(
            "an exponent needs two or more positive points, got "
            f"{list(zip(sizes, costs, strict=False))}"
        )
    return statistics.linear_regression(
        [math.log(s) for s in sizes], [math.log(c) for c in costs]
    ).slope
