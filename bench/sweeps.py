"""What a sweep costs beside its runs: thousands that compute nothing, over a hundred workers.

    python -m bench.sweeps [--runs 1000 10000]

It writes results/bench/sweeps.csv and .md. About 4 minutes on 2 cores.
The workers are threads of this process, of a pool or of a Dask cluster with its scheduler. So every
cost is in the table: the launcher's, the scheduler's, and that of locks and records in the workers.
"""

import argparse
import logging
import pickle
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd

from paperlib.basics.files import write_atomically
from paperlib.reporting.style import markdown
from paperlib.runs import executors
from paperlib.runs.sweep import sweep
from paperlib.study.config import Data, Run
from paperlib.study.store import Store

WORKERS = 100
made: Counter[str] = Counter()  # how often each run was made
_one = threading.Lock()


@dataclass(frozen=True)
class Nothing(Run):
    """A run that computes nothing."""

    kind = "nothing"
    title = "nothing, seed {run.seed}"
    compute = "bench.sweeps:nothing"


def nothing(run: Run, store: Store, device: str) -> dict[str, Any]:
    """The result of `Nothing`."""
    with _one:
        made[run.key] += 1
    return {}


@contextmanager
def threads() -> Iterator[Executor]:
    """Threads of this process."""
    with ThreadPoolExecutor(WORKERS) as pool:
        yield pool


def _here(lease: None, work: bytes) -> Any:
    function, arguments = pickle.loads(work)
    return function(*arguments)


@contextmanager
def dask() -> Iterator[Executor]:
    """A Dask scheduler with its workers in this process, which start no processes for units."""
    from distributed import Client, LocalCluster

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    how = {"processes": False, "threads_per_worker": 1, "dashboard_address": ":0"}
    with (
        LocalCluster(WORKERS, **how) as cluster,
        Client(cluster) as client,
        mock.patch.object(executors, "_in_process", _here),
    ):
        yield executors._Workers(client, None, "here")


def measure(executor: Executor, count: int, folder: Path) -> dict[str, float]:
    """Sweep so many runs into an empty store, and sweep again what is done. Seconds, milliseconds
    a run of the launcher's thread, of this process, and of the second sweep; records; runs that
    were made twice.
    """
    made.clear()
    runs = [Nothing(Data("digits"), seed=seed) for seed in range(count)]
    store = Store("quick", root=folder)
    began = time.perf_counter(), time.thread_time(), time.process_time()
    sweep(runs, store, executor=executor)
    ended = time.perf_counter(), time.thread_time(), time.process_time()
    wall, launcher, process = (after - before for before, after in zip(began, ended, strict=True))
    sweep(runs, store, executor=executor)
    again = time.perf_counter() - ended[0]
    return {
        "runs": count,
        "seconds": wall,
        "launcher ms": 1000 * launcher / count,
        "all ms": 1000 * process / count,
        "done ms": 1000 * again / count,
        "records": sum(record["status"] == "done" for record in store.all()),
        "twice": sum(times > 1 for times in made.values()),
    }


def main(folder: Path = Path("results/bench")) -> None:
    """Print a line for each sweep, and write them all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[1000, 10_000])
    rows = []
    for count in parser.parse_args().runs:
        for name, cluster in (("threads", threads), ("Dask", dask)):
            with cluster() as executor, tempfile.TemporaryDirectory() as root:
                rows.append({"executor": name, **measure(executor, count, Path(root))})
            print(*rows[-1].values(), flush=True)
    table = pd.DataFrame(rows)
    text = (
        "# What a sweep costs beside its runs\n\n"
        f"`python -m bench.sweeps`: runs that compute nothing, over {WORKERS} workers, which are "
        "threads of one process on a local disk: of a pool, or of a Dask cluster with its "
        "scheduler. Milliseconds of processor time a run: of the launcher's thread, of all "
        "together (scheduler, workers, locks, records), and of a second sweep, which finds all "
        "done.\n\n"
    )
    write_atomically(folder / "sweeps.csv", table.to_csv(index=False))
    write_atomically(folder / "sweeps.md", text + markdown(table, 2))


if __name__ == "__main__":
    sys.modules["bench.sweeps"] = sys.modules[__name__]  # where the runs find `nothing`
    main()
