"""Runs, tables, figures and notebooks of other packages, such as `related` beside this one.

A package says in its metadata which module registers them: an entry point of the group "paperlib".
That module adds entries to `plan.TABLES`, `results.TABLES` and the other registries, and takes no
torch.
"""

from importlib.metadata import entry_points


def load() -> None:
    """Import what other packages add."""
    for entry in entry_points(group="paperlib"):
        entry.load()
