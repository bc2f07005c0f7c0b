"""Executors of clusters: the workers of a Dask scheduler, or jobs of Slurm through submitit.

dask://HOST:PORT                         a scheduler with its workers, which somebody started
slurm                                    a job a unit, `jobs` of them at a time (0: 100)
slurm:timeout_min=600,slurm_partition=a  the same with options of submitit
local                                    submitit's processes on this machine, to try it
"""

import asyncio
import logging
import multiprocessing
import os
import pickle
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from ..basics.machine import count_cores
from ..basics.recipe import require, require_known
from ..study.store import Store
from .lease import Lease, Unfit, leased, lock, probe, versions
from .pool import processes

BEAT = 5.0  # seconds between two touches of the lease
STALE = 60.0  # a launcher that did not touch it for so long is dead; so is one without workers
ANSWER = 40.0  # seconds that workers have to come and to answer, before any work
DAY = 24 * 3600


@contextmanager
def executor(spec: str, store: Store, device: str = "cpu", jobs: int = 0) -> Iterator[Any]:
    """The executor that a text names, for `sweep`, checked before any work; None for "".

    spec   see the module. device, jobs  as those of `sweep`; jobs counts for Slurm alone.

    Raises ValueError for another text, ImportError if the cluster's package is not installed,
    RuntimeError if there is no scheduler or no worker, for a worker that has another version or
    does not share the store's folder, for files that cannot be locked or replaced there; and later
    if scheduler or workers are gone.
    """
    if not spec:
        yield None
        return
    kind, _, rest = spec.partition(":")
    require_known("executor", kind, ("dask", "slurm", "local"))
    folder, over = store.cache.absolute(), threading.Event()
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("lease-*"):
        if time.time() - path.stat().st_mtime > DAY:
            path.unlink(missing_ok=True)  # of a launcher that was killed
    data = Path(os.environ.get("PAPERLIB_DATA", "data")).absolute()
    where = data, data.is_dir()
    lease = Lease(folder / f"lease-{uuid.uuid4().hex}", versions(), where, device, STALE)
    with lock(lease):
        lease.path.touch()
        cluster = _dask(rest, lease) if kind == "dask" else _submitit(kind, rest, lease, jobs)
        try:
            with cluster as found:
                threading.Thread(target=_beat, args=(lease, found, over), daemon=True).start()
                yield found
        except CancelledError:
            raise RuntimeError(f"{found.problem}; the same command resumes") from None
        finally:
            over.set()
            for path in folder.glob(f"{lease.path.name}*"):
                path.unlink(missing_ok=True)


def _beat(lease: Lease, cluster: Any, over: threading.Event) -> None:
    """Touch the lease. Give up when the cluster has not answered for a while."""
    seen = time.monotonic()
    while not over.wait(BEAT):
        with suppress(OSError):  # a file server that is away for a moment
            os.utime(lease.path)
        if cluster.answers():
            seen = time.monotonic()
        elif time.monotonic() - seen > STALE:
            cluster.give_up()


def _judge(lease: Lease, answers: Mapping[str, Sequence[Any]]) -> None:
    """Raise RuntimeError for the first worker that is unfit. answers  worker -> name of the file
    that it was to replace, and what `probe` raised there, or None.
    """
    for worker, (name, error) in answers.items():
        if isinstance(error, TimeoutError):
            raise RuntimeError(f"{worker} does not answer within {ANSWER:.0f} s")
        if error is not None:
            raise RuntimeError(f"{worker} {_line(error)}")
        if lease.path.with_name(name).read_text() != name:
            raise RuntimeError(f"{worker} does not share {lease.path.parent} with the launcher")


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, RuntimeError) else f"{type(error).__name__}: {text}"


def _package(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError:
        raise ImportError(f"{name} is not here: pip install 'paperlib[cluster]'") from None


# ------------------------------------------------------------------------------------------ Dask

_own = threading.local()  # in a Dask worker: this thread's process for each lease


def _fresh_process() -> Executor:
    # Dask's nanny starts workers as daemons, and multiprocessing allows those no children. Ours
    # end when the worker does.
    multiprocessing.current_process()._config["daemon"] = False
    return processes(1, threads=1)


def _in_process(lease: Lease, work: bytes) -> Any:
    """In a thread of a Dask worker: work in a process, so that a unit can kill nothing else."""
    mine, name = vars(_own), lease.path.name
    if name not in mine:
        mine[name] = _fresh_process()
    try:
        return mine[name].submit(leased, lease, 1, work).result()
    except BrokenExecutor:
        del mine[name]
        raise


async def _probe_in_process(lease: Lease, name: str) -> None:
    process = _fresh_process()
    try:
        await asyncio.wrap_future(process.submit(probe, lease, name))
    finally:
        process.shutdown(wait=False)


class _Workers(Executor):
    """Sends units to Dask's workers: as many at a time to each as it has threads."""

    def __init__(self, client: Any, lease: Lease, address: str):
        self.client, self.lease, self.open = client, lease, set()
        self.dask = client.get_executor(pure=False)
        self.problem = f"the Dask scheduler at {address} is gone, or has no workers"

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future:
        unit: Future = Future()
        self.open.add(unit)
        sent = self.dask.submit(_in_process, self.lease, pickle.dumps((function, arguments)))
        sent.add_done_callback(partial(self._pass_on, unit))
        return unit

    def _pass_on(self, unit: Future, sent: Future) -> None:
        """To a unit that was sent, give what became of it."""
        error = None if sent.cancelled() else sent.exception()
        if isinstance(error, Unfit):  # a worker that came later
            self.problem = f"a worker {error}"
            self.give_up()
        try:
            self.open.remove(unit)
        except KeyError:
            return  # given up
        if sent.cancelled():
            _cancel(unit)
        elif error is None:
            unit.set_result(sent.result())
        else:  # several workers died, with this unit on them
            killed = isinstance(error, _package("distributed").KilledWorker)
            unit.set_exception(BrokenExecutor(str(error)) if killed else error)

    def answers(self) -> bool:
        """Whether the scheduler is there and has workers."""
        try:
            return bool(self.client.sync(self.client.scheduler.ncores, callback_timeout=BEAT))
        except Exception:  # whatever a connection that is lost makes Dask raise
            return False

    def give_up(self) -> None:
        """Cancel all units: nobody will answer."""
        while self.open:
            _cancel(self.open.pop())


def _cancel(unit: Future) -> None:
    unit.cancel()
    unit.set_running_or_notify_cancel()  # wakes who waits for it


@contextmanager
def _dask(rest: str, lease: Lease) -> Iterator[_Workers]:
    require(re.fullmatch(r"//[^/\s]+:\d+", rest), f"dask://HOST:PORT is wanted, got 'dask:{rest}'")
    distributed, address = _package("distributed"), f"tcp:{rest}"
    for name in ("distributed", "distributed.client"):  # what they say is said here in one line
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        client = distributed.Client(address, timeout=ANSWER / 4, set_as_default=False)
    except Exception as error:
        raise RuntimeError(f"no Dask scheduler answers at {address}: {_line(error)}") from None
    found = _Workers(client, lease, address)
    try:
        try:
            client.wait_for_workers(1, timeout=ANSWER / 2)
        except TimeoutError:
            raise RuntimeError(f"the Dask scheduler at {address} has no workers") from None
        workers = list(client.scheduler_info()["workers"])
        names = [f"{lease.path.name}-{number}" for number in range(len(workers))]

        async def ask() -> list[Any]:
            asked = (
                client.run(_probe_in_process, lease, name, workers=[worker])
                for worker, name in zip(workers, names, strict=True)
            )
            within = (asyncio.wait_for(each, ANSWER) for each in asked)
            return await asyncio.gather(*within, return_exceptions=True)

        for name in names:
            lease.path.with_name(name).touch()
        errors = [e if isinstance(e, BaseException) else None for e in client.sync(ask)]
        _judge(lease, dict(zip(workers, zip(names, errors, strict=True), strict=True)))
        yield found
    finally:
        found.give_up()
        client.close(timeout=5)


# -------------------------------------------------------------------------------------- submitit


class _Unit:
    """What a job computes. Slurm may end a job and start it again: a run resumes by itself."""

    def __call__(self, *arguments: Any) -> tuple[Exception | None, Any]:
        try:
            return None, leased(*arguments)
        except Exception as error:
            return error, None

    def checkpoint(self, *arguments: Any) -> Any:
        """What to submit when the time of the job is over."""
        return _package("submitit").helpers.DelayedSubmission(self, *arguments)


class _Jobs(ThreadPoolExecutor):
    """A job a unit. A thread waits for each of the jobs that are submitted."""

    def __init__(self, submitit: Any, lease: Lease, threads: int, jobs: int):
        super().__init__(jobs)
        self.submitit, self.lease, self.threads = submitit, lease, threads
        self.over, self.one, self.problem = threading.Event(), threading.Lock(), ""

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future:
        return super().submit(self._work, pickle.dumps((function, arguments)))

    def _work(self, work: bytes) -> Any:
        with self.one:
            if self.over.is_set():
                raise CancelledError
            try:
                job = self.submitit.submit(_Unit(), self.lease, self.threads, work)
            except Exception as error:
                self._give_up(f"no job could be submitted: {_line(error)}")
        while not job.done():
            if self.over.wait(0.5):
                job.cancel(check=False)
                raise CancelledError
        try:
            error, result = job.result()
        except Exception as died:  # there is no result: submitit says where its log is
            raise BrokenExecutor(_line(died)) from None
        for name in ("submission_file", "submitted_pickle", "result_pickle", "stdout", "stderr"):
            getattr(job.paths, name).unlink(missing_ok=True)
        if isinstance(error, Unfit):
            self._give_up(f"a job {error}")
        if error is not None:
            raise error
        return result

    def _give_up(self, problem: str) -> None:
        self.problem = problem
        self.over.set()
        raise CancelledError

    def answers(self) -> bool:
        """Jobs may wait for days: there is nothing to ask."""
        return True


@contextmanager
def _submitit(kind: str, rest: str, lease: Lease, jobs: int) -> Iterator[_Jobs]:
    submitit, folder = _package("submitit"), lease.path.parent / "jobs"
    if kind == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
        raise RuntimeError("there is no sbatch or no srun here: this is no machine of a Slurm")
    options = {"timeout_min": 240, "name": "paperlib"}
    options |= dict(_option(each) for each in rest.split(",") if each)
    inner = submitit.AutoExecutor(folder, cluster=kind, **{f"{kind}_max_num_timeout": 1000})
    try:
        inner.update_parameters(**options)
    except (NameError, AssertionError, ValueError) as error:
        raise ValueError(f"submitit does not take the options {rest!r}: {_line(error)}") from None
    name = f"{lease.path.name}-0"
    lease.path.with_name(name).touch()
    with processes(1, threads=1) as process:
        answer = name, process.submit(probe, lease, name).exception()
    _judge(lease, {"this machine": answer})
    jobs = jobs or (100 if kind == "slurm" else count_cores())
    found = _Jobs(inner, lease, options.get("cpus_per_task", 1), jobs)
    try:
        yield found
    finally:
        found.over.set()
        found.shutdown(cancel_futures=True)


def _option(text: str) -> tuple[str, str | int]:
    name, _, value = text.partition("=")
    require(name and value, f"options of submitit are NAME=VALUE,..., got {text!r}")
    return name, int(value) if value.isdigit() else value
