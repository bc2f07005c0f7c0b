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
from ..study.gains import Way, result_of
from ..study.plan import BEST_FEW, BEST_PAIR
from ..study.profiles import CUTMIX
from ..study.store import Store
from .report import SETUP, groups, ranking_table, scores_of, setup_facts, students_row
from .style import error_bars, of_seeds, short, styled

OTHER_TEACHER = "teacher trained without CutMix"
VARIANT_COLUMNS = (
    "dataset model bits setup variant spearman spearman_p kendall pick regret lowest highest"
).split()


def _variants(store: Store) -> dict[tuple[str, str, int], dict[str, pd.Series]]:
    """(dataset, model, bits) -> variant -> score by augmentation, of the records that are there."""
    found = {}
    for k, setup in enumerate(plan.setups(store.profile)):
        variants = {}
        if result := result_of(plan.score_ablation(setup), store):
            rows = pd.DataFrame(result["rows"]).set_index("augmentation")
            variants = dict(iter(rows.groupby("variant", sort=False)["score"]))
        other = scores_of(plan.other_teacher(store.profile), store) if k == 0 else None
        if other is not None:
            variants[OTHER_TEACHER] = other["score"]
        found[tuple(setup_facts(setup).values())] = variants
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
        facts = part.iloc[0][SETUP].to_dict() | {"setup": name}
        part = part.set_index("augmentation")
        for variant, scores in variants[tuple(part.iloc[0][SETUP])].items():
            scores, accuracy = scores.loc[part.index], part["accuracy_mean"]
            rho = spearman(scores, accuracy)
            rows.append(
                facts
                | {
                    "variant": variant,
                    "spearman": rho.value,
                    "spearman_p": rho.p,
                    "kendall": kendall(scores, part["score"]).value,
                    "pick": scores.idxmin(),
                    "regret": regret(scores, accuracy),
                    "lowest": scores.min(),
                    "highest": scores.max(),
                }
            )
    return pd.DataFrame(rows, columns=VARIANT_COLUMNS)


@styled
def score_variants_figure(table: pd.DataFrame) -> Figure:
    """A `score_variants_table`: how each variant ranks the students, and how far it keeps the order
    of the score as defined.
    """
    names, setups = list(table["variant"].unique()), list(table["setup"].unique())
    titles = {
        "spearman": "Spearman with accuracy\n(-1 is perfect)",
        "kendall": "Kendall with the score as defined\n(1 is the same order)",
    }
    size = (9, 1.4 + 0.3 * len(names))
    figure, axes = plt.subplots(1, 2, figsize=size, sharey=True, layout="constrained")
    for axis, (column, title) in zip(axes, titles.items(), strict=True):
        for k, setup in enumerate(setups):
            rows = table[table["setup"] == setup]
            places = rows["variant"].map(names.index) + 0.18 * (k - (len(setups) - 1) / 2)
            axis.plot(rows[column], places, "o", color=f"C{k}", label=setup)
        axis.axvline(0, color="0.6", lw=0.8)
        axis.set_title(title, fontsize=9.5)
        axis.set_xlim(-1.08, 1.08)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    entries = axes[0].get_legend_handles_labels()
    figure.legend(*entries, loc="outside lower center", ncols=len(setups))
    return figure


def forms_table(store: Store) -> pd.DataFrame:
    """EWGS by its factor, other quantizers in their paper's and in their released form, all with
    plain KD: one row each.

    accuracy_mean, accuracy_sd  percent, over n seeds. difference  to the first row of the quantizer
    (straight-through EWGS, the paper's form), paired by seed, and its standard error.
    """
    setup, rows, first = plan.methods(store.profile).setup, [], {}
    for name, runs in plan.forms(store.profile).items():
        reference = first.setdefault(name.split(",")[0], runs)
        rows += students_row(setup_facts(setup) | {"form": name}, runs, reference, store)
    return pd.DataFrame(rows)


def search_table(store: Store) -> pd.DataFrame:
    """What the policy search found beside the picks among the sixteen: one row a way to choose.

    score, cmi, divergence  nats, on all images of the first set-up. accuracy_mean, accuracy_sd
    percent, over n seeds (on a CPU after the short budget of `plan.methods`); difference  to the
    base augmentation, paired by seed, and its standard error. Empty without the race and both
    scores.
    """
    profile = store.profile
    runs = plan.setups(profile)[0].score, plan.search_score(profile, store)
    if not all(run and store.done(run) for run in runs):
        return pd.DataFrame()
    setup, students = plan.methods(profile).setup, plan.search_students(profile, store)
    scores, rows = pd.concat([scores_of(run, store) for run in runs]), []
    for name, runs in students.items():
        augmentation = runs[0].augmentation
        facts = setup_facts(setup) | {"choice": name, "augmentation": augmentation}
        facts |= scores.loc[augmentation, ["score", "cmi", "divergence"]].to_dict()
        rows += students_row(facts, runs, students[Way.BASE], store)
    return pd.DataFrame(rows)


def race_of_pairs(store: Store) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The race's rows, best first (columns of `paperlib.scoring.racing.rank_within`), and its
    result: share of the passes, confidence, and how it stopped.
    """
    result = store.load(plan.search(store.profile))["result"]
    return pd.DataFrame(result["scores"]), result


@styled
def search_figure(store: Store) -> Figure:
    """Scores of all raced pairs, of what came of them and of the eight policies without CutMix;
    students by way to choose.
    """
    (race, _), table = race_of_pairs(store), search_table(store)
    scores = scores_of(plan.setups(store.profile)[0].score, store)["score"]
    lines = [(s, "C0", short(name)) for name, s in scores.items() if not name.endswith(CUTMIX)]
    searched = table[table["choice"].isin((BEST_PAIR, BEST_FEW))]
    lines += [(row.score, "C2", row.choice) for row in searched.itertuples()]
    lines.sort(key=lambda line: line[0])
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 3.8), layout="constrained", width_ratios=(1.3, 1)
    )
    left.plot(race["score"], [0] * len(race), "|", color="0.4", ms=14, alpha=0.6)
    names = [f"{len(race)} random pairs"]
    for place, (score, colour, name) in enumerate(lines, start=1):
        left.plot(score, place, "o", color=colour)
        names.append(name)
    left.set_yticks(range(len(names)), names, fontsize=8)
    left.set_xlabel("score D - CMI [nats], lower is better")
    error_bars(right, table, table["choice"], capsize=3)
    right.tick_params(axis="y", labelsize=8)
    right.margins(y=0.15)
    right.set_xlabel(f"student's top-1 accuracy [%], {of_seeds(table)}")
    for axis in (left, right):
        axis.invert_yaxis()
    return figure
