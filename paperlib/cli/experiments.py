"""Commands on the runs of this repository."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..basics.machine import count_cores
from ..study import plan
from ..study.config import Run
from ..study.store import Store
from .options import (
    Bits,
    DataSet,
    Device,
    Executor,
    Jobs,
    Model,
    Profile,
    Record,
    Seeds,
    Table,
    among,
)


def _store(profile: str, record: bool) -> Store:
    return Store(profile, "results" if record else "build")


def run(
    profile: Profile = "quick",
    table: Table = "all",
    dataset: DataSet = "",
    model: Model = "",
    bits: Bits = 0,
    seeds: Seeds = 0,
    record: Record = False,
    device: Device = "cpu",
    jobs: Jobs = 0,
    executor: Executor = "",
    together: Annotated[int, typer.Option(help="students trained as one network, for a GPU")] = 1,
) -> int:
    """Make the runs that a table lacks, without notebooks."""
    from ..runs.sweep import sweep_table

    store, part = _store(profile, record), plan.Selection(dataset, model, bits, seeds)
    sweep_table(store, table, part, device, jobs, together, executor)
    return 0


def reproduce(
    profile: Profile = "quick",
    table: Table = "all",
    dataset: DataSet = "",
    model: Model = "",
    bits: Bits = 0,
    seeds: Seeds = 0,
    record: Record = False,
    device: Device = "cpu",
    jobs: Jobs = 0,
    executor: Executor = "",
) -> int:
    """Execute the notebooks through papermill, which makes the runs they lack. Then compare."""
    from .. import reproduce as notebooks

    part = plan.Selection(dataset, model, bits, seeds)
    return notebooks.reproduce(_store(profile, record), table, part, device, jobs, executor)


def compare(profile: Profile = "quick") -> int:
    """Compare the tables in build/ with the committed ones."""
    from ..reporting.compare import write_comparison

    return write_comparison(_store(profile, record=False))


def status(
    profile: Profile = "quick",
    table: Table = "all",
    dataset: DataSet = "",
    model: Model = "",
    bits: Bits = 0,
    seeds: Seeds = 0,
    record: Record = False,
) -> int:
    """List what a profile has and lacks: a line a run, the counts, and the time that is left."""
    store, part = _store(profile, record), plan.Selection(dataset, model, bits, seeds)
    counts: Counter[str] = Counter()
    took: dict[Any, list[float]] = {}  # seconds, by kind, and by kind, data and epochs
    left: list[Run] = []
    if problem := plan.lacks(profile, table, part):
        raise ValueError(problem)
    here = store.root.absolute()
    if not store.folder.is_dir() and not (here / "results").is_dir():
        raise ValueError(f"nothing ran in {here}, and it is not the folder of the repository")
    for each in plan.runs_of(profile, table, store, part):
        found, state, note = store.load(each), _state(each, store), ""
        counts[state] += 1
        if state == "done":
            for like in (each.kind, _size(each)):
                took.setdefault(like, []).append(found["seconds"])
        else:
            left.append(each)
        if state == "failed":
            note = "".join(f"  {line}" for line in found["error"][-1:])
        print(f"{state:8} {each.key}  {each.label}{note}")
    states = ("done", "failed", "missing", "stale")
    print(f"{store.folder}: " + ", ".join(f"{counts[state]} {state}" for state in states))
    if left:
        print(_time_left([took.get(_size(each)) or took.get(each.kind) for each in left]))
    return 0


def _state(run: Run, store: Store) -> str:
    """done, failed, missing or stale. The teacher's record of a stale run is gone, or has other
    weights since: the run will be made again.
    """
    record = store.load(run)
    if record is None:
        return "missing"
    return "stale" if record["status"] == "done" and not store.done(run) else record["status"]


def _size(run: Run) -> tuple:
    return run.kind, run.data, run.recipe.epochs if hasattr(run, "recipe") else None


def _time_left(known: Sequence[list[float] | None]) -> str:
    """How long these runs take. known  for each run, seconds of the done runs most like it."""
    hours = sum(sum(seconds) / len(seconds) for seconds in known if seconds) / 3600
    others = known.count(None)
    more = f", and {others} runs of kinds of which none is done yet" if others else ""
    return (
        f"left: about {hours:.1f} hours in one process, by what the runs most like them took{more}"
    )


Vector = Annotated[
    str, among(lambda: ("pdf", "svg"), "write each figure in this format too, into build/vector")
]


def figures(
    vector: Vector = "",
    jobs: Jobs = 0,
    skip_damaged: Annotated[
        bool,
        typer.Option("--skip-damaged", help="leave damaged records out instead of writing nothing"),
    ] = False,
) -> int:
    """Rebuild from the records of results/ every table and figure, CLAIMS.md, report.html and the
    blocks of the documents.
    """
    from ..reporting.results import rebuild

    files = rebuild(vector=vector, skip_damaged=skip_damaged, jobs=jobs or count_cores())
    print(*files, sep="\n")
    return 0


def notebooks() -> int:
    """Execute the committed notebooks in place, on the committed records."""
    from ..reproduce import refresh

    print(*refresh(), sep="\n")
    return 0


def methods(
    write: Annotated[
        bool, typer.Option("--write", help="write the list into docs/methods.md too")
    ] = False,
) -> int:
    """List all quantizers, losses, networks, augmentations and data sets."""
    from ..catalogue import methods

    print(methods(), end="")
    if write:
        from ..reporting import documents

        if not documents.refresh(Path(), methods()):
            raise ValueError(f"no documents in {Path().absolute()}")
    return 0


COMMANDS = (run, reproduce, compare, status, figures, notebooks, methods)
