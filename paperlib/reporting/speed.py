"""What shorter floats and a budgeted ranking change: tables and a figure, from records. No torch
here.
"""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ..basics.recipe import PRECISIONS
from ..basics.statistics import kendall
from ..study import plan
from ..study.store import Store
from .report import scores_of, students_row
from .style import styled

METRICS = ["score", "cmi", "divergence"]


def precision_table(store: Store) -> pd.DataFrame:
    """Accuracy (percent) of students trained alike but for precision: one row an augmentation and
    precision.

    accuracy_mean, accuracy_sd over n seeds; difference  to float32, mean over seeds, and its
    standard error; seconds  a student, mean.
    """
    comparison, rows = plan.precision_comparison(store.profile), []
    for augmentation in comparison.augmentations:
        reference = comparison.students("float32", augmentation)
        for precision in PRECISIONS:
            facts = {
                "dataset": comparison.setup.data.name,
                "model": comparison.setup.model,
                "augmentation": augmentation,
                "precision": precision,
            }
            runs = comparison.students(precision, augmentation)
            rows += students_row(facts, runs, reference, store)
    return pd.DataFrame(rows)


def short_score_table(store: Store) -> pd.DataFrame:
    """What a teacher in bfloat16 changes of the scores: one row with the largest change of each
    metric and the ranks.

    score, cmi, divergence  largest absolute change over the candidates, nats; half_interval  the
    median half width of the score's 95 % interval, for comparison; kendall  between the two orders;
    same_winner.
    """
    runs = plan.setups(store.profile)[0].score, plan.short_score(store.profile)
    if not all(map(store.done, runs)):
        return pd.DataFrame()
    a, b = (scores_of(run, store) for run in runs)
    seconds, seconds_float32 = (store.load(run)["seconds"] for run in reversed(runs))
    row = {
        "dataset": runs[0].data.name,
        **(a[METRICS] - b[METRICS]).abs().max(),
        "half_interval": ((a["score_high"] - a["score_low"]) / 2).median(),
        "kendall": kendall(a["score"], b.loc[a.index, "score"]).value,
        "same_winner": a["score"].idxmin() == b["score"].idxmin(),
        "seconds": seconds,
        "seconds_float32": seconds_float32,
    }
    return pd.DataFrame([row])


def budget_table(store: Store) -> pd.DataFrame:
    """One row per race within a budget, beside the full ranking of the same candidates.

    share  of the full ranking's forward passes; bound  the share that any paired comparison needs
    by the race's own estimates, NaN in records without it; stopped  why; same_winner; gap  of the
    full scores of the two winners, nats; kendall  between the two orders of all candidates.
    """
    full = plan.raced(store.profile).score
    scores, rows = scores_of(full, store), []
    for run in plan.races(store.profile):
        record = store.finished(run)
        if record is None or scores is None:
            continue
        order = scores_of(run, store).index
        in_full, best = scores.loc[order, "score"], scores["score"].idxmin()
        rows.append(
            {
                "dataset": run.data.name,
                "model": run.teacher.model,
                "seed": run.seed,
                "share": record["result"]["share"],
                "bound": record["result"].get("bound", float("nan")),
                "stopped": record["result"]["stopped"],
                "winner": order[0],
                "winner_full": best,
                "same_winner": order[0] == best,
                "gap": in_full[order[0]] - in_full[best],
                "kendall": kendall(range(len(order)), in_full).value,
                "seconds": record["seconds"],
                "seconds_full": store.load(full)["seconds"],
            }
        )
    return pd.DataFrame(rows)


@styled
def race(rows: pd.DataFrame, title: str = "") -> Figure:
    """A budgeted ranking, best on top: how far each candidate is behind the winner, with the
    interval that decided.

    rows  as `paperlib.scoring.racing.rank_within` gives them. The number at the right is how many
    images the candidate was given.
    """
    colours = {"settled": "C2", "open": "C1", "dropped": "0.45"}
    figure, axis = plt.subplots(figsize=(8, 0.6 + 0.3 * len(rows)))
    at_right = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 8}
    for place, row in enumerate(rows.itertuples()):
        colour = colours[row.state]
        axis.plot([row.behind_low, row.behind_high], [place, place], color=colour, lw=2)
        axis.plot(row.behind, place, "o", color=colour, ms=5)
        axis.annotate(f"{row.images:,}", (1.01, place), **at_right)
    axis.set_yticks(range(len(rows)), rows["augmentation"])
    axis.invert_yaxis()
    axis.set(xlabel="score behind the winner's, on the same images [nats]", title=title)
    axis.annotate("images", (1.01, 1.01), xycoords="axes fraction", fontsize=8)
    states = [state for state in colours if (rows["state"] == state).any()]
    handles = [
        plt.Line2D([], [], color=colours[state], marker="o", label=state) for state in states
    ]
    axis.legend(handles=handles, loc="lower right", frameon=True)
    figure.tight_layout()
    return figure
