"""Yours beside ours: the ranking made in build/ against the committed one, row by row. No torch here."""

import pandas as pd

from .report import markdown, ranking_table
from .runs import Store, write_atomically

# A training run amplifies the last bits in which processors and thread counts differ: the README, "What to expect", tells
# how far results moved when only the rounding changed.
ACCURACY_POINTS = 3.0
SCORE_NATS = 0.1

KEYS = ["dataset", "model", "bits", "augmentation"]


def comparison(yours: pd.DataFrame, ours: pd.DataFrame) -> pd.DataFrame:
    """One row per augmentation of either ranking table: score and accuracy of both, and whether they agree.

    within_tolerance  "yes" or "no"; "not made" or "not committed" where one side lacks the row.
    """
    columns = [*KEYS, "score", "accuracy_mean"]
    both = pd.merge(yours[columns], ours[columns], on=KEYS, how="outer", suffixes=("_yours", "_ours"))
    score = (both["score_yours"] - both["score_ours"]).abs() <= SCORE_NATS
    accuracy = (both["accuracy_mean_yours"] - both["accuracy_mean_ours"]).abs() <= ACCURACY_POINTS
    verdict = (score & accuracy).map({True: "yes", False: "no"})
    verdict[both["accuracy_mean_yours"].isna()] = "not made"
    verdict[both["accuracy_mean_ours"].isna()] = "not committed"
    return both.assign(within_tolerance=verdict)


def write_comparison(store: Store) -> int:
    """Write build/<profile>/compare.md and print a summary; returns 0, or 1 if there is nothing to compare."""
    build, results = Store(store.profile, "build", store.root), Store(store.profile, "results", store.root)
    yours, ours = ranking_table(build), ranking_table(results)
    if yours.empty:
        print(f"no ranking in {build.folder} to compare")
        return 1
    table = comparison(yours, ours)
    counts = table["within_tolerance"].value_counts()
    text = (
        f"# {store.profile}: yours beside ours\n\nTolerance: {ACCURACY_POINTS} points of accuracy, {SCORE_NATS} nats of "
        f"score.\n\n{markdown(table)}"
    )
    write_atomically(build.folder / "compare.md", text)
    print(f"\n{markdown(table)}")
    print(f"within tolerance: {counts.get('yes', 0)} of {len(table)} rows"
          + "".join(f", {n} {name}" for name, n in counts.items() if name not in ("yes",)))  # fmt: skip
    print(f"compare: {build.folder / 'compare.md'}")
    return 0
