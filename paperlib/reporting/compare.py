"""Yours beside ours: the tables made in build/ against the committed ones, row by row. No torch
here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from ..basics.files import write_atomically
from ..study.store import Store
from .ablations import forms_table, search_table
from .gains import kd_table, qat_table
from .methods import methods_table
from .report import SETUP, ranking_table
from .style import markdown

# A training run amplifies the last bits in which processors and thread counts differ:
# docs/results.md tells how far results moved when only the rounding changed.
ACCURACY_POINTS = 3.0
SCORE_NATS = 0.1


@dataclass(frozen=True)
class Compared:
    """A table that two trees have: how it is made, what names a row, and how far its columns may
    lie apart.
    """

    table: Callable[[Store], pd.DataFrame]
    keys: tuple[str, ...]
    tolerances: dict[str, float]


ACCURACY = {"accuracy_mean": ACCURACY_POINTS}
BOTH, ARM = {"score": SCORE_NATS} | ACCURACY, ("quantizer", "loss", "arm", "augmentation")
TABLES = {
    "ranking": Compared(ranking_table, (*SETUP, "augmentation"), BOTH),
    "methods": Compared(methods_table, (*SETUP, "kind", "method"), ACCURACY),
    "qat": Compared(qat_table, (*SETUP, *ARM), ACCURACY),
    "kd": Compared(kd_table, (*SETUP, *ARM), ACCURACY),
    "forms": Compared(forms_table, (*SETUP, "form"), ACCURACY),
    "search": Compared(search_table, (*SETUP, "choice", "augmentation"), BOTH),
}


def comparison(
    yours: pd.DataFrame, ours: pd.DataFrame, keys: tuple[str, ...], tolerances: dict[str, float]
) -> pd.DataFrame:
    """One row per row of either table: the columns that have a tolerance, of both, and whether they
    agree.

    within_tolerance  "yes" or "no"; "not made" or "not committed" where one side lacks the row or
    its accuracy.
    """
    columns = [*keys, *tolerances]
    both = yours.reindex(columns=columns).merge(
        ours.reindex(columns=columns), "outer", list(keys), suffixes=("_yours", "_ours")
    )
    near = [
        (both[f"{name}_yours"] - both[f"{name}_ours"]).abs() <= tolerance
        for name, tolerance in tolerances.items()
    ]
    verdict = pd.concat(near, axis=1).all(axis=1).map({True: "yes", False: "no"}).astype(object)
    verdict[both["accuracy_mean_yours"].isna()] = "not made"
    verdict[both["accuracy_mean_ours"].isna()] = "not committed"
    return both.assign(within_tolerance=verdict)


def write_comparison(store: Store) -> int:
    """Write build/<profile>/compare.md and print the rows that are not within tolerance; returns 0,
    or 1 if there is nothing to compare.
    """
    build, results = (Store(store.profile, tree, store.root) for tree in ("build", "results"))
    parts = [
        f"# {store.profile}: yours beside ours\n\nTolerance: {ACCURACY_POINTS} points of "
        f"accuracy, {SCORE_NATS} nats of score.\n"
    ]
    print()
    for name, what in TABLES.items():
        yours, ours = what.table(build), what.table(results)
        if yours.empty:
            continue
        table = comparison(yours, ours, what.keys, what.tolerances)
        parts.append(f"## {name}\n\n{markdown(table)}")
        counts = table["within_tolerance"].value_counts()
        others = "".join(f", {n} {verdict}" for verdict, n in counts.items() if verdict != "yes")
        print(f"{name}: within tolerance {counts.get('yes', 0)} of {len(table)} rows{others}")
        if len(apart := table[table["within_tolerance"] == "no"]):
            print(markdown(apart))
    if len(parts) == 1:
        print(f"nothing in {build.folder} to compare")
        return 1
    write_atomically(build.folder / "compare.md", "\n".join(parts))
    print(f"compare: {build.folder / 'compare.md'}")
    return 0
