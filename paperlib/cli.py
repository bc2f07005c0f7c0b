"""The command line: python -m paperlib run | reproduce | compare | status | figures | notebooks |
methods.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .study import plan, profiles
from .study.config import Run
from .study.store import Store


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m paperlib", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, text: str, *, work: bool = False) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "--profile", default="quick", choices=profiles.PROFILES, help="sizes (default: quick)"
        )
        command.add_argument(
            "--table", default="all", choices=("all", *plan.TABLES), help="default: all"
        )
        if work:
            command.add_argument(
                "--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)"
            )
            command.add_argument(
                "--jobs", type=int, default=0, help="processes at a time; 0 chooses (default)"
            )
        for name, text in (("dataset", "this data set"), ("model", "this network")):
            command.add_argument(
                f"--{name}", default="", help=f"only {text} (default: all of the profile)"
            )
        for name, text in (
            ("bits", "students of so many bits"),
            ("seeds", "the first so many seeds"),
        ):
            command.add_argument(
                f"--{name}", type=int, default=0, help=f"only {text}; 0 for all (default)"
            )
        command.add_argument(
            "--record",
            action="store_true",
            help="work on the committed records in results/, not on build/",
        )
        return command

    run = add("run", "Make the runs that a table lacks, without notebooks.", work=True)
    run.add_argument(
        "--together",
        type=int,
        default=1,
        help="students trained as one network, for a GPU (default: 1)",
    )
    add(
        "reproduce",
        "Execute the notebooks through papermill, making the runs they lack; then compare.",
        work=True,
    )
    add("compare", "Compare the tables in build/ with the committed ones.")
    add("status", "List what a profile has and lacks.")
    figures = commands.add_parser(
        "figures",
        help=(
            "Rebuild every table and figure of results/, CLAIMS.md, report.html and the blocks "
            "of the documents from its records."
        ),
    )
    figures.add_argument(
        "--vector",
        default="",
        choices=("pdf", "svg"),
        help="write each figure in this format too, into build/vector",
    )
    figures.set_defaults(profile=None)
    notebooks = commands.add_parser(
        "notebooks", help="Execute the committed notebooks in place, on committed records."
    )
    notebooks.set_defaults(profile=None)
    methods = commands.add_parser(
        "methods", help="List all quantizers, losses, networks, augmentations and data sets."
    )
    methods.add_argument(
        "--write", action="store_true", help="write the list into docs/methods.md too"
    )
    methods.set_defaults(profile=None)
    return parser


def _part(args: argparse.Namespace) -> plan.Selection:
    return plan.Selection(args.dataset, args.model, args.bits, args.seeds)


def _run(args: argparse.Namespace, store: Store) -> int:
    from .runs.progress import following
    from .runs.sweep import SweepError, sweep

    part, kept = _part(args), plan.kept(args.profile)
    if problem := plan.lacks(args.profile, args.table, part):
        print(f"failed: {problem}", file=sys.stderr)
        return 1

    def keeps(run: Run) -> bool:
        return run.key in kept

    try:
        with following(store):
            for runs in plan.stages(args.profile, args.table, store, part):
                sweep(runs, store, args.device, args.jobs, args.together, keep=keeps)
    except (SweepError, ValueError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0


def _reproduce(args: argparse.Namespace, store: Store) -> int:
    from .reproduce import reproduce

    try:
        return reproduce(store, args.table, _part(args), args.device, args.jobs)
    except ValueError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1


def _compare(args: argparse.Namespace, store: Store) -> int:
    from .reporting.compare import write_comparison

    return write_comparison(store)


def _status(args: argparse.Namespace, store: Store) -> int:
    """One line a run, then the counts, and what is left to do by the time that runs of the same
    kind took.
    """
    counts = {"done": 0, "failed": 0, "missing": 0, "stale": 0}
    took: dict[Any, list[float]] = {}  # seconds, by kind, and by kind, data and epochs
    left: list[Run] = []
    for run in plan.runs_of(args.profile, args.table, store, _part(args)):
        record = store.load(run)
        state = record["status"] if record else "missing"
        if state == "done" and not store.done(run):
            # its teacher's record is gone, or of other weights since: it will be made again
            state = "stale"
        counts[state] += 1
        if state == "done":
            for like in (run.kind, _size(run)):
                took.setdefault(like, []).append(record["seconds"])
        else:
            left.append(run)
        note = "".join(f"  {line}" for line in record["error"][-1:]) if state == "failed" else ""
        print(f"{state:8} {run.key}  {run.label}{note}")
    print(f"{store.folder}: " + ", ".join(f"{n} {state}" for state, n in counts.items()))
    if left:
        known = [took.get(_size(run)) or took.get(run.kind) for run in left]
        hours = sum(sum(seconds) / len(seconds) for seconds in known if seconds) / 3600
        others = (
            f", and {known.count(None)} runs of kinds of which none is done yet"
            if None in known
            else ""
        )
        print(
            f"left: about {hours:.1f} hours in one process, by what the runs most like them "
            f"took{others}"
        )
    return 0


def _size(run: Run) -> tuple:
    return run.kind, run.data, run.recipe.epochs if hasattr(run, "recipe") else None


def _figures(args: argparse.Namespace, store: Store | None) -> int:
    from .reporting.results import rebuild

    for path in rebuild(vector=args.vector):
        print(path)
    return 0


def _notebooks(args: argparse.Namespace, store: Store | None) -> int:
    from .reproduce import refresh

    for path in refresh():
        print(path)
    return 0


def _methods(args: argparse.Namespace, store: Store | None) -> int:
    from .catalogue import methods

    print(methods(), end="")
    if args.write:
        from .reporting import documents

        documents.refresh(Path(), methods())
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = _parser().parse_args(arguments)
    commands = {"run": _run, "reproduce": _reproduce, "compare": _compare, "status": _status}
    commands |= {"figures": _figures, "notebooks": _notebooks, "methods": _methods}
    store = Store(args.profile, "results" if args.record else "build") if args.profile else None
    return commands[args.command](args, store)
