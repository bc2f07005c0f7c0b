"""One page that holds everything: verdicts, figures, tables, hardware and cost. It is a single
file. No torch, no network.
"""

import base64
import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..study import plan
from ..study.store import Store
from . import claims
from .explorer import explorer
from .gains import mean_and_spread, wide
from .style import read_table

COLOURS = {
    "supported": "#2a7f3f",
    "partly": "#9a6b00",
    "not supported": "#b3261e",
    "not tested": "#6b7280",
}


def hardware_table(stores: Sequence[Store]) -> pd.DataFrame:
    """One row per profile, kind of run and device: how many records there are, and their seconds
    and processor seconds.
    """
    found = [(store, record["kind"], record) for store in stores for record in store.all()]
    return _summed(found, ["profile", "kind", "device", "torch"])


def time_table(stores: Sequence[Store]) -> pd.DataFrame:
    """One row per profile, table and device: its records, their seconds and processor seconds.
    Tables may share records.
    """
    found = [
        (store, name, record)
        for store in stores
        if store.runs.exists()
        for name in plan.TABLES
        for record in map(store.load, plan.runs_of(store.profile, name, store))
    ]
    return _summed(found, ["profile", "table", "device"])


def _summed(found: list[tuple[Store, str, dict[str, Any] | None]], keys: list[str]) -> pd.DataFrame:
    """What the finished records of (store, kind or table, record) took, by the columns `keys`."""
    rows = [
        {
            "profile": store.profile,
            keys[1]: name,
            **record["environment"],
            "records": 1,
            "seconds": record["seconds"],
            "cpu_seconds": record["cpu_seconds"],
        }
        for store, name, record in found
        if record and record["status"] == "done"
    ]
    if not rows:
        return pd.DataFrame()
    groups = pd.DataFrame(rows).groupby(keys, sort=False, as_index=False)
    return groups[["records", "seconds", "cpu_seconds"]].sum()


def _table(table: pd.DataFrame) -> Markup:
    def text(value: Any) -> Any:
        if not isinstance(value, float):
            return value
        return "" if math.isnan(value) else f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"

    return Markup(table.map(text).to_html(index=False, border=0, justify="right"))


CAPTIONS = {
    "metric_vs_accuracy": (
        "One point per augmentation: the teacher's score (bars: 95 % bootstrap interval) against "
        "the accuracy of the students trained with it."
    ),
    "metric_vs_accuracy_seven": (
        "The same for the seven policies without CutMix that the paper's figure most likely shows."
    ),
    "qat": (
        "Students of each QAT method, by loss and by what chose the augmentation; bars are one "
        "standard deviation over the seeds."
    ),
    "kd": (
        "EWGS students of each loss, by what chose the augmentation; bars are one standard "
        "deviation over the seeds."
    ),
    "definitions": (
        "Spearman's correlation with accuracy of what the paper's score might be, in four pools of "
        "candidates: blue ranks as claimed."
    ),
    "cost": "What scoring costs beside what it replaces.",
    "score_variants": (
        "The score at other temperatures, on fewer images, in two passes, with unmixed labels and "
        "by another teacher: how it ranks the students, and how far it keeps its own order."
    ),
    "search": (
        "Random two-operation policies, scored in a race, beside the eight policies without "
        "CutMix; and students trained under what was found."
    ),
    "methods": (
        "Every quantizer with plain KD and every loss with EWGS on one short budget; bars are one "
        "standard deviation over the seeds."
    ),
}
# (heading, figures, tables) of one profile, in the order of the questions.
SECTIONS = (
    (
        "Does the score rank augmentations?",
        ("metric_vs_accuracy", "metric_vs_accuracy_seven"),
        ("ranking", "agreement", "seeds"),
    ),
    ("QAT methods with and without the pick", ("qat",), ("qat",)),
    ("KD methods with and without the pick", ("kd",), ("kd",)),
    ("Which definition is the paper's?", ("definitions",), ()),
    ("Quantizers and losses", ("methods",), ("methods",)),
    ("What the score owes to how it is computed", ("score_variants",), ("score_variants",)),
    ("Straight-through or scaled gradients, papers' or released forms", (), ("forms",)),
    ("A search among random policies", ("search",), ("search",)),
    ("What selection costs", ("cost",), ("cost",)),
)
# Table -> the columns that are shown. Tables that are not named here are shown whole.
SHOWN = {
    "ranking": "dataset model augmentation rank score cmi divergence teacher_stddev accuracy n",
    "agreement": (
        "setup pool ranker spearman spearman_p within within_p kendall kendall_p pick "
        "pick_accuracy regret seeds"
    ),
    "methods": "kind method accuracy_mean accuracy_sd n difference difference_se step_time",
    "cost": "setup candidates scoring student sweep clock share_of_student device",
}


def _intervals(ranking: pd.DataFrame) -> pd.DataFrame:
    """A ranking table to read: scores with their intervals, accuracies with their standard
    deviations.
    """
    scores = [
        f"{row.score:.3f} [{row.score_low:.3f}, {row.score_high:.3f}]"
        for row in ranking.itertuples()
    ]
    return ranking.assign(score=scores, accuracy=list(map(mean_and_spread, ranking.itertuples())))


TO_READ = {"ranking": _intervals, "qat": wide, "kd": wide}


def _shown_table(store: Store, name: str) -> pd.DataFrame:
    """A written table as the page shows it. It is empty if the profile has none."""
    table = read_table(store, name)
    if table.empty:
        return table
    table = TO_READ[name](table) if name in TO_READ else table
    return table[SHOWN[name].split()] if name in SHOWN else table


def _sections(store: Store) -> list[dict[str, Any]]:
    """The sections of one profile that have a picture or a table; none without a score."""
    if read_table(store, "ranking").empty:
        return []
    shown = []
    for heading, figures, names in SECTIONS:
        pictures = [
            {"caption": CAPTIONS[name], "data": base64.b64encode(path.read_bytes()).decode()}
            for name in figures
            if (path := store.figures / f"{name}.png").exists()
        ]
        tables = [_table(table) for name in names if len(table := _shown_table(store, name))]
        if pictures or tables:
            shown.append({"heading": heading, "pictures": pictures, "tables": tables})
    return shown


def render(stores: Sequence[Store], found: Sequence[claims.Claim]) -> str:
    """The page, from records and from the tables and figures that were written beside them. The
    largest profile comes first.
    """
    environment = Environment(
        loader=PackageLoader("paperlib.reporting", "."), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("page.html.j2").render(
        title="Data-augmented quantization-aware knowledge distillation, reproduced",
        claims=found,
        colours=COLOURS,
        explorer=explorer(stores[::-1]),
        profiles=[(s.profile, shown) for s in reversed(stores) if (shown := _sections(s))],
        hardware=_table(hardware_table(stores)),
        time=_table(time_table(stores)),
    )
