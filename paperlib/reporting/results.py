"""Which files the tables and figures go to: one folder a profile, the claims and one page for all.
No torch here.
"""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ..basics.files import write_atomically
from ..study import profiles
from ..study.store import Store
from . import ablations, claims, documents, page, regimes, report, theory
from .definitions import definitions_figure, definitions_table
from .gains import gains_figure, kd_table, qat_table

VECTOR_FORMATS = ("pdf", "svg")


def write(store: Store, vector: str = "") -> list[Path]:
    """Write the tables (CSV and Markdown) and figures that the records of a profile allow; returns
    the files.

    vector  "pdf" or "svg": each figure in that format too, in build/vector, which git ignores.
    Raises ValueError for another.
    """
    if vector and vector not in VECTOR_FORMATS:
        raise ValueError(f"unknown vector format {vector!r}; known: {', '.join(VECTOR_FORMATS)}")
    ranking, methods, costs = (
        report.ranking_table(store),
        report.methods_table(store),
        claims.cost_table(store),
    )
    definitions = definitions_table(ranking)
    gains = {"qat": qat_table(store), "kd": kd_table(store)}
    tables = {
        "ranking": ranking,
        "agreement": report.agreement_table(ranking),
        "seeds": report.seeds_table(store),
        "precision": report.precision_table(store),
        "precision_of_scores": report.short_score_table(store),
        "budget": report.budget_table(store),
        "methods": methods,
        "definitions": definitions,
        "cost": costs,
        **gains,
        "score_variants": ablations.score_variants_table(store),
        "forms": ablations.forms_table(store),
        "search": ablations.search_table(store),
    }
    confidence, regime_rows = theory.theory_table(store), regimes.regime_rows(store)
    if len(regime_rows):
        tables |= {
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
    written = []
    for name, table in tables.items():
        if len(table):
            written += _write_table(store, name, table)
    figures = {}
    if report.groups(ranking):
        figures["metric_vs_accuracy"] = report.scatter(ranking)
        figures["metric_vs_accuracy_seven"] = report.scatter(
            report.in_pool(ranking, profiles.SEVEN)
        )
        figures["definitions"] = definitions_figure(definitions)
    if len(methods):
        figures["methods"] = report.methods_figure(methods)
    for name, table in gains.items():
        if len(table):
            figures[name] = gains_figure(table)
    if len(costs):
        figures["cost"] = claims.cost_figure(costs)
    if len(tables["score_variants"]):
        figures["score_variants"] = ablations.score_variants_figure(tables["score_variants"])
    if len(tables["search"]):
        figures["search"] = ablations.search_figure(store)
    if len(regime_rows):
        figures["plane"] = theory.plane_figure(confidence)
    if len(confidence) and (confidence["source"] == "walk").any():
        figures["walk"] = theory.walk_figure(confidence)
    if report.groups(regime_rows):
        figures["regimes"] = report.scatter(regime_rows)
    for name, figure in figures.items():
        written.append(_save(figure, store.figures / f"{name}.png", {"Software": None}))
        if vector:
            date = {"pdf": "CreationDate", "svg": "Date"}[vector]
            written.append(
                _save(
                    figure,
                    store.root / "build/vector" / store.profile / f"{name}.{vector}",
                    {date: None},
                )
            )
    return written


def _write_table(store: Store, name: str, table: pd.DataFrame) -> list[Path]:
    shown = table.drop(columns="images") if name == "ranking" else table
    if "paper_accuracy" in shown:
        marked = [
            "not available" if value != value else f"{value:.2f}, {source}"
            for value, source in shown[list(report.PAPER_FACTS)].itertuples(index=False)
        ]
        shown = shown.assign(paper_accuracy=marked).drop(columns="paper_source")
    files = {f"{name}.csv": table.to_csv(index=False), f"{name}.md": report.markdown(shown)}
    for file, text in files.items():
        write_atomically(store.tables / file, text)
    return [store.tables / file for file in files]


def _save(figure: Figure, path: Path, metadata: dict[str, None]) -> Path:
    """Without what would make the file another one every time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata=metadata)
    return path


def rebuild(root: Path = Path(), vector: str = "") -> list[Path]:
    """Everything that is made from the committed records: tables, figures, CLAIMS.md and
    report.html in results/, the blocks of README.md and docs/; `vector` as for `write`.
    """
    stores = [Store(profile, "results", root) for profile in profiles.PROFILES]
    written = [path for store in stores for path in write(store, vector)]
    found = claims.claims(stores)
    pages = {
        root / "results/CLAIMS.md": claims.markdown(found, stores),
        root / "results/report.html": page.render(stores, found),
    }
    for path, text in pages.items():
        write_atomically(path, text)
    return [*written, *pages, *documents.refresh(root)]
