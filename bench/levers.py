"""What each way to be faster brings: a row of the suites beside the same work without it. No torch
here.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .measure import Row, ratios


class Lever(NamedTuple):
    """A way to be faster: a suite, its row without and its row with it; how many times as fast, and
    why, was expected before it was measured; what became of it.
    """

    name: str
    suite: str
    without: str
    with_: str
    expected: str
    kept: str


def _of_teachers(how: str, expected: str) -> Lever:
    rows = (
        f"4 teachers score an augmentation, {way}, {how}"
        for way in ("one after the other", "the same views")
    )
    return Lever(
        f"four teachers, the same views, {how}",
        "scoring",
        *rows,
        expected,
        "`rank({name: teacher})`",
    )


LEVERS = (
    *(
        Lever(
            f"the teacher compiled, {precision}",
            "scoring",
            *(f"our pass, mean of all, {precision}{how}" for how in ("", ", compiled")),
            "1.24, as its forward pass on an EPYC",
            "`rank(compiled=True)`",
        )
        for precision in ("float32", "bfloat16")
    ),
    *(
        _of_teachers(precision + compiled, expected)
        for precision in ("float32", "bfloat16")
        for compiled, expected in (
            ("", "1.1, the views' share"),
            (", compiled", "1.3, of quicker passes"),
        )
    ),
    Lever(
        "a student's step in one graph, float32",
        "training",
        "ours, + fused quantizers",
        "ours, float32, one graph",
        "more than fused quantizers",
        "`Recipe(one_graph=True)`",
    ),
    Lever(
        "a student's step in one graph, bfloat16",
        "training",
        "ours, + bfloat16",
        "ours, + one graph",
        "more than fused quantizers",
        "`Recipe(one_graph=True)`",
    ),
    *(
        Lever(
            f"{n} students in turn",
            "many",
            "1 student, in turn",
            f"{n} students, in turn",
            "no number was written down",
            "sweeps on a CPU",
        )
        for n in (2, 4)
    ),
)
COLUMNS = ("lever", "expected", "brought", "kept as")


def brought(suites: Mapping[str, Mapping[str, Row]]) -> list[tuple[Lever, Sequence[float]]]:
    """Each lever whose rows a machine has, and the ratio of its rates in the same rounds: median,
    least, greatest.

    suites  name -> row by name.
    """
    found = []
    for lever in LEVERS:
        rows = suites.get(lever.suite, {})
        if lever.without in rows and lever.with_ in rows:
            times = ratios(rows[lever.with_].rounds, rows[lever.without].rounds)
            found.append((lever, times))
    return found
