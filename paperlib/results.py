"""Which files the tables and figures go to: one folder a profile, the claims and one page for all. No torch here."""

from pathlib import Path

from . import claims, experiments, page, report
from .definitions import definitions_figure, definitions_table
from .runs import Store, write_atomically


def write(store: Store) -> list[Path]:
    """Write the tables (CSV and Markdown) and figures that the records of a profile allow; returns the files."""
    ranking, methods, costs = report.ranking_table(store), report.methods_table(store), claims.cost_table(store)
    definitions = definitions_table(ranking)
    tables = {
        "ranking": ranking, "agreement": report.agreement_table(ranking), "precision": report.precision_table(store),
        "precision_of_scores": report.short_score_table(store), "budget": report.budget_table(store), "methods": methods,
        "definitions": definitions, "cost": costs,
    }  # fmt: skip
    files = {}
    for name, table in tables.items():
        if len(table):
            files[store.tables / f"{name}.csv"] = table.to_csv(index=False)
            shown = table
            if name == "ranking":
                shown = (
                    table.drop(columns="images").astype({"paper_accuracy": object}).fillna({"paper_accuracy": "not available"})
                )
            files[store.tables / f"{name}.md"] = report.markdown(shown)
    for path, text in files.items():
        write_atomically(path, text)
    figures = {}
    if report.groups(ranking):
        figures[store.figures / "metric_vs_accuracy.png"] = report.scatter(ranking)
        figures[store.figures / "definitions.png"] = definitions_figure(definitions)
    if len(methods):
        figures[store.figures / "methods.png"] = report.methods_figure(methods)
    if len(costs):
        figures[store.figures / "cost.png"] = claims.cost_figure(costs)
    for path, figure in figures.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Software": None})
    return [*files, *figures]


def rebuild(root: Path = Path()) -> list[Path]:
    """Everything in results/ that is made from the committed records: tables, figures, CLAIMS.md, report.html."""
    stores = [Store(profile, "results", root) for profile in experiments.PROFILES]
    written = [path for store in stores for path in write(store)]
    found = claims.claims(stores)
    pages = {root / "results/CLAIMS.md": claims.markdown(found), root / "results/report.html": page.render(stores, found)}
    for path, text in pages.items():
        write_atomically(path, text)
    return [*written, *pages]
