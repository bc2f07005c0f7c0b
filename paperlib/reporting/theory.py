"""The score and the teacher's confidence: what `paperlib.basics.confidence` expects beside what was
measured. No torch here.
"""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..basics.confidence import CONFIDENT, SOFT, even_spread, preferred_miss
from ..basics.statistics import kendall, rho, spearman
from ..study import plan, profiles
from ..study.config import ScoreRun, WalkRun
from ..study.gains import result_of
from ..study.profiles import CLASSES, CUTMIX, RELEASED_PICKS
from ..study.store import Store
from .report import scores_of
from .style import legend_entry, legend_of_policies, marker, short, styled

TEACHER = ["profile", "teacher", "source", "dataset", "model", "trained", "epoch"]
MEASURED = ["augmentation", "score", "cmi", "divergence", "entropy", "error", "confidence"]
COLUMNS = [*TEACHER, *MEASURED, "missed", "formula", "classes"]
OF_TEACHER = (
    "confidence kind pick pick_error mild mild_p valley valley_p valley_n formula "
    "rank_ta_cutmix rank_aai_cutmix"
).split()


def theory_table(store: Store) -> pd.DataFrame:
    """One row per teacher and augmentation, of every score and walk that is done: what the teacher
    says, and what the formula expects.

    teacher  its name; source  "regime", "walk", or "earlier" for the first set-ups; trained  the
    teacher's augmentation; epoch  finished epochs; score, cmi, divergence, entropy, formula (nats);
    error, confidence  as `scoring.rank` gives them, NaN in earlier records; missed  1 -
    exp(-divergence).
    """
    rows: list[dict[str, Any]] = []
    alone = [(setup.regime, "regime", setup.score) for setup in plan.teachers_alone(store.profile)]
    earlier = [(setup.name, "earlier", setup.score) for setup in profiles.setups(store.profile)]
    # A score that both name is the second's.
    for name, source, run in {found[-1].key: found for found in (*earlier, *alone)}.values():
        if result := result_of(run, store):
            rows += _rows(name, source, run, run.teacher.recipe.epochs, result["scores"])
    for run in plan.walks(store.profile):
        for step in result["steps"] if (result := result_of(run, store)) else ():
            kind = f"{run.teacher.model} {run.data.name}, {run.teacher.augmentation}"
            name = f"{kind}, epoch {step['epoch']}"
            rows += _rows(name, "walk", run, step["epoch"], step["scores"])
    return pd.DataFrame(rows, columns=COLUMNS).assign(profile=store.profile)


def _rows(
    name: str, source: str, run: ScoreRun | WalkRun, epoch: int, scores: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    classes, rows = CLASSES[run.data.name], []
    for line in scores:
        missed = 1 - float(np.exp(-line["divergence"]))
        rows.append(
            line
            | {
                "teacher": name,
                "source": source,
                "dataset": run.data.name,
                "model": run.teacher.model,
                "trained": run.teacher.augmentation,
                "epoch": epoch,
                "missed": missed,
                "formula": float(even_spread(missed, classes)) + line["entropy"],
                "classes": classes,
            }
        )
    return rows


def teachers_table(theory: pd.DataFrame) -> pd.DataFrame:
    """One row per teacher of a `theory_table`.

    confidence  on views of crop and mirror; kind  "confident", "soft" or "between"
    (docs/experiments.md); pick, pick_error  the score's choice, and the teacher's error under it;
    mild  Spearman of score and teacher's error over all candidates, mild_p  two-sided;
    valley  the same over the policies without CutMix that miss less than `preferred_miss`, valley_p
    one-sided (below 0), valley_n  how many; formula  Spearman of formula and score; rank_ta_cutmix,
    rank_aai_cutmix  the places of the released picks.
    """
    rows = [_teacher(part) for _, part in theory.groupby(["profile", "teacher"], sort=False)]
    return pd.DataFrame(rows, columns=[*TEACHER, *OF_TEACHER])


def _teacher(part: pd.DataFrame) -> dict[str, Any]:
    """The row of one teacher."""
    nan = float("nan")
    first, best = part.iloc[0], part.loc[part["score"].idxmin()]
    mild, mild_p, valley, valley_p = nan, nan, nan, nan
    plain = part[~part["augmentation"].str.endswith(CUTMIX)]
    before = plain[plain["missed"] < preferred_miss(int(first["classes"]))]
    if part["error"].notna().all():
        found = spearman(part["score"], part["error"])
        mild, mild_p = found.value, found.p
        if len(before) > 3:
            found = spearman(before["score"], before["error"])
            # The exact distribution over all orders is symmetric.
            valley, valley_p = found.value, found.p / 2 if found.value < 0 else 1 - found.p / 2
    places = part["score"].rank(method="min").set_axis(part["augmentation"])
    confidence = float(part.loc[part["augmentation"] == "none", "confidence"].iloc[0])
    return {
        **first[TEACHER],
        "confidence": confidence,
        "kind": _kind(confidence),
        "pick": best["augmentation"],
        "pick_error": best["error"],
        "mild": mild,
        "mild_p": mild_p,
        "valley": valley,
        "valley_p": valley_p,
        "valley_n": len(before),
        "formula": rho(part["formula"], part["score"]),
        "rank_ta_cutmix": places.get(RELEASED_PICKS[0]),
        "rank_aai_cutmix": places.get(RELEASED_PICKS[1]),
    }


def _kind(confidence: float) -> str:
    if confidence != confidence:
        return ""
    return "confident" if confidence >= CONFIDENT else "soft" if confidence <= SOFT else "between"


def temperatures_table(store: Store) -> pd.DataFrame:
    """One row per teacher of docs/experiments.md and temperature of its softmax: what the score
    then picks.

    temperature  1 for the score as defined; pick; pick_error  the teacher's error under it; kendall
    of the order with that at 1.
    """
    rows = []
    for setup in plan.teachers_alone(store.profile):
        run, scores = plan.temperatures(setup), scores_of(setup.score, store)
        result = result_of(run, store)
        if result is None or scores is None:
            continue
        errors = scores.get("error", pd.Series(dtype=float))
        found = pd.DataFrame(result["rows"])
        names = {f"temperature {t:g}": t for t in run.temperatures}
        found["temperature"] = found["variant"].map(names | {"as defined": 1.0})
        wide = found.dropna(subset="temperature").pivot(
            index="augmentation", columns="temperature", values="score"
        )
        for temperature, scores in wide.items():
            pick, order = scores.idxmin(), kendall(scores, wide[1.0]).value
            row = (store.profile, setup.regime, temperature, pick, errors.get(pick), order)
            rows.append(row)
    columns = ["profile", "teacher", "temperature", "pick", "pick_error", "kendall"]
    return pd.DataFrame(rows, columns=columns)


# ------------------------------------------------------------------------------------------ figures


@styled
def plane_figure(theory: pd.DataFrame) -> Figure:
    """The plane of missed label mass and entropy with f(s) + H as colour, a panel a number of
    classes. Every augmentation of every teacher is a point in it, a ring is its teacher's pick, and
    the line is the valley.
    """
    several = sorted(theory["classes"].unique())
    size = (1 + 5.6 * len(several), 4.8)
    figure, axes = plt.subplots(1, len(several), figsize=size, squeeze=False, layout="constrained")
    for axis, classes in zip(axes[0], several, strict=True):
        mesh = _plane(axis, theory[theory["classes"] == classes], classes)
    figure.colorbar(mesh, ax=axes[0].tolist(), label="f(s) + H [nats], lower is better")
    return figure


def _plane(axis: plt.Axes, part: pd.DataFrame, classes: int) -> Any:
    """One panel. Returns its coloured mesh."""
    s, h = np.linspace(0.001, 0.985, 300), np.linspace(0, np.log(classes), 200)
    level = np.minimum(even_spread(s, classes)[None, :] + h[:, None], 3)
    axis.grid(visible=False)
    mesh = axis.pcolormesh(s, h, level, cmap="RdYlBu_r", vmin=-3, vmax=3, rasterized=True)
    valley = preferred_miss(classes)
    axis.axvline(valley, color="k", lw=1, ls=":", label=f"valley, s = {valley:.2f}")
    ring = {"mfc": "none", "mec": "C6", "ms": 9, "mew": 1.6}
    picks = part.loc[part.groupby(["profile", "teacher"])["score"].idxmin()]
    for points, shape, label, look in (
        (part[part["trained"] == "none"], "k.", "teachers trained without", {}),
        (part[part["trained"] == "none" + CUTMIX], "w.", "teachers trained with CutMix", {}),
        (picks, "o", "their picks", ring),
    ):
        look = look or {"ms": 4, "mec": "0.3", "mew": 0.4}
        axis.plot(points["missed"], points["entropy"], shape, label=label, **look)
    axis.set(
        xlabel="label mass the teacher misses, s",
        ylabel="mean entropy H [nats]",
        title=f"{classes} classes",
        xlim=(0, 0.985),
        ylim=(0, np.log(classes)),
    )
    axis.legend(fontsize=7, loc="upper left", frameon=True, framealpha=0.9)
    return mesh


@styled
def walk_figure(theory: pd.DataFrame) -> Figure:
    """The pick's walk: the teacher's error under its pick as its confidence grows in training, a
    panel a teacher.
    """
    teachers = teachers_table(theory[theory["source"] == "walk"])
    lines = list(teachers.groupby(["dataset", "model", "trained"], sort=False))
    down = -(-len(lines) // 2)
    size, shared = (11, 0.8 + 2.5 * down), {"sharex": True, "sharey": True}
    figure, axes = plt.subplots(
        down, 2, figsize=size, squeeze=False, layout="constrained", **shared
    )
    for axis in axes.flat[len(lines) :]:
        axis.set_axis_off()
    for axis, ((dataset, model, trained), part) in zip(axes.flat, lines, strict=False):
        axis.plot(part["confidence"], part["pick_error"], color="0.7", zorder=1)
        for row in part.itertuples():
            place = (row.confidence, row.pick_error)
            axis.plot(*place, "o", **marker(row.pick))
            offset = {"xytext": (4, 4), "textcoords": "offset points"}
            axis.annotate(row.epoch, place, fontsize=7, **offset)
        how = "with CutMix" if trained.endswith(CUTMIX) else "without CutMix"
        title = f"{dataset}, {model} trained {how}; at the end {short(part['pick'].iloc[-1])}"
        axis.set_title(title, loc="left", fontsize=9)
    for axis in axes[:, 0]:
        axis.set_ylabel("teacher's error\nunder its pick")
    for axis in axes[-1]:
        axis.set_xlabel("teacher's confidence; numbers are epochs")
    handles = [*legend_of_policies("o"), legend_entry("ring: with CutMix", mfc="none")]
    figure.legend(handles=handles, loc="outside lower center", ncols=5)
    return figure
