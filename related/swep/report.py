"""The arms of SWEP, and their perturbations in the plane of CMI and D. No torch here."""

from statistics import fmean
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from scipy.interpolate import PchipInterpolator

from paperlib.reporting import compare, page, results
from paperlib.reporting.report import SETUP, setup_facts, students_row
from paperlib.reporting.style import styled
from paperlib.study.gains import result_of
from paperlib.study.store import Store

from .. import SYSTEMS, System
from ..setups import short
from ..verdicts import told
from .study import FIXED, PLAIN, curves, looks, students

SCORES = ("cmi", "divergence", "score")


def gain(found: dict[str, float], dropout: list[dict[str, float]]) -> float:
    """CMI of a perturbation less that of Gaussian dropout at the same D, in nats. Between its
    points the curve is a monotone cubic, since chords would lie below a curve that bends; beyond
    its ends the end counts.

    found  cmi and divergence. dropout  those of the curve, in any order.

    >>> line = [{"cmi": 0.1 * k, "divergence": 0.2 * k} for k in range(4)]
    >>> round(gain({"cmi": 0.4, "divergence": 0.5}, line), 3)
    0.15
    """
    places, values = zip(*sorted((row["divergence"], row["cmi"]) for row in dropout), strict=True)
    place = min(max(found["divergence"], places[0]), places[-1])
    return found["cmi"] - float(PchipInterpolator(places, values)(place))


def _perturbed(arm: str, store: Store) -> dict[int, dict[str, float]]:
    """Seed -> what the perturbation of an arm is, and its KL and variance after the last epoch."""
    found = {run.seed: result_of(run, store) for run in students(store.profile)[arm]}
    return {
        seed: each["perturbed"] | {name: each["curve"][-1][name] for name in ("kl", "variance")}
        for seed, each in found.items()
        if each
    }


def _dropout(store: Store) -> dict[int, list[dict[str, float]]]:
    """Seed -> the curve of Gaussian dropout, a row a variance."""
    if not students(store.profile):
        return {}
    found = {run.seed: result_of(run, store) for run in curves(store.profile)}
    return {seed: each["rows"] for seed, each in found.items() if each}


def _corrupted(store: Store) -> dict[str, pd.Series]:
    """Arm -> accuracy under the corruptions, in percent, by seed."""
    found = {}
    for arm, runs in looks(store.profile).items():
        results_of = {run.network.seed: result_of(run, store) for run in runs}
        found[arm] = pd.Series(
            {
                seed: fmean(value for (value,) in each["corruptions"].values())
                for seed, each in results_of.items()
                if each
            },
            dtype=float,
        )
    return found


def swep_table(store: Store) -> pd.DataFrame:
    """One row an arm: students, and the perturbation as an augmentation of the teacher.

    difference  to plain KD in points within seeds; better  whether it is above 0. corrupted  mean
    accuracy under the corruptions, its difference and verdict. cmi, divergence, score  in nats,
    after learning, means over seeds; gain, gain_se  see `gain`; raised  whether it is above 0.
    variance, kl  of the perturbation.
    """
    dropout, arms, corrupted = _dropout(store), students(store.profile), _corrupted(store)
    rows: list[dict[str, Any]] = []
    for arm, runs in arms.items():
        made = students_row({"arm": arm}, runs, arms[PLAIN], store)
        if arm == PLAIN:
            found = {seed: each[0] for seed, each in dropout.items()}
        else:
            found = {k: each for k, each in _perturbed(arm, store).items() if k in dropout}
        if not (made and found):
            continue
        named = SCORES if arm == PLAIN else (*SCORES, "variance", "kl")
        row = made[0] | {name: fmean(each[name] for each in found.values()) for name in named}
        row["corrupted"] = corrupted[arm].mean()
        if arm != PLAIN:
            gains = pd.Series([gain(each, dropout[seed]) for seed, each in found.items()])
            row |= {"better": told(row["difference"], row["difference_se"], row["n"])}
            change = (corrupted[arm] - corrupted[PLAIN]).dropna()
            row |= {"corrupted_difference": change.mean(), "corrupted_se": change.sem()}
            row["corrupted_better"] = told(change.mean(), change.sem(), len(change))
            row |= {"gain": gains.mean(), "gain_se": gains.sem()}
            row["raised"] = "" if arm == FIXED else told(gains.mean(), gains.sem(), len(gains))
        rows.append(setup_facts(short(store.profile)) | row)
    return pd.DataFrame(rows)


def scores_table(store: Store) -> pd.DataFrame:
    """One row a seed and variance of the dropout, and one a learned perturbation: score, CMI and D
    with 95 % intervals, in nats.
    """
    rows = [
        {"arm": FIXED, "seed": seed, **row}
        for seed, curve in _dropout(store).items()
        for row in curve
    ]
    for arm in students(store.profile):
        if rows and arm not in (PLAIN, FIXED):
            rows += [{"arm": arm, "seed": k, **row} for k, row in _perturbed(arm, store).items()]
    shown = [f"{name}{end}" for name in SCORES for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["arm", "seed", "variance", *shown, "error"])


def headline(table: pd.DataFrame) -> str:
    """What learning did to the perturbation, and to the student."""
    parts = []
    for row in table[table["arm"] != PLAIN].itertuples():
        raised = (
            f"CMI at constant D {row.gain:+.3f} ± {row.gain_se:.3f} nats (raised: {row.raised}), "
        )
        parts.append(
            f"{row.arm}: {raised if row.arm != FIXED else ''}student {row.difference:+.2f} ± "
            f"{row.difference_se:.2f} points to plain KD (better: {row.better}), under corruptions "
            f"{row.corrupted_difference:+.2f} ± {row.corrupted_se:.2f} ({row.corrupted_better})"
        )
    return "; ".join(parts)


@styled
def swep_figure(table: pd.DataFrame) -> Figure:
    """A `scores_table`: CMI over D, the curve of Gaussian dropout with its variances, mean over
    seeds, and the learned perturbations, a point a seed. It ends at twice their D.
    """
    figure, axis = plt.subplots(figsize=(6.5, 4.5), layout="constrained")
    learned = table[table["arm"] != FIXED]
    dropout = table[table["arm"] == FIXED].groupby("variance", as_index=False).mean(True)
    dropout = dropout[~(dropout["divergence"] > 2 * learned["divergence"].max())]
    axis.plot(dropout["divergence"], dropout["cmi"], "o-", ms=4, label=FIXED)
    for row in dropout.itertuples():
        text, place = f"{row.variance:.2g}", (row.divergence, row.cmi)
        axis.annotate(text, place, (-6, 5), textcoords="offset points", ha="right")
    for arm, rows in learned.groupby("arm", sort=False):
        axis.plot(rows["divergence"], rows["cmi"], "s", ms=6, mfc="none", label=arm)
    axis.set(xlabel="D [nats]", ylabel="CMI [nats]", title="f0 multiplied: variances, and learned")
    axis.legend(loc="lower right")
    return figure


results.TABLES["swep"] = lambda store, made: swep_table(store)
results.TABLES["swep_scores"] = lambda store, made: scores_table(store)
results.FIGURES["swep"] = ("swep_scores", lambda store, made: swep_figure(made["swep_scores"]))
page.CAPTIONS["swep"] = (
    "The teacher's first feature map multiplied by Gaussian dropout of several variances, and by "
    "learned noise, in the plane of the score's two terms."
)
compare.TABLES["swep"] = compare.Compared(swep_table, (*SETUP, "arm"), compare.ACCURACY)
SYSTEMS["swep"] = System(
    title="SWEP",
    paper="Lee, Kang, Lee & Hwang, ACL 2021, arXiv 2105.02692",
    built="a learned multiplicative perturbation of the first feature map, with its prior, and "
    "Gaussian dropout beside it; scored by CMI and D before and after learning",
    ours="images for words; conditioned on the teacher's last vector, one factor a channel; one "
    "batch of clean and perturbed images; the prior's variance is that of Gaussian dropout",
    table="swep",
    proof="test_related_swep.py::test_the_kl_is_that_of_torch",
    headline=headline,
    regime="confident teacher",
)
