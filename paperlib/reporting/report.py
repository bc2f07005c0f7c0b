"""Records in, tables and figures out. Needs no GPU, no data set, no training, no torch.

Every function takes records or a table made of them; nothing here knows a number that no record
holds.
"""

import json
from collections.abc import Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from ..basics.recipe import PRECISIONS
from ..basics.statistics import kendall, regret, sign_test, spearman, spearman_within
from ..study import plan, profiles
from ..study.config import Run, StudentRun
from ..study.plan import Setup
from ..study.profiles import ALL_16, POOLS, SEVEN
from ..study.store import Store

# Rankers, all "lower is better", as column -> (name, sign that makes it so): teacher-only ones, and
# one that knows no teacher.
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
COLUMNS = [
    "dataset",
    "model",
    "augmentation",
    "score",
    "cmi",
    "divergence",
    "teacher_stddev",
    "accuracy_mean",
    "accuracy_sd",
    "n",
    "rank",
    "bits",
    "score_low",
    "score_high",
    "entropy",
    "cross_entropy",
    "cmi_released",
    "score_released",
    "images",
    "teacher_accuracy",
    "cmi_unmixed",
    "divergence_unmixed",
    "paper_accuracy",
    "profile",
    "cutmix",
    "paper_source",
]


SEEDS_COLUMNS = [
    "dataset",
    "model",
    "bits",
    "pool",
    "seeds",
    "between",
    "lowest",
    "highest",
    "reliability",
    "ceiling",
    "score_lowest",
    "score_highest",
]


PAPER_FACTS = ("paper_accuracy", "paper_source")


class MissingRuns(LookupError):
    """Some records are not there; the text lists them and the command that makes them."""


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


# ------------------------------------------------------------------------------------------- tables


def setup_rows(
    setup: Setup, store: Store, paper: dict[tuple, tuple[float, str]]
) -> list[dict[str, Any]]:
    """The rows of one set-up in a ranking table, see `ranking_table`; none without its score
    record.
    """
    scores = store.finished(setup.score)
    if scores is None:
        return []
    unmixed = _unmixed(setup, store)
    students = pd.DataFrame(
        [
            {
                "augmentation": s.augmentation,
                "seed": s.seed,
                "accuracy": record["result"]["accuracy"],
            }
            for s in setup.students
            if (record := store.finished(s))
        ],
        columns=["augmentation", "seed", "accuracy"],
    )
    # While a sweep goes on, augmentations that are a seed ahead are not compared by it.
    whole = students[
        students.groupby("seed")["augmentation"].transform("size") == len(profiles.CANDIDATES)
    ]
    students = whole if len(whole) else students
    rows = []
    for line in scores["result"]["scores"]:
        accuracies = students.loc[
            students["augmentation"] == line["augmentation"], "accuracy"
        ].astype(float)
        facts = {
            "profile": store.profile,
            "dataset": setup.data.name,
            "model": setup.model,
            "bits": setup.bits,
            "accuracy_mean": accuracies.mean(),
            "accuracy_sd": accuracies.std(),
            "n": len(accuracies),
            "teacher_accuracy": scores["teacher"]["accuracy"],
            "cutmix": int(line["augmentation"].endswith(profiles.CUTMIX)),
        }
        key = (setup.data.name, setup.model, setup.bits, setup.method, "kd", line["augmentation"])
        rows.append(
            facts
            | line
            | unmixed.get(line["augmentation"], {})
            | dict(zip(PAPER_FACTS, paper.get(key, NO_VALUE), strict=True))
        )
    return rows


def _unmixed(setup: Setup, store: Store) -> dict[str, dict[str, float]]:
    """Augmentation -> CMI and divergence when a mixed image counts for the class of its own label
    only; {} without the record.
    """
    record = store.finished(plan.score_ablation(setup))
    if record is None:
        return {}
    return {
        row["augmentation"]: {"cmi_unmixed": row["cmi"], "divergence_unmixed": row["divergence"]}
        for row in record["result"]["rows"]
        if row["variant"] == "unmixed labels"
    }


PAPER_KEY = ["dataset", "model", "bits", "quantizer", "loss", "augmentation"]
PAPER_COLUMNS = [*PAPER_KEY, "accuracy", "table", "page", "source"]
# in the place of an augmentation: what the paper's score picked, which its table does not name
PICKED = "picked"


def paper_table(root: Path) -> pd.DataFrame:
    """results/paper.csv: accuracies of the paper and of SQAKD, percent, each with its table, page
    and source; empty without the file.

    Raises ValueError, naming the file, for other columns, a value that is no percentage or has no
    source, or one that stands there twice.
    """
    path = root / "results/paper.csv"
    if not path.exists():
        return pd.DataFrame(columns=PAPER_COLUMNS)
    table = pd.read_csv(path, comment="#", skipinitialspace=True)
    if list(table.columns) != PAPER_COLUMNS:
        raise ValueError(
            f"{path} needs the columns {', '.join(PAPER_COLUMNS)}, it has "
            f"{', '.join(table.columns)}"
        )
    wrong = table[~pd.to_numeric(table["accuracy"], errors="coerce").between(0, 100)]
    if len(wrong):
        raise ValueError(f"{path}: accuracies are percentages, got {wrong['accuracy'].iloc[0]}")
    twice = table[table.duplicated(PAPER_KEY)]
    if len(twice):
        raise ValueError(
            f"{path} has two values for {', '.join(map(str, twice[PAPER_KEY].iloc[0]))}"
        )
    unknown = table[table["source"].isna()]
    if len(unknown):
        raise ValueError(
            f"{path} has no source for {', '.join(map(str, unknown[PAPER_KEY].iloc[0]))}"
        )
    return table


def paper_values(root: Path) -> dict[tuple, tuple[float, str]]:
    """`paper_table` as (dataset, model, bits, quantizer, loss, augmentation) -> (accuracy,
    source).
    """
    table = paper_table(root)
    keys = table[PAPER_KEY].itertuples(index=False, name=None)
    return dict(
        zip(keys, zip(table["accuracy"].astype(float), table["source"], strict=True), strict=True)
    )


NO_VALUE = (float("nan"), float("nan"))


def ranking_table(store: Store) -> pd.DataFrame:
    """One row per data set, model and augmentation of the profile, by score: teacher-only metrics,
    students' accuracy.

    accuracy_mean and accuracy_sd (percent, over the n seeds that have a student for every
    augmentation, or over what there is if none has; NaN where there are too few), rank 1 is the
    lowest score. Set-ups without a score record are left out. See `COLUMNS`; metrics are in nats.
    paper_accuracy, paper_source  see `paper_table`. cutmix  0 or 1.
    """
    paper = paper_values(store.root)
    rows = [
        row for setup in profiles.setups(store.profile) for row in setup_rows(setup, store, paper)
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.astype({"n": int, "rank": int}) if len(table) else table


def groups(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(name, rows) for each set-up of a ranking table that has students of as many seeds for every
    augmentation, in order; set-ups that have a column `regime` are told apart by it too.

    The name has the profile where the table holds the same data, network and bits in several.
    """
    table = table if "regime" in table else table.assign(regime="")
    setup = ["regime", "dataset", "model", "bits"]
    several = table.groupby(setup)["profile"].nunique()
    found = []
    for (profile, *what), rows in table.groupby(["profile", *setup], sort=False):
        if rows["accuracy_mean"].notna().all() and rows["n"].nunique() == 1:
            regime, dataset, model, bits = what
            where = f", {profile}" if several[tuple(what)] > 1 else ""
            found.append(
                (f"{regime and regime + ': '}{dataset}, {model}, W{bits}A{bits}{where}", rows)
            )
    return found


def in_pool(table: pd.DataFrame, pool: str) -> pd.DataFrame:
    """The rows of a ranking table whose augmentation is in one of `profiles.POOLS`."""
    return table[table["augmentation"].map(POOLS[pool])]


def agreement_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per set-up, pool of candidates (all 16, the figure's 7) and ranker: how well it
    ranks, and what its pick loses.

    spearman, kendall  correlation of the metric (lower is better) with mean accuracy, so a perfect
    ranker has -1; with two-sided exact permutation p-values. within, within_p  the same of
    Spearman's within the candidates with CutMix and within those without: what a metric knows
    besides that. pick  its choice; regret  accuracy points lost to the best candidate, both means
    over the candidates that share the lowest metric. A metric that is constant in a pool is left
    out there.
    """
    rows = []
    for (name, whole), pool in product(groups(table), (ALL_16, SEVEN)):
        part = in_pool(whole, pool)
        for column, (ranker, sign) in RANKERS.items():
            if part[column].isna().any() or part[column].nunique() == 1:
                continue
            metric, accuracy = (
                sign * part[column].to_numpy(float),
                part["accuracy_mean"].to_numpy(float),
            )
            rho, tau, within = (
                spearman(metric, accuracy),
                kendall(metric, accuracy),
                spearman_within(metric, accuracy, part["cutmix"]),
            )
            best, lost = part[metric == metric.min()], regret(metric, accuracy)
            rows.append(
                {
                    "setup": name,
                    "pool": pool,
                    "ranker": ranker,
                    "spearman": rho.value,
                    "spearman_p": rho.p,
                    "kendall": tau.value,
                    "kendall_p": tau.p,
                    "exact": rho.exact and tau.exact,
                    "within": within.value,
                    "within_p": within.p,
                    "pick": best["augmentation"].iloc[0]
                    if len(best) == 1
                    else f"one of {len(best)}",
                    "pick_accuracy": accuracy.max() - lost,
                    "regret": lost,
                    "candidates": len(part),
                    "seeds": int(part["n"].min()),
                }
            )
    return pd.DataFrame(rows)


def sign_table(agreement: pd.DataFrame) -> pd.DataFrame:
    """An `agreement_table` counted over set-ups, whose points do not lie on one line: one row per
    pool and ranker.

    right  set-ups in which a lower metric goes with a higher accuracy (Spearman below 0), of
    `setups`; sign_p  two-sided exact p-value of a sign test; mean_regret  points.
    """
    rows = []
    for (pool, ranker), part in agreement.groupby(["pool", "ranker"], sort=False):
        known = part["spearman"].dropna()
        right = int((known < 0).sum())
        rows.append(
            {
                "pool": pool,
                "ranker": ranker,
                "right": right,
                "setups": len(known),
                "sign_p": sign_test(right, len(known)),
                "mean_regret": part["regret"].mean(),
            }
        )
    return pd.DataFrame(rows)


def seeds_table(store: Store) -> pd.DataFrame:
    """How well the students of one seed rank as those of another: what can be asked of a ranker.
    One row a set-up with several seeds and pool of candidates (all 16, the figure's 7).

    between  Spearman's correlation of the candidates' accuracies, mean over the pairs of seeds;
             lowest, highest  of the pairs.
    reliability  of the mean over all seeds (Spearman and Brown's formula). ceiling  its root: how
    strongly a metric that knew the true accuracies would be expected to correlate with these means,
    itself as uncertain as so few pairs are. 0 where seeds do not agree.
    score_lowest, score_highest  Spearman's correlation of the score with the accuracies of one
    seed, among the seeds.
    """
    rows = []
    for setup in profiles.setups(store.profile):
        records = {(run.augmentation, run.seed): store.finished(run) for run in setup.students}
        score = store.finished(setup.score)
        if len(setup.seeds) < 2 or not all(records.values()) or score is None:
            continue
        scores = {row["augmentation"]: row["score"] for row in score["result"]["scores"]}
        for pool in (ALL_16, SEVEN):
            names = [name for name in profiles.CANDIDATES if POOLS[pool](name)]
            accuracies = [
                [records[name, seed]["result"]["accuracy"] for name in names]
                for seed in setup.seeds
            ]
            pairs = [spearman(a, b).value for a, b in combinations(accuracies, 2)]
            by_seed = [
                spearman([scores[name] for name in names], of_seed).value for of_seed in accuracies
            ]
            between, n = sum(pairs) / len(pairs), len(setup.seeds)
            reliability = n * max(0.0, between) / (1 + (n - 1) * max(0.0, between))
            rows.append(
                {
                    "dataset": setup.data.name,
                    "model": setup.model,
                    "bits": setup.bits,
                    "pool": pool,
                    "seeds": n,
                    "between": between,
                    "lowest": min(pairs),
                    "highest": max(pairs),
                    "reliability": reliability,
                    "ceiling": reliability**0.5,
                    "score_lowest": min(by_seed),
                    "score_highest": max(by_seed),
                }
            )
    return pd.DataFrame(rows, columns=SEEDS_COLUMNS)


def precision_table(store: Store) -> pd.DataFrame:
    """Accuracy (percent) of students trained alike but for precision: one row an augmentation and
    precision.

    accuracy_mean, accuracy_sd over n seeds; difference  to float32, mean over seeds, and its
    standard error; seconds  a student, mean.
    """
    comparison = plan.precision_comparison(store.profile)
    setup, rows = comparison.setup, []
    for augmentation in comparison.augmentations:
        for precision in PRECISIONS:
            facts = {
                "dataset": setup.data.name,
                "model": setup.model,
                "augmentation": augmentation,
                "precision": precision,
            }
            found = compared(
                comparison.students(precision, augmentation),
                comparison.students("float32", augmentation),
                store,
            )
            rows += [facts | found] if found["n"] else []
    return pd.DataFrame(rows)


def short_score_table(store: Store) -> pd.DataFrame:
    """What a teacher in bfloat16 changes of the scores: one row with the largest change of each
    metric and the ranks.

    score, cmi, divergence  largest absolute change over the candidates, nats; half_interval  the
    median half width of the score's 95 % interval, for comparison; kendall  between the two orders;
    same_winner.
    """
    runs = plan.setups(store.profile)[0].score, plan.short_score(store.profile)
    exact, short = map(store.finished, runs)
    if exact is None or short is None:
        return pd.DataFrame()
    a, b = (
        pd.DataFrame(record["result"]["scores"]).set_index("augmentation")
        for record in (exact, short)
    )
    b = b.loc[a.index]
    changes = {
        name: float((a[name] - b[name]).abs().max()) for name in ("score", "cmi", "divergence")
    }
    return pd.DataFrame(
        [
            {
                "dataset": exact["config"]["data"]["name"],
                **changes,
                "half_interval": float(((a["score_high"] - a["score_low"]) / 2).median()),
                "kendall": kendall(a["score"], b["score"]).value,
                "same_winner": a["score"].idxmin() == b["score"].idxmin(),
                "seconds": short["seconds"],
                "seconds_float32": exact["seconds"],
            }
        ]
    )


def budget_table(store: Store) -> pd.DataFrame:
    """One row per race within a budget, beside the full ranking of the same candidates.

    share  of the full ranking's forward passes; stopped  why; same_winner; gap  of the full scores
    of the two winners, nats; kendall  between the two orders of all candidates.
    """
    full = store.finished(plan.setups(store.profile)[0].score)
    rows = []
    for run in plan.races(store.profile):
        record = store.finished(run)
        if record is None or full is None:
            continue
        scores = {row["augmentation"]: row["score"] for row in full["result"]["scores"]}
        order = [row["augmentation"] for row in record["result"]["scores"]]
        best = min(scores, key=scores.get)
        rows.append(
            {
                "dataset": run.data.name,
                "seed": run.seed,
                "share": record["result"]["share"],
                "stopped": record["result"]["stopped"],
                "winner": order[0],
                "winner_full": best,
                "same_winner": order[0] == best,
                "gap": scores[order[0]] - scores[best],
                "kendall": kendall(range(len(order)), [scores[name] for name in order]).value,
                "seconds": record["seconds"],
                "seconds_full": full["seconds"],
            }
        )
    return pd.DataFrame(rows)


def step_costs(root: Path) -> pd.Series:
    """Seconds of a training step with each loss over those with plain KD, from the benchmark's
    records: name -> ratio.

    The median of the ratios within the rounds, on the first machine that was measured; empty if
    none was.
    """
    for path in sorted((root / "results" / "bench").glob("*.json")):
        suite = json.loads(path.read_text())["suites"].get("losses")
        if suite:
            rounds = pd.DataFrame({row["name"]: row["rounds"] for row in suite["rows"]})
            return (1 / rounds.div(rounds["kd"], axis=0)).median()
    return pd.Series(dtype=float)


def methods_table(store: Store) -> pd.DataFrame:
    """Every quantizer with plain KD, and every loss with EWGS, after the same short budget: one row
    each, best first.

    kind  "quantizer" or "loss". accuracy_mean, accuracy_sd  percent, over n seeds; difference  to
    EWGS + KD in points, paired by seed, and its standard error; step_time  of a loss over that of
    plain KD, see `step_costs`; seconds  a student.
    """
    comparison, costs = plan.methods(store.profile), step_costs(store.root)
    setup, rows = comparison.setup, []
    for kind, students in (("quantizer", comparison.quantizers), ("loss", comparison.losses)):
        for name, runs in students.items():
            facts = {
                "dataset": setup.data.name,
                "model": setup.model,
                "bits": setup.bits,
                "kind": kind,
                "method": name,
                "step_time": costs.get(name, float("nan")) if kind == "loss" else float("nan"),
            }
            found = compared(runs, comparison.losses["kd"], store)
            rows += [facts | found] if found["n"] else []
    table = pd.DataFrame(rows)
    return (
        table.sort_values(["kind", "accuracy_mean"], ascending=[False, False], ignore_index=True)
        if rows
        else table
    )


def compared(
    runs: Sequence[StudentRun], reference: Sequence[StudentRun], store: Store
) -> dict[str, Any]:
    """Students that differ in their seed alone, beside others; those that are done count.

    accuracy_mean, accuracy_sd  percent, over n seeds. difference  mean of the differences to the
    reference within seeds, and its standard error: NaN where there are no pairs, or one. seconds  a
    student, mean.
    """
    ours, theirs = (
        {run.seed: record for run in part if (record := store.finished(run))}
        for part in (runs, reference)
    )
    values, others = (
        pd.Series({s: r["result"]["accuracy"] for s, r in part.items()}, dtype=float)
        for part in (ours, theirs)
    )
    change = (values - others).dropna()
    return {
        "accuracy_mean": values.mean(),
        "accuracy_sd": values.std(),
        "n": len(values),
        "difference": change.mean(),
        "difference_se": change.sem(),
        "seconds": pd.Series([r["seconds"] for r in ours.values()], dtype=float).mean(),
    }


def markdown(table: pd.DataFrame, digits: int = 3) -> str:
    """A table in GitHub's Markdown; numbers rounded here and nowhere else."""

    def cell(value: Any) -> str:
        if isinstance(value, float):
            if value != value:
                return ""
            tiny = 1e-12 < abs(value) < 10**-digits  # below, it is the rounding error of a zero
            return (
                f"{value:.1e}"
                if tiny
                else f"{value + 0.0:.{digits}f}".replace("-0." + "0" * digits, "0." + "0" * digits)
            )
        return str(value)

    lines = [
        list(table.columns),
        ["---"] * len(table.columns),
        *([cell(v) for v in row] for row in table.to_numpy(object)),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


# ------------------------------------------------------------------------------------------ figures

STYLE = {
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.dpi": 120,
}
SHORT = {
    "autoaugment_cifar10": "AA-CIFAR10",
    "autoaugment_imagenet": "AA-ImageNet",
    "autoaugment_svhn": "AA-SVHN",
    "randaugment": "RandAugment",
    "trivialaugment": "TrivialAugment",
    "augmix": "AugMix",
    "erasing": "Erasing",
    "none": "none",
}


def short(augmentation: str) -> str:
    """An augmentation's name as pictures show it.

    >>> short("autoaugment_imagenet+cutmix")
    'AA-ImageNet + CutMix'
    """
    policy, _, mixed = augmentation.partition("+")
    return SHORT.get(policy, policy) + (" + CutMix" if mixed else "")


def scatter(table: pd.DataFrame) -> Figure:
    """Metric against the student's accuracy, a panel a set-up: error bars over seeds, both picks as
    horizontal lines.
    """
    panels = groups(table)
    colours = dict(zip(profiles.POLICIES, sns.color_palette("tab10"), strict=False))
    with plt.rc_context(STYLE):
        across = min(len(panels), 3)
        down = -(-len(panels) // across)
        size = (max(8, 6.6 * across), 0.6 + 5 * down)
        figure, axes = plt.subplots(down, across, figsize=size, squeeze=False)
        for axis in axes.flat[len(panels) :]:
            axis.set_axis_off()
        for axis, (name, rows) in zip(axes.flat, panels, strict=False):
            _panel(axis, name, rows, colours)
        handles = [
            plt.Line2D([], [], color=c, marker="s", ls="", label=SHORT[p])
            for p, c in colours.items()
        ]
        handles += [
            plt.Line2D([], [], color="0.3", marker=m, ls="", mfc=f, label=text)
            for m, f, text in (("o", "0.3", "without CutMix"), ("o", "none", "with CutMix"))
        ]
        figure.legend(
            handles=handles,
            loc="lower center",
            ncols=5,
            frameon=False,
            fontsize=9,
            columnspacing=1.2,
        )
        figure.tight_layout(rect=(0, 0.6 / size[1], 1, 1))
    plt.close(figure)
    return figure


def _panel(axis: plt.Axes, name: str, rows: pd.DataFrame, colours: dict) -> None:
    for row in rows.itertuples():
        policy, _, mixed = row.augmentation.partition("+")
        axis.errorbar(
            row.score,
            row.accuracy_mean,
            yerr=None if row.accuracy_sd != row.accuracy_sd else row.accuracy_sd,
            xerr=[[max(row.score - row.score_low, 0)], [max(row.score_high - row.score, 0)]],
            fmt="o",
            ms=7,
            color=colours[policy],
            mfc="none" if mixed else colours[policy],
            mew=1.6,
            elinewidth=1,
            capsize=2,
        )
    ours, least = rows.loc[rows["score"].idxmin()], rows.loc[rows["teacher_stddev"].idxmin()]
    axis.axhline(
        ours["accuracy_mean"], color="C2", lw=1.4, label=f"our pick: {ours['augmentation']}"
    )
    axis.axhline(
        least["accuracy_mean"],
        color="C3",
        lw=1.4,
        ls="--",
        label=f"minimal variance: {least['augmentation']}",
    )
    rho = spearman(rows["score"], rows["accuracy_mean"])
    axis.set(
        title=f"{name}   Spearman {rho.value:.2f} (p = {rho.p:.2g}, n = {rho.n})",
        xlabel="score D - CMI [nats], lower is better",
        ylabel="student's top-1 accuracy [%]",
    )
    # Inside, it would hide error bars.
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.12), ncols=2, frameon=False)


def race(rows: pd.DataFrame, title: str = "") -> Figure:
    """A budgeted ranking, best on top: how far each candidate is behind the winner, with the
    interval that decided.

    rows  as `paperlib.scoring.racing.rank_within` gives them. The number at the right is how many
    images the candidate was given.
    """
    colours = {"settled": "C2", "open": "C1", "dropped": "0.45"}
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 0.6 + 0.3 * len(rows)))
        for place, row in enumerate(rows.itertuples()):
            axis.plot(
                [row.behind_low, row.behind_high], [place, place], color=colours[row.state], lw=2
            )
            axis.plot(row.behind, place, "o", color=colours[row.state], ms=5)
            axis.annotate(
                f"{row.images:,}",
                (1.01, place),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=8,
            )
        axis.set_yticks(range(len(rows)), rows["augmentation"])
        axis.invert_yaxis()
        axis.set(xlabel="score behind the winner's, on the same images [nats]", title=title)
        axis.annotate("images", (1.01, 1.01), xycoords="axes fraction", fontsize=8)
        states = [state for state in colours if (rows["state"] == state).any()]
        axis.legend(
            [plt.Line2D([], [], color=colours[s], marker="o") for s in states],
            states,
            fontsize=8,
            loc="lower right",
        )
        figure.tight_layout()
    plt.close(figure)
    return figure


def methods_figure(table: pd.DataFrame) -> Figure:
    """A `methods_table` as two panels, best on top: mean accuracy, its standard deviation over
    seeds, and EWGS + KD.
    """
    kinds = list(table["kind"].unique())
    heights = [int((table["kind"] == kind).sum()) for kind in kinds]
    first, n, colour = table.iloc[0], int(table["n"].max()), sns.color_palette()[0]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(kinds),
            1,
            figsize=(7, 0.27 * sum(heights) + 1.6),
            sharex=True,
            squeeze=False,
            height_ratios=heights,
            layout="constrained",
        )
        for axis, kind in zip(axes[:, 0], kinds, strict=True):
            rows = table[table["kind"] == kind].iloc[::-1]
            axis.errorbar(
                rows["accuracy_mean"],
                rows["method"],
                xerr=rows["accuracy_sd"].fillna(0),
                fmt="o",
                color=colour,
                capsize=3,
            )
            for value in rows.loc[
                rows["method"] == {"loss": "kd", "quantizer": "ewgs"}[kind], "accuracy_mean"
            ]:
                axis.axvline(value, color="0.6", linestyle=":", zorder=0)
            axis.set_title(
                {"loss": "losses, with EWGS", "quantizer": "quantizers, with KD"}[kind],
                loc="left",
                fontsize=10,
            )
            axis.margins(y=0.5 / len(rows))
        setup = f"{first['dataset']}, {first['model']} W{first['bits']}A{first['bits']}"
        axes[-1, 0].set_xlabel(f"accuracy [%], {setup}, {n} seed{'s' * (n > 1)}")
    plt.close(figure)
    return figure


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
