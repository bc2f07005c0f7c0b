"""The figure of the page that one chooses in: what each point of it is. No torch, no network."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.colors import to_hex

from ..study import plan, profiles
from ..study.profiles import Setup
from ..study.store import Store
from .report import RANKERS, accuracies, setup_rows
from .style import POLICY_COLOURS, short


def explorer(stores: Sequence[Store]) -> dict[str, Any]:
    """The set-ups of some profiles that have students of a whole seed, as JSON.

    Returns rankers, (column, name, sign that makes lower better), and setups: name, spearman by
    ranker's column, and points, one an augmentation: name, colour, cutmix, accuracy (percent, mean
    over n seeds), sd, metrics by column (nats, lower is better), and the records that it is made
    of, as paths below results/.
    """
    setups = {  # one that the evidence shares with the tables is there once
        setup.score.key: found
        for store in stores
        for setup in (*profiles.setups(store.profile), *plan.regimes(store.profile))
        if (found := _setup(setup, store))
    }
    rankers = [[column, name, sign] for column, (name, sign) in RANKERS.items()]
    return {"rankers": rankers, "setups": list(setups.values())}


def _setup(setup: Setup, store: Store) -> dict[str, Any]:
    """One set-up; nothing without its score, or a seed with a student for every augmentation."""
    rows, of_seeds = setup_rows(setup, store, {}), accuracies(setup, store)
    if not rows or of_seeds.empty:
        return {}
    points = [_point(row, setup, store, of_seeds.columns) for row in rows]
    table = pd.DataFrame([point["metrics"] for point in points])
    accuracy = pd.Series([point["accuracy"] for point in points])
    varying = table.loc[:, table.nunique() > 1]
    found = varying.corrwith(accuracy, method="spearman").dropna().to_dict()
    name = f"{store.profile}: {setup.name}, {len(of_seeds.columns)} seeds"
    return {"name": name, "spearman": found, "points": points}


def _point(row: dict[str, Any], setup: Setup, store: Store, seeds: Sequence[int]) -> dict[str, Any]:
    name = row["augmentation"]
    students = [
        run for run in setup.students if run.augmentation == name and run.seed in set(seeds)
    ]
    metrics = {c: sign * row[c] for c, (_, sign) in RANKERS.items() if not math.isnan(row[c])}
    return {
        "name": short(name),
        "colour": to_hex(POLICY_COLOURS[name.partition("+")[0]]),
        "cutmix": row["cutmix"],
        "accuracy": row["accuracy_mean"],
        "sd": None if math.isnan(row["accuracy_sd"]) else row["accuracy_sd"],
        "n": row["n"],
        "metrics": metrics,
        "records": [f"{store.profile}/runs/{run.key}.json" for run in (setup.score, *students)],
    }
