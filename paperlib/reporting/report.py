"""Does the score rank augmentations? Tables and figures of rankings, from records. No torch here.

Every function takes records, or a table made of them. No number is known here that no record holds.
"""

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from ..basics.statistics import kendall, regret, rho, sign_test, spearman, spearman_within
from ..study import plan, profiles
from ..study.config import Run, StudentRun
from ..study.gains import result_of
from ..study.profiles import ALL_16, CANDIDATES, CUTMIX, POOLS, SEVEN, Setup
from ..study.store import Store
from .paper import NO_VALUE, PAPER_FACTS, PaperValues, paper_values
from .style import legend_entry, legend_of_policies, marker, styled

# Column -> (name, sign that makes lower better). All but the last look at the teacher.
RANKERS = {
    "score": ("score D - CMI (ours)", 1),
    "score_released": ("score, released centroids", 1),
    "divergence": ("divergence D alone", 1),
    "cmi": ("- CMI alone", -1),
    "cross_entropy": ("teacher cross-entropy", 1),
    "entropy": ("teacher entropy", 1),
    "teacher_stddev": ("T. stddev (minimal variance)", 1),
    "cutmix": ("CutMix or not (no teacher)", 1),
}
SETUP = ["dataset", "model", "bits"]
Row = dict[str, Any]
Students = Sequence[StudentRun]
COLUMNS = (
    "dataset model augmentation score cmi divergence teacher_stddev accuracy_mean accuracy_sd n "
    "rank bits score_low score_high entropy cross_entropy cmi_released score_released images "
    "teacher_accuracy cmi_unmixed divergence_unmixed paper_accuracy profile cutmix paper_source"
).split()
SEEDS_COLUMNS = (
    "dataset model bits pool seeds between lowest highest reliability ceiling "
    "score_lowest score_highest"
).split()


class MissingRuns(LookupError):
    """Some records are missing. The text lists them, and the command that makes them."""


def require(store: Store, runs: list[Run], command: str) -> None:
    """Raise MissingRuns unless every run is done."""
    absent = [run for run in runs if not store.done(run)]
    if absent:
        shown = "\n".join(f"  {run.key}  {run.label}" for run in absent[:5])
        more = f"\n  and {len(absent) - 5} more" if len(absent) > 5 else ""
        raise MissingRuns(
            f"{len(absent)} runs are missing in {store.runs}:\n{shown}{more}\nMake them "
            f"with: {command}"
        )


# ------------------------------------------------------------------------------------------ records


def setup_facts(setup: Setup) -> Row:
    """The columns that name a set-up."""
    return {"dataset": setup.data.name, "model": setup.model, "bits": setup.bits}


def scores_of(run: Run, store: Store) -> pd.DataFrame | None:
    """The scores of a run, a row an augmentation. None if the run is not done."""
    result = result_of(run, store)
    return result and pd.DataFrame(result["scores"]).set_index("augmentation")


def accuracies(
    setup: Setup, store: Store, half: int | None = None, epoch: int = -1
) -> pd.DataFrame:
    """Students' accuracies (percent): a row an augmentation, a column a seed. Seeds that lack a
    student are left out.

    half  None for all test images, 0 for the choosing half, 1 for the judging half.
    epoch  finished epochs; -1 for the headline accuracy.
    """
    return _all_accuracies(setup, store, half, epoch).dropna(axis=1)


def _all_accuracies(
    setup: Setup, store: Store, half: int | None = None, epoch: int = -1
) -> pd.DataFrame:
    found: dict[int, dict[str, float | None]] = {}
    for run in setup.students:
        if result := result_of(run, store):
            value = _accuracy(result, half, epoch)
            found.setdefault(run.seed, {})[run.augmentation] = value
    return pd.DataFrame(found, index=list(CANDIDATES), dtype=float)


def _accuracy(result: dict[str, Any], half: int | None, epoch: int) -> float | None:
    """None where a record of earlier code, or of another schedule, does not have it."""
    if half is None and epoch == -1:
        return result["accuracy"]
    row = result.get("curve", [{}])[epoch if epoch == -1 else epoch - 1]
    if half is None:
        return row.get("test_accuracy")
    return row.get("test_accuracy_halves", [None, None])[half]


def compared(runs: Students, reference: Students, store: Store) -> Row:
    """Students that differ in their seed alone, beside others. Those that are done count.

    accuracy_mean, accuracy_sd  percent, over n seeds. difference  mean of the differences to the
    reference within seeds, and its standard error: NaN where there are no pairs, or one.
    seconds  a student, mean.
    """
    ours, theirs = (
        pd.Series(
            {run.seed: done["accuracy"] for run in part if (done := result_of(run, store))},
            dtype=float,
        )
        for part in (runs, reference)
    )
    change = (ours - theirs).dropna()
    seconds = [store.load(run)["seconds"] for run in runs if store.done(run)]
    return {
        "accuracy_mean": ours.mean(),
        "accuracy_sd": ours.std(),
        "n": len(ours),
        "difference": change.mean(),
        "difference_se": change.sem(),
        "seconds": pd.Series(seconds, dtype=float).mean(),
    }


def students_row(facts: Row, runs: Students, reference: Students, store: Store) -> list[Row]:
    """A table's row of facts and of `compared`, in a list. The list is empty if no student is
    done.
    """
    numbers = compared(runs, reference, store)
    return [facts | numbers] if numbers["n"] else []


# ------------------------------------------------------------------------------------------- tables


def ranking_table(store: Store) -> pd.DataFrame:
    """One row per data set, model and augmentation of the profile, by score: teacher-only metrics
    and students' accuracy.

    accuracy_mean and accuracy_sd are percent, over n seeds that have a student for every
    augmentation. If no seed has, all students count. They are NaN where there are too few.
    rank 1 is the lowest score. Set-ups without a score record are left out. See `COLUMNS`; metrics
    are in nats. paper_accuracy, paper_source  see `paper.paper_table`. cutmix  0 or 1.
    """
    paper = paper_values(store.root)
    rows = [
        row for setup in profiles.setups(store.profile) for row in setup_rows(setup, store, paper)
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.astype({"n": int, "rank": int}) if len(table) else table


def setup_rows(setup: Setup, store: Store, paper: PaperValues) -> list[Row]:
    """The rows of one set-up in a `ranking_table`. There are none without its score record."""
    scores = store.finished(setup.score)
    if scores is None:
        return []
    unmixed = _unmixed(setup, store)
    students = _all_accuracies(setup, store)
    # While a sweep goes on, augmentations that are a seed ahead are not compared by it.
    whole = students.dropna(axis=1)
    students = students if whole.empty else whole
    facts = {"profile": store.profile, "teacher_accuracy": scores["teacher"]["accuracy"]}
    rows = []
    for line in scores["result"]["scores"]:
        name = line["augmentation"]
        of_seeds = students.loc[name].dropna()
        key = (*setup_facts(setup).values(), setup.method, "kd", name)
        found = {
            "accuracy_mean": of_seeds.mean(),
            "accuracy_sd": of_seeds.std(),
            "n": len(of_seeds),
            "cutmix": int(name.endswith(CUTMIX)),
        }
        found |= dict(zip(PAPER_FACTS, paper.get(key, NO_VALUE), strict=True))
        rows.append(facts | setup_facts(setup) | line | unmixed.get(name, {}) | found)
    return rows


def _unmixed(setup: Setup, store: Store) -> dict[str, dict[str, float]]:
    """Augmentation -> CMI and divergence if a mixed image counts for the class of its own label
    only. It is empty without the record.
    """
    result = result_of(plan.score_ablation(setup), store)
    return {
        row["augmentation"]: {"cmi_unmixed": row["cmi"], "divergence_unmixed": row["divergence"]}
        for row in (result["rows"] if result else ())
        if row["variant"] == "unmixed labels"
    }


def groups(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(name, rows) for each set-up of a ranking table that has students of as many seeds for every
    augmentation, in order. A column `regime` tells set-ups apart too.

    The name has the profile where the table holds the same data, network and bits in several.
    """
    table = table if "regime" in table else table.assign(regime="")
    keys = ["regime", *SETUP]
    several = table.groupby(keys)["profile"].nunique()
    found = []
    for (profile, *what), rows in table.groupby(["profile", *keys], sort=False):
        if rows["accuracy_mean"].notna().all() and rows["n"].nunique() == 1:
            regime, dataset, model, bits = what
            before = f"{regime}: " if regime else ""
            where = f", {profile}" if several[tuple(what)] > 1 else ""
            found.append((f"{before}{dataset}, {model}, W{bits}A{bits}{where}", rows))
    return found


def in_pool(table: pd.DataFrame, pool: str) -> pd.DataFrame:
    """The rows of a ranking table whose augmentation is in one of `profiles.POOLS`."""
    return table[table["augmentation"].map(POOLS[pool])]


def agreement_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per set-up, pool of candidates (all 16, the figure's 7) and ranker: how well it
    ranks, and what its pick loses.

    spearman, kendall  correlation of the metric (lower is better) with mean accuracy, so a perfect
    ranker has -1; with two-sided exact permutation p-values. within, within_p  Spearman's within
    the candidates with CutMix and within those without: what a metric knows besides that.
    pick  its choice; regret  accuracy points lost to the best candidate, both means over the
    candidates that share the lowest metric. A metric that is constant in a pool is left out there.
    """
    rows = []
    for (name, whole), pool in product(groups(table), (ALL_16, SEVEN)):
        part = in_pool(whole, pool)
        for column, (ranker, sign) in RANKERS.items():
            if part[column].notna().all() and part[column].nunique() > 1:
                facts = {"setup": name, "pool": pool, "ranker": ranker}
                rows.append(facts | _ranked(part, sign * part[column]))
    return pd.DataFrame(rows)


def _ranked(part: pd.DataFrame, metric: pd.Series) -> Row:
    """How a metric ranks the candidates of a pool."""
    accuracy = part["accuracy_mean"]
    rho, tau = spearman(metric, accuracy), kendall(metric, accuracy)
    within = spearman_within(metric, accuracy, part["cutmix"])
    best, lost = part.loc[metric == metric.min(), "augmentation"], regret(metric, accuracy)
    return {
        "spearman": rho.value,
        "spearman_p": rho.p,
        "kendall": tau.value,
        "kendall_p": tau.p,
        "exact": rho.exact and tau.exact,
        "within": within.value,
        "within_p": within.p,
        "pick": best.iloc[0] if len(best) == 1 else f"one of {len(best)}",
        "pick_accuracy": accuracy.max() - lost,
        "regret": lost,
        "candidates": len(part),
        "seeds": int(part["n"].min()),
    }


def of_ranker(agreement: pd.DataFrame, column: str, pool: str = ALL_16) -> pd.DataFrame:
    """The rows of an `agreement_table` for one of `RANKERS` and one pool, by set-up."""
    if agreement.empty:
        return agreement
    wanted = (agreement["ranker"] == RANKERS[column][0]) & (agreement["pool"] == pool)
    return agreement[wanted].set_index("setup")


def sign_table(agreement: pd.DataFrame) -> pd.DataFrame:
    """An `agreement_table` counted over set-ups: one row per pool and ranker. Points of different
    set-ups do not lie on one line.

    right  set-ups in which a lower metric goes with a higher accuracy (Spearman below 0), of
    `setups`; sign_p  two-sided exact p-value of a sign test; mean_regret  points.
    """
    found = agreement.assign(right=agreement["spearman"] < 0)
    table = found.groupby(["pool", "ranker"], sort=False, as_index=False).agg(
        right=("right", "sum"), setups=("spearman", "count"), mean_regret=("regret", "mean")
    )
    table.insert(4, "sign_p", list(map(sign_test, table["right"], table["setups"])))
    return table


def seed_correlations(table: pd.DataFrame) -> list[float]:
    """Spearman's correlation of the accuracies of two seeds, for each pair of columns of
    `accuracies`.
    """
    return [rho(table[a], table[b]) for a, b in combinations(table.columns, 2)]


def seeds_table(store: Store) -> pd.DataFrame:
    """How well the students of one seed rank as those of another: what can be asked of a ranker.
    One row a set-up with several seeds and pool of candidates (all 16, the figure's 7).

    between  Spearman's correlation of the candidates' accuracies, mean over the pairs of seeds;
             lowest, highest  of the pairs.
    reliability  of the mean over all seeds (Spearman and Brown's formula). ceiling  its root: the
    expected correlation of these means with a metric that knew the true accuracies. It is as
    uncertain as so few pairs are, and 0 where seeds do not agree.
    score_lowest, score_highest  Spearman's correlation of the score with the accuracies of one
    seed, among the seeds.
    """
    rows = []
    for setup in profiles.setups(store.profile):
        scores, table, n = scores_of(setup.score, store), accuracies(setup, store), len(setup.seeds)
        if scores is None or n < 2 or table.shape[1] < n:
            continue
        for pool in (ALL_16, SEVEN):
            part = table[table.index.map(POOLS[pool])]
            pairs = seed_correlations(part)
            by_seed = [rho(scores.loc[part.index, "score"], part[seed]) for seed in part]
            between = sum(pairs) / len(pairs)
            reliability = n * max(0.0, between) / (1 + (n - 1) * max(0.0, between))
            measured = (between, min(pairs), max(pairs), reliability, reliability**0.5)
            facts = setup_facts(setup).values()
            rows.append((*facts, pool, n, *measured, min(by_seed), max(by_seed)))
    return pd.DataFrame(rows, columns=SEEDS_COLUMNS)


# ------------------------------------------------------------------------------------------ figures


@styled
def scatter(table: pd.DataFrame) -> Figure:
    """Metric against the student's accuracy, a panel a set-up. Error bars are over seeds, and
    horizontal lines are the two picks.
    """
    panels = groups(table)
    across = min(len(panels), 3)
    down = -(-len(panels) // across)
    size = (max(8, 6.6 * across), 0.6 + 5 * down)
    figure, axes = plt.subplots(down, across, figsize=size, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (name, rows) in zip(axes.flat, panels, strict=False):
        _panel(axis, name, rows)
    handles = [*legend_of_policies("s"), legend_entry("without CutMix")]
    handles.append(legend_entry("with CutMix", mfc="none"))
    figure.legend(handles=handles, loc="lower center", ncols=5, fontsize=9, columnspacing=1.2)
    figure.tight_layout(rect=(0, 0.6 / size[1], 1, 1))
    return figure


def _panel(axis: plt.Axes, name: str, rows: pd.DataFrame) -> None:
    for row in rows.itertuples():
        axis.errorbar(
            row.score,
            row.accuracy_mean,
            yerr=None if row.accuracy_sd != row.accuracy_sd else row.accuracy_sd,
            xerr=[[max(row.score - row.score_low, 0)], [max(row.score_high - row.score, 0)]],
            fmt="o",
            ms=7,
            elinewidth=1,
            capsize=2,
            **marker(row.augmentation),
        )
    for column, what, colour, line in (
        ("score", "our pick", "C2", "-"),
        ("teacher_stddev", "minimal variance", "C3", "--"),
    ):
        pick = rows.loc[rows[column].idxmin()]
        label = f"{what}: {pick['augmentation']}"
        axis.axhline(pick["accuracy_mean"], color=colour, lw=1.4, ls=line, label=label)
    rho = spearman(rows["score"], rows["accuracy_mean"])
    axis.set(
        title=f"{name}   Spearman {rho.value:.2f} (p = {rho.p:.2g}, n = {rho.n})",
        xlabel="score D - CMI [nats], lower is better",
        ylabel="student's top-1 accuracy [%]",
    )
    axis.legend(loc="upper left", bbox_to_anchor=(0, -0.12), ncols=2)  # inside, it hides error bars


def heatmap(centroids: list[list[float]], classes: list[str], title: str, axis: plt.Axes) -> None:
    """Class centroids as a heat map: row y is the mean prediction for class y."""
    sns.heatmap(
        centroids,
        vmin=0,
        vmax=1,
        cmap="rocket_r",
        square=True,
        ax=axis,
        xticklabels=classes,
        yticklabels=classes,
        cbar=False,
        annot=len(classes) <= 10,
        fmt=".2f",
        annot_kws={"fontsize": 6},
    )
    axis.set(title=title, xlabel="predicted", ylabel="class")
