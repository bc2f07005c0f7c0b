"""What the score and the students owe to choices: the score computed in other ways, quantizers in
other forms, other policies.

Tables and figures of the ablations and of the policy search, from records. No torch here.
"""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ..basics.statistics import kendall, regret, spearman
from ..study import plan
from ..study.plan import BEST_FEW, BEST_PAIR, Way
from ..study.profiles import POOLS
from ..study.store import Store
from .report import STYLE, compared, groups, ranking_table, short

OTHER_TEACHER = "teacher trained without CutMix"
VARIANT_COLUMNS = [
    "dataset",
    "model",
    "bits",
    "setup",
    "variant",
    "spearman",
    "spearman_p",
    "kendall",
    "pick",
    "regret",
    "lowest",
    "highest",
]
FORM_COLUMNS = [
    "dataset",
    "model",
    "bits",
    "form",
    "accuracy_mean",
    "accuracy_sd",
    "n",
    "difference",
    "difference_se",
    "seconds",
]


def _variants(store: Store) -> dict[tuple[str, str, int], dict[str, pd.Series]]:
    """(dataset, model, bits) -> variant -> score by augmentation, of the records that are there."""
    found = {}
    for k, setup in enumerate(plan.setups(store.profile)):
        run = plan.score_ablation(setup)
        variants = {}
        if record := store.finished(run):
            rows = pd.DataFrame(record["result"]["rows"])
            variants = {
                name: part.set_index("augmentation")["score"]
                for name, part in rows.groupby("variant", sort=False)
            }
        if k == 0 and (record := store.finished(plan.other_teacher(store.profile))):
            rows = pd.DataFrame(record["result"]["scores"])
            variants[OTHER_TEACHER] = rows.set_index("augmentation")["score"]
        found[setup.data.name, setup.model, setup.bits] = variants
    return found


def score_variants_table(store: Store) -> pd.DataFrame:
    """One row per set-up and way to compute the score: "as defined", at another temperature, on
    fewer images, in two passes, with unmixed labels, by a teacher that was trained without CutMix
    (first set-up).

    spearman, spearman_p  with the students' mean accuracy, a perfect ranker has -1. kendall  with
                          the order of the score as defined.
    pick, regret  as in `report.agreement_table`. The students are always those of the set-up's own
    teacher.
    """
    variants, rows = _variants(store), []
    for name, part in groups(ranking_table(store)):
        first = part.iloc[0]
        defined = part.set_index("augmentation")["score"]
        accuracy = part.set_index("augmentation")["accuracy_mean"].to_numpy(float)
        for variant, scores in variants[first["dataset"], first["model"], first["bits"]].items():
            values = scores.loc[defined.index].to_numpy(float)
            rho = spearman(values, accuracy)
            rows.append(
                {
                    "dataset": first["dataset"],
                    "model": first["model"],
                    "bits": first["bits"],
                    "setup": name,
                    "variant": variant,
                    "spearman": rho.value,
                    "spearman_p": rho.p,
                    "kendall": kendall(values, defined.to_numpy(float)).value,
                    "pick": defined.index[int(values.argmin())],
                    "regret": regret(values, accuracy),
                    "lowest": values.min(),
                    "highest": values.max(),
                }
            )
    return pd.DataFrame(rows, columns=VARIANT_COLUMNS)


def score_variants_figure(table: pd.DataFrame) -> Figure:
    """A `score_variants_table`: how each variant ranks the students, and how far it keeps the order
    of the score as defined.
    """
    names, setups = list(dict.fromkeys(table["variant"])), list(dict.fromkeys(table["setup"]))
    titles = {
        "spearman": "Spearman with accuracy\n(-1 is perfect)",
        "kendall": "Kendall with the score as defined\n(1 is the same order)",
    }
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, 2, figsize=(9, 1.4 + 0.3 * len(names)), sharey=True, layout="constrained"
        )
        for axis, (column, title) in zip(axes, titles.items(), strict=True):
            for k, setup in enumerate(setups):
                rows = table[table["setup"] == setup]
                places = [
                    names.index(name) + 0.18 * (k - (len(setups) - 1) / 2)
                    for name in rows["variant"]
                ]
                axis.plot(
                    rows[column],
                    places,
                    "o",
                    color=f"C{k}",
                    label=setup if axis is axes[0] else None,
                )
            axis.axvline(0, color="0.6", lw=0.8)
            axis.set(title=title, xlim=(-1.08, 1.08))
            axis.title.set_fontsize(9.5)
        axes[0].set_yticks(range(len(names)), names)
        axes[0].invert_yaxis()
        figure.legend(loc="outside lower center", ncols=len(setups), frameon=False, fontsize=8)
    plt.close(figure)
    return figure


def forms_table(store: Store) -> pd.DataFrame:
    """EWGS by its factor, other quantizers in their paper's and in their released form, all with
    plain KD: one row each.

    accuracy_mean, accuracy_sd  percent, over n seeds. difference  to the first row of the quantizer
    (straight-through EWGS, the paper's form), paired by seed, and its standard error.
    """
    comparison, found = plan.methods(store.profile), plan.forms(store.profile)
    setup, rows = comparison.setup, []
    facts = {"dataset": setup.data.name, "model": setup.model, "bits": setup.bits}
    for name, runs in found.items():
        reference = next(
            runs for other, runs in found.items() if other.split(",")[0] == name.split(",")[0]
        )
        numbers = compared(runs, reference, store)
        rows += [facts | {"form": name} | numbers] if numbers["n"] else []
    return pd.DataFrame(rows, columns=FORM_COLUMNS)


def search_table(store: Store) -> pd.DataFrame:
    """What the policy search found beside the picks among the sixteen: one row a way to choose.

    score, cmi, divergence  nats, on all images of the first set-up. accuracy_mean, accuracy_sd
    percent, over n seeds (on a CPU after the short budget of `plan.methods`); difference  to the
    base augmentation, paired by seed, and its standard error. Empty without the race and both
    scores.
    """
    profile = store.profile
    runs = plan.setups(profile)[0].score, plan.search_score(profile, store)
    records = [run and store.finished(run) for run in runs]
    if not all(records):
        return pd.DataFrame()
    setup = plan.methods(profile).setup
    scores = {row["augmentation"]: row for record in records for row in record["result"]["scores"]}
    students, rows = plan.search_students(profile, store), []
    for name, runs in students.items():
        line = scores[runs[0].augmentation]
        facts = {
            "dataset": setup.data.name,
            "model": setup.model,
            "bits": setup.bits,
            "choice": name,
        }
        facts |= {column: line[column] for column in ("augmentation", "score", "cmi", "divergence")}
        numbers = compared(runs, students[Way.BASE], store)
        rows += [facts | numbers] if numbers["n"] else []
    return pd.DataFrame(rows)


def race_of_pairs(store: Store) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The race's rows, best first (columns of `paperlib.scoring.racing.rank_within`), and its share
    of the passes and how it stopped.
    """
    result = store.load(plan.search(store.profile))["result"]
    return pd.DataFrame(result["scores"]), {
        name: result[name] for name in ("share", "stopped", "confidence")
    }


def search_figure(store: Store) -> Figure:
    """Scores of all raced pairs, of what came of them and of the eight policies without CutMix;
    students by way to choose.
    """
    race, _ = race_of_pairs(store)
    table = search_table(store)
    scores = pd.DataFrame(store.load(plan.setups(store.profile)[0].score)["result"]["scores"])
    eight = scores[scores["augmentation"].map(POOLS["8 without CutMix"])]
    lines = {short(row.augmentation): (row.score, "C0") for row in eight.itertuples()}
    lines |= {
        row.choice: (row.score, "C2")
        for row in table.itertuples()
        if row.choice in (BEST_PAIR, BEST_FEW)
    }
    lines = dict(sorted(lines.items(), key=lambda line: line[1]))
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(11, 3.8), layout="constrained", width_ratios=(1.3, 1)
        )
        names = [f"{len(race)} random pairs", *lines]
        left.plot(race["score"], [0] * len(race), "|", color="0.4", ms=14, alpha=0.6)
        for place, (score, colour) in enumerate(lines.values(), start=1):
            left.plot(score, place, "o", color=colour)
        left.set_yticks(range(len(names)), names, fontsize=8)
        left.set_xlabel("score D - CMI [nats], lower is better")
        right.errorbar(
            table["accuracy_mean"],
            table["choice"],
            xerr=table["accuracy_sd"].fillna(0),
            fmt="o",
            capsize=3,
        )
        right.tick_params(axis="y", labelsize=8)
        right.margins(y=0.15)
        n = int(table["n"].max())
        right.set_xlabel(f"student's top-1 accuracy [%], {n} seed{'s' * (n > 1)}")
        for axis in (left, right):
            axis.invert_yaxis()
    plt.close(figure)
    return figure
