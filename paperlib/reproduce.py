"""Notebooks through papermill."""

import logging
import sys
import time
from dataclasses import asdict
from pathlib import Path

import nbformat
from traitlets import Enum

from .basics.files import write_atomically
from .reporting import results
from .reporting.compare import write_comparison
from .runs.progress import following
from .study import plan
from .study.store import Store


def _execute(source: Path, target: Path, parameters: dict) -> None:
    """One notebook through papermill; timestamps, which would change every time, are left out of
    what is kept.
    """
    import papermill
    from jupyter_client.manager import AsyncKernelManager

    class LocalKernelManager(AsyncKernelManager):
        """Talks to the kernel through sockets in the file system, which no other user of the
        machine can read.
        """

        transport = Enum(["ipc"], default_value="ipc")

    target.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("papermill").setLevel(logging.ERROR)
    papermill.execute_notebook(
        source,
        target,
        parameters,
        cwd=str(source.parent),
        kernel_name="python3",
        progress_bar=False,
        kernel_manager_class=LocalKernelManager,
    )
    notebook = nbformat.read(target, as_version=4)
    notebook.metadata.pop("papermill", None)
    notebook.metadata.get("language_info", {}).pop("version", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
    write_atomically(target, nbformat.writes(notebook) + "\n")


def reproduce(store: Store, table: str, part: plan.Selection, device: str, jobs: int) -> int:
    """Execute the notebooks of a table on a store, making the runs that this part of it lacks; then
    write tables and figures and compare.

    Returns the exit status: 0, or 1 if a notebook failed (its executed copy, with the error, is
    kept).
    """
    from papermill.exceptions import PapermillExecutionError

    started = time.perf_counter()
    parameters = {
        "PROFILES": [store.profile],
        "TREE": store.tree,
        "CACHED_ONLY": False,
        "DEVICE": device,
        "JOBS": jobs,
        **{name.upper(): value for name, value in asdict(part).items()},
    }
    if problem := plan.lacks(store.profile, table, part):
        raise ValueError(problem)
    executed = []
    with following(store):
        for name in plan.tables(table):
            notebook, needs_runs = plan.TABLES[name][1], bool(plan.runs_of(store.profile, name))
            if problem := plan.lacks(store.profile, name, part):
                print(f"notebook {notebook} left out: {problem}", flush=True)
                continue
            print(f"notebook {notebook}, profile {store.profile}", flush=True)
            executed.append(store.notebooks / notebook)
            try:
                # A notebook without runs has parameters of its own.
                _execute(
                    store.root / "notebooks" / notebook,
                    executed[-1],
                    parameters if needs_runs else {},
                )
            except PapermillExecutionError as error:
                print(f"failed: {error}\nthe notebook so far: {executed[-1]}", file=sys.stderr)
                return 1
    written = [*results.write(store), *executed]
    if store.tree == "build":
        write_comparison(store)
    print(f"\nwritten in {time.perf_counter() - started:.0f} s:")
    for path in written:
        print(f"  {path}")
    return 0


def refresh(root: Path = Path()) -> list[Path]:
    """Execute the committed notebooks in place, with the parameters they hold, on the committed
    records.
    """
    paths = [
        root / "notebooks" / notebook
        for name in plan.tables("all")
        for notebook in [plan.TABLES[name][1]]
    ]
    for path in paths:
        fresh = (
            root / "build" / "refreshed" / path.name
        )  # a failure must not leave its traceback in the committed file
        _execute(path, fresh, {})
        write_atomically(path, fresh.read_bytes())
    return paths
