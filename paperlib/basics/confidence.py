"""What a teacher's confidence makes of the score: a formula, and a warning that follows from it. No
torch here.

Let s = 1 - exp(-D) be the label mass that the teacher misses, and H the mean entropy of its
predictions. If what it misses is spread evenly over the other C - 1 classes, the class centroid is
known from s: its entropy is h(s) + s ln(C - 1), CMI is that less H, and

    M = D - CMI = f(s) + H,    f(s) = -ln(1 - s) - h(s) - s ln(C - 1),    h(s) = -s ln s - (1 - s)
                               ln(1 - s).

A teacher that is always certain has H = 0: its score prefers what makes it miss `preferred_miss`. A
soft teacher loses more by H than it gains by f: its score prefers what is mildest.
docs/experiments.md tests this.
"""

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar

from .statistics import spearman

CONFIDENT, SOFT = 0.9, 0.7  # bounds of a teacher's confidence (docs/experiments.md)


def even_spread(missed: np.ndarray | float, classes: int) -> np.ndarray:
    """f(s) = -ln(1 - s) - h(s) - s ln(C - 1): the score, in nats, of a teacher that is always
    certain and misses s of the label mass.

    missed  s, in 0 .. 1 (1 gives infinity). classes  C, at least 2. Raises ValueError for others.

    >>> float(even_spread(0.0, 10)), round(float(even_spread(0.9, 10)), 6)
    (0.0, 0.0)
    """
    s = np.asarray(missed, float)
    if classes < 2 or not ((s >= 0) & (s <= 1)).all():
        raise ValueError(
            f"s must lie in 0 .. 1 and there must be two classes, got s = {missed}, "
            f"{classes} classes"
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nan_to_num(s * np.log(s)) - np.nan_to_num((1 - s) * np.log1p(-s))
        return -np.log1p(-s) - entropy - s * np.log(classes - 1)


def preferred_miss(classes: int) -> float:
    """The missed label mass at which `even_spread` is least: what the score of a certain teacher
    prefers.

    >>> [round(preferred_miss(classes), 2) for classes in (10, 100, 200)]
    [0.52, 0.72, 0.76]
    """
    found = minimize_scalar(
        even_spread, bounds=(0, 0.999), args=(classes,), method="bounded", options={"xatol": 1e-9}
    )
    return float(found.x)


def warning(table: pd.DataFrame, classes: int) -> str:
    """What the theory says against trusting a ranking of `paperlib.scoring.rank`; "" if nothing.

    table  its rows for one teacher, with the columns score, error, confidence. classes  of the data
    set.
    """
    if len(table) < 4 or table["error"].nunique() < 2:
        return ""
    order = spearman(table["score"], table["error"])
    confidence = table["confidence"].max()
    if order.value > 0 and order.p < 0.05:
        return (
            "the score's order is that of the teacher's error (Spearman "
            f"{order.value:+.2f}): with a teacher of confidence "
            f"{confidence:.2f} it prefers whatever is mildest, whether or not that helps a student"
        )
    if order.value < 0 and order.p < 0.05 and confidence >= CONFIDENT:
        return (
            "the score's order is that of the teacher's error turned round (Spearman "
            f"{order.value:+.2f}): with a teacher of confidence "
            f"{confidence:.2f} it prefers what misses {preferred_miss(classes):.0%} of the "
            "label mass, whether or not that helps a student"
        )
    return ""
