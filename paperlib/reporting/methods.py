"""Quantizers and losses on one short budget: a table and a figure, from records. No torch here."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from ..study import plan
from ..study.store import Store
from .report import setup_facts, students_row
from .style import error_bars, of_seeds, styled

# Kind -> (title of its panel, the method that is EWGS + KD).
PANELS = {"loss": ("losses, with EWGS", "kd"), "quantizer": ("quantizers, with KD", "ewgs")}


def step_costs(root: Path) -> pd.Series:
    """Seconds of a training step with each loss over those with plain KD, from the benchmark's
    records: name -> ratio.

    It is the median of the ratios within the rounds, on the first machine that was measured. It is
    empty if none was.
    """
    for path in sorted((root / "results" / "bench").glob("*.json")):
        suite = json.loads(path.read_text(encoding="utf-8"))["suites"].get("losses")
        if suite:
            rounds = pd.DataFrame({row["name"]: row["rounds"] for row in suite["rows"]})
            return (1 / rounds.div(rounds["kd"], axis=0)).median()
    return pd.Series(dtype=float)


def methods_table(store: Store) -> pd.DataFrame:
    """Every quantizer with plain KD, and every loss with EWGS, after the same short budget: one row
    each, best first.

    kind  "quantizer" or "loss". accuracy_mean, accuracy_sd  percent, over n seeds; difference  to
    EWGS + KD in points, paired by seed, and its standard error; step_time  of a loss over that of
    plain KD, see `step_costs`; seconds  a student.
    """
    comparison, costs, rows = plan.methods(store.profile), step_costs(store.root), []
    for kind, students in (("quantizer", comparison.quantizers), ("loss", comparison.losses)):
        for name, runs in students.items():
            time = costs.get(name, float("nan")) if kind == "loss" else float("nan")
            facts = setup_facts(comparison.setup)
            facts |= {"kind": kind, "method": name, "step_time": time}
            rows += students_row(facts, runs, comparison.losses["kd"], store)
    table = pd.DataFrame(rows)
    if table.empty:
        return table
    return table.sort_values(["kind", "accuracy_mean"], ascending=False, ignore_index=True)


@styled
def methods_figure(table: pd.DataFrame) -> Figure:
    """A `methods_table` as two panels, best on top: mean accuracy and its standard deviation over
    seeds. A dotted line is EWGS + KD.
    """
    kinds = list(table["kind"].unique())
    heights = [int((table["kind"] == kind).sum()) for kind in kinds]
    figure, axes = plt.subplots(
        len(kinds),
        1,
        figsize=(7, 0.27 * sum(heights) + 1.6),
        sharex=True,
        squeeze=False,
        height_ratios=heights,
        layout="constrained",
    )
    for axis, kind in zip(axes[:, 0], kinds, strict=True):
        rows, (title, reference) = table[table["kind"] == kind].iloc[::-1], PANELS[kind]
        error_bars(axis, rows, rows["method"], color=sns.color_palette()[0], capsize=3)
        for value in rows.loc[rows["method"] == reference, "accuracy_mean"]:
            axis.axvline(value, color="0.6", linestyle=":", zorder=0)
        axis.set_title(title, loc="left", fontsize=10)
        axis.margins(y=0.5 / len(rows))
    first = table.iloc[0]
    setup = f"{first['dataset']}, {first['model']} W{first['bits']}A{first['bits']}"
    axes[-1, 0].set_xlabel(f"accuracy [%], {setup}, {of_seeds(table)}")
    return figure
