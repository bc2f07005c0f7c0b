"""How the networks fare under shifts: table, figure and verdicts. No torch here."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from paperlib.reporting import compare, page, results
from paperlib.reporting.report import SETUP, scores_of, setup_facts
from paperlib.reporting.style import short, styled
from paperlib.study.gains import result_of
from paperlib.study.profiles import Setup
from paperlib.study.store import Store

from .. import SYSTEMS, System
from ..verdicts import told
from .study import PLAIN, TINTED, ShiftRun, looks, parts, unseen

SUPERCLASS = "superclasses"
# What "robust" means in each part.
MEASURES = {PLAIN: "corrupted", TINTED: "worst_group"}


def _measures(result: dict[str, Any]) -> dict[str, float]:
    """The numbers of one network, in percent."""
    groups = [*result["aligned"], *result["conflicting"]]
    found = {
        "accuracy": result["accuracy"],
        "aligned": fmean(result["aligned"]),
        "conflicting": fmean(result["conflicting"]),
        "worst_group": min(groups),
    }
    means = [fmean(each) for each in result["corruptions"].values()]
    return found | ({"corrupted": fmean(means)} if means else {})


def _of_seeds(runs: Sequence[ShiftRun], store: Store) -> pd.DataFrame:
    """The measures of the networks that are done, a row a seed."""
    done = {run.network.seed: result_of(run, store) for run in runs}
    return pd.DataFrame({seed: _measures(result) for seed, result in done.items() if result}).T


def _rows(part: str, setup: Setup, store: Store) -> list[dict[str, Any]]:
    scores, every = scores_of(setup.score, store), looks(store.profile, part)
    found = {name: _of_seeds(runs, store) for name, runs in every.items()}
    students = [name for name in every if name and len(found[name])]
    scored = {} if scores is None else scores["score"].to_dict()
    best = min(students, key=lambda name: scored.get(name, 0), default="")
    rows = []
    for name, numbers in found.items():
        if numbers.empty:
            continue
        facts = setup_facts(setup) | {"dataset": every[name][0].data.name, "part": part}
        facts |= {"network": "student" if name else "teacher", "augmentation": name}
        row = facts | {"score": scored.get(name), "n": len(numbers)}
        for column in ("accuracy", "corrupted", "aligned", "conflicting", "worst_group"):
            values = numbers.get(column, pd.Series(dtype=float))
            row |= {f"{column}_mean": values.mean(), f"{column}_sd": values.std()}
        if name:
            change = (numbers[MEASURES[part]] - found[best][MEASURES[part]]).dropna()
            row |= {"difference": change.mean(), "difference_se": change.sem()}
        table = corruption_rows(every[name], store)
        if len(table):
            worst = table.groupby("corruption")["accuracy"].mean()
            row |= {"worst_corruption": worst.idxmin(), "worst_corruption_mean": worst.min()}
        rows.append(row)
    return rows


def corruption_rows(runs: Sequence[ShiftRun], store: Store) -> pd.DataFrame:
    """One row per network, corruption and severity: accuracy in percent."""
    return pd.DataFrame(
        [
            {"seed": run.network.seed, "corruption": name, "severity": s, "accuracy": value}
            for run in runs
            if (result := result_of(run, store))
            for name, values in result["corruptions"].items()
            for s, value in zip(run.severities, values, strict=True)
        ]
    )


def _superclass_rows(store: Store) -> list[dict[str, Any]]:
    rows = []
    for run in unseen(store.profile):
        network, there = run.network, result_of(run, store)
        if there:
            name = getattr(network, "augmentation", "") if network.kind == "student" else ""
            rows.append(
                {"dataset": "cifar100", "model": network.model, "part": SUPERCLASS, "n": 1}
                | {"bits": getattr(network, "weight_bits", 32), "augmentation": name}
                | {"network": network.kind, "accuracy_mean": result_of(network, store)["accuracy"]}
                | {"unseen_mean": there["accuracy"]}
            )
    return rows


def shift_table(store: Store) -> pd.DataFrame:
    """One row per part, and teacher or augmentation of the students. Numbers with _mean are percent
    over n seeds, those with _sd their standard deviation.

    score        of the teacher, for the augmentation: lower is better. accuracy  on clean images.
    corrupted    mean over corruptions and severities; worst_corruption  the one of the lowest mean.
    aligned      on images with the tint of their class, conflicting  with the opposite one,
    worst_group  on the worst of the groups, a class with one of the two.
    difference   of what the part calls robust (`MEASURES`) to the best-scored augmentation's
                 students, mean within seeds, and its standard error.
    unseen       of networks trained on superclasses, on the classes that were left out.
    """
    rows = [
        row for part, setup in parts(store.profile).items() for row in _rows(part, setup, store)
    ]
    return pd.DataFrame([*rows, *_superclass_rows(store)])


def verdict(table: pd.DataFrame, part: str) -> dict[str, Any]:
    """Whether the best-scored augmentation gives the most robust student in a part, by the rule of
    study.py; {} without students of two seeds.

    verdict  "yes", "no" or "cannot tell". best, rival  the best-scored augmentation, and the most
    robust of the others. gain, se  points of `best` over `rival`, and the standard error.
    """
    students = table[(table["part"] == part) & (table["network"] == "student")]
    students = students.dropna(subset=["score"])
    if len(students) < 2 or students["n"].min() < 2:
        return {}
    best = students.loc[students["score"].idxmin()]
    others = students.drop(best.name)
    rival = others.loc[others[f"{MEASURES[part]}_mean"].idxmax()]
    gain, se = -rival["difference"], rival["difference_se"]
    n = int(rival["n"])
    names = {"best": best["augmentation"], "rival": rival["augmentation"]}
    return names | {"verdict": told(gain, se, n), "gain": gain, "se": se, "n": n}


def sentence(table: pd.DataFrame, part: str) -> str:
    """The verdict of a part in words, with its numbers."""
    found = verdict(table, part)
    if not found:
        return f"{part}: no verdict, it needs students of several seeds and their scores"
    return (
        f"{part}: is the best-scored student the most robust? {found['verdict']}: "
        f"{short(found['best'])} is {found['gain']:+.1f} points (standard error "
        f"{found['se']:.1f}, {found['n']} seeds) from {short(found['rival'])}, the best other, in "
        + {PLAIN: "mean accuracy under corruptions", TINTED: "accuracy on the worst group"}[part]
    )


def kept(table: pd.DataFrame) -> str:
    """What of the teacher's accuracy under corruptions its plain student keeps, in words."""
    plain = table[table["part"] == PLAIN]
    teachers = plain[plain["network"] == "teacher"]
    students = plain[plain["augmentation"] == "none"]
    if teachers.empty or students.empty:
        return "the teacher or its student under plain views is missing"
    teacher, student = teachers.iloc[0], students.iloc[0]
    return (
        f"under corruptions the teacher has {teacher['corrupted_mean']:.1f} % (clean "
        f"{teacher['accuracy_mean']:.1f} %), its 2-bit student without augmentation "
        f"{student['corrupted_mean']:.1f} % (sd {student['corrupted_sd']:.1f}; clean "
        f"{student['accuracy_mean']:.1f} %)"
    )


def headline(table: pd.DataFrame) -> str:
    """What came out."""
    return "; ".join([sentence(table, PLAIN), sentence(table, TINTED), kept(table)])


def corruption_grid(store: Store) -> pd.DataFrame:
    """Accuracy in percent by corruption, mean over severities and seeds: a column for the teacher
    and for each augmentation's student that is there.
    """
    columns = {}
    for name, runs in looks(store.profile, PLAIN).items():
        if len(table := corruption_rows(runs, store)):
            columns[short(name) if name else "teacher"] = table.groupby("corruption", sort=False)[
                "accuracy"
            ].mean()
    return pd.DataFrame(columns)


@styled
def shift_figure(grid: pd.DataFrame) -> Figure:
    """A `corruption_grid`, not empty, as a heat map."""
    figure, axis = plt.subplots(figsize=(7, 4.6), layout="constrained")
    options = {"annot": True, "fmt": ".0f", "cmap": "viridis", "cbar": False}
    sns.heatmap(grid, ax=axis, annot_kws={"fontsize": 8}, **options)
    axis.set(xlabel="", ylabel="")
    axis.set_title("accuracy [%], mean over severities and seeds", loc="left", fontsize=10)
    axis.grid(False)
    return figure


results.TABLES["shift"] = lambda store, made: shift_table(store)


def _figure(store: Store, made: results.Tables) -> Figure | None:
    grid = corruption_grid(store)
    return None if grid.empty else shift_figure(grid)


results.FIGURES["shift"] = ("shift", _figure)
page.CAPTIONS["shift"] = (
    "Accuracy under the corruptions of CIFAR-10-C without frost: the teacher and the student of "
    "each augmentation."
)
compare.TABLES["shift"] = compare.Compared(
    shift_table, (*SETUP, "part", "network", "augmentation"), compare.ACCURACY
)
SYSTEMS["shift"] = System(
    title="ShiftKD",
    paper="Zhang et al., 2023, arXiv 2312.16242",
    built=(
        "fourteen corruptions as in CIFAR-10-C, batched; a tint that goes with the class in "
        "training only; superclasses of CIFAR-100 with one class unseen (not run here)"
    ),
    ours=(
        "no frost, motion blur not ImageMagick's; tints in the place of ColorMNIST and CelebA; "
        "corruptions in that of other domains; networks trained by this project's recipes"
    ),
    table="shift",
    proof="test_related_shift.py::test_a_corruption_is_its_slow_transcription",
    headline=headline,
    regime="a confident teacher",
)
