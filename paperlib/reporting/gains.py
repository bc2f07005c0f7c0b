"""What a picked augmentation brings to QAT and KD methods: the tables of the claims C3 and C4. No
torch here.
"""

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ..study.plan import KD_ARMS, QAT_ARMS, Gains, Way, kd_gains, qat_gains
from ..study.store import Store
from .report import NO_VALUE, PAPER_FACTS, PAPER_KEY, PICKED, STYLE, compared, paper_values, short

# The arm that differs from the others in the augmentation alone.
REFERENCE = {"qat": "+ KD", "kd": Way.BASE}
QUANTIZER_NAMES = {"ewgs": "EWGS", "lsq": "LSQ", "pact": "PACT", "dorefa": "DoReFa"}
COLUMNS = [
    "dataset",
    "model",
    "bits",
    "quantizer",
    "loss",
    "arm",
    "augmentation",
    "accuracy_mean",
    "accuracy_sd",
    "n",
    "difference",
    "difference_se",
    "seconds",
    "paper_accuracy",
    "profile",
    "paper_source",
]


def gains_table(found: Sequence[Gains], store: Store) -> pd.DataFrame:
    """One row per method and arm, of the students that are done.

    accuracy_mean, accuracy_sd  percent, over n seeds. difference  to the arm with the base
    augmentation (of the QAT table "+ KD", so that those of "QAT alone" and "+ SQAKD" are the
    loss's), mean over seeds paired by seed, and its standard error (NaN for one seed). An arm that
    shares its students with another has their numbers. paper_accuracy, paper_source  see
    `report.paper_table`.
    """
    paper, rows = paper_values(store.root), []
    for gains in found:
        setup = gains.setup
        reference = REFERENCE["qat" if gains.arms is QAT_ARMS else "kd"]
        for (quantizer, bits, _), arms in gains.students(store).items():
            for arm, runs in arms.items():
                run, numbers = runs[0], compared(runs, arms[reference], store)
                key = (setup.data.name, setup.model, bits, quantizer, run.loss, run.augmentation)
                picked = (
                    paper.get((*key[:-1], PICKED), NO_VALUE) if way(arm) == Way.OURS else NO_VALUE
                )
                facts = dict(zip(PAPER_KEY, key, strict=True)) | {
                    "arm": arm,
                    "profile": store.profile,
                }
                facts |= dict(zip(PAPER_FACTS, paper.get(key, picked), strict=True))
                rows += [facts | numbers] if numbers["n"] else []
    return pd.DataFrame(rows, columns=COLUMNS)


def qat_table(store: Store) -> pd.DataFrame:
    """The `gains_table` of the claim C3."""
    return gains_table(qat_gains(store.profile), store)


def kd_table(store: Store) -> pd.DataFrame:
    """The `gains_table` of the claim C4."""
    return gains_table(kd_gains(store.profile), store)


def _method(row: pd.Series) -> str:
    """What a line of the table is called: the quantizer of a QAT table, the loss of a KD table."""
    name = QUANTIZER_NAMES.get(row["quantizer"], row["quantizer"])
    return f"{name} W{row['bits']}A{row['bits']}" if row["arm"] in QAT_ARMS else row["loss"]


def panels(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(name, rows) for each profile, data set and model of a gains table, in order; rows get the
    column `method`.
    """
    named = table.assign(method=[_method(row) for _, row in table.iterrows()])
    found = named.groupby(["profile", "dataset", "model"], sort=False)
    return [(f"{dataset}, {model}, {profile}", rows) for (profile, dataset, model), rows in found]


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """A gains table to read: a row a method, a column an arm, mean and standard deviation over
    seeds, percent.
    """
    if table.empty:
        return table

    def cell(row: pd.Series) -> str:
        spread = "" if row["n"] < 2 else f" ± {row['accuracy_sd']:.2f}"
        return f"{row['accuracy_mean']:.2f}{spread}"

    parts = []
    for name, rows in panels(table):
        cells = rows.assign(cell=[cell(row) for _, row in rows.iterrows()])
        part = cells.pivot(index="method", columns="arm", values="cell")
        order = [arm for arm in (*QAT_ARMS, *KD_ARMS) if arm in part.columns]
        part = part.loc[list(dict.fromkeys(rows["method"])), order].fillna("")
        parts.append(part.reset_index().assign(setup=name).set_index("setup").reset_index())
    return pd.concat(parts, ignore_index=True).rename_axis(columns=None)


def way(arm: str) -> Way:
    """How the augmentation of an arm of either table is chosen.

    >>> way("+ KD, our pick").value, way("+ SQAKD").name
    ('our pick', 'BASE')
    """
    return (QAT_ARMS | KD_ARMS)[arm][1]


def chosen(rows: pd.DataFrame) -> dict[Way, str]:
    """Way to choose -> augmentation, of the rows of one panel."""
    return dict(zip(rows["arm"].map(way), rows["augmentation"], strict=True))


def gains_figure(table: pd.DataFrame) -> Figure:
    """Accuracy of each method (down) with each arm (colour), a panel a data set and model; bars are
    one standard deviation.
    """
    parts = panels(table)
    heights = [rows["method"].nunique() for _, rows in parts]
    arms = [arm for arm in (*QAT_ARMS, *KD_ARMS) if (table["arm"] == arm).any()]
    colours = {
        Way.BASE: "0.55",
        Way.MINIMAL: "C3",
        Way.OURS: "C2",
        Way.OURS_OF_SEVEN: "C0",
        Way.RELEASED: "C1",
        "QAT alone": "0.8",
        "+ SQAKD": "0.3",
    }
    markers = {"QAT alone": "s", "+ SQAKD": "D"}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(parts),
            1,
            figsize=(8, 1.5 + 0.62 * sum(heights)),
            squeeze=False,
            height_ratios=heights,
            layout="constrained",
        )
        for axis, (name, rows) in zip(axes[:, 0], parts, strict=True):
            methods = list(dict.fromkeys(rows["method"]))
            for k, arm in enumerate(arms):
                part = rows[rows["arm"] == arm]
                places = [
                    methods.index(method) + 0.11 * (k - (len(arms) - 1) / 2)
                    for method in part["method"]
                ]
                axis.errorbar(
                    part["accuracy_mean"],
                    places,
                    xerr=part["accuracy_sd"].fillna(0),
                    fmt=markers.get(arm, "o"),
                    ms=5,
                    color=colours.get(arm, colours[way(arm)]),
                    capsize=2,
                    elinewidth=1,
                    label=arm if axis is axes[0, 0] else None,
                )
            axis.set_yticks(range(len(methods)), methods)
            axis.set_ylim(len(methods) - 0.45, -0.55)
            axis.grid(axis="y", visible=False)
            for line in range(1, len(methods)):
                axis.axhline(line - 0.5, color="0.9", lw=0.8)
            ways = {
                how: short(augmentation)
                for how, augmentation in chosen(rows).items()
                if how != Way.BASE
            }
            title = textwrap.fill("; ".join(f"{how}: {what}" for how, what in ways.items()), 100)
            axis.set_title(f"{name}\n{title}", loc="left", fontsize=8.5)
        axes[-1, 0].set_xlabel("student's top-1 accuracy [%]")
        figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    plt.close(figure)
    return figure
