"""What the paper's score might be: candidate definitions on the same records. No torch here.

The paper's text has M = D - CMI. The released Tiny-ImageNet script prints CMI - D, and stores CMI -
cross-entropy. Under CutMix the released centroids are transposed. The figure shows seven schemes.
The released scripts train with TrivialAugment + CutMix on CIFAR-100 VGG-13, and with
AutoAugment-ImageNet + CutMix on ResNet-32, as "ours". Which definition picks what, and which
predicts accuracy?
"""

import textwrap
from collections.abc import Callable
from itertools import product

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from ..basics.statistics import kendall, regret, spearman
from ..study.profiles import POOLS, RELEASED_PICKS
from .report import groups, in_pool
from .style import styled

# Name -> metric of a ranking table's rows, lower is better.
DEFINITIONS: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "D - CMI": lambda rows: rows["divergence"] - rows["cmi"],
    "D - 0.25 CMI": lambda rows: rows["divergence"] - 0.25 * rows["cmi"],
    "D - 0.5 CMI": lambda rows: rows["divergence"] - 0.5 * rows["cmi"],
    "D - 2 CMI": lambda rows: rows["divergence"] - 2 * rows["cmi"],
    "D - 4 CMI": lambda rows: rows["divergence"] - 4 * rows["cmi"],
    "D alone": lambda rows: rows["divergence"],
    "- CMI alone": lambda rows: -rows["cmi"],
    "CE - CMI": lambda rows: rows["cross_entropy"] - rows["cmi"],
    "CE alone": lambda rows: rows["cross_entropy"],
    "D - CMI, released centroids": lambda rows: rows["divergence"] - rows["cmi_released"],
    "- CMI alone, released centroids": lambda rows: -rows["cmi_released"],
    "CE - CMI, released centroids": lambda rows: rows["cross_entropy"] - rows["cmi_released"],
    "D - CMI, unmixed labels": lambda rows: rows["divergence_unmixed"] - rows["cmi_unmixed"],
    "- CMI alone, unmixed labels": lambda rows: -rows["cmi_unmixed"],
    "T. stddev": lambda rows: rows["teacher_stddev"],
}


def definitions_table(ranking: pd.DataFrame) -> pd.DataFrame:
    """One row per set-up, pool of candidates and definition.

    pick  what it chooses; regret  points of accuracy lost to the best of the pool; spearman,
    kendall  with mean accuracy, a perfect ranker has -1, and Spearman's exact p; rank_ta_cutmix,
    rank_aai_cutmix  the places it gives the two released picks, 1 the best (NaN where they are not
    in the pool); candidates  their number.
    """
    rows = []
    for (setup, whole), pool, (name, metric) in product(
        groups(ranking), POOLS, DEFINITIONS.items()
    ):
        part = in_pool(whole, pool)
        values, accuracy = metric(part).astype(float), part["accuracy_mean"]
        if values.isna().any():
            continue
        places = values.rank(method="min").set_axis(part["augmentation"])
        rho = spearman(values, accuracy)
        rows.append(
            {
                "setup": setup,
                "pool": pool,
                "definition": name,
                "pick": places.idxmin(),
                "regret": regret(values, accuracy),
                "spearman": rho.value,
                "spearman_p": rho.p,
                "kendall": kendall(values, accuracy).value,
                "rank_ta_cutmix": places.get(RELEASED_PICKS[0], float("nan")),
                "rank_aai_cutmix": places.get(RELEASED_PICKS[1], float("nan")),
                "candidates": len(part),
            }
        )
    return pd.DataFrame(rows)


@styled
def definitions_figure(table: pd.DataFrame) -> Figure:
    """A `definitions_table` as a map a set-up: Spearman's correlation of each definition with
    accuracy in each pool.

    Blue ranks as claimed (a lower score, a higher accuracy), red the other way round.
    """
    setups = list(table["setup"].unique())
    size = (2.2 + 4.3 * len(setups), 5.4)
    figure, axes = plt.subplots(1, len(setups), figsize=size, squeeze=False, sharey=True)
    for axis, setup in zip(axes[0], setups, strict=True):
        rows = table[table["setup"] == setup]
        values = rows.pivot(index="definition", columns="pool", values="spearman")
        sns.heatmap(
            values.reindex(list(DEFINITIONS))[list(POOLS)],
            vmin=-1,
            vmax=1,
            cmap="RdBu_r",
            annot=True,
            fmt="+.2f",
            cbar=False,
            ax=axis,
            linewidths=1,
            annot_kws={"size": 8},
        )
        axis.grid(visible=False)
        axis.set(title=setup, xlabel="", ylabel="")
        labels = [textwrap.fill(name, 10) for name in POOLS]
        axis.set_xticks(axis.get_xticks(), labels, rotation=0, fontsize=8)
    figure.set_layout_engine("constrained")  # not before: each map draws the whole figure once
    return figure
