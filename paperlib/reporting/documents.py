"""The generated blocks of README.md and docs/*.md. No torch here.

A block is the text between a line `<!-- table: NAME -->` and the next line `<!-- end -->`. Each is
a function of what is committed under results/, so no number in a document is typed.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ..basics.files import write_atomically
from ..study import plan, profiles
from ..study.gains import Way
from ..study.store import Store
from . import page
from .definitions import DEFINITIONS
from .gains import way
from .report import RANKERS, of_ranker
from .style import markdown, read_table

END = "<!-- end -->"
BLOCK = re.compile(
    rf"^(?P<begin> *<!-- table: (?P<name>.*?) --> *\n)(?P<old>.*?)"
    rf"(?P<end>^ *{END} *$|(?=^ *<!-- table: )|\Z)",
    re.MULTILINE | re.DOTALL,
)
METHODS = "methods"  # this block needs torch: `python -m paperlib methods --write` renews it
NOTHING = "No records yet.\n"
SHOWN_RANKERS = ("score", "divergence", "cmi", "cross_entropy", "teacher_stddev", "cutmix")
# Column of a table -> its heading in a document, where the two differ.
HEADINGS = {
    "setup": "set-up",
    "pool": "candidates",
    "dataset": "data set",
    "accuracy_mean": "accuracy",
    "accuracy_sd": "sd",
    "difference_se": "standard error",
    "spearman": "Spearman",
    "regret": "points lost",
    "same_winner": "same winner",
    "agreement": "seeds agree",
    "order": "C1",
    "minimal": "minimal-variance pick",
    "gain": "points between",
    "choice": "C2",
    "between": "two seeds agree",
    "ceiling": "a perfect metric",
    "score_lowest": "score, lowest seed",
    "score_highest": "score, highest seed",
    "epochs": "epochs of a student",
    "scoring": "scoring all",
    "student": "one student",
    "sweep": "a student for each",
    "clock": "unit",
    "share_of_student": "scoring / student",
    "share": "share of the passes",
    "bound": "least that any paired comparison needs",
    "kendall": "Kendall with the full order",
    "seconds_full": "seconds, all passes",
}
# Columns of a table of students: accuracy, and its difference to the row it is compared with.
STUDENTS = "accuracy_mean accuracy_sd n difference difference_se"


def rewritten(text: str, blocks: Mapping[str, str | None], path: Path | str) -> str:
    """A document with its blocks written anew, each between its two markers.

    blocks  name -> text, or None where the text that is there stays. path  of the document, for
    errors.

    Raises ValueError, naming the file, for an unknown block, or one without its end.

    >>> rewritten("<!-- table: a -->\\nold\\n<!-- end -->\\nrest\\n", {"a": "new\\n"}, "README.md")
    '<!-- table: a -->\\n\\nnew\\n\\n<!-- end -->\\nrest\\n'
    """

    def new(found: re.Match) -> str:
        name = found["name"]
        if name not in blocks:
            raise ValueError(f"{path} names an unknown table {name!r}; known: {', '.join(blocks)}")
        if not found["end"]:
            raise ValueError(f"{path}: the table {name!r} has no {END!r} before the next one")
        block = blocks[name]
        return found[0] if block is None else f"{found['begin']}\n{block.strip()}\n\n{found['end']}"

    return BLOCK.sub(new, text)


def documents(root: Path) -> list[Path]:
    """README.md and the pages of docs/, those that are there."""
    found = (root / "README.md", *sorted((root / "docs").glob("*.md")))
    return [path for path in found if path.exists()]


def refresh(root: Path, methods: str | None = None) -> list[Path]:
    """Write every block of every document anew. Returns the documents.

    methods  the list of methods, which this layer cannot make; None leaves it as it is. A document
    whose blocks are up to date is not touched.
    """
    found, known = documents(root), blocks(root, methods)
    for path in found:
        text = path.read_text(encoding="utf-8")
        new = rewritten(text, known, path.relative_to(root))
        if new != text:
            write_atomically(path, new)
    return found


def blocks(root: Path, methods: str | None = None) -> dict[str, str | None]:
    """Name -> text of each block."""
    return {name: text(root) for name, text in TABLES.items()} | {METHODS: methods}


# ------------------------------------------------------------------------------------------- tables


def _csv(root: Path, name: str) -> pd.DataFrame:
    """A committed table of all profiles, the largest first, with the columns `profile` and `setup`.
    Where several have the same set-up, its name has the profile. It is empty if no profile has it.
    """
    tables = [
        read_table(Store(profile, "results", root), name).assign(profile=profile)
        for profile in reversed(profiles.PROFILES)
    ]
    table = pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)
    if "model" in table and "setup" not in table:
        setup = table["dataset"] + ", " + table["model"]
        if "bits" in table:
            setup += table["bits"].map(lambda bits: f", W{bits}A{bits}")
        table = table.assign(setup=setup)
    if "setup" in table:
        several = table.groupby("setup")["profile"].transform("nunique") > 1
        table.loc[several, "setup"] += ", " + table["profile"]
    return table


def _block(
    source: str, make: Callable[[pd.DataFrame], pd.DataFrame], digits: int = 2
) -> Callable[[Path], str]:
    """What writes a block: `make` of a committed table, or `NOTHING`."""

    def text(root: Path) -> str:
        table = _csv(root, source)
        shown = table if table.empty else make(table)
        return NOTHING if shown.empty else markdown(shown, digits)

    return text


def _columns(
    source: str, names: str, digits: int = 2, several_seeds: bool = False, **headings: str
) -> Callable[[Path], str]:
    """What writes a block: some columns of a committed table, under `HEADINGS` or headings of their
    own.

    several_seeds  leave out the profiles whose set-ups of docs/experiments.md have one seed: they
                   cannot tell.
    """

    def make(table: pd.DataFrame) -> pd.DataFrame:
        if several_seeds:
            table = table[table["profile"].map(_has_several_seeds)]
        return table[names.split()].rename(columns=HEADINGS | headings)

    return _block(source, make, digits)


def _has_several_seeds(profile: str) -> bool:
    return any(len(setup.seeds) > 1 for setup in plan.regimes(profile))


def _with_p(value: float, p: float) -> str:
    """A correlation and its p-value.

    >>> _with_p(-0.304, 0.262), _with_p(0.5, 0.0004)
    ('-0.30 (0.26)', '+0.50 (< 0.001)')
    """
    if value != value:
        return ""
    return f"{value:+.2f} ({'< 0.001' if p < 0.001 else f'{p:.3f}' if p < 0.01 else f'{p:.2f}'})"


def _claims(root: Path) -> str:
    """Claim, what the paper says, verdict: of the table in results/CLAIMS.md."""
    path = root / "results/CLAIMS.md"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [line.strip("| ").split(" | ") for line in lines if re.match(r"\| C\d \|", line)]
    shown = [[name, says, verdict] for name, says, _, verdict, *_ in rows]
    table = pd.DataFrame(shown, columns=["claim", "what the paper says", "verdict"])
    return markdown(table) if shown else NOTHING


def _setups(ranking: pd.DataFrame) -> pd.DataFrame:
    """Set-up, its teacher's accuracy, the students' least and greatest mean accuracy."""
    found = ranking.groupby(["setup", "profile"], sort=False, as_index=False)
    summary = {
        "teacher": ("teacher_accuracy", "first"),
        "augmentations": ("augmentation", "size"),
        "seeds": ("n", "max"),
        "least accurate": ("accuracy_mean", "min"),
        "most accurate": ("accuracy_mean", "max"),
    }
    return found.agg(**summary).rename(columns=HEADINGS)


def _by_setup(
    title: str, rows: dict[str, pd.DataFrame], cell: Callable[[Any], str]
) -> pd.DataFrame:
    """Names of `rows` down and their set-ups across. `cell` makes a text of a row of a table."""
    shown = [
        {title: name} | {row.Index: cell(row) for row in of.itertuples()}
        for name, of in rows.items()
    ]
    return pd.DataFrame(shown).fillna("")


def _agreement(agreement: pd.DataFrame) -> pd.DataFrame:
    """Rankers down, set-ups across: Spearman with the students' accuracy (p), regret."""
    rows = {RANKERS[column][0]: of_ranker(agreement, column) for column in SHOWN_RANKERS}
    return _by_setup(
        "ranker", rows, lambda row: f"{_with_p(row.spearman, row.spearman_p)}, {row.regret:.2f}"
    )


def _halves(agreement: pd.DataFrame) -> pd.DataFrame:
    """The score's order over all, within CutMix and without, and over the paper's seven."""
    whole, seven = (
        of_ranker(agreement, "score", pool) for pool in (profiles.ALL_16, profiles.SEVEN)
    )
    shown = {"seeds": whole["seeds"]}
    for heading, rows, column in (
        ("all 16 (p)", whole, "spearman"),
        ("within CutMix and without (p)", whole, "within"),
        ("the seven (p)", seven, "spearman"),
    ):
        shown[heading] = rows[column].combine(rows[f"{column}_p"], _with_p)
    return pd.DataFrame(shown).rename_axis("set-up").reset_index()


def _picks(agreement: pd.DataFrame) -> pd.DataFrame:
    """What the score and T. stddev pick, and what each pick loses to the best."""
    keys = ["setup", "pool"]
    shown = {}
    for column, name in (("score", "score"), ("teacher_stddev", "T. stddev")):
        picks = agreement[agreement["ranker"] == RANKERS[column][0]].set_index(keys)
        shown |= {f"pick of the {name}": picks["pick"], f"points lost by {name}": picks["regret"]}
    order = agreement.drop_duplicates(keys).set_index(keys).index
    return pd.DataFrame(shown).reindex(order).reset_index().rename(columns=HEADINGS)


def _gains(root: Path) -> str:
    """Points gained over the base augmentation by each way to choose, over the methods."""
    tables = {name.upper(): _csv(root, name) for name in ("qat", "kd")}
    if all(table.empty for table in tables.values()):
        return NOTHING
    table = pd.concat(tables, names=["kind"]).reset_index("kind")
    table["way"] = table["arm"].map(way)
    keys = ["kind", "profile", "setup", "way", "augmentation"]
    found = table[table["way"] != Way.BASE].groupby(keys, sort=False)["difference"]
    shown = found.agg(
        methods="size",
        gaining=lambda change: int((change > 0).sum()),
        mean="mean",
        least="min",
        greatest="max",
    )
    shown = shown.reset_index().drop(columns="profile")
    return markdown(shown.rename(columns=HEADINGS | {"way": "augmentation chosen by"}), 2)


def _definitions(definitions: pd.DataFrame) -> pd.DataFrame:
    """Where each definition puts the two augmentations of the released CIFAR-100 scripts."""
    definitions = definitions[definitions["pool"] == profiles.ALL_16].set_index("setup")
    rows = {name: definitions[definitions["definition"] == name] for name in DEFINITIONS}
    return _by_setup(
        "definition", rows, lambda row: f"{row.rank_ta_cutmix:.0f}, {row.rank_aai_cutmix:.0f}"
    )


def _tables(root: Path) -> str:
    """What each table costs on two cores: half of the processor time in its records."""
    times = page.time_table([Store(profile, "results", root) for profile in profiles.PROFILES])
    if times.empty:
        return NOTHING
    times = times.groupby(["table", "profile"], sort=False)[["records", "cpu_seconds"]].sum()
    rows: dict[str, dict[str, str]] = {}
    for (name, profile), (count, seconds) in times.iterrows():
        row = rows.setdefault(name, {"`TABLE`": f"`{name}`"})
        row[f"{profile}: records"] = f"{count:.0f}"
        row[f"{profile}: minutes"] = f"{max(1, seconds / 120):.0f}"
    return markdown(pd.DataFrame(rows.values()).fillna(""))


TABLES: dict[str, Callable[[Path], str]] = {
    "claims": _claims,
    "setups": _block("ranking", _setups, 1),
    "agreement": _block("agreement", _agreement),
    "halves": _block("agreement", _halves),
    "picks": _block("agreement", _picks),
    "seeds": _columns("seeds", "setup pool seeds between ceiling score_lowest score_highest"),
    "gains": _gains,
    "definitions": _block("definitions", _definitions),
    "variants": _columns(
        "score_variants",
        "setup variant spearman kendall pick regret",
        kendall="Kendall with the order as defined",
    ),
    "forms": _columns("forms", f"setup form {STUDENTS}"),
    "search": _columns("search", f"setup choice {STUDENTS}", choice="choice"),
    "precision": _columns("precision", f"setup augmentation precision {STUDENTS}"),
    "cost": _columns(
        "cost", "setup candidates epochs scoring student sweep clock share_of_student", 1
    ),
    "race": _columns("budget", "dataset model seed share bound same_winner kendall", 3),
    "regimes": _columns(
        "verdicts",
        "setup seeds agreement spearman p order pick minimal gain choice",
        several_seeds=True,
    ),
    "predictions": _columns(
        "predictions", "profile prediction says verdict numbers", several_seeds=True
    ),
    "tables": _tables,
}
