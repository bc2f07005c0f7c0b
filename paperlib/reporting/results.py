"""Which files the tables and figures go to: one folder a profile, the claims and one page for all.
No torch here.
"""

import multiprocessing
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ..basics.files import write_atomically
from ..study import extensions, profiles
from ..study.store import Snapshot, Store, read_ahead
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
    return _written(store, *_begin(store, vector, _Here()))


def _begin(store: Store, vector: str, others: Executor) -> tuple[list[Path], list[Future]]:
    """Write the tables of a profile and let its figures be drawn. Returns the tables' files, and
    what becomes the figures' files.
    """
    if vector and vector not in VECTOR_FORMATS:
        raise ValueError(f"unknown vector format {vector!r}; known: {', '.join(VECTOR_FORMATS)}")
    tables = {name: table for name, table in tables_of(store).items() if len(table)}
    written = [path for name, table in tables.items() for path in _write_table(store, name, table)]
    possible = (name for name, (needs, _) in FIGURES.items() if needs in tables)
    return written, [others.submit(_draw, store, name, tables, vector) for name in possible]


def _written(store: Store, tables: Collection[Path], figures: Collection[Future]) -> list[Path]:
    """All files of `_begin`, when they are written. Others, of rows that are gone, are removed."""
    files = [*tables, *(path for each in figures for path in each.result())]
    for folder, kinds in ((store.tables, ("csv", "md")), (store.figures, ("png",))):
        for path in {each for kind in kinds for each in folder.glob(f"*.{kind}")} - {*files}:
            path.unlink()
    return files


class _Here(Executor):
    """Does everything in this process."""

    def submit(self, function: Callable, /, *arguments: Any) -> Future:
        done: Future = Future()
        done.set_result(function(*arguments))
        return done


def tables_of(store: Store) -> dict[str, pd.DataFrame]:
    """Name -> table of each table of a profile, those without rows too."""
    made: dict[str, pd.DataFrame] = {}
    for name, table in TABLES.items():
        made[name] = table(store, made)
    return made


def _draw(store: Store, name: str, tables: Tables, vector: str) -> list[Path]:
    """Draw a figure from the non-empty tables of a profile. Returns its files: none if it does
    without.
    """
    figure = FIGURES[name][1](store, tables)
    if figure is None:
        return []
    files = [_save(figure, store.figures / f"{name}.png", "Software")]
    if vector:
        path = store.root / "build/vector" / store.profile / f"{name}.{vector}"
        files.append(_save(figure, path, VECTOR_FORMATS[vector]))
    return files


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


def rebuild(
    root: Path = Path(), vector: str = "", skip_damaged: bool = False, jobs: int = 1
) -> list[Path]:
    """Everything that is made from the committed records: tables, figures, CLAIMS.md and
    report.html in results/, the blocks of README.md and docs/; `vector` as for `write`.

    jobs  above 1, so many processes read records, and draw figures while this one makes tables.

    Raises ValueError, before anything is written, naming each damaged record, unless those are to
    be skipped; and if no profile has a record, as in a folder that is not the repository.
    """
    stores = [Snapshot(profile, "results", root) for profile in profiles.PROFILES]
    with _processes(jobs) as others:
        read_ahead(stores, others)
        faults = [problem for store in stores for problem in store.faults()]
        if faults and not skip_damaged:
            raise ValueError("nothing was written: " + "; ".join(faults))
        if not any(store.all() for store in stores):
            raise ValueError(f"no records in {(root / 'results').absolute()}")
        begun = [_begin(store, vector, others) for store in stores]
        found = claims.claims(stores)
        verdicts, whole = root / "results/CLAIMS.md", root / "results/report.html"
        write_atomically(verdicts, claims.markdown(found, stores))
        refreshed = documents.refresh(root)
        files = [_written(store, *each) for store, each in zip(stores, begun, strict=True)]
    write_atomically(whole, page.render(stores, found))
    return [*(path for each in files for path in each), verdicts, whole, *refreshed]


def _processes(jobs: int) -> Executor:
    """Others that read records and draw figures. Spawned, they have no threads of this one."""
    if jobs < 2:
        return _Here()
    spawning = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(jobs, spawning, initializer=extensions.load)
