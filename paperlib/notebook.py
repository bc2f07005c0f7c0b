"""The first call of a notebook: it checks parameters, finds the repository, and makes or demands
runs.
"""

import logging
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .reporting import report
from .study import extensions, plan
from .study.config import check_parameters
from .study.store import Store


@dataclass(frozen=True)
class Parameters:
    """The `parameters` cell of every notebook, in lower case, without the part of the table
    (`plan.Selection`).

    profiles      names of profiles to show. tree  "results" (committed) or "build" (yours).
    cached_only   demand that all runs are there instead of making them.
    device, jobs  for making them.
    """

    profiles: list = field(default_factory=lambda: ["quick"])
    tree: str = "results"
    cached_only: bool = True
    device: str = "cpu"
    jobs: int = 0


def repository() -> Path:
    """The checkout that holds the current folder. Raises FileNotFoundError outside of one."""
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "pyproject.toml").exists() and (folder / "paperlib").is_dir():
            return folder
    raise FileNotFoundError(f"{here} is not inside a checkout of this repository")


def _command(profile: str, table: str, part: plan.Selection, wanted: Parameters) -> str:
    """The command that makes the runs a notebook lacks, in the tree in which it looks for them."""
    words = {"PROFILE": profile, "TABLE": table}
    words |= {name.upper(): value for name, value in asdict(part).items() if value}
    if wanted.device != "cpu":
        words["DEVICE"] = wanted.device
    if wanted.tree == "results":
        words["RECORD"] = 1
    return "make run " + " ".join(f"{name}={value}" for name, value in words.items())


def stores(
    table: str, part: plan.Selection = plan.ALL, so_far: bool = False, **parameters: Any
) -> list[Store]:
    """The stores of the profiles that a notebook shows, with every run of its table, or of a part
    of it.

    so_far  for tables whose runs take days: with `cached_only`, accept what is done, and print how
            much that is.

    Raises ValueError or TypeError for parameters that are not `Parameters`', ValueError for a part
    that the table does not have, `report.MissingRuns` if runs are missing with `cached_only`.
    """
    extensions.load()
    wanted = check_parameters(parameters, Parameters)
    # The kernel works in notebooks/. A relative data folder is meant from the repository, here and
    # in worker processes.
    os.environ["PAPERLIB_DATA"] = str(repository() / os.environ.get("PAPERLIB_DATA", "data"))
    found = []
    for profile in wanted.profiles:
        if plan.lacks(profile, table, part):
            continue
        store = Store(profile, wanted.tree, repository())
        for runs in plan.stages(profile, table, store, part):
            if wanted.cached_only and so_far:
                done = sum(map(store.done, runs))
                print(f"{profile}: {done} of {len(runs)} runs of the table {table} are done")
                break
            if wanted.cached_only:
                report.require(store, runs, _command(profile, table, part, wanted))
            else:
                from .runs.sweep import sweep  # brings torch, which showing results does not need

                sweep(runs, store, wanted.device, wanted.jobs)
        found.append(store)
    if not found:
        raise ValueError("; ".join(plan.lacks(profile, table, part) for profile in wanted.profiles))
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # stderr would count as output
    return found
