"""What paperlib imports to know of the related systems: runs, tables, figures, documents. No torch
here.
"""

import pkgutil
from importlib import import_module
from pathlib import Path

import pandas as pd

import related
from paperlib.reporting import documents
from paperlib.reporting.style import markdown, read_table
from paperlib.study import plan
from paperlib.study.store import Store

for _system in pkgutil.iter_modules(related.__path__):
    if _system.ispkg:
        import_module(f"related.{_system.name}.study")
        import_module(f"related.{_system.name}.report")


def systems(root: Path) -> str:
    """A row for each system and profile that has its records: what it is, and what came out."""
    rows = []
    for system in related.SYSTEMS.values():
        notebook = plan.TABLES[system.table].notebook
        for profile in ("cpu", "quick"):
            store = Store(profile, "results", root)
            table = read_table(store, system.table)
            if table.empty:
                continue
            runs = plan.runs_of(profile, system.table, store)
            rows.append(
                {
                    "system": f"{system.title} ({system.paper})",
                    "built": system.built,
                    "ours": system.ours,
                    "profile": profile,
                    "what came out": system.headline(table) or "nothing to compare yet",
                    "regime": system.regime,
                    "records": str(sum(map(store.done, runs))),
                    "notebook": f"[{notebook[:2]}](../notebooks/{notebook})",
                    "test": f"`{system.proof}`",
                }
            )
    return markdown(pd.DataFrame(rows)) if rows else documents.NOTHING


documents.TABLES["related"] = systems
