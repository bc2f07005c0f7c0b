"""How tables and figures look: Markdown, colours, short names; and how tables are read back. No
torch here.
"""

import re
from collections.abc import Callable
from functools import wraps
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..study.profiles import POLICIES
from ..study.store import Store

STYLE = {
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.fontsize": 8,
    "legend.frameon": False,
}
SHORT = {
    "autoaugment_cifar10": "AA-CIFAR10",
    "autoaugment_imagenet": "AA-ImageNet",
    "autoaugment_svhn": "AA-SVHN",
    "randaugment": "RandAugment",
    "trivialaugment": "TrivialAugment",
    "augmix": "AugMix",
    "erasing": "Erasing",
}
POLICY_COLOURS = dict(zip(POLICIES, sns.color_palette("tab10"), strict=False))


def markdown(table: pd.DataFrame, digits: int = 3) -> str:
    """A table in GitHub's Markdown. Numbers are rounded here and nowhere else.

    Text is escaped: a bar ends no cell, HTML is shown, not obeyed.

    >>> print(markdown(pd.DataFrame({"a": ["x|y <b>"]})), end="")
    | a |
    | --- |
    | x\\|y &lt;b> |
    """

    def cell(value: Any) -> str:
        if not isinstance(value, float):
            text = re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", str(value).replace("|", "\\|"))
            return " ".join(text.splitlines())
        if value != value:
            return ""
        tiny = 1e-12 < abs(value) < 10**-digits  # below, it is the rounding error of a zero
        return f"{value:.1e}" if tiny else f"{value:z.{digits}f}"

    cells = [[cell(value) for value in row] for row in table.to_numpy(object)]
    lines = [list(table.columns), ["---"] * len(table.columns), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def read_table(store: Store, name: str) -> pd.DataFrame:
    """A table that was written for a profile. It is empty if there is none."""
    path = store.tables / f"{name}.csv"
    if not path.exists():
        return pd.DataFrame()
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """`draw` in `STYLE`. The figure is closed, so a notebook shows it once."""

    @wraps(draw)
    def drawn(*arguments: Any, **named: Any) -> Figure:
        with plt.rc_context(STYLE):
            figure = draw(*arguments, **named)
        plt.close(figure)
        return figure

    return drawn


def short(augmentation: str) -> str:
    """The name of an augmentation in figures.

    >>> short("autoaugment_imagenet+cutmix")
    'AA-ImageNet + CutMix'
    """
    policy, _, mixed = augmentation.partition("+")
    return SHORT.get(policy, policy) + (" + CutMix" if mixed else "")


def marker(augmentation: str) -> dict[str, Any]:
    """Plot options of an augmentation: a colour for its policy, a hollow marker with CutMix."""
    policy, _, mixed = augmentation.partition("+")
    colour = POLICY_COLOURS[policy]
    return {"color": colour, "mfc": "none" if mixed else colour, "mew": 1.6}


def legend_entry(label: str, colour: Any = "0.3", marker: str = "o", **options: Any) -> Line2D:
    """A marker without a line, for a legend."""
    return Line2D([], [], color=colour, marker=marker, ls="", label=label, **options)


def legend_of_policies(marker: str) -> list[Line2D]:
    """The legend entries of the eight policies."""
    return [legend_entry(short(name), colour, marker) for name, colour in POLICY_COLOURS.items()]


def error_bars(axis: plt.Axes, rows: pd.DataFrame, places: Any, **options: Any) -> None:
    """Mean accuracies at vertical `places`. Bars are a standard deviation over seeds."""
    spread = rows["accuracy_sd"].fillna(0)
    axis.errorbar(rows["accuracy_mean"], places, xerr=spread, **{"fmt": "o"} | options)


def of_seeds(table: pd.DataFrame) -> str:
    """The greatest number of seeds in a table, with its unit."""
    n = int(table["n"].max())
    return f"{n} seed{'s' * (n > 1)}"
