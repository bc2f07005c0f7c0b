"""Which files the tables and figures go to: one folder a profile, the claims and one page for all.
No torch here.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ..basics.files import write_atomically
from ..study import profiles
from ..study.store import Store
from . import ablations, claims, documents, page, regimes, report, speed, theory
from .definitions import definitions_figure, definitions_table
from .gains import gains_figure, kd_table, qat_table
from .methods import methods_figure, methods_table
from .paper import PAPER_FACTS
from .style import markdown

# Vector format -> the metadata that would make a file differ every time.
VECTOR_FORMATS = {"pdf": "CreationDate", "svg": "Date"}
Tables = Mapping[str, pd.DataFrame]


def _of_regimes(table: Callable[[Store, Tables], pd.DataFrame]) -> Callable:
    """A table of docs/experiments.md: empty where none of its runs is done."""
    return lambda store, made: table(store, made) if len(made["regimes"]) else pd.DataFrame()


# Name -> the table, of a store and the tables before it.
TABLES: dict[str, Callable[[Store, Tables], pd.DataFrame]] = {
    "ranking": lambda store, made: report.ranking_table(store),
    "agreement": lambda store, made: report.agreement_table(made["ranking"]),
    "seeds": lambda store, made: report.seeds_table(store),
    "precision": lambda store, made: speed.precision_table(store),
    "precision_of_scores": lambda store, made: speed.short_score_table(store),
    "budget": lambda store, made: speed.budget_table(store),
    "methods": lambda store, made: methods_table(store),
    "definitions": lambda store, made: definitions_table(made["ranking"]),
    "cost": lambda store, made: claims.cost_table(store),
    "qat": lambda store, made: qat_table(store),
    "kd": lambda store, made: kd_table(store),
    "score_variants": lambda store, made: ablations.score_variants_table(store),
    "forms": lambda store, made: ablations.forms_table(store),
    "search": lambda store, made: ablations.search_table(store),
    "regimes": lambda store, made: regimes.regime_rows(store),
    "theory": _of_regimes(lambda store, made: theory.theory_table(store)),
    "teachers": _of_regimes(lambda store, made: theory.teachers_table(made["theory"])),
    "temperatures": _of_regimes(lambda store, made: theory.temperatures_table(store)),
    "verdicts": _of_regimes(lambda store, made: regimes.verdicts_table(store)),
    "rivals": _of_regimes(lambda store, made: regimes.rivals_table(store)),
    "capacity": _of_regimes(lambda store, made: regimes.capacity_table(store)),
    "regime_methods": _of_regimes(lambda store, made: regimes.methods_verdicts(store)),
    "predictions": _of_regimes(lambda store, made: regimes.predictions_table(store)),
}


def _seven(store: Store, made: Tables) -> Figure:
    return report.scatter(report.in_pool(made["ranking"], profiles.SEVEN))


def _walk(store: Store, made: Tables) -> Figure | None:
    walked = (made["theory"]["source"] == "walk").any()
    return theory.walk_figure(made["theory"]) if walked else None


def _regimes(store: Store, made: Tables) -> Figure | None:
    return report.scatter(made["regimes"]) if report.groups(made["regimes"]) else None


# Name -> the table without which there is none, and the figure, or None.
FIGURES: dict[str, tuple[str, Callable[[Store, Tables], Figure | None]]] = {
    "definitions": ("definitions", lambda store, made: definitions_figure(made["definitions"])),
    "methods": ("methods", lambda store, made: methods_figure(made["methods"])),
    "qat": ("qat", lambda store, made: gains_figure(made["qat"])),
    "kd": ("kd", lambda store, made: gains_figure(made["kd"])),
    "cost": ("cost", lambda store, made: claims.cost_figure(made["cost"])),
    "score_variants": (
        "score_variants",
        lambda store, made: ablations.score_variants_figure(made["score_variants"]),
    ),
    "metric_vs_accuracy": ("agreement", lambda store, made: report.scatter(made["ranking"])),
    "metric_vs_accuracy_seven": ("agreement", _seven),
    "search": ("search", lambda store, made: ablations.search_figure(store)),
    "plane": ("theory", lambda store, made: theory.plane_figure(made["theory"])),
    "walk": ("theory", _walk),
    "regimes": ("regimes", _regimes),
}


def write(store: Store, vector: str = "") -> list[Path]:
    """Write the tables (CSV and Markdown) and figures that the records of a profile allow. Returns
    the files.

    vector  "pdf" or "svg": each figure in that format too, in build/vector, which git ignores.
    Raises ValueError for another.
    """
    if vector and vector not in VECTOR_FORMATS:
        raise ValueError(f"unknown vector format {vector!r}; known: {', '.join(VECTOR_FORMATS)}")
    tables = {name: table for name, table in tables_of(store).items() if len(table)}
    _remove_stale(store, tables)
    written = [path for name, table in tables.items() for path in _write_table(store, name, table)]
    for name, figure in figures_of(store, tables):  # one at a time: each takes many megabytes
        written.append(_save(figure, store.figures / f"{name}.png", "Software"))
        if vector:
            path = store.root / "build/vector" / store.profile / f"{name}.{vector}"
            written.append(_save(figure, path, VECTOR_FORMATS[vector]))
    return written


def tables_of(store: Store) -> dict[str, pd.DataFrame]:
    """Name -> table of each table of a profile, those without rows too."""
    made: dict[str, pd.DataFrame] = {}
    for name, table in TABLES.items():
        made[name] = table(store, made)
    return made


def figures_of(store: Store, tables: Tables) -> Iterator[tuple[str, Figure]]:
    """(name, figure) of each figure that the non-empty tables of a profile allow."""
    for name, (needs, draw) in FIGURES.items():
        if needs in tables and (figure := draw(store, tables)) is not None:
            yield name, figure


def _remove_stale(store: Store, tables: Collection[str]) -> None:
    """Remove what was written of tables that have no rows any more."""
    for path in [*store.tables.glob("*.csv"), *store.tables.glob("*.md")]:
        if path.stem not in tables:
            path.unlink()


def _write_table(store: Store, name: str, table: pd.DataFrame) -> list[Path]:
    shown = table.drop(columns="images") if name == "ranking" else table
    if "paper_accuracy" in shown:
        marked = [
            "not available" if value != value else f"{value:.2f}, {source}"
            for value, source in shown[list(PAPER_FACTS)].itertuples(index=False)
        ]
        shown = shown.assign(paper_accuracy=marked).drop(columns="paper_source")
    files = {f"{name}.csv": table.to_csv(index=False), f"{name}.md": markdown(shown)}
    for file, text in files.items():
        write_atomically(store.tables / file, text)
    return [store.tables / file for file in files]


def _save(figure: Figure, path: Path, changing: str) -> Path:
    """Write a figure without the metadata that would make the file differ every time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={changing: None})
    return path


def rebuild(root: Path = Path(), vector: str = "", skip_damaged: bool = False) -> list[Path]:
    """Everything that is made from the committed records: tables, figures, CLAIMS.md and
    report.html in results/, the blocks of README.md and docs/; `vector` as for `write`.

    Raises ValueError, before anything is written, naming each damaged record, unless those are to
    be skipped; and if no profile has a record, as in a folder that is not the repository.
    """
    stores = [Store(profile, "results", root) for profile in profiles.PROFILES]
    faults = [problem for store in stores for problem in store.faults()]
    if faults and not skip_damaged:
        raise ValueError("nothing was written: " + "; ".join(faults))
    if not any(store.all() for store in stores):
        raise ValueError(f"no records in {(root / 'results').absolute()}")
    written = [path for store in stores for path in write(store, vector)]
    found = claims.claims(stores)
    pages = {
        root / "results/CLAIMS.md": claims.markdown(found, stores),
        root / "results/report.html": page.render(stores, found),
    }
    for path, text in pages.items():
        write_atomically(path, text)
    return [*written, *pages, *documents.refresh(root)]
