"""The newer losses beside KD, and the class entropy beside the score: table and figure. No torch
here.
"""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from paperlib.basics.statistics import Correlation, spearman
from paperlib.reporting import compare, page, results
from paperlib.reporting.report import SETUP, setup_facts, students_row
from paperlib.reporting.style import error_bars, legend_of_policies, marker, of_seeds, styled
from paperlib.study.gains import result_of
from paperlib.study.store import Store

from .. import SYSTEMS, System
from ..setups import tried
from ..verdicts import NOT_APART, told
from .study import entropies, rated, students

LOSS, CANDIDATE = "loss", "augmentation"


def categories_table(store: Store) -> pd.DataFrame:
    """One row per loss, best first, and one per augmentation, evenest first.

    kind  "loss": students with it and crop and mirror alone. "augmentation": students with KD and
    it. difference, difference_se  to KD, or to crop and mirror alone, in points within seeds;
    verdict  of a loss, by the rule of study.py. class_entropy, score  of an augmentation.
    """
    setup, losses = tried(store.profile), students(store.profile)
    if setup is None:
        return pd.DataFrame()
    rows: list[dict[str, Any]] = []
    for name, runs in losses.items():
        rows += students_row({"kind": LOSS, "name": name}, runs, losses["kd"], store)
    rows.sort(key=lambda row: -row["accuracy_mean"])
    for row in rows:
        row["verdict"] = "" if row["name"] == "kd" else verdict(row)
    result = result_of(entropies(store.profile), store)
    of = rated(store.profile)
    for line in sorted(result["rows"], key=lambda row: -row["class_entropy"]) if result else ():
        facts = {"kind": CANDIDATE, "name": line["augmentation"]}
        facts |= {name: line[name] for name in ("class_entropy", "score")}
        rows += students_row(facts, of.get(facts["name"], ()), of["none"], store)
    return pd.DataFrame([setup_facts(setup) | row for row in rows])


def verdict(row: dict[str, Any]) -> str:
    """Of a loss beside KD.

    >>> verdict({"difference": 1.0, "difference_se": 0.2, "n": 3})
    'above KD'
    """
    words = ("above KD", "below KD", NOT_APART)
    return told(row["difference"], row["difference_se"], row["n"], words)


def ranking(table: pd.DataFrame, metric: str) -> Correlation:
    """Spearman's correlation with the students' accuracy of a metric of augmentations that is low
    where it is good: "score" is, "class_entropy" is turned round. A perfect one has -1.
    """
    rows = table[table["kind"] == CANDIDATE]
    sign = -1 if metric == "class_entropy" else 1
    return spearman(sign * rows[metric], rows["accuracy_mean"])


def losses_sentence(table: pd.DataFrame) -> str:
    """What came out for the losses."""
    rows = table[(table["kind"] == LOSS) & (table["name"] != "kd")]
    return "; ".join(
        f"{row.name_}: {row.difference:+.2f} ± {row.difference_se:.2f} points to KD, {row.verdict}"
        for row in rows.rename(columns={"name": "name_"}).itertuples()
    )


def entropy_sentence(table: pd.DataFrame) -> str:
    """What came out for the class entropy."""
    rows = table[table["kind"] == CANDIDATE]
    rho, beside = ranking(table, "class_entropy"), ranking(table, "score")
    low, high = rows["class_entropy"].min(), rows["class_entropy"].max()
    sure = rho.p < 0.05
    said = ("yes" if rho.value < 0 else "no") if sure else "cannot tell"
    return (
        f"class entropy from {low:.3f} to {high:.3f}; does it rank: {said} (Spearman "
        f"{rho.value:+.2f}, p = {rho.p:.2g}, n = {rho.n}; the score {beside.value:+.2f}, "
        f"p = {beside.p:.2g})"
    )


def headline(table: pd.DataFrame) -> str:
    """Both sentences, as far as the records allow."""
    several = (table["kind"] == CANDIDATE).sum() > 1
    parts = losses_sentence(table), entropy_sentence(table) if several else ""
    return ". ".join(filter(None, parts))


@styled
def categories_figure(table: pd.DataFrame) -> Figure:
    """Left the losses, best on top; bars are a standard deviation over seeds. Right the
    augmentations: class entropy against accuracy.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    rows = table[table["kind"] == LOSS].iloc[::-1]
    error_bars(left, rows, rows["name"], color=sns.color_palette()[0], capsize=3)
    for value in rows.loc[rows["name"] == "kd", "accuracy_mean"]:
        left.axvline(value, color="0.6", linestyle=":", zorder=0)
    left.set(xlabel=f"accuracy [%], {of_seeds(rows)}", title="losses of logits")
    shown = table[table["kind"] == CANDIDATE]
    for row in shown.rename(columns={"name": "augmentation"}).itertuples():
        right.plot(row.class_entropy, row.accuracy_mean, "o", ms=7, **marker(row.augmentation))
    right.set(
        xlabel="class entropy of the teacher's predictions, over log C",
        ylabel=f"accuracy [%], {of_seeds(shown)}",
        title="augmentations (hollow: with CutMix)",
    )
    right.legend(handles=legend_of_policies("o"), ncols=2, fontsize=7)
    return figure


results.TABLES["categories"] = lambda store, made: categories_table(store)
results.FIGURES["categories"] = (
    "categories",
    lambda store, made: (
        categories_figure(made["categories"])
        if set(made["categories"]["kind"]) == {LOSS, CANDIDATE}
        else None
    ),
)
page.CAPTIONS["categories"] = (
    "Losses of logits on one budget; and the class entropy of the teacher's predictions under each "
    "augmentation against the accuracy of the student trained with it."
)
compare.TABLES["categories"] = compare.Compared(
    categories_table, (*SETUP, "kind", "name"), compare.ACCURACY
)
SYSTEMS["categories"] = System(
    title="Categories of KD",
    paper="Yang, Yu, An & Xu, 2023, arXiv 2306.10687; class entropy: Frank & Davis, CVPR 2025",
    built="the survey's grid from the registry; the losses `dist` and `standardised`, the latter "
    "under any loss of logits; the class entropy of augmentations",
    ours="class entropy for augmentations of one data set instead of for data sets",
    table="categories",
    proof="test_related_categories.py::test_class_entropy_is_that_of_the_histogram",
    headline=headline,
    regime="confident teacher",
)
