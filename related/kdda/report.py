"""What longer schedules and mixed images bring: table, figure and verdicts. No torch here."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from paperlib.reporting import compare, page, results
from paperlib.reporting.report import SETUP, compared
from paperlib.reporting.style import of_seeds, short, styled
from paperlib.study.config import StudentRun
from paperlib.study.gains import result_of
from paperlib.study.profiles import CUTMIX
from paperlib.study.store import Store

from .. import SYSTEMS, System
from ..verdicts import told
from .study import FORMS, LENGTHS, mixes, schedules

SCHEDULE, MIXES = "schedule", "mixing"
KEYS = (*SETUP, "part", "loss", "augmentation", "form", "times")
LONGEST = LENGTHS[-1]


def _passes(loss: str, form: str) -> int:
    """Forward passes a step costs for each image; a backward pass counts as two."""
    if not form:
        return 3 + (loss != "ce")
    plain, mixed = FORMS[form][:2], FORMS[form][2:]
    return 3 * (any(plain) + any(mixed)) + plain[1] + mixed[1]


def _row(
    part: str, form: str, times: int, runs: list[StudentRun], base: list[StudentRun], store: Store
) -> list[dict[str, Any]]:
    """A row of `kdda_table` in a list, empty if no seed is done."""
    numbers, first = compared(runs, base, store), runs[0]
    if not numbers["n"]:
        return []
    facts = {"dataset": first.data.name, "model": first.model, "bits": first.weight_bits}
    mixed = f"none+{getattr(first, 'mixing', '')}".removesuffix("+")
    name = first.augmentation if first.augmentation.endswith(CUTMIX) else mixed
    facts |= {"part": part, "loss": first.loss, "augmentation": name, "form": form}
    compute = times * _passes(first.loss, form) / _passes("kd", "")
    return [facts | {"times": times, "compute": compute} | numbers]


def kdda_table(store: Store) -> pd.DataFrame:
    """One row per part, loss, augmentation, form and length of the schedule.

    part     "schedule": difference is to the shortest schedule of the same loss and augmentation.
             "mixing": students with KD; difference is to the form `mixed` of the same augmentation.
    form     what the targets of mixed images are, see `mixed_loss`; "" where CE and KL are of the
             same image. times  the epochs of the set-up. compute  relative to KD at its epochs.
    accuracy_mean, accuracy_sd  percent over n seeds. difference, difference_se  in points, mean
             within seeds, and its standard error.
    beyond_ce, beyond_ce_se  how much greater the difference is than that of CE, in the same way.
    """
    plain, rows = schedules(store.profile), []
    for (loss, name, times), runs in plain.items():
        base = plain.get((loss, name, LENGTHS[0]), runs)
        beyond = contrast(*(_gain(plain, (each, name, times), store) for each in (loss, "ce")))
        facts = {"beyond_ce": beyond["gain"], "beyond_ce_se": beyond["se"]}
        rows += [row | facts for row in _row(SCHEDULE, "", times, runs, base, store)]
    found = mixes(store.profile)
    for (form, mixing), runs in found.items():
        base = found.get(("mixed", mixing), runs)
        rows += _row(MIXES, form, 2, runs, base, store)
    return pd.DataFrame(rows)


def _accuracies(runs: list[StudentRun], store: Store) -> pd.Series:
    done = {run.seed: result_of(run, store) for run in runs}
    return pd.Series({seed: r["accuracy"] for seed, r in done.items() if r}, dtype=float)


def _gain(plain: dict, key: tuple[str, str, int], store: Store) -> pd.Series:
    """What a schedule gains over the shortest one, in points by seed."""
    runs = (plain.get(each, ()) for each in (key, (*key[:2], LENGTHS[0])))
    longer, shortest = (_accuracies(each, store) for each in runs)
    return longer - shortest


def contrast(ours: pd.Series, theirs: pd.Series) -> dict[str, Any]:
    """Two series over seeds compared, by the rule of study.py: gain in points, its standard error
    se, n, and verdict, "yes", "no" (the opposite) or "cannot tell".

    >>> contrast(pd.Series([3.0, 4.0, 5.0]), pd.Series([1.0, 1.0, 1.0]))["verdict"]
    'yes'
    """
    change = (ours - theirs).dropna()
    gain, se, n = change.mean(), change.sem(), len(change)
    return {"gain": gain, "se": se, "n": n, "verdict": told(gain, se, n)}


def verdicts_table(store: Store) -> pd.DataFrame:
    """The questions of study.py, a row each, with the numbers of `contrast`; empty if a student is
    missing.
    """
    plain, found = schedules(store.profile), mixes(store.profile)
    every = {key: _accuracies(runs, store) for key, runs in (plain | found).items()}
    if not every or any(each.empty for each in every.values()):
        return pd.DataFrame()
    none, cut, rows = "none", "none" + CUTMIX, {}
    for name in (none, cut):
        by_length = [_gain(plain, (loss, name, LONGEST), store) for loss in ("kd", "ce")]
        rows[f"KD gains more than CE by {LONGEST}x epochs, {short(name)}"] = contrast(*by_length)
    by_mixing = [every[loss, cut, LONGEST] - every[loss, none, LONGEST] for loss in ("kd", "ce")]
    rows[f"KD gains more than CE by CutMix, {LONGEST}x epochs"] = contrast(*by_mixing)
    for form, mixing in found:
        if form != "mixed":
            rows[f"{form} is better than mixed, {mixing}, 2x epochs"] = contrast(
                every[form, mixing], every["mixed", mixing]
            )
    longer = contrast(every["tl", "cutmix"], every["kd", cut, LONGEST])
    rows[f"tl cutmix, 2x, is better than mixed, {LONGEST}x epochs (8/7 of the compute)"] = longer
    return pd.DataFrame([{"question": name} | row for name, row in rows.items()])


def headline(table: pd.DataFrame) -> str:
    """What came out, for docs/related.md."""
    longest = table[(table["part"] == SCHEDULE) & (table["times"] == LONGEST)]
    said = []
    for name, rows in longest.groupby("augmentation", sort=False):
        changes = [f"{row['loss'].upper()} {_change(row)}" for _, row in rows.iterrows()]
        beyond = [
            f"KD beyond CE {_change(row, 'beyond_ce')}"
            for _, row in rows[rows["loss"] == "kd"].iterrows()
        ]
        said.append(f"{short(name)}: {', '.join([*changes, *beyond])}")
    forms = table[(table["part"] == MIXES) & (table["form"] != "mixed")]
    mixed = [
        f"{row['form']} {row['augmentation'].partition('+')[2]}: {_change(row)}"
        for _, row in forms.iterrows()
    ]
    gains = f"Points gained by {LONGEST} times the epochs (standard error): {'; '.join(said)}"
    return f"{gains}. Over the mixed label: {'; '.join(mixed)}. {of_seeds(table)}."


def _change(row: pd.Series, column: str = "difference") -> str:
    return f"{row[column]:+.1f} ({row[f'{column}_se']:.1f})"


@styled
def kdda_figure(table: pd.DataFrame) -> Figure:
    """Accuracy by the length of the schedule for each loss and augmentation, and by what the target
    of a mixed image is. Bars are a standard deviation over seeds.
    """
    colours = dict(zip(("ce", "kd"), sns.color_palette(), strict=False))
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    lines = table[table["part"] == SCHEDULE].groupby(["loss", "augmentation"], sort=False)
    for (loss, name), rows in lines:
        style = "--" if name.endswith(CUTMIX) else "-"
        options = {"ls": style, "color": colours[loss], "label": f"{loss.upper()}, {short(name)}"}
        spread = rows["accuracy_sd"]
        left.errorbar(
            rows["times"], rows["accuracy_mean"], spread, marker="o", capsize=3, **options
        )
    left.set(xscale="log", xlabel="epochs, times the shortest", ylabel="accuracy [%]")
    left.set_xticks(LENGTHS, LENGTHS)
    left.minorticks_off()
    left.legend()
    rows = table[table["part"] == MIXES]
    names = rows["augmentation"].map(lambda name: name.partition("+")[2]) + "\n" + rows["form"]
    right.errorbar(
        names, rows["accuracy_mean"], rows["accuracy_sd"], fmt="o", capsize=3, color=colours["kd"]
    )
    right.margins(x=0.1)
    right.set_xlabel("what mixes, and the target; KD, twice the epochs")
    return figure


results.TABLES["kdda"] = lambda store, made: kdda_table(store)
results.FIGURES["kdda"] = ("kdda", lambda store, made: kdda_figure(made["kdda"]))
page.CAPTIONS["kdda"] = (
    "Longer schedules under CE and KD, and the targets of mixed images; bars are one standard "
    "deviation over the seeds."
)
compare.TABLES["kdda"] = compare.Compared(kdda_table, KEYS, compare.ACCURACY)
SYSTEMS["kdda"] = System(
    "KD thrives on data augmentation",
    "Wang, Lohit, Jones & Fu, 2020, arXiv 2012.02909 v1",
    "CE and KD over 1, 2 and 4 times the epochs, with and without CutMix; TLCutMix and TLmixup, "
    "whose mixed images have the teacher's output as their only target",
    "The weights, CE + 2 KL as everywhere here; that plain and mixed images have BatchNorm "
    "statistics of their own is as in the released code. CutMixPick is in ACID's row",
    "kdda",
    "test_related_kdda.py::test_the_loss_is_its_written_out_terms",
    headline,
    "confident: the teacher learned the labels of the same images, without CutMix",
)
