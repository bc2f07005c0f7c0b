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
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

from paperlib.basics.files import write_atomically
from paperlib.basics.machine import count_cores
from paperlib.reporting.style import markdown
from paperlib.study import extensions, plan, profiles
from paperlib.study.config import Run, StudentRun, TeacherRun, canonical
from paperlib.study.profiles import Setup, Short, Sizes
from paperlib.study.store import Store

from .measure import exponent

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
    from paperlib.runs.execution import teacher_facts  # with torch, which the reading does without

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

    rebuild(jobs=count_cores())


def status() -> None:
    """As the command, of each profile and group of tables, one after the other."""
    from paperlib.cli import experiments

    for profile in profiles.PROFILES:
        for table in groups(profile):
            if plan.runs_of(profile, table):
                experiments.status(profile, table, record=True)


def measure(command: str, seeds: int) -> None:
    """Print the seconds of a command in this folder. For a process of its own, where nothing else
    was imported.
    """
    extensions.load()
    with_seeds(seeds)  # here only: workers draw the few figures of single records with fewer
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        COMMANDS[command]()
    print(time.perf_counter() - began)


COMMANDS = {"figures": figures, "status": status}


def measured(command: str, root: str, seeds: int) -> tuple[float, int]:
    """Seconds of `measure` in a fresh process, in the folder `root`, and the most bytes that it and
    the processes that it starts hold together, looked at five times a second.
    """
    code = f"from bench.reading import measure; measure({command!r}, {seeds})"
    run = {"cwd": root, "env": os.environ | {"PYTHONPATH": os.getcwd()}, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **run, stdout=subprocess.PIPE) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, held(psutil.Process(process.pid)))
            time.sleep(0.2)
        return float(process.communicate()[0]), peak


def held(process: psutil.Process) -> int:
    """Bytes of a process and those that it started; what several share counts once on Linux."""
    total = 0
    for each in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            found = each.memory_full_info()
            total += getattr(found, "pss", found.rss)
    return total


def main(folder: Path = Path("results/bench")) -> None:
    """Print a line for each command and number of records, and write them all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 3, 12])
    rows = []
    for seeds in sorted(parser.parse_args().seeds):
        with tempfile.TemporaryDirectory() as root:
            records = generate(Path(root), seeds)
            for command in COMMANDS:
                seconds, peak = measured(command, root, seeds)
                rows.append((command, seeds, records, seconds, peak / 1e6))
                print(*rows[-1], flush=True)
    table = pd.DataFrame(rows, columns=["command", "seeds", "records", "seconds", "peak MB"])
    growth = [
        (name, *(exponent(part["records"], part[column]) for column in ("seconds", "peak MB")))
        for name, part in table.groupby("command")
    ]
    text = (
        "# What it costs to read records\n\n"
        f"`python -m bench.reading` on {count_cores()} cores: records of every run of all "
        "profiles with so many seeds of each set-up. Seconds are without the start of the process; "
        "memory is that of the process and of those that it starts, at most. status is that of "
        "each profile and group of tables.\n\n"
        f"{markdown(table, 1)}\nExponents of growth with the number of records:\n\n"
    )
    text += markdown(pd.DataFrame(growth, columns=["command", "seconds", "memory"]), 2)
    write_atomically(folder / "reading.csv", table.to_csv(index=False))
    write_atomically(folder / "reading.md", text)


if __name__ == "__main__":
    main()
