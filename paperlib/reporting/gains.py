"""What a picked augmentation brings to QAT and KD methods: the tables of the claims C3 and C4. No
torch here.
"""

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ..study.gains import KD_ARMS, QAT_ARMS, Gains, Way
from ..study.plan import kd_gains, qat_gains
from ..study.store import Store
from .paper import NO_VALUE, PAPER_FACTS, PAPER_KEY, PICKED, paper_values
from .report import setup_facts, students_row
from .style import error_bars, short, styled

ARMS = QAT_ARMS | KD_ARMS
QUANTIZER_NAMES = {"ewgs": "EWGS", "lsq": "LSQ", "pact": "PACT", "dorefa": "DoReFa"}
COLOURS = {
    Way.BASE: "0.55",
    Way.MINIMAL: "C3",
    Way.OURS: "C2",
    Way.OURS_OF_SEVEN: "C0",
    Way.RELEASED: "C1",
    "QAT alone": "0.8",
    "+ SQAKD": "0.3",
}
COLUMNS = (
    "dataset model bits quantizer loss arm augmentation accuracy_mean accuracy_sd n "
    "difference difference_se seconds paper_accuracy profile paper_source"
).split()


def gains_table(found: Sequence[Gains], store: Store) -> pd.DataFrame:
    """One row per method and arm, of the students that are done.

    accuracy_mean, accuracy_sd  percent, over n seeds. difference  to the arm with the base
    augmentation, mean over seeds paired by seed, and its standard error (NaN for one seed). Of the
    QAT table that arm is "+ KD", so the differences of "QAT alone" and "+ SQAKD" are the loss's. An
    arm that shares its students with another has their numbers. paper_accuracy, paper_source  see
    `paper.paper_table`.
    """
    paper, rows = paper_values(store.root), []
    for gains in found:
        # The arm that differs from the others in the augmentation alone.
        reference = "+ KD" if gains.arms is QAT_ARMS else Way.BASE
        for (quantizer, bits, _), arms in gains.students(store).items():
            for arm, runs in arms.items():
                method = setup_facts(gains.setup) | {"bits": bits, "quantizer": quantizer}
                key = (*method.values(), runs[0].loss, runs[0].augmentation)
                picked = (*key[:-1], PICKED) if way(arm) == Way.OURS else None
                values = paper.get(key, paper.get(picked, NO_VALUE))
                facts = dict(zip(PAPER_KEY, key, strict=True))
                facts |= {"arm": arm, "profile": store.profile}
                facts |= dict(zip(PAPER_FACTS, values, strict=True))
                rows += students_row(facts, runs, arms[reference], store)
    return pd.DataFrame(rows, columns=COLUMNS)


def qat_table(store: Store) -> pd.DataFrame:
    """The `gains_table` of the claim C3."""
    return gains_table(qat_gains(store.profile), store)


def kd_table(store: Store) -> pd.DataFrame:
    """The `gains_table` of the claim C4."""
    return gains_table(kd_gains(store.profile), store)


def _method(row: pd.Series) -> str:
    """The name of a line: the quantizer in a QAT table, the loss in a KD table."""
    name = QUANTIZER_NAMES.get(row["quantizer"], row["quantizer"])
    return f"{name} W{row['bits']}A{row['bits']}" if row["arm"] in QAT_ARMS else row["loss"]


def panels(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(name, rows) for each profile, data set and model of a gains table, in order. Rows get the
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
    parts = []
    for name, rows in panels(table):
        cells = rows.assign(cell=list(map(mean_and_spread, rows.itertuples())))
        part = cells.pivot(index="method", columns="arm", values="cell")
        order = [arm for arm in ARMS if arm in part.columns]
        part = part.loc[rows["method"].unique(), order].fillna("").reset_index()
        part.insert(0, "setup", name)
        parts.append(part)
    return pd.concat(parts, ignore_index=True).rename_axis(columns=None)


def mean_and_spread(row) -> str:
    """Mean accuracy of a row, and its standard deviation if there are several seeds."""
    spread = "" if row.n < 2 else f" ± {row.accuracy_sd:.2f}"
    return f"{row.accuracy_mean:.2f}{spread}"


def way(arm: str) -> Way:
    """How the augmentation of an arm of either table is chosen.

    >>> way("+ KD, our pick").value, way("+ SQAKD").name
    ('our pick', 'BASE')
    """
    return ARMS[arm][1]


def chosen(rows: pd.DataFrame) -> dict[Way, str]:
    """Way to choose -> augmentation, of the rows of one panel."""
    return dict(zip(rows["arm"].map(way), rows["augmentation"], strict=True))


@styled
def gains_figure(table: pd.DataFrame) -> Figure:
    """Accuracy of each method (down) with each arm (colour), a panel a data set and model. Bars are
    one standard deviation.
    """
    parts = panels(table)
    heights = [rows["method"].nunique() for _, rows in parts]
    arms = [arm for arm in ARMS if (table["arm"] == arm).any()]
    figure, axes = plt.subplots(
        len(parts),
        1,
        figsize=(8, 1.5 + 0.62 * sum(heights)),
        squeeze=False,
        height_ratios=heights,
        layout="constrained",
    )
    for axis, (name, rows) in zip(axes[:, 0], parts, strict=True):
        _panel(axis, rows, arms)
        picks = chosen(rows).items()
        ways = "; ".join(f"{how}: {short(what)}" for how, what in picks if how != Way.BASE)
        axis.set_title(f"{name}\n{textwrap.fill(ways, 100)}", loc="left", fontsize=8.5)
    axes[-1, 0].set_xlabel("student's top-1 accuracy [%]")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _panel(axis: plt.Axes, rows: pd.DataFrame, arms: list[str]) -> None:
    methods = list(rows["method"].unique())
    for k, arm in enumerate(arms):
        part = rows[rows["arm"] == arm]
        places = part["method"].map(methods.index) + 0.11 * (k - (len(arms) - 1) / 2)
        colour = COLOURS.get(arm, COLOURS[way(arm)])
        shape = {"QAT alone": "s", "+ SQAKD": "D"}.get(arm, "o")
        look = {"fmt": shape, "ms": 5, "color": colour, "capsize": 2, "elinewidth": 1, "label": arm}
        error_bars(axis, part, places, **look)
    axis.set_yticks(range(len(methods)), methods)
    axis.set_ylim(len(methods) - 0.45, -0.55)
    axis.grid(axis="y", visible=False)
    for line in range(1, len(methods)):
        axis.axhline(line - 0.5, color="0.9", lw=0.8)
