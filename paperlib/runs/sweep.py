"""Many independent runs through one executor interface (`concurrent.futures`).

Here: in this process, or a local pool of spawned processes with threads = cores / jobs, several of
them on one GPU if asked. A cluster's executor has the same interface and can be passed instead.
"""

import multiprocessing
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, as_completed

import torch

from ..study.config import Run, TeacherRun
from ..study.store import Store
from .execution import alike, count_cores, ensure_teacher, execute, execute_together

ATTEMPTS = 3  # pools started, if worker processes die, before what is left is given up


class SweepError(RuntimeError):
    """Some runs failed; the others are done. The text names each with its error."""


def missing(runs: Sequence[Run], store: Store) -> list[Run]:
    """Those of the runs that have no record of status "done"."""
    return [run for run in runs if not store.done(run)]


def sweep(
    runs: Sequence[Run],
    store: Store,
    device: str = "cpu",
    jobs: int = 0,
    together: int = 1,
    executor: Executor | None = None,
    keep: Callable[[Run], bool] = lambda run: False,
) -> None:
    """Make every run that is missing: first the teachers, then the rest, `jobs` at a time.

    Teachers whose recipe does not say how many threads they take are trained one after the other
    with all cores.

    jobs      processes on this machine; 0 chooses one a core on the CPU and one in all on a GPU.
              With 1, this process.
    together  students of one set-up that are trained as one network, see
              `paperlib.training.packing`: for a GPU, which a single small student does not fill.
    executor  something with `concurrent.futures`' interface to use instead of a local pool.
    keep      whether a run's weights are to be committed with its record, see `Store.keep`.

    Progress goes to `store.progress`, a line an epoch. A failed run does not stop the others.
    Raises SweepError at the end if some failed; ValueError for a negative number of jobs, fewer
    than one student together, or a device that is not there.
    """
    if together < 1:
        raise ValueError(f"at least one student is trained at a time, got together={together}")
    if jobs < 0:
        raise ValueError(f"jobs must be 0 (choose) or more, got {jobs}")
    if not (device == "cpu" or re.fullmatch(r"cuda(:\d+)?", device)):
        raise ValueError(f"unknown device {device!r}; known: cpu, cuda, cuda:N")
    if device != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} was asked for, and torch sees no CUDA GPU here")
    todo = missing(runs, store)
    if not todo:
        return
    jobs = jobs or (1 if device.startswith("cuda") else count_cores())
    started, total = time.perf_counter(), len(todo)
    store.log(
        f"{total} of {len(runs)} runs to make in {store.folder}, {jobs} at a time, on {device}"
    )
    needed = {teacher.key: teacher for run in todo for teacher in run.teachers}
    side_by_side = [
        t
        for t in needed.values()
        if t.recipe.threads and not (store.done(t) and store.weights(t).exists())
    ]
    alone = [
        t
        for t in (needed | {r.key: r for r in todo if not r.teachers}).values()
        if _takes_all_cores(t)
    ]
    failures = _make_teachers(alone, store, device)
    pool = _Pool(store, device, jobs, executor, keep)
    pool.make([(teacher,) for teacher in side_by_side], failures)
    todo = [
        r
        for r in missing(todo, store)
        if not any(each.key in failures for each in (r, *r.teachers))
    ]
    pool.make(packs(todo, together), failures)
    for run in (*needed.values(), *runs):
        if keep(run) and store.done(run):
            store.keep(run)
    store.log(
        f"{total - len(failures)} of {total} runs done, {time.perf_counter() - started:.0f} s"
    )
    if failures:
        raise SweepError("\n".join(failures.values()))


def _takes_all_cores(run: Run) -> bool:
    return isinstance(run, TeacherRun) and run.recipe.threads is None


def _make_teachers(teachers: Sequence[TeacherRun], store: Store, device: str) -> dict[str, str]:
    """One after the other, with all cores, in this process; returns {key: label and error} of those
    that failed.
    """
    failures = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(count_cores())
    try:
        for teacher in teachers:
            try:
                ensure_teacher(teacher, store, device)
            except Exception as error:  # recorded by then; what depends on it is not tried
                failures[teacher.key] = f"{teacher.label}: {type(error).__name__}: {error}"
    finally:
        torch.set_num_threads(threads)
    return failures


Unit = tuple[Run, ...]  # what one call makes: a run, or students trained together


def packs(runs: Sequence[Run], size: int) -> list[Unit]:
    """Runs in units of up to `size` students that are `alike`; everything else alone."""
    groups: list[list[Run]] = []
    for run in runs:
        for group in groups:
            if len(group) < size and alike(group[0], run):
                group.append(run)
                break
        else:
            groups.append([run])
    return [tuple(group) for group in groups]


def _execute(unit: Unit, store: Store, device: str) -> list[dict]:
    if len(unit) > 1:
        return execute_together(unit, store, device)
    if isinstance(unit[0], TeacherRun):
        ensure_teacher(unit[0], store, device)
    return [execute(unit[0], store, device)]


class _Pool:
    def __init__(
        self,
        store: Store,
        device: str,
        jobs: int,
        executor: Executor | None,
        keep: Callable[[Run], bool],
    ):
        self.store, self.device, self.most, self.executor, self.keep = (
            store,
            device,
            jobs,
            executor,
            keep,
        )
        self.started = time.perf_counter()

    def make(self, todo: Sequence[Unit], failures: dict[str, str]) -> None:
        self.jobs = min(self.most, max(1, len(todo)))
        if self.executor is None and self.jobs == 1:
            for done, unit in enumerate(todo, start=1):
                self._collect(
                    lambda unit=unit: _execute(unit, self.store, self.device),
                    unit,
                    failures,
                    done,
                    len(todo),
                )
            return
        for _ in range(ATTEMPTS):
            todo = self._pass(todo, failures)
            if not todo:
                return
            left = sum(map(len, todo))
            self.store.log(
                f"a worker process died; starting again with the {left} runs that are left"
            )
        for run in (run for unit in todo for run in unit):
            self.store.save(
                run, "failed", error=["the worker process died, perhaps for want of memory"]
            )
            failures[run.key] = f"{run.label}: the worker process died"

    def _pass(self, todo: Sequence[Unit], failures: dict[str, str]) -> list[Unit]:
        """Send all of `todo` to an executor; returns what was lost because a worker process
        died.
        """
        lost, others = [], set(multiprocessing.active_children())
        executor = self.executor or ProcessPoolExecutor(
            self.jobs,
            multiprocessing.get_context("spawn"),
            _start_worker,
            (max(1, count_cores() // self.jobs), os.getpid()),
        )
        try:
            futures = {
                executor.submit(_execute, unit, self.store, self.device): unit for unit in todo
            }
            for done, future in enumerate(as_completed(futures), start=1):
                if isinstance(future.exception(), BrokenExecutor):
                    lost.append(futures[future])
                else:
                    self._collect(future.result, futures[future], failures, done, len(todo))
            return lost
        except BaseException:  # Ctrl-C: leave at once; what runs now loses at most one epoch
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise
        finally:
            if self.executor is None:
                executor.shutdown(cancel_futures=True)

    def _collect(self, result, unit: Unit, failures: dict[str, str], done: int, total: int) -> None:
        try:
            records = result()
            left = (time.perf_counter() - self.started) / done * (total - done)
            for run, record in zip(unit, records, strict=True):
                if self.keep(run):
                    self.store.keep(run)
                self.store.log(
                    f"[{done}/{total}, about {left / 60:.0f} min left] {run.label}: "
                    f"{_headline(record)}"
                )
        except Exception as error:
            for run in unit:
                failures[run.key] = f"{run.label}: {type(error).__name__}: {error}"


def _headline(record: dict) -> str:
    accuracy = record["result"].get("accuracy")
    return f"{record['seconds']:.0f} s" + ("" if accuracy is None else f", {accuracy:.2f} %")


def _start_worker(threads: int, parent: int) -> None:
    """In each spawned process: its share of the cores, and an end when the parent is gone."""
    torch.set_num_threads(threads)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)  # the parent was killed: nobody will collect this result

    threading.Thread(target=watch, daemon=True).start()
