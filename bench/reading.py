"""What it costs to read records: `figures` and `status` on thousands of made-up ones.

    python -m bench.reading [--seeds 1 3 12]

It writes results/bench/reading.csv and .md. About 5 minutes on 2 cores.
The records are those of every run of every profile, with so many seeds of each set-up. Each is that
committed record of `quick` whose configuration is most alike, under its own key, with other numbers
and a training curve as long as its recipe says.
"""

import argparse
import contextlib
import io
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from paperlib.basics.files import write_atomically
from paperlib.reporting.style import markdown
from paperlib.runs.execution import teacher_facts
from paperlib.study import extensions, plan, profiles
from paperlib.study.config import Run, StudentRun, TeacherRun, canonical
from paperlib.study.profiles import Setup, Short, Sizes
from paperlib.study.store import Store

from .measure import exponent
from .workers import _memory, alone

Record = dict[str, Any]


def groups(profile: str) -> tuple[str, ...]:
    """The groups of tables whose records are made up: of related systems those of `quick`, where
    each kind has committed records of the same shape.
    """
    return (plan.PAPER, plan.EVIDENCE, plan.RELATED)[: 3 if profile == "quick" else 2]


def with_seeds(count: int) -> None:
    """Give every set-up of every profile of this process so many seeds."""

    def changed(part: Any) -> Any:
        if isinstance(part, Setup | Short):
            return replace(part, seeds=tuple(range(count)))
        if isinstance(part, Sizes):
            return replace(part, **{f.name: changed(getattr(part, f.name)) for f in fields(part)})
        return tuple(map(changed, part)) if isinstance(part, tuple) else part

    for of_profiles in (profiles.PROFILES, profiles.REGIMES, profiles.SIZES):
        of_profiles.update({name: changed(part) for name, part in of_profiles.items()})


def most_alike(run: Run, records: list[Record]) -> Record | None:
    """The finished record of the run's kind that has most of its configuration."""
    config = asdict(run)
    return max(
        (record for record in records if record["kind"] == run.kind),
        key=lambda record: sum(config[name] == record["config"].get(name) for name in config),
        default=None,
    )


def made_up(run: Run, like: Record) -> dict[str, Any]:
    """A result for a run: that of a record, with accuracies and scores moved at random."""
    rng, result = np.random.default_rng(int(run.key, 16)), dict(like["result"])
    if "accuracy" in result:
        result["accuracy"] = round(max(1.0, result["accuracy"] - abs(rng.normal(0, 2))), 2)
    if "weights_sha256" in result:
        result["weights_sha256"] = run.key
    if "curve" in result and isinstance(run, TeacherRun | StudentRun):
        rows = result["curve"]
        result["curve"] = [
            rows[k % len(rows)] | {"epoch": k, "loss": rng.random()}
            for k in range(run.recipe.epochs)
        ]
    if "scores" in result:
        rows, found = result["scores"], []
        for k, name in enumerate(run.augmentations):
            moved = rows[k % len(rows)] | {"augmentation": name}
            if "score" in moved:
                moved["score"] += rng.normal(0, 0.02)
            found.append(moved)
        result["scores"] = found
    return result


def fill(store: Store, committed: Store) -> int:
    """Save a made-up record of every run of a profile, with predictions; returns how many.

    committed  whose records they are made of.
    """
    records = [record for record in committed.all() if record["status"] == "done"]
    everything = (plan.stages(store.profile, table, store) for table in groups(store.profile))
    left = (run for stages in everything for runs in stages for run in runs if not store.done(run))
    likes: dict[str, Record | None] = {}
    count = 0
    for run in left:
        kind = canonical(asdict(replace(run, seed=0)))
        if kind not in likes:
            likes[kind] = most_alike(run, records)
        if like := likes[kind]:
            if "predictions_sha256" in like["result"]:
                content = (committed.runs / f"{like['key']}.predictions.safetensors").read_bytes()
                write_atomically(store.predictions_path(run), content)
            facts = {name: like[name] for name in ("seconds", "cpu_seconds", "environment")}
            facts |= teacher_facts(run, store)
            store.save(run, "done", result=made_up(run, like), **facts)
            count += 1
    return count


def generate(root: Path, seeds: int, committed: Path = Path()) -> int:
    """Fill the tree `results` below a folder with the records of all profiles; returns how many.

    committed  where results/quick is.
    """
    extensions.load()
    with_seeds(seeds)
    known = Store("quick", "results", committed)
    return sum(fill(Store(profile, "results", root), known) for profile in profiles.PROFILES)


def figures() -> None:
    """As the command."""
    from paperlib.reporting.results import rebuild

    rebuild()


def status() -> None:
    """As the command, of each profile and group of tables, one after the other."""
    from paperlib.cli import experiments

    for profile in profiles.PROFILES:
        for table in groups(profile):
            if plan.runs_of(profile, table):
                experiments.status(profile, table, record=True)


def prepare_reading(
    root: str, seeds: int, command: Callable[[], None]
) -> Callable[[], tuple[float, int]]:
    """In a fresh process: seconds of a command in that folder, and bytes resident at most."""
    extensions.load()
    with_seeds(seeds)
    os.chdir(root)

    def run() -> tuple[float, int]:
        began = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            command()
        return time.perf_counter() - began, _memory("VmHWM")

    return run


def prepare_records(root: str, seeds: int, committed: str) -> Callable[[], int]:
    """In a fresh process: `generate`."""
    return lambda: generate(Path(root), seeds, Path(committed))


def main(folder: Path = Path("results/bench")) -> None:
    """Print a line for each command and number of records, and write them all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 3, 12])
    rows = []
    for seeds in parser.parse_args().seeds:
        with tempfile.TemporaryDirectory() as root:
            records = alone(prepare_records, (root, seeds, os.getcwd()), 1).value
            for command in (figures, status):
                seconds, peak = alone(prepare_reading, (root, seeds, command), 1).value
                rows.append((command.__name__, seeds, records, seconds, peak / 1e6))
                print(*rows[-1], flush=True)
    table = pd.DataFrame(rows, columns=["command", "seeds", "records", "seconds", "peak MB"])
    growth = [
        (name, *(exponent(part["records"], part[column]) for column in ("seconds", "peak MB")))
        for name, part in table.groupby("command")
    ]
    text = (
        "# What it costs to read records\n\n"
        "`python -m bench.reading`, one thread: records of every run of all profiles with so many "
        "seeds of each set-up. Seconds and memory are of the whole process, without its start and "
        "imports of torch. status is that of each profile and group of tables.\n\n"
        f"{markdown(table, 1)}\nExponents of growth with the number of records:\n\n"
    )
    text += markdown(pd.DataFrame(growth, columns=["command", "seconds", "memory"]), 2)
    write_atomically(folder / "reading.csv", table.to_csv(index=False))
    write_atomically(folder / "reading.md", text)


if __name__ == "__main__":
    main()
