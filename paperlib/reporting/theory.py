"""The score and the teacher's confidence: what `paperlib.basics.confidence` expects beside what was
measured. No torch here.
"""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from ..basics.confidence import CONFIDENT, SOFT, even_spread, preferred_miss
from ..basics.statistics import kendall, spearman
from ..study import plan, profiles
from ..study.config import ScoreRun, WalkRun
from ..study.profiles import CLASSES, CUTMIX, RELEASED_PICKS
from ..study.store import Store
from .report import SHORT, STYLE, short

COLUMNS = [
    "profile",
    "teacher",
    "source",
    "dataset",
    "model",
    "trained",
    "epoch",
    "augmentation",
    "score",
    "cmi",
    "divergence",
    "entropy",
    "error",
    "confidence",
    "missed",
    "formula",
    "classes",
]
TEACHER_COLUMNS = [
    "profile",
    "teacher",
    "source",
    "dataset",
    "model",
    "trained",
    "epoch",
    "confidence",
    "kind",
    "pick",
    "pick_error",
    "mild",
    "mild_p",
    "valley",
    "valley_p",
    "valley_n",
    "formula",
    "rank_ta_cutmix",
    "rank_aai_cutmix",
]


def _rows(facts: dict[str, Any], scores: list[dict], classes: int) -> list[dict[str, Any]]:
    rows = []
    for line in scores:
        missed = 1 - float(np.exp(-line["divergence"]))
        formula = float(even_spread(missed, classes)) + line["entropy"]
        rows.append(
            facts
            | {name: line.get(name, float("nan")) for name in COLUMNS[7:14]}
            | {"missed": missed, "formula": formula, "classes": classes}
        )
    return rows


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
    for name, source, run in {
        run.key: (name, source, run) for name, source, run in (*earlier, *alone)
    }.values():
        if record := store.finished(run):
            rows += _rows(
                _facts(name, source, run), record["result"]["scores"], CLASSES[run.data.name]
            )
    for run in plan.walks(store.profile):
        for step in record["result"]["steps"] if (record := store.finished(run)) else ():
            name = (
                f"{run.teacher.model} {run.data.name}, {run.teacher.augmentation}, epoch "
                f"{step['epoch']}"
            )
            facts = _facts(name, "walk", run) | {"epoch": step["epoch"]}
            rows += _rows(facts, step["scores"], CLASSES[run.data.name])
    return pd.DataFrame(rows, columns=COLUMNS).assign(profile=store.profile)


def _facts(name: str, source: str, run: ScoreRun | WalkRun) -> dict[str, Any]:
    teacher = run.teacher
    return {
        "teacher": name,
        "source": source,
        "dataset": run.data.name,
        "model": teacher.model,
        "trained": teacher.augmentation,
        "epoch": teacher.recipe.epochs,
    }


def teachers_table(theory: pd.DataFrame) -> pd.DataFrame:
    """One row per teacher of a `theory_table`.

    confidence  on views of crop and mirror; kind  "confident", "soft" or "between"
    (docs/experiments.md); pick, pick_error  the score's choice, and the teacher's error under it;
    mild  Spearman of score and teacher's error over all candidates, mild_p  two-sided;
    valley  the same over the policies without CutMix that miss less than `preferred_miss`, valley_p
    one-sided (below 0), valley_n  how many; formula  Spearman of formula and score; rank_ta_cutmix,
    rank_aai_cutmix  the places of the released picks.
    """
    rows = []
    for _, part in theory.groupby(["profile", "teacher"], sort=False):
        first, best = part.iloc[0], part.loc[part["score"].idxmin()]
        plain = part[~part["augmentation"].str.endswith(CUTMIX)]
        before = plain[plain["missed"] < preferred_miss(int(first["classes"]))]
        places = part["score"].rank(method="min").set_axis(part["augmentation"])
        known = part["error"].notna().all()
        mild = spearman(part["score"], part["error"]) if known else None
        valley = spearman(before["score"], before["error"]) if known and len(before) > 3 else None
        confidence = float(part.loc[part["augmentation"] == "none", "confidence"].iloc[0])
        rows.append(
            {
                **first[["profile", "teacher", "source", "dataset", "model", "trained", "epoch"]],
                "confidence": confidence,
                "kind": _kind(confidence),
                "pick": best["augmentation"],
                "pick_error": best["error"],
                "mild": mild.value if mild else float("nan"),
                "mild_p": mild.p if mild else float("nan"),
                "valley": valley.value if valley else float("nan"),
                "valley_p": _one_sided(valley),
                "valley_n": len(before),
                "formula": spearman(part["formula"], part["score"]).value,
                "rank_ta_cutmix": places.get(RELEASED_PICKS[0]),
                "rank_aai_cutmix": places.get(RELEASED_PICKS[1]),
            }
        )
    return pd.DataFrame(rows, columns=TEACHER_COLUMNS)


def _kind(confidence: float) -> str:
    if confidence != confidence:
        return ""
    return "confident" if confidence >= CONFIDENT else "soft" if confidence <= SOFT else "between"


def _one_sided(found) -> float:
    """The p-value of a correlation below 0; the exact distribution over all orders is symmetric."""
    if found is None:
        return float("nan")
    return found.p / 2 if found.value < 0 else 1 - found.p / 2


def temperatures_table(store: Store) -> pd.DataFrame:
    """One row per teacher of docs/experiments.md and temperature of its softmax: what the score
    then picks.

    temperature  1 for the score as defined; pick; pick_error  the teacher's error under it; kendall
    of the order with that at 1.
    """
    rows = []
    for setup in plan.teachers_alone(store.profile):
        record, scored = store.finished(plan.temperatures(setup)), store.finished(setup.score)
        if record is None or scored is None:
            continue
        errors = {
            row["augmentation"]: row.get("error", float("nan"))
            for row in scored["result"]["scores"]
        }
        found = pd.DataFrame(record["result"]["rows"])
        names = {"as defined": 1.0} | {
            f"temperature {t:g}": t for t in record["config"]["temperatures"]
        }
        found = found[found["variant"].isin(names)].assign(temperature=found["variant"].map(names))
        wide = found.pivot(index="augmentation", columns="temperature", values="score")
        for temperature in wide:
            pick = wide[temperature].idxmin()
            rows.append(
                {
                    "profile": store.profile,
                    "teacher": setup.regime,
                    "temperature": temperature,
                    "pick": pick,
                    "pick_error": errors[pick],
                    "kendall": kendall(wide[temperature], wide[1.0]).value,
                }
            )
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------------------------ figures


def plane_figure(theory: pd.DataFrame) -> Figure:
    """The plane of missed label mass and entropy with f(s) + H as colour, a panel a number of
    classes; every augmentation of every teacher is a point in it, a ring its teacher's pick; the
    line is the valley.
    """
    several = sorted(theory["classes"].unique())
    with plt.rc_context(STYLE | {"axes.grid": False}):
        figure, axes = plt.subplots(
            1,
            len(several),
            figsize=(1 + 5.6 * len(several), 4.8),
            squeeze=False,
            layout="constrained",
        )
        for axis, classes in zip(axes[0], several, strict=True):
            part = theory[theory["classes"] == classes]
            s, h = np.linspace(0.001, 0.985, 300), np.linspace(0, np.log(classes), 200)
            level = np.minimum(even_spread(s, classes)[None, :] + h[:, None], 3)
            mesh = axis.pcolormesh(s, h, level, cmap="RdYlBu_r", vmin=-3, vmax=3, rasterized=True)
            axis.axvline(
                preferred_miss(classes),
                color="k",
                lw=1,
                ls=":",
                label=f"valley, s = {preferred_miss(classes):.2f}",
            )
            for trained, colour in (("none", "k"), ("none" + CUTMIX, "w")):
                points = part[part["trained"] == trained]
                label = (
                    "teachers trained with CutMix"
                    if trained != "none"
                    else "teachers trained without"
                )
                axis.plot(
                    points["missed"],
                    points["entropy"],
                    ".",
                    color=colour,
                    ms=4,
                    mec="0.3",
                    mew=0.4,
                    label=label,
                )
            picks = part.loc[part.groupby(["profile", "teacher"])["score"].idxmin()]
            axis.plot(
                picks["missed"],
                picks["entropy"],
                "o",
                mfc="none",
                mec="C6",
                ms=9,
                mew=1.6,
                label="their picks",
            )
            axis.set(
                xlabel="label mass the teacher misses, s",
                ylabel="mean entropy H [nats]",
                title=f"{classes} classes",
                xlim=(0, 0.985),
                ylim=(0, np.log(classes)),
            )
            axis.legend(fontsize=7, loc="upper left", framealpha=0.9)
        figure.colorbar(mesh, ax=axes[0].tolist(), label="f(s) + H [nats], lower is better")
    plt.close(figure)
    return figure


def walk_figure(theory: pd.DataFrame) -> Figure:
    """The pick's walk: the teacher's error under its pick as its confidence grows in training, a
    line a teacher.
    """
    walk = theory[theory["source"] == "walk"]
    teachers = teachers_table(walk)
    lines = list(teachers.groupby(["dataset", "model", "trained"], sort=False))
    colours = dict(zip(profiles.POLICIES, sns.color_palette("tab10"), strict=False))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            -(-len(lines) // 2),
            2,
            figsize=(11, 0.8 + 2.5 * -(-len(lines) // 2)),
            squeeze=False,
            sharex=True,
            sharey=True,
            layout="constrained",
        )
        for axis in axes.flat[len(lines) :]:
            axis.set_axis_off()
        for axis, ((dataset, model, trained), part) in zip(axes.flat, lines, strict=False):
            axis.plot(part["confidence"], part["pick_error"], color="0.7", zorder=1)
            for row in part.itertuples():
                policy, _, mixed = row.pick.partition("+")
                face = "none" if mixed else colours[policy]
                axis.plot(
                    row.confidence, row.pick_error, "o", color=colours[policy], mfc=face, mew=1.6
                )
                axis.annotate(
                    row.epoch,
                    (row.confidence, row.pick_error),
                    xytext=(4, 4),
                    textcoords="offset points",
                    fontsize=7,
                )
            how = "with CutMix" if trained.endswith(CUTMIX) else "without CutMix"
            last = part.iloc[-1]
            axis.set_title(
                f"{dataset}, {model} trained {how}; at the end {short(last['pick'])}",
                loc="left",
                fontsize=9,
            )
        for axis in axes[:, 0]:
            axis.set_ylabel("teacher's error\nunder its pick")
        for axis in axes[-1]:
            axis.set_xlabel("teacher's confidence; numbers are epochs")
        handles = [
            plt.Line2D([], [], color=c, marker="o", ls="", label=SHORT[p])
            for p, c in colours.items()
        ]
        handles += [
            plt.Line2D(
                [], [], color="0.3", marker="o", mfc="none", ls="", label="ring: with CutMix"
            )
        ]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=8
        )
    plt.close(figure)
    return figure
