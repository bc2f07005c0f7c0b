"""The generated blocks of README.md and docs/*.md. No torch here.

A block is the text between a line `<!-- table: NAME -->` and the next line `<!-- end -->`. Each is
a function of what is committed under results/, so that no number in a document is typed.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from ..basics.files import write_atomically
from ..study import plan, profiles
from ..study.store import Store
from . import page
from .definitions import DEFINITIONS
from .gains import way
from .report import RANKERS, markdown

BEGIN = re.compile(r"<!-- table: (.*?) -->")
END = "<!-- end -->"
METHODS = "methods"  # this block needs torch: `python -m paperlib methods --write` renews it
NOTHING = "No records yet.\n"
SHOWN_RANKERS = ("score", "divergence", "cmi", "cross_entropy", "teacher_stddev", "cutmix")


def rewritten(text: str, blocks: Mapping[str, str | None], path: Path | str) -> str:
    """A document with the blocks that it names, each between its two markers.

    blocks  name -> text, or None where the text that is there stays. path  of the document, for
    errors.

    Raises ValueError, naming the file, for an unknown block, or one without its end.

    >>> rewritten("<!-- table: a -->\\nold\\n<!-- end -->\\nrest\\n", {"a": "new\\n"}, "README.md")
    '<!-- table: a -->\\n\\nnew\\n\\n<!-- end -->\\nrest\\n'
    """
    written: list[str] = []
    old: list[str] = []
    opened = ""
    for line in text.splitlines(keepends=True):
        begins = BEGIN.fullmatch(line.strip())
        if opened and begins:
            break
        if begins:
            opened = begins[1]
            if opened not in blocks:
                raise ValueError(
                    f"{path} names an unknown table {opened!r}; known: {', '.join(blocks)}"
                )
            written.append(line)
        elif opened and line.strip() == END:
            block = blocks[opened]
            written += old if block is None else ["\n", block.strip("\n") + "\n", "\n"]
            written.append(line)
            opened, old = "", []
        else:
            (old if opened else written).append(line)
    if opened:
        raise ValueError(f"{path}: the table {opened!r} has no {END!r} before the next one")
    return "".join(written)


def documents(root: Path) -> list[Path]:
    """README.md and the pages of docs/, those that are there."""
    return [
        path
        for path in (root / "README.md", *sorted((root / "docs").glob("*.md")))
        if path.exists()
    ]


def refresh(root: Path, methods: str | None = None) -> list[Path]:
    """Write every block of every document anew; returns the documents.

    methods  the list of methods, which this layer cannot make; None leaves it as it is. A document
    whose blocks are as they should be is not touched.
    """
    found = documents(root)
    blocks = Blocks(root, methods)
    for path in found:
        text = path.read_text()
        new = rewritten(text, blocks, path.relative_to(root))
        if new != text:
            write_atomically(path, new)
    return found


class Blocks(Mapping[str, str | None]):
    """Name -> text of each block, made when it is asked for."""

    def __init__(self, root: Path, methods: str | None = None):
        self.root, self.methods = root, methods

    def __getitem__(self, name: str) -> str | None:
        return self.methods if name == METHODS else TABLES[name](self.root)

    def __contains__(self, name: object) -> bool:
        return name == METHODS or name in TABLES

    def __iter__(self):
        return iter((*TABLES, METHODS))

    def __len__(self) -> int:
        return len(TABLES) + 1


# ------------------------------------------------------------------------------------------- tables


def _csv(root: Path, name: str) -> pd.DataFrame:
    """A committed table of all profiles, the largest first, with a column `profile`."""
    tables = [
        pd.read_csv(path, keep_default_na=False, na_values=[""]).assign(profile=profile)
        for profile in reversed(profiles.PROFILES)
        if (path := root / "results" / profile / "tables" / f"{name}.csv").exists()
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _shown(table: pd.DataFrame, columns: dict[str, str], digits: int = 2) -> str:
    """Some columns of a table under other names; `NOTHING` of an empty one."""
    if table.empty:
        return NOTHING
    return markdown(table[list(columns)].rename(columns=columns), digits)


def _with_p(value: float, p: float) -> str:
    """A correlation and its p-value.

    >>> _with_p(-0.304, 0.262), _with_p(0.5, 0.0004)
    ('-0.30 (0.26)', '+0.50 (< 0.001)')
    """
    if value != value:
        return ""
    return f"{value:+.2f} ({'< 0.001' if p < 0.001 else f'{p:.3f}' if p < 0.01 else f'{p:.2f}'})"


def _setup(table: pd.DataFrame) -> pd.Series:
    return (
        table["dataset"]
        + ", "
        + table["model"]
        + ", W"
        + table["bits"].astype(str)
        + "A"
        + table["bits"].astype(str)
    )


def _claims(root: Path) -> str:
    """Claim, what the paper says, verdict: of the table in results/CLAIMS.md."""
    path = root / "results/CLAIMS.md"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [line.strip("| ").split(" | ") for line in lines if re.match(r"\| C\d \|", line)]
    shown = [[name, says, verdict] for name, says, _, verdict, *_ in rows]
    table = pd.DataFrame(shown, columns=["claim", "what the paper says", "verdict"])
    return markdown(table) if shown else NOTHING


def _setups(root: Path) -> str:
    """Set-up, its teacher's accuracy, the students' least and greatest mean accuracy."""
    table = _csv(root, "ranking")
    if table.empty:
        return NOTHING
    rows = [
        {
            "set-up": setup,
            "profile": profile,
            "teacher": of["teacher_accuracy"].iloc[0],
            "augmentations": len(of),
            "seeds": of["n"].max(),
            "least accurate": of["accuracy_mean"].min(),
            "most accurate": of["accuracy_mean"].max(),
        }
        for (profile, setup), of in table.assign(setup=_setup(table)).groupby(
            ["profile", "setup"], sort=False
        )
    ]
    return markdown(pd.DataFrame(rows), 1)


def _agreement(root: Path) -> str:
    """Rankers down, set-ups across: Spearman with the students' accuracy (p), regret."""
    table = _csv(root, "agreement")
    if table.empty:
        return NOTHING
    table = table[table["pool"] == profiles.ALL_16]
    rows = []
    for key in SHOWN_RANKERS:
        name = RANKERS[key][0]
        of = table[table["ranker"] == name].set_index("setup")
        cells = {
            setup: f"{_with_p(row['spearman'], row['spearman_p'])}, {row['regret']:.2f}"
            for setup, row in of.iterrows()
        }
        rows.append({"ranker": name} | cells)
    return markdown(pd.DataFrame(rows).fillna(""))


def _halves(root: Path) -> str:
    """The score's order over all, within CutMix and without, and over the paper's seven."""
    table = _csv(root, "agreement")
    if table.empty:
        return NOTHING
    score = table[table["ranker"] == RANKERS["score"][0]]
    rows = []
    for setup, of in score.groupby("setup", sort=False):
        pools = of.set_index("pool")
        whole, seven = pools.loc[profiles.ALL_16], pools.loc[profiles.SEVEN]
        rows.append(
            {
                "set-up": setup,
                "seeds": whole["seeds"],
                "all 16 (p)": _with_p(whole["spearman"], whole["spearman_p"]),
                "within CutMix and without (p)": _with_p(whole["within"], whole["within_p"]),
                "the seven (p)": _with_p(seven["spearman"], seven["spearman_p"]),
            }
        )
    return markdown(pd.DataFrame(rows))


def _picks(root: Path) -> str:
    """What the score and T. stddev pick, and what each pick loses to the best."""
    table = _csv(root, "agreement")
    if table.empty:
        return NOTHING
    rows = []
    for (setup, pool), of in table.groupby(["setup", "pool"], sort=False):
        picks = of.set_index("ranker")
        row = {"set-up": setup, "candidates": pool}
        for key, name in (("score", "score"), ("teacher_stddev", "T. stddev")):
            ranker = RANKERS[key][0]
            if ranker in picks.index:
                row[f"pick of the {name}"] = picks.loc[ranker, "pick"]
                row[f"points lost by {name}"] = picks.loc[ranker, "regret"]
        rows.append(row)
    return markdown(pd.DataFrame(rows), 2)


def _seeds(root: Path) -> str:
    table = _csv(root, "seeds")
    columns = {
        "setup": "set-up",
        "pool": "candidates",
        "seeds": "seeds",
        "between": "two seeds agree",
        "ceiling": "a perfect metric",
        "score_lowest": "score, lowest seed",
        "score_highest": "score, highest seed",
    }
    return _shown(table if table.empty else table.assign(setup=_setup(table)), columns)


def _gains(root: Path) -> str:
    """Points gained over the base augmentation by each way to choose, over the methods."""
    rows = []
    for name in ("qat", "kd"):
        table = _csv(root, name)
        if table.empty:
            continue
        table = table.assign(setup=_setup(table), way=table["arm"].map(way))
        keys = ["profile", "setup", "way", "augmentation"]
        for (_, setup, how, augmentation), of in table.groupby(keys, sort=False):
            if how == "base augmentation":
                continue
            change = of["difference"]
            rows.append(
                {
                    "kind": name.upper(),
                    "set-up": setup,
                    "augmentation chosen by": how,
                    "augmentation": augmentation,
                    "methods": len(of),
                    "gaining": int((change > 0).sum()),
                    "mean": change.mean(),
                    "least": change.min(),
                    "greatest": change.max(),
                }
            )
    return markdown(pd.DataFrame(rows), 2) if rows else NOTHING


def _definitions(root: Path) -> str:
    """Where each definition puts the two augmentations of the released CIFAR-100 scripts."""
    table = _csv(root, "definitions")
    if table.empty:
        return NOTHING
    table = table[table["pool"] == profiles.ALL_16]
    rows = []
    for name in DEFINITIONS:
        of = table[table["definition"] == name].set_index("setup")
        cells = {
            setup: f"{row['rank_ta_cutmix']:.0f}, {row['rank_aai_cutmix']:.0f}"
            for setup, row in of.iterrows()
        }
        rows.append({"definition": name} | cells)
    return markdown(pd.DataFrame(rows).fillna(""))


def _variants(root: Path) -> str:
    columns = {
        "setup": "set-up",
        "variant": "variant",
        "spearman": "Spearman",
        "kendall": "Kendall with the order as defined",
        "pick": "pick",
        "regret": "points lost",
    }
    return _shown(_csv(root, "score_variants"), columns)


def _students(root: Path, name: str, what: str) -> str:
    """A table of students: accuracy, and its difference to the row that it is compared with."""
    table = _csv(root, name)
    columns = {
        "setup": "set-up",
        what: what,
        "accuracy_mean": "accuracy",
        "accuracy_sd": "sd",
        "n": "n",
        "difference": "difference",
        "difference_se": "standard error",
    }
    if name == "precision":
        columns = {"setup": "set-up", "augmentation": "augmentation"} | columns
        table = (
            table if table.empty else table.assign(setup=table["dataset"] + ", " + table["model"])
        )
    elif not table.empty:
        table = table.assign(setup=_setup(table))
    return _shown(table, columns)


def _cost(root: Path) -> str:
    columns = {
        "setup": "set-up",
        "candidates": "candidates",
        "epochs": "epochs of a student",
        "scoring": "scoring all",
        "student": "one student",
        "sweep": "a student for each",
        "clock": "unit",
        "share_of_student": "scoring / student",
    }
    return _shown(_csv(root, "cost"), columns, 1)


def _race(root: Path) -> str:
    columns = {
        "dataset": "data set",
        "seed": "seed",
        "share": "share of the passes",
        "same_winner": "same winner",
        "kendall": "Kendall with the full order",
        "seconds": "seconds",
        "seconds_full": "seconds, all passes",
    }
    return _shown(_csv(root, "budget"), columns, 3)


def _of_several_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Without the profiles whose set-ups of docs/experiments.md have one seed: they cannot tell."""
    several = {
        profile
        for profile in profiles.PROFILES
        if any(len(setup.seeds) > 1 for setup in plan.regimes(profile))
    }
    return table if table.empty else table[table["profile"].isin(several)]


def _regimes(root: Path) -> str:
    columns = {
        "setup": "set-up",
        "seeds": "seeds",
        "agreement": "seeds agree",
        "spearman": "Spearman",
        "p": "p",
        "order": "C1",
        "pick": "pick",
        "minimal": "minimal-variance pick",
        "gain": "points between",
        "choice": "C2",
    }
    return _shown(_of_several_seeds(_csv(root, "verdicts")), columns)


def _predictions(root: Path) -> str:
    columns = {
        "profile": "profile",
        "prediction": "prediction",
        "says": "says",
        "verdict": "verdict",
        "numbers": "numbers",
    }
    return _shown(_of_several_seeds(_csv(root, "predictions")), columns)


def _tables(root: Path) -> str:
    """What each table costs on two cores: half of the processor time in its records."""
    times = page.time_table([Store(profile, "results", root) for profile in profiles.PROFILES])
    if times.empty:
        return NOTHING
    times = times.groupby(["table", "profile"], sort=False)[["records", "cpu_seconds"]].sum()
    rows = []
    for name in dict.fromkeys(times.index.get_level_values("table")):
        row = {"`TABLE`": f"`{name}`"}
        for profile in dict.fromkeys(times.index.get_level_values("profile")):
            if (name, profile) in times.index:
                count, seconds = times.loc[(name, profile)]
                row[f"{profile}: records"] = f"{count:.0f}"
                row[f"{profile}: minutes"] = f"{max(1, seconds / 120):.0f}"
        rows.append(row)
    return markdown(pd.DataFrame(rows).fillna(""))


TABLES: dict[str, Callable[[Path], str]] = {
    "claims": _claims,
    "setups": _setups,
    "agreement": _agreement,
    "halves": _halves,
    "picks": _picks,
    "seeds": _seeds,
    "gains": _gains,
    "definitions": _definitions,
    "variants": _variants,
    "forms": lambda root: _students(root, "forms", "form"),
    "search": lambda root: _students(root, "search", "choice"),
    "precision": lambda root: _students(root, "precision", "precision"),
    "cost": _cost,
    "race": _race,
    "regimes": _regimes,
    "predictions": _predictions,
    "tables": _tables,
}
