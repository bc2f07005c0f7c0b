"""Which files the tables and figures go to: one folder a profile, the claims and one page for all.
No torch here.
"""

from collections.abc import Collection
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
# Figure -> the table that it draws.
FIGURES = {
    "definitions": definitions_figure,
    "methods": methods_figure,
    "qat": gains_figure,
    "kd": gains_figure,
    "cost": claims.cost_figure,
    "score_variants": ablations.score_variants_figure,
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
    for name, figure in figures_of(store, tables).items():
        written.append(_save(figure, store.figures / f"{name}.png", "Software"))
        if vector:
            path = store.root / "build/vector" / store.profile / f"{name}.{vector}"
            written.append(_save(figure, path, VECTOR_FORMATS[vector]))
    return written


def tables_of(store: Store) -> dict[str, pd.DataFrame]:
    """Name -> table of each table of a profile."""
    ranking, regime_rows = report.ranking_table(store), regimes.regime_rows(store)
    tables = {
        "ranking": ranking,
        "agreement": report.agreement_table(ranking),
        "seeds": report.seeds_table(store),
        "precision": speed.precision_table(store),
        "precision_of_scores": speed.short_score_table(store),
        "budget": speed.budget_table(store),
        "methods": methods_table(store),
        "definitions": definitions_table(ranking),
        "cost": claims.cost_table(store),
        "qat": qat_table(store),
        "kd": kd_table(store),
        "score_variants": ablations.score_variants_table(store),
        "forms": ablations.forms_table(store),
        "search": ablations.search_table(store),
    }
    if regime_rows.empty:
        return tables
    confidence = theory.theory_table(store)
    return tables | {
        "theory": confidence,
        "teachers": theory.teachers_table(confidence),
        "temperatures": theory.temperatures_table(store),
        "regimes": regime_rows,
        "verdicts": regimes.verdicts_table(store),
        "rivals": regimes.rivals_table(store),
        "capacity": regimes.capacity_table(store),
        "regime_methods": regimes.methods_verdicts(store),
        "predictions": regimes.predictions_table(store),
    }


def figures_of(store: Store, tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """Name -> figure of each figure that the non-empty tables of a profile allow."""
    figures = {name: draw(tables[name]) for name, draw in FIGURES.items() if name in tables}
    if "agreement" in tables:
        ranking = tables["ranking"]
        figures["metric_vs_accuracy"] = report.scatter(ranking)
        seven = report.in_pool(ranking, profiles.SEVEN)
        figures["metric_vs_accuracy_seven"] = report.scatter(seven)
    if "search" in tables:
        figures["search"] = ablations.search_figure(store)
    if "regimes" in tables:
        confidence = tables["theory"]
        figures["plane"] = theory.plane_figure(confidence)
        if (confidence["source"] == "walk").any():
            figures["walk"] = theory.walk_figure(confidence)
        if report.groups(tables["regimes"]):
            figures["regimes"] = report.scatter(tables["regimes"])
    return figures


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
