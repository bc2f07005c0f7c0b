"""Figures of one operation and its strength, as notebook 14 shows them. No torch."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .style import styled


@styled
def views_figure(table: pd.DataFrame, names: Sequence[str]) -> Figure:
    """A row an operation, a column a strength: the view, and what a teacher says of it, green if it
    is right.

    table  columns operation, strength, view (H, W, 3) uint8, said (C,) probabilities, label.
    """
    rows = table.groupby("operation", sort=False)
    size = rows.ngroups, table["strength"].nunique()
    figure, axes = plt.subplots(*size, figsize=(1.4 * size[1], 1.55 * size[0]), squeeze=False)
    for axis, row in zip(axes.flat, table.itertuples(), strict=True):
        top = int(np.argmax(row.said))
        axis.imshow(row.view)
        axis.set(xticks=[], yticks=[])
        colour = "tab:green" if top == row.label else "tab:red"
        axis.set_title(f"{names[top]}  {row.said[top]:.2f}", fontsize=9, color=colour)
    for line, operation in zip(axes[:, 0], rows.groups, strict=True):
        line.set_ylabel(operation)
    for axis, strength in zip(axes[-1], table["strength"].unique(), strict=True):
        axis.set_xlabel(f"strength {strength:g}")
    return figure


@styled
def paths_figure(paths: pd.DataFrame) -> Figure:
    """A panel a teacher: the plane of CMI and D with the diagonals of equal score, and a line an
    operation. Dots grow with the strength; the grey square is strength 0.

    paths  columns teacher, operation, strength, cmi, divergence (nats).
    """
    teachers = paths.groupby("teacher", sort=False)
    figure, axes = plt.subplots(1, teachers.ngroups, figsize=(5 * teachers.ngroups, 4.6))
    for axis, (teacher, table) in zip(np.atleast_1d(axes), teachers, strict=True):
        most, top = 1.1 * max(table["cmi"].max(), 0.1), 1.1 * table["divergence"].max()
        for level in np.arange(-2, top, 0.25):
            axis.plot([0, most], [level, level + most], ":", color="0.8", lw=0.8, zorder=0)
        for k, (operation, path) in enumerate(table.groupby("operation", sort=False)):
            axis.plot(path["cmi"], path["divergence"], color=f"C{k}", lw=1.2, label=operation)
            size = 6 + 60 * (path["strength"] / path["strength"].max()) ** 3
            axis.scatter(path["cmi"], path["divergence"], s=size, color=f"C{k}")
        start = table[table["strength"] == 0].iloc[0]
        axis.plot(start["cmi"], start["divergence"], "s", color="0.4", zorder=5)
        axis.set(xlabel="CMI, nats", ylabel="D, nats", title=f"{teacher} teacher")
        axis.set(xlim=(0, most), ylim=(-0.02 * top, top))
    axis.legend(fontsize=8, frameon=False)
    return figure


@styled
def moment_figure(
    view: np.ndarray,
    said: np.ndarray,
    centroid: np.ndarray,
    names: Sequence[str],
    here: Mapping[str, float],
    start: Mapping[str, float],
    title: Any = "",
) -> Figure:
    """One view, the teacher's prediction of it beside the centroid of its class, and how far all
    images have moved in the plane.

    view  (H, W, 3) uint8. said, centroid  (C,) probabilities. here, start  score, cmi, divergence
    of all images under the operation and without it, in nats.
    """
    widths = (1, 1.4, 1.4)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.4), width_ratios=widths)
    left.imshow(view)
    left.set(xticks=[], yticks=[])
    classes = np.arange(len(names))
    middle.bar(classes - 0.2, said, 0.4, label="prediction of this view")
    middle.bar(classes + 0.2, centroid, 0.4, label="centroid of its class")
    middle.set(xticks=classes, xticklabels=names, ylim=(0, 1), title=title)
    middle.legend(fontsize=8, frameon=False)
    ends = [(point["cmi"], point["divergence"]) for point in (here, start)]
    right.annotate("", *ends, arrowprops={"arrowstyle": "->", "color": "0.5"})
    right.plot(*ends[1], "s", color="0.4")
    right.plot(*ends[0], "o", color="C3")
    right.axline((0, 0), slope=1, ls=":", color="0.7")
    most = 1.2 * max(*ends[0], *ends[1], 0.2)
    right.set(xlim=(0, most), ylim=(-0.02 * most, most), xlabel="CMI, nats", ylabel="D, nats")
    right.set_title(f"score {here['score']:+.3f}, as it is {start['score']:+.3f}")
    return figure
