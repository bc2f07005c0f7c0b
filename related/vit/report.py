"""Which loss helps the low-bit transformer, and its attention layer by layer. No torch here."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from paperlib.reporting import compare, page, results
from paperlib.reporting.report import SETUP, compared, setup_facts, students_row
from paperlib.reporting.style import styled
from paperlib.study.gains import result_of
from paperlib.study.store import Store

from .. import SYSTEMS, System
from ..verdicts import told
from .study import BASELINE, CLAIMED, LOGITS, AttentiveRun, setup_of, students

BEFORE = "before training"
MEASURES = ("kl", "cover", "output")


def attention_of(runs: Sequence[AttentiveRun], store: Store, when: str = "after") -> pd.DataFrame:
    """What the records of students say of their attention: seed, layer (from 1) and the columns of
    `method.compared`.
    """
    return pd.DataFrame(
        [
            {"seed": run.seed, "layer": number, **row}
            for run in runs
            if (found := result_of(run, store))
            for number, row in enumerate(found[when], start=1)
        ],
        columns=["seed", "layer", *MEASURES],
    )


def layers_table(store: Store) -> pd.DataFrame:
    """One row per arm and layer, the untrained student first: `kl` (nats), `cover` and `output`,
    means over n seeds, and their standard errors.
    """
    arms = students(store.profile)
    found = {arm: attention_of(runs, store) for arm, runs in arms.items()}
    if arms:  # it is the same for all arms
        found = {BEFORE: attention_of(arms[LOGITS][:1], store, "before")} | found
    rows = []
    for arm, table in found.items():
        for layer, part in table.groupby("layer"):
            of = {name: part[name].mean() for name in MEASURES}
            of |= {f"{name}_se": part[name].sem() for name in MEASURES}
            rows.append({"arm": arm, "layer": layer, "n": len(part), **of})
    return pd.DataFrame(rows)


def vit_table(store: Store) -> pd.DataFrame:
    """One row an arm.

    teacher      its accuracy in percent. activation_bits  beside `bits` of the weights.
    difference   of accuracy to the logits alone, in points within seeds; helps  whether it is
                 above 0. beyond  the same to the loss with scores; beats  whether it is.
    kl, cover, output  mean over layers and seeds. kl_change  of the KL to the loss with scores,
                 within seeds; nearer  whether it is below 0.
    """
    arms, rows = students(store.profile), []
    for arm, runs in arms.items():
        made = students_row({"arm": arm}, runs, arms[LOGITS], store)
        if not made:
            continue
        row = setup_facts(setup_of(store.profile)) | made[0]
        first = next(run for run in runs if store.done(run))
        row |= {"activation_bits": first.activation_bits}
        row |= {"teacher": store.load(first)["teacher"]["accuracy"]}
        if arm != LOGITS:
            row["helps"] = told(row["difference"], row["difference_se"], row["n"])
        own, base = (attention_of(each, store) for each in (runs, arms[BASELINE]))
        row |= {name: own[name].mean() for name in MEASURES}
        row |= _beside(runs, arms[BASELINE], store) if arm != BASELINE else {}
        rows.append(row)
    return pd.DataFrame(rows)


def _beside(
    runs: Sequence[AttentiveRun], baseline: Sequence[AttentiveRun], store: Store
) -> dict[str, Any]:
    """The columns of a `vit_table` that compare with the loss with scores."""
    beyond, n, se = (
        compared(runs, baseline, store)[name] for name in ("difference", "n", "difference_se")
    )
    ours, theirs = (attention_of(r, store).groupby("seed")["kl"].mean() for r in (runs, baseline))
    change = (ours - theirs).dropna()
    return {
        "beyond": beyond,
        "beyond_se": se,
        "beats": told(beyond, se, n),
        "kl_change": change.mean(),
        "kl_change_se": change.sem(),
        "nearer": told(-change.mean(), change.sem(), len(change)),
    }


def headline(table: pd.DataFrame) -> str:
    """What each loss brought beside the logits alone, and beside TernaryBERT's."""
    rows = table.set_index("arm")
    if LOGITS not in rows.index:
        return f"no student of {LOGITS} alone is done"
    first = rows.loc[LOGITS]
    helps = [
        f"{arm} {row.difference:+.2f} ± {row.difference_se:.2f} points (helps: {row.helps})"
        for arm, row in rows.drop(index=LOGITS).iterrows()
    ]
    beats = [
        f"{arm} {row.beyond:+.2f} ± {row.beyond_se:.2f} points (better: {row.beats}), KL of the "
        f"maps {row.kl_change:+.4f} ± {row.kl_change_se:.4f} nats (nearer: {row.nearer})"
        for arm, row in rows[rows.index.isin(CLAIMED)].iterrows()
    ]
    return (
        f"Teacher {first.teacher:.1f} %; ternary weights, {first.activation_bits}-bit activations, "
        f"logits alone {first.accuracy_mean:.1f} %, KL of the maps {first.kl:.3f} nats. To that: "
        f"{'; '.join(helps)}. To {BASELINE}: {'; '.join(beats)}. {int(first.n)} seed(s)."
    )


@styled
def vit_figure(table: pd.DataFrame, layers: pd.DataFrame) -> Figure:
    """Accuracy of each arm, with a standard error of its difference to the logits alone; KL of the
    maps and cover ratio, a line an arm.
    """
    figure, (left, *others) = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    colours = dict(zip([*table["arm"], BEFORE], sns.color_palette(), strict=False))
    for place, row in enumerate(table.itertuples()):
        error = 0 if row.arm == LOGITS or row.n < 2 else row.difference_se
        style = {"fmt": "o", "color": colours[row.arm], "capsize": 3}
        left.errorbar(row.accuracy_mean, -place, xerr=error, **style)
    left.set_yticks(range(0, -len(table), -1), table["arm"])
    left.axvline(table["teacher"].iloc[0], color="0.6", ls=":")
    left.set(xlabel="accuracy [%], dotted: the teacher's", title="students")
    for axis, name, label in zip(others, MEASURES, ("KL [nats]", "cover ratio"), strict=False):
        for arm, rows in layers.groupby("arm", sort=False):
            bars = rows[f"{name}_se"].fillna(0)
            style = {"color": colours[arm], "ls": "--" if arm == BEFORE else "-", "label": arm}
            axis.errorbar(rows["layer"], rows[name], yerr=bars, fmt="o", ms=4, **style)
        axis.set(xlabel="layer", ylabel=label, xticks=sorted(set(layers["layer"])))
    others[0].set(title="attention maps, teacher to student", yscale="log")
    others[1].set(title="the teacher's five tokens, covered")
    others[1].legend(fontsize=7)
    return figure


results.TABLES["vit"] = lambda store, made: vit_table(store)
results.TABLES["vit_layers"] = lambda store, made: layers_table(store)
results.FIGURES["vit"] = ("vit", lambda store, made: vit_figure(made["vit"], made["vit_layers"]))
page.CAPTIONS["vit"] = (
    "A small vision transformer with ternary weights and 8-bit activations: losses beside the "
    "logits' alone, and how far its attention is from the teacher's, layer by layer."
)
compare.TABLES["vit"] = compare.Compared(vit_table, (*SETUP, "arm"), compare.ACCURACY)
SYSTEMS["vit"] = System(
    title="KD for QAT of transformer encoders",
    paper="Kim et al., EMNLP 2022, arXiv 2211.11014",
    built="a small vision transformer, whose linear layers and attention products `quantize` makes "
    "low-bit like everything else: ternary weights, dynamic 8-bit activations; losses on attention "
    "maps, outputs, scores and hidden states; KL and cover ratio by layer",
    ours="a vision transformer, with norms before attention, for BERT; attention's output is taken "
    "with the shortcut, before any norm; patches in full precision; recipes; all weights 1 as "
    "released, and once 10 for maps",
    table="vit",
    proof="test_related_vit.py::test_losses_are_their_slow_transcriptions",
    headline=headline,
    regime="confident teacher",
)
