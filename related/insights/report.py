"""What teaching between shares gains and costs: table and figure. No torch here."""

from collections.abc import Iterable
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from paperlib.basics.statistics import direction
from paperlib.reporting import compare, page, results
from paperlib.reporting.report import SETUP, compared, setup_facts, students_row
from paperlib.reporting.style import styled
from paperlib.study.config import Run
from paperlib.study.gains import result_of
from paperlib.study.store import Store

from .. import SYSTEMS, System
from ..setups import FULL_BITS, precision
from .study import TUNED, exchanges

WAYS = {
    "ce": "labels alone",
    "kd": "KD, T 4, weight 0.9",
    TUNED: "KD, tuned",
    "mutual": "mutual learning",
    "partition": "data partition, by labels",
    "partition_unsupervised": "data partition, without",
}
UNEVEN = ("disjoint", "dirichlet")


def insights_table(store: Store) -> pd.DataFrame:
    """One row per kind of sharing, precision and way of teaching.

    before           accuracy of the students before, in full precision, percent.
    difference       of the accuracy to it, in points within seeds: the gain; with standard error.
    to_tuned         of the accuracy to that of tuned KD, likewise.
    positive, negative, complementary, transferred  see `method.flips`; means over seeds.
    temperature, weight  of KD.
    """
    rows: list[dict[str, Any]] = []
    for exchange in exchanges(store.profile):
        taught = exchange.taught(store)
        for way, runs in taught.items():
            facts = setup_facts(exchange.setup) | {"bits": exchange.low_bits or FULL_BITS}
            facts |= {"sharing": exchange.sharing, "way": way}
            found = students_row(facts, runs, exchange.before(), store)
            other = compared(runs, taught.get(TUNED, ()), store)
            for row in found:
                row["before"] = row["accuracy_mean"] - row["difference"]
                row |= {"to_tuned": other["difference"], "to_tuned_se": other["difference_se"]}
                row |= _flips(runs, store)
                if way in ("kd", TUNED):
                    row |= {name: getattr(runs[0], name) for name in ("temperature", "weight")}
            rows += found
    return pd.DataFrame(rows)


def _flips(runs: Iterable[Run], store: Store) -> dict[str, float]:
    found = [result["flips"] for run in runs if (result := result_of(run, store))]
    return pd.DataFrame(found).mean().to_dict()


def _below(row: Any) -> bool:
    """Whether the way of a row is clearly below tuned KD."""
    return direction(row.to_tuned, row.to_tuned_se, row.n) < 0


def pays(rows: pd.DataFrame) -> bool:
    """Whether tuned KD is above the usual KD, in the rows of one sharing and precision."""
    return any(map(_below, rows[rows["way"] == "kd"].itertuples()))


def best(rows: pd.DataFrame) -> bool:
    """Whether tuned KD is above every other way, likewise."""
    return all(map(_below, rows[rows["way"] != TUNED].itertuples()))


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """One row per precision and sharing that has students of tuned KD and of the usual one: what
    tuned KD gains, over the usual, and over the best of the others; and whether tuning pays, by
    the rule of study.py.
    """
    rows = []
    for (bits, sharing), part in table.groupby(["bits", "sharing"], sort=False):
        ways = part.set_index("way")
        if not {TUNED, "kd"} <= set(ways.index):
            continue
        others = ways.drop(TUNED)
        first = others["accuracy_mean"].idxmax()
        row = {"precision": precision(bits), "sharing": sharing}
        row |= {"gain": ways.at[TUNED, "difference"], "se": ways.at[TUNED, "difference_se"]}
        row |= {"over_kd": -ways.at["kd", "to_tuned"], "over_kd_se": ways.at["kd", "to_tuned_se"]}
        row |= {"best_other": WAYS[first], "over_it": -others.at[first, "to_tuned"]}
        row |= {"over_it_se": others.at[first, "to_tuned_se"]}
        rows.append(row | {"pays": pays(part), "best": best(part)})
    return pd.DataFrame(rows)


def headline(table: pd.DataFrame) -> str:
    """What came out, by precision."""
    found, said = verdicts(table), []
    if found.empty:
        return "no grid is done"
    for name, rows in found.groupby("precision", sort=False):
        shown = rows.loc[rows["pays"] & rows["best"], "sharing"]
        holds = set(UNEVEN) <= set(shown)
        numbers = ", ".join(
            f"{row.sharing} {row.over_kd:+.1f} ± {row.over_kd_se:.1f}" for row in rows.itertuples()
        )
        said.append(
            f"{name}: tuned over usual KD {numbers} points; the claim "
            f"{'holds' if holds else 'is not shown'}"
        )
    return ". ".join(said)


@styled
def insights_figure(table: pd.DataFrame) -> Figure:
    """Images that teaching put right, and those that it put wrong, percent of the test images; the
    dot is the gain, its bar a standard error.
    """
    sharings, widths = table["sharing"].unique(), table["bits"].unique()
    size = (3.6 * len(sharings) + 1, 2.2 * len(widths) + 0.4)
    figure, axes = plt.subplots(
        len(widths), len(sharings), figsize=size, sharex=True, sharey=True, squeeze=False
    )
    good, bad = sns.color_palette()[2], sns.color_palette()[3]
    for line, bits in zip(axes, widths, strict=True):
        for axis, sharing in zip(line, sharings, strict=True):
            part = table[(table["bits"] == bits) & (table["sharing"] == sharing)]
            rows = part.set_index("way").reindex(list(WAYS)[::-1])
            axis.barh(rows.index.map(WAYS), rows["positive"], color=good, alpha=0.5)
            axis.barh(rows.index.map(WAYS), -rows["negative"], color=bad, alpha=0.5)
            errors = rows["difference_se"].fillna(0)
            axis.errorbar(rows["difference"], rows.index.map(WAYS), xerr=errors, fmt="ko", ms=4)
            axis.axvline(0, color="0.3", lw=0.8)
            axis.set_title(f"{sharing}, {precision(bits)}", loc="left", fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel("put right, or wrong [% of images]")
    figure.tight_layout()
    return figure


results.TABLES["insights"] = lambda store, made: insights_table(store)
results.FIGURES["insights"] = ("insights", lambda store, made: insights_figure(made["insights"]))
page.CAPTIONS["insights"] = (
    "A network of one share taught by that of another, in six ways: images that were put right "
    "(green) and wrong (red); the dot is the gain."
)
compare.TABLES["insights"] = compare.Compared(
    insights_table, (*SETUP, "sharing", "way"), {"accuracy_mean": 10.0}
)
SYSTEMS["insights"] = System(
    title="Practical insights into KD for pre-trained models",
    paper="Alballa & Canini, 2024, arXiv 2402.14922",
    built="KD with temperature and weight from a grid, deep mutual learning, KD with data "
    "partition by labels and without, between networks of iid, disjoint and Dirichlet shares; "
    "accuracy, positive and negative flips",
    ours="grid, shares, the public part, all sizes; that data partition means Roth et al. (ICLR "
    "2024); its temperature",
    table="insights",
    proof="test_related_insights.py::test_dp_kd_is_the_written_out_formula",
    headline=headline,
    regime="confident teachers, each of a part of the images",
    category=("response", "online"),
)
