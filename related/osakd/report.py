"""Labels alone, self-acquired labels, a teacher's: table and figure. No torch here."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from paperlib.reporting import compare, page, results
from paperlib.reporting.report import SETUP, setup_facts, students_row
from paperlib.reporting.style import styled
from paperlib.study.gains import result_of
from paperlib.study.store import Store

from .. import SYSTEMS, System
from ..setups import FULL_BITS, precision
from ..verdicts import LEVELS, told
from .study import SelfTaughtRun, comparisons

ARMS = {"ce": "labels alone", "osakd": "+ own labels (OSAKD)", "kd": "+ a teacher's (KD)"}


def osakd_table(store: Store) -> pd.DataFrame:
    """One row per precision, batch and arm.

    difference         of the accuracy to labels alone, in points within seeds; standard error.
    error              expected calibration error in percent, mean; change  to labels alone, in
                       points within seeds; standard error.
    first, last        mean entropy in nats of the labels that the network would give itself, after
                       the first and the last epoch; falling  seeds in which it fell.
    k                  chosen on the validation split.
    """
    rows: list[dict[str, Any]] = []
    for comparison in comparisons(store.profile):
        arms = comparison.arms(store)
        for arm, runs in arms.items():
            facts = setup_facts(comparison.setup) | {"bits": comparison.low_bits or FULL_BITS}
            facts |= {"batch": comparison.batch, "arm": arm, "k": comparison.chosen(store)}
            found = students_row(facts, runs, arms["ce"], store)
            rows += [row | _measures(runs, arms["ce"], store) for row in found]
    return pd.DataFrame(rows)


def _measures(
    runs: Sequence[SelfTaughtRun], reference: Sequence[SelfTaughtRun], store: Store
) -> dict[str, float]:
    ours, theirs = (
        pd.Series(
            {r.seed: done["calibration_error"] for r in part if (done := result_of(r, store))}
        )
        for part in (runs, reference)
    )
    change = (ours - theirs).dropna()
    curves = entropies(runs, store)
    first, last = curves.iloc[0], curves.iloc[-1]
    return {
        "error": ours.mean(),
        "change": change.mean(),
        "change_se": change.sem(),
        "first": first.mean(),
        "last": last.mean(),
        "falling": int((last < first).sum()),
    }


def entropies(runs: Sequence[SelfTaughtRun], store: Store) -> pd.DataFrame:
    """Entropy of the own labels: a row an epoch, a column a seed that is done."""
    return pd.DataFrame(
        {
            run.seed: [row["own_entropy"] for row in result["curve"]]
            for run in runs
            if (result := result_of(run, store))
        }
    )


def headline(table: pd.DataFrame) -> str:
    """What came out, by precision and batch."""

    def one(row: Any) -> str:
        accuracy = told(row.difference, row.difference_se, row.n, LEVELS)
        error = told(row.change, row.change_se, row.n, LEVELS)
        fell = "falls" if row.falling == row.n else "does not fall in every seed"
        fell = fell if row.k > 1 else "is that of one neighbour's"
        return (
            f"{precision(row.bits)}, batch {row.batch}: accuracy {row.difference:+.2f} ± "
            f"{row.difference_se:.2f} points to labels alone ({accuracy}), calibration error "
            f"{row.change:+.2f} ± {row.change_se:.2f} ({error}); the entropy of its labels {fell}, "
            f"from {row.first:.2f} to {row.last:.2f} nats"
        )

    return ". ".join(map(one, table[table["arm"] == "osakd"].itertuples()))


@styled
def osakd_figure(store: Store, table: pd.DataFrame) -> Figure:
    """A line a comparison: accuracy against calibration error, bars are a standard error of the
    difference to labels alone; and the entropy of own labels over the epochs.
    """
    found = [c for c in comparisons(store.profile) if c.arms(store)]
    colours = dict(zip(ARMS, sns.color_palette(), strict=False))
    figure, axes = plt.subplots(
        len(found), 2, figsize=(9, 2.7 * len(found)), squeeze=False, layout="constrained"
    )
    for (left, right), comparison in zip(axes, found, strict=True):
        bits = comparison.low_bits or FULL_BITS
        of_both = (table["bits"] == bits) & (table["batch"] == comparison.batch)
        for row in table[of_both].itertuples():
            errors = {"xerr": row.change_se, "yerr": row.difference_se} if row.n > 1 else {}
            style = {"fmt": "o", "color": colours[row.arm], "label": ARMS[row.arm]}
            left.errorbar(row.error, row.accuracy_mean, **errors, **style)
        title = f"{precision(bits)}, batch {comparison.batch}"
        left.set(xlabel="calibration error [%]", ylabel="accuracy [%]", title=title)
        for arm, runs in comparison.arms(store).items():
            for _, curve in entropies(runs, store).items():
                right.plot(range(1, len(curve) + 1), curve, color=colours[arm], lw=1)
        right.set(xlabel="epoch", ylabel="entropy of own labels [nats]", title="a line a seed")
    axes[0, 0].legend()
    return figure


results.TABLES["osakd"] = lambda store, made: osakd_table(store)
results.FIGURES["osakd"] = ("osakd", lambda store, made: osakd_figure(store, made["osakd"]))
page.CAPTIONS["osakd"] = (
    "Labels alone, self-acquired labels and a teacher's: accuracy and calibration, and how sure "
    "the labels are that a network would give itself."
)
compare.TABLES["osakd"] = compare.Compared(
    osakd_table, (*SETUP, "batch", "arm"), {"accuracy_mean": 10.0}
)
SYSTEMS["osakd"] = System(
    title="Online self-acquired knowledge distillation",
    paper="Tzelepi & Tefas, ICME 2021, arXiv 2108.11798",
    built="the loss `osakd` of the registry, without a teacher; accuracy, calibration and the "
    "entropy of the labels over the epochs",
    ours="neighbours by Euclidean distance of the logits in the batch, without the image itself; "
    "KL at temperature 1, weight 1; the choice of k on validation images",
    table="osakd",
    proof="test_related_osakd.py::test_self_labels_are_the_neighbours_shares",
    headline=headline,
    regime="no teacher; beside KD from a confident one",
)
