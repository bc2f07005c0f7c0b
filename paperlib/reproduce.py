"""Notebooks through papermill."""

import logging
import sys
import time
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from traitlets import Enum, Unicode

from .basics.files import write_atomically
from .reporting import results
from .reporting.compare import write_comparison
from .runs.progress import following
from .study import plan
from .study.store import Store


def _execute(source: Path, target: Path, parameters: dict) -> None:
    """Execute one notebook through papermill. Timestamps, which change every time, are removed."""
    import papermill
    from jupyter_client.manager import AsyncKernelManager

    target.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("papermill").setLevel(logging.ERROR)
    with TemporaryDirectory(prefix="kernel-") as folder:

        class LocalKernelManager(AsyncKernelManager):
            """Talks to the kernel through sockets in the file system. No other user of the machine
            can read them.
            """

            transport = Enum(["ipc"], default_value="ipc")
            ip = Unicode(f"{folder}/socket")

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


def reproduce(
    store: Store, table: str, part: plan.Selection, device: str, jobs: int, executor: str = ""
) -> int:
    """Execute the notebooks of a table on a store, which makes the runs that this part of it lacks.
    Then write tables and figures, and compare them with the committed ones.

    executor  makes the runs before, see `paperlib.runs.executors`. "" leaves them to the notebooks.

    Returns the exit status: 0, or 1 if a notebook failed. Its executed copy, with the error, is
    kept. Raises ValueError if the table has nothing of this part.
    """
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    started, executed = time.perf_counter(), []
    if problem := plan.lacks(store.profile, table, part):
        raise ValueError(problem)
    if executor:
        from .runs.sweep import sweep_table  # brings torch

        sweep_table(store, table, part, device, jobs, executor=executor)
    parameters = {"PROFILES": [store.profile], "TREE": store.tree, "CACHED_ONLY": False}
    parameters |= {"DEVICE": device, "JOBS": jobs}
    parameters |= {name.upper(): value for name, value in asdict(part).items()}
    with following(store):
        for name in plan.tables(table):
            notebook = plan.TABLES[name].notebook
            if not notebook:
                continue
            if problem := plan.lacks(store.profile, name, part):
                print(f"notebook {notebook} left out: {problem}", flush=True)
                continue
            print(f"notebook {notebook}, profile {store.profile}", flush=True)
            source, target = store.root / "notebooks" / notebook, store.notebooks / notebook
            # A notebook without runs has parameters of its own.
            given = parameters if plan.runs_of(store.profile, name) else {}
            try:
                _execute(source, target, given)
            except (PapermillExecutionError, DeadKernelError) as error:
                print(f"failed: {error}\nthe notebook so far: {target}", file=sys.stderr)
                return 1
            executed.append(target)
    written = [*results.write(store), *executed]
    if store.tree == "build":
        write_comparison(store)
    print(f"\nwritten in {time.perf_counter() - started:.0f} s:")
    print(*(f"  {path}" for path in written), sep="\n")
    return 0


def refresh(root: Path = Path()) -> list[Path]:
    """Execute the committed notebooks in place on the committed records, with their own parameters.

    Returns their paths.
    """
    notebooks = (table.notebook for table in plan.TABLES.values())
    paths = [root / "notebooks" / notebook for notebook in notebooks if notebook]
    for path in paths:
        # A failure must not leave its traceback in the committed file.
        fresh = root / "build" / "refreshed" / path.name
        _execute(path, fresh, {})
        write_atomically(path, fresh.read_bytes())
    return paths
