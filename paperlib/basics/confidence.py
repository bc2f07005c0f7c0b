"""The effect of a teacher's confidence on the score: a formula, and a warning that follows from it.
No torch here.

Let s = 1 - exp(-D) be the label mass that the teacher misses, and H the mean entropy of its
predictions. If the missed mass is spread evenly over the other C - 1 classes, s gives the class
centroid. Its entropy is h(s) + s ln(C - 1), CMI is that less H, and

    M = D - CMI = f(s) + H
    f(s) = -ln(1 - s) - h(s) - s ln(C - 1)
    h(s) = -s ln s - (1 - s) ln(1 - s)

A teacher that is always certain has H = 0. Its score prefers what makes it miss `preferred_miss`. A
soft teacher loses more by H than it gains by f. Its score prefers what is mildest.
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
        got = f"s = {missed}, {classes} classes"
        raise ValueError(f"s must lie in 0 .. 1 and there must be two classes, got {got}")
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nan_to_num(s * np.log(s)) - np.nan_to_num((1 - s) * np.log1p(-s))
        return -np.log1p(-s) - entropy - s * np.log(classes - 1)


def preferred_miss(classes: int) -> float:
    """The missed label mass at which `even_spread` is least. The score of a certain teacher prefers
    it.

    >>> [round(preferred_miss(classes), 2) for classes in (10, 100, 200)]
    [0.52, 0.72, 0.76]
    """
    found = minimize_scalar(
        even_spread, bounds=(0, 0.999), args=(classes,), method="bounded", options={"xatol": 1e-9}
    )
    return float(found.x)


def warning(table: pd.DataFrame, classes: int) -> str:
    """A reason of the theory not to trust a ranking of `paperlib.scoring.rank`; "" for none.

    table    the rows of one teacher, with the columns score, error, confidence.
    classes  number of classes of the data set.
    """
    if len(table) < 4 or table["error"].nunique() < 2:
        return ""
    order = spearman(table["score"], table["error"])
    confidence = table["confidence"].max()
    if not order.p < 0.05:
        return ""
    if order.value > 0:
        like, preferred = "that of the teacher's error", "whatever is mildest"
    elif confidence >= CONFIDENT:
        like = "that of the teacher's error turned round"
        preferred = f"what misses {preferred_miss(classes):.0%} of the label mass"
    else:
        return ""
    return (
        f"the score's order is {like} (Spearman {order.value:+.2f}): with a teacher of confidence "
        f"{confidence:.2f} it prefers {preferred}, whether or not that helps a student"
    )
