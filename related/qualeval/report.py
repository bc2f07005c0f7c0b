"""Where networks lose and gain: table, sentences, figure. No torch here."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from scipy import stats

from paperlib.basics.statistics import rho
from paperlib.reporting import compare, page, results
from paperlib.reporting.report import SETUP, setup_facts
from paperlib.reporting.style import short, styled
from paperlib.study.config import Run
from paperlib.study.gains import result_of
from paperlib.study.store import Store

from .. import SYSTEMS, System
from ..setups import tried
from .study import attributes, students

LEVEL = 0.05  # of all sentences together
TEACHER, BITS = "teacher", "2 bits"


def wilson(share: float, n: int, level: float = 0.05) -> tuple[float, float]:
    """Wilson's interval of a share of n (1927). Raises ValueError unless it is in 0 .. 1.

    >>> low, high = wilson(0.5, 100)
    >>> round(low, 3), round(high, 3), wilson(1.0, 10)[1]
    (0.404, 0.596, 1.0)
    """
    if not (0 <= share <= 1 and n >= 1):
        raise ValueError(f"a share of n >= 1 must be in 0 .. 1, got {share} of {n}")
    z2 = stats.norm.isf(level / 2) ** 2
    centre, half = share + z2 / (2 * n), (z2 * (share * (1 - share) / n + z2 / (4 * n * n))) ** 0.5
    low, high = ((centre + side * half) / (1 + z2 / n) for side in (-1, 1))
    return max(0.0, float(low)), min(1.0, float(high))


def z_of_part(change: np.ndarray, part: np.ndarray) -> float:
    """How far the mean of a part lies from that of all, in standard deviations of the mean of a
    random part of its size; 0 where nothing changes.

    change  (N,) floats. part  (N,) bool, neither empty nor whole.

    >>> z_of_part(np.array([1.0, 0, 0, 0]), np.array([True, False, False, False])).__round__(3)
    1.732
    """
    n, m = len(change), int(part.sum())
    spread = (change.var(ddof=1) / m * (1 - m / n)) ** 0.5
    return float((change[part].mean() - change.mean()) / spread) if spread else 0.0


def bound(tests: int) -> float:
    """What |z| must exceed, by Bonferroni, for `LEVEL` in all of so many tests.

    >>> round(bound(1), 2), round(bound(56), 2)
    (1.96, 3.32)
    """
    return float(stats.norm.isf(LEVEL / 2 / tests))


def _numbers(text: str) -> np.ndarray:
    return np.array(text.split(), int)


def _right(run: Run, store: Store, labels: np.ndarray) -> np.ndarray:
    return (store.predictions(run)[0] == labels).astype(float)


def rights(store: Store) -> dict[str, np.ndarray]:
    """Network -> right (1) or wrong (0) of each test image, mean over seeds: the teacher, and the
    students of each augmentation. It is empty before the attributes are measured.
    """
    look = attributes(store.profile)
    if look is None or result_of(look, store) is None:
        return {}
    labels = _numbers(result_of(look, store)["labels"])
    found = {TEACHER: _right(look.network, store, labels)}
    for name, runs in students(store.profile).items():
        done = [_right(run, store, labels) for run in runs if store.done(run)]
        if done:
            found[name] = np.mean(done, 0)
    return found


def changes(found: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Change -> `rights` before and after it: "2 bits", and each augmentation of the students."""
    if not {TEACHER, "none"} <= found.keys():
        return {}
    others = (name for name in found if name not in (TEACHER, "none"))
    first = {BITS: (found[TEACHER], found["none"])}
    return first | {name: (found["none"], found[name]) for name in others}


def qualeval_table(store: Store) -> pd.DataFrame:
    """One row per change and attribute, by |z|.

    images       that have the attribute. before, accuracy_mean  accuracy on them in percent, before
                 and after; low, high  Wilson's 95 % interval of the latter.
    difference   in points. elsewhere  on the other images. z  see `z_of_part`. beyond  whether |z|
                 is beyond the bound for all rows.
    """
    look, found = attributes(store.profile), rights(store)
    compared = changes(found)
    if not compared:
        return pd.DataFrame()
    result = result_of(look, store)
    names, given = result["attributes"], _numbers(result["given"]).reshape(-1, look.slots)
    facts = setup_facts(tried(store.profile)) | {"n": len(given)}
    rows: list[dict[str, Any]] = []
    for change, (before, after) in compared.items():
        for k, attribute in enumerate(names):
            part = (given == k).any(1)
            low, high = wilson(after[part].mean(), int(part.sum()))
            row = facts | {"change": change, "attribute": attribute, "images": int(part.sum())}
            row |= {"before": 100 * before[part].mean(), "accuracy_mean": 100 * after[part].mean()}
            row |= {"low": 100 * low, "high": 100 * high}
            row |= {"difference": row["accuracy_mean"] - row["before"]}
            row |= {"elsewhere": 100 * (after - before)[~part].mean()}
            rows.append(row | {"z": z_of_part(after - before, part)})
    table = pd.DataFrame(rows)
    table["beyond"] = table["z"].abs() > bound(len(table))
    return table.sort_values("z", key=np.abs, ascending=False, kind="stable", ignore_index=True)


def sentences(table: pd.DataFrame) -> list[str]:
    """What the rows beyond the bound say, strongest first."""
    return [
        f"{short(row.change)} "
        f"{'gives' if row.difference >= 0 else 'costs'} {abs(row.difference):.1f} points on images "
        f'marked "{row.attribute}", and changes {row.elsewhere:+.1f} elsewhere (z {row.z:+.1f})'
        for row in table.itertuples()
        if row.beyond
    ]


def overlap(found: dict[str, np.ndarray], table: pd.DataFrame) -> pd.DataFrame:
    """The counterpart of skill calibration: does a student err where its teacher does? A row an
    augmentation.

    both_wrong, rescued, lost  percent of the images: wrong for both, for the teacher alone, for the
    student alone, mean over seeds. profiles  Spearman's correlation of both networks' accuracies by
    attribute.
    """
    teacher, rows = found[TEACHER], []
    of_teacher = table[table["change"] == BITS].set_index("attribute")["before"]
    for name in (name for name in found if name != TEACHER):
        right, of_student = (
            found[name],
            table[table["change"] == (BITS if name == "none" else name)],
        )
        own = of_student.set_index("attribute")["accuracy_mean"].reindex(of_teacher.index)
        row = {"augmentation": name, "both_wrong": (1 - teacher) * (1 - right)}
        row |= {"rescued": (1 - teacher) * right, "lost": teacher * (1 - right)}
        row |= {key: 100 * value.mean() for key, value in row.items() if key != "augmentation"}
        rows.append(row | {"profiles": rho(of_teacher, own)})
    return pd.DataFrame(rows)


def correlations(store: Store) -> pd.DataFrame:
    """Correlations of the measures' ranks: those that are alike share their images."""
    result = result_of(attributes(store.profile), store)
    return pd.DataFrame(result["correlations"], result["measures"], result["measures"])


def headline(table: pd.DataFrame) -> str:
    """What came out."""
    said, first = sentences(table), table.iloc[0]
    if said:
        return f"{len(said)} of {len(table)} tests are beyond the bound; {said[0]}"
    return (
        f"none of {len(table)} tests is beyond the bound of |z| = {bound(len(table)):.1f}; the "
        f"greatest is {first['z']:+.1f}: {short(first['change'])} on images marked "
        f'"{first["attribute"]}", {first["difference"]:+.1f} points on {first["images"]} images, '
        f"{first['elsewhere']:+.1f} elsewhere"
    )


@styled
def qualeval_figure(table: pd.DataFrame) -> Figure:
    """z by attribute and change; what is beyond the bound is in bold."""
    order = table["attribute"].drop_duplicates().sort_values()
    grid = table.pivot(index="attribute", columns="change", values="z").reindex(order)
    grid = grid[[BITS, *(name for name in grid if name != BITS)]].rename(columns=short)
    figure, axis = plt.subplots(figsize=(7, 0.3 * len(grid) + 1), layout="constrained")
    limit = max(bound(len(table)), float(np.abs(grid.to_numpy()).max()))
    options = {"cmap": "vlag", "vmin": -limit, "vmax": limit, "annot": True, "fmt": "+.1f"}
    sns.heatmap(grid, ax=axis, cbar=False, annot_kws={"fontsize": 8}, **options)
    for text, value in zip(axis.texts, grid.to_numpy().ravel(), strict=True):
        text.set_fontweight("bold" if abs(value) > bound(len(table)) else "normal")
    axis.set(xlabel="", ylabel="")
    axis.grid(False)
    title = f"z of the change, negative where it costs more; bound {bound(len(table)):.1f}"
    axis.set_title(title, loc="left", fontsize=10)
    return figure


results.TABLES["qualeval"] = lambda store, made: qualeval_table(store)
results.FIGURES["qualeval"] = ("qualeval", lambda store, made: qualeval_figure(made["qualeval"]))
page.CAPTIONS["qualeval"] = (
    "On which images quantization costs, and augmentations give, more or less than elsewhere."
)
compare.TABLES["qualeval"] = compare.Compared(
    qualeval_table, (*SETUP, "change", "attribute"), {"accuracy_mean": 10.0}
)
SYSTEMS["qualeval"] = System(
    title="QualEval",
    paper="Murahari et al., NAACL 2024, arXiv 2311.02807",
    built=(
        "affinities, their assignment by a sparse linear program, accuracy and change by attribute "
        "with intervals, sentences by rule beyond the bound for all tests"
    ),
    ours=(
        "attributes are measured, where theirs and the sentences are a language model's; affinity "
        "is a rank; the test; no training on what is weak"
    ),
    table="qualeval",
    proof="test_related_qualeval.py::test_the_assignment_is_the_best_of_all",
    headline=headline,
    regime="a confident teacher",
)
