"""What choosing batches brings: table, figure and verdicts. No torch here."""

from statistics import fmean
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from paperlib.reporting import compare, page, results
from paperlib.reporting.report import SETUP, compared
from paperlib.reporting.style import legend_entry, of_seeds, styled
from paperlib.study.gains import result_of
from paperlib.study.store import Store

from .. import SYSTEMS, System
from ..verdicts import CANNOT_TELL, told
from .study import (
    SELECTIONS,
    MisledTeacherRun,
    SelectedRun,
    arms,
    as_costly,
    passes,
    seeds,
    uniform,
)

KEYS = (*SETUP, "loss", "augmentation", "teacher", "wrong", "selection", "epochs")
COLOURS = dict(zip(SELECTIONS, ["0.4", *sns.color_palette()], strict=False))
RIGHT = "right labels"


def _row(
    run: SelectedRun, base: SelectedRun, costly: SelectedRun, store: Store
) -> list[dict[str, Any]]:
    """A row of `acid_table` in a list, empty if no seed is done."""
    own, plain, dear = (seeds(each, store.profile) for each in (run, base, costly))
    numbers, at_compute = compared(own, plain, store), compared(own, dear, store)
    if not numbers["n"]:
        return []
    misled = isinstance(run.teacher, MisledTeacherRun)
    facts = {"dataset": run.data.name, "model": run.model, "bits": run.weight_bits}
    facts |= {"loss": run.loss, "augmentation": run.augmentation}
    facts |= {"teacher": "the same wrong labels" if misled else RIGHT, "wrong": run.wrong_labels}
    facts |= {"selection": run.selection, "epochs": run.recipe.epochs, "ratio": run.ratio}
    work, usual = (each.recipe.epochs * passes(each) for each in (run, base))
    chosen = [
        fmean(row["wrong_chosen"] for row in result["curve"])
        for each in own
        if (result := result_of(each, store))
    ]
    facts |= {"wrong_chosen": fmean(chosen), "wrong_least": min(chosen), "wrong_most": max(chosen)}
    compute = {name: at_compute[name] for name in ("difference", "difference_se")}
    named = {f"{name}_at_compute": value for name, value in compute.items()}
    return [facts | {"compute": work / usual} | numbers | named]


def acid_table(store: Store) -> pd.DataFrame:
    """One row per loss, augmentation, teacher, share of wrong labels, and what chose the batches.

    epochs, compute  of a student. An epoch has as many updates whatever chooses; compute is
                     relative to the first `uniform` row.
    wrong            share of wrong labels in the data. wrong_chosen  among the images learned, mean
                     over epochs and seeds; wrong_least and wrong_most  of a seed.
    accuracy_mean, accuracy_sd  percent on right labels, over n seeds.
    difference       to `uniform` with as many updates in points, mean within seeds, and its
                     standard error; of a longer `uniform`, to the shorter one.
                     difference_at_compute  to `uniform` with as much compute.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    for arm in arms(store.profile):
        base, costly = uniform(arm), as_costly(arm)
        for run in (base, costly, arm):
            dear = costly if run is arm else run
            rows.setdefault(run.key, _row(run, base, dear, store))
    table = pd.DataFrame([row for found in rows.values() for row in found])
    if table.empty:
        return table
    order = {name: place for place, name in enumerate(SELECTIONS)}
    names = [name for name in KEYS if name not in SETUP]
    return table.sort_values(
        names, key=lambda c: c.map(order) if c.name == "selection" else c, ignore_index=True
    )


def noisy(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the main comparison: CE, crop and mirror, a teacher of right labels."""
    main = (table["loss"] == "ce") & (table["teacher"] == RIGHT) & (table["augmentation"] == "none")
    return table[main]


def leaning(table: pd.DataFrame, selection: str) -> str:
    """Whether a selection "avoids" or "seeks" wrong labels, by the rule of study.py, or does
    "neither".
    """
    rows = noisy(table)
    rows = rows[(rows["selection"] == selection) & (rows["wrong"] > 0)]
    if (rows["wrong_most"] < rows["wrong"]).all():
        return "avoids"
    return "seeks" if (rows["wrong_least"] > rows["wrong"]).all() else "neither"


def _error(column: str) -> str:
    """The column of a difference's standard error."""
    return column.replace("difference", "difference_se")


def effect(row: pd.Series, column: str = "difference") -> str:
    """Whether a difference is "better", "worse" or "cannot tell", by the rule of study.py."""
    words = ("better", "worse", CANNOT_TELL)
    return told(row[column], row[_error(column)], row["n"], words)


def sentence(row: pd.Series) -> str:
    """The row of a selection in words, with its numbers; standard errors in brackets."""
    changes = [
        f"{effect(row, column)} at equal {what}, {row[column]:+.1f} ({row[_error(column)]:.1f})"
        for what, column in (("updates", "difference"), ("compute", "difference_at_compute"))
    ]
    facts = f"{row['selection']}, {row['loss'].upper()}, teacher of {row['teacher']}"
    wrong = f"{row['wrong']:.0%} wrong labels, {row['wrong_chosen']:.0%} among the learned"
    return f"{facts}, {wrong}: {'; '.join(changes)} points"


def headline(table: pd.DataFrame) -> str:
    """What came out, for docs/related.md."""
    rows = table[(table["selection"] == "learnability") & (table["wrong"] == table["wrong"].max())]
    leans = [f"{name} {leaning(table, name)}" for name in ("easy", "learnability", "hard")]
    said = ". ".join(sentence(row) for _, row in rows.iterrows())
    return f"Wrong labels: {', '.join(leans)} them. {said}. {of_seeds(table)}."


@styled
def acid_figure(table: pd.DataFrame) -> Figure:
    """Of the main comparison, by the share of wrong labels in the data: their share among the
    images learned, and the accuracy. Bars are a standard deviation over seeds; dashed is `uniform`
    with the compute of learnability.
    """
    rows, drawn = noisy(table), []
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    longest = rows["epochs"].max()
    for name, colour in COLOURS.items():
        for style, part in (("-", rows["epochs"] < longest), ("--", rows["epochs"] == longest)):
            of = rows[part & (rows["selection"] == name)].drop_duplicates("wrong")
            if of.empty:
                continue
            label = name if style == "-" else f"{name}, as much compute"
            drawn.append(legend_entry(label, colour, "o" if style == "-" else "^"))
            options = {"color": colour, "ls": style, "marker": drawn[-1].get_marker()}
            if style == "-":
                left.plot(100 * of["wrong"], 100 * of["wrong_chosen"], **options)
            right.errorbar(
                100 * of["wrong"], of["accuracy_mean"], of["accuracy_sd"], capsize=3, **options
            )
    for axis, text in ((left, "wrong labels among the learned [%]"), (right, "accuracy [%]")):
        axis.set(xlabel="wrong labels in the data [%]", ylabel=text)
    figure.legend(handles=drawn, loc="outside lower center", ncols=len(drawn))
    return figure


results.TABLES["acid"] = lambda store, made: acid_table(store)
results.FIGURES["acid"] = ("acid", lambda store, made: acid_figure(made["acid"]))
page.CAPTIONS["acid"] = (
    "Batches chosen from larger ones by a reference and the student: wrong labels among the images "
    "learned, and accuracy; bars are one standard deviation over the seeds."
)
compare.TABLES["acid"] = compare.Compared(acid_table, KEYS, compare.ACCURACY)
SYSTEMS["acid"] = System(
    "ACID, CutMixPick",
    "Udandarao et al., 2025, arXiv 2411.18674; Wang et al., 2022, arXiv 2012.02909",
    "Easy-reference, learnability and hard selection from larger batches by a Gumbel top-k, with "
    "CE and with KD (ACED); CutMixPick as the same sampler with the teacher's entropy",
    "The whole: no code of ACID is released, and its paper was not readable in full. Candidates "
    "are whole batches with their own views; the student scores in eval mode; half or a fifth is "
    "chosen; the weight of KD is this package's",
    "acid",
    "test_related_acid.py::test_the_choice_is_the_joint_sampler_of_losses_that_stand_alone",
    headline,
    "confident: the teacher learned the right labels of the same images; one arm has a teacher of "
    "the same wrong labels",
)
