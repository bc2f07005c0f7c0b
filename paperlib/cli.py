"""The command line: python -m paperlib run | reproduce | compare | status | figures | notebooks |
methods.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .study import extensions, plan, profiles
from .study.config import Run
from .study.store import Store

# Name -> default, help. A default of False makes a switch.
OPTIONS: dict[str, tuple[str | int | bool, str]] = {
    "profile": ("quick", "sizes"),
    "table": (
        "all",
        "one table, or a group: all of the paper's, evidence (docs/experiments.md), related",
    ),
    "dataset": ("", "only this data set; empty for all of the profile"),
    "model": ("", "only this network; empty for all of the profile"),
    "bits": (0, "only students of so many bits; 0 for all"),
    "seeds": (0, "only the first so many seeds; 0 for all"),
    "record": (False, "work on the committed records in results/, not on build/"),
    "device": ("cpu", "cpu, cuda or cuda:N"),
    "jobs": (0, "processes at a time; 0 chooses"),
    "together": (1, "students trained as one network, for a GPU"),
    "vector": ("", "write each figure in this format too, into build/vector"),
    "skip-damaged": (False, "leave damaged records out instead of writing nothing"),
    "write": (False, "write the list into docs/methods.md too"),
    "traceback": (False, "show where an error comes from, for developers"),
}
CHOICES: dict[str, Callable[[], Any]] = {
    "profile": lambda: profiles.PROFILES,
    "table": plan.choices,
    "vector": lambda: ("pdf", "svg"),
}
PART = ("profile", "table", "dataset", "model", "bits", "seeds", "record")


def _part(args: argparse.Namespace) -> plan.Selection:
    return plan.Selection(args.dataset, args.model, args.bits, args.seeds)


def _run(args: argparse.Namespace, store: Store) -> int:
    """Make the runs that a table lacks, without notebooks."""
    from .runs.progress import following
    from .runs.sweep import sweep

    part, keep = _part(args), plan.kept(args.profile)
    if problem := plan.lacks(args.profile, args.table, part):
        raise ValueError(problem)

    with following(store):
        for runs in plan.stages(args.profile, args.table, store, part):
            sweep(runs, store, args.device, args.jobs, args.together, keep=keep)
    return 0


def _reproduce(args: argparse.Namespace, store: Store) -> int:
    """Execute the notebooks through papermill, which makes the runs they lack. Then compare."""
    from .reproduce import reproduce

    return reproduce(store, args.table, _part(args), args.device, args.jobs)


def _compare(args: argparse.Namespace, store: Store) -> int:
    """Compare the tables in build/ with the committed ones."""
    from .reporting.compare import write_comparison

    return write_comparison(store)


def _status(args: argparse.Namespace, store: Store) -> int:
    """List what a profile has and lacks: a line a run, the counts, and the time that is left."""
    counts: Counter[str] = Counter()
    took: dict[Any, list[float]] = {}  # seconds, by kind, and by kind, data and epochs
    left: list[Run] = []
    if problem := plan.lacks(args.profile, args.table, _part(args)):
        raise ValueError(problem)
    here = store.root.absolute()
    if not store.folder.is_dir() and not (here / "results").is_dir():
        raise ValueError(f"nothing ran in {here}, and it is not the folder of the repository")
    for run in plan.runs_of(args.profile, args.table, store, _part(args)):
        record, state, note = store.load(run), _state(run, store), ""
        counts[state] += 1
        if state == "done":
            for like in (run.kind, _size(run)):
                took.setdefault(like, []).append(record["seconds"])
        else:
            left.append(run)
        if state == "failed":
            note = "".join(f"  {line}" for line in record["error"][-1:])
        print(f"{state:8} {run.key}  {run.label}{note}")
    states = ("done", "failed", "missing", "stale")
    print(f"{store.folder}: " + ", ".join(f"{counts[state]} {state}" for state in states))
    if left:
        print(_time_left([took.get(_size(run)) or took.get(run.kind) for run in left]))
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


def _figures(args: argparse.Namespace, store: None) -> int:
    """Rebuild from the records of results/ every table and figure, CLAIMS.md, report.html and the
    blocks of the documents.
    """
    from .reporting.results import rebuild

    print(*rebuild(vector=args.vector, skip_damaged=args.skip_damaged), sep="\n")
    return 0


def _notebooks(args: argparse.Namespace, store: None) -> int:
    """Execute the committed notebooks in place, on the committed records."""
    from .reproduce import refresh

    print(*refresh(), sep="\n")
    return 0


def _methods(args: argparse.Namespace, store: None) -> int:
    """List all quantizers, losses, networks, augmentations and data sets."""
    from .catalogue import methods

    print(methods(), end="")
    if args.write:
        from .reporting import documents

        if not documents.refresh(Path(), methods()):
            raise ValueError(f"no documents in {Path().absolute()}")
    return 0


# Name -> function, options. The docstring of the function is the help.
COMMANDS: dict[str, tuple[Callable[..., int], tuple[str, ...]]] = {
    "run": (_run, (*PART, "device", "jobs", "together")),
    "reproduce": (_reproduce, (*PART, "device", "jobs")),
    "compare": (_compare, ("profile",)),
    "status": (_status, PART),
    "figures": (_figures, ("vector", "skip-damaged")),
    "notebooks": (_notebooks, ()),
    "methods": (_methods, ("write",)),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m paperlib", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (function, options) in COMMANDS.items():
        command = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        for option in (*options, "traceback"):
            default, text = OPTIONS[option]
            settings: dict[str, Any] = {"action": "store_true"}
            if default is not False:
                choices, text = (
                    CHOICES.get(option, lambda: None)(),
                    f"{text} (default: {default!r})",
                )
                settings = {"type": type(default), "default": default, "choices": choices}
            command.add_argument(f"--{option}", help=text, **settings)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status."""
    extensions.load()
    args = _parser().parse_args(arguments)
    sys.stdout.reconfigure(errors="backslashreplace")  # paths that the terminal cannot show
    store = None
    if "profile" in args:
        store = Store(args.profile, "results" if vars(args).get("record") else "build")
    try:
        return COMMANDS[args.command][0](args, store)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command resumes", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        if args.traceback:
            raise
        print(f"failed: {error}", file=sys.stderr)
        return 1
