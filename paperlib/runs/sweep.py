"""Many independent runs through one executor interface (`concurrent.futures`).

Runs are made in this process, or in a local pool of spawned processes with threads = cores / jobs.
Several of these can share one GPU. The executor of a cluster (`executors.py`) has the same
interface and can be passed instead.
"""

import re
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import CancelledError, Executor
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from ..basics.machine import count_cores
from ..basics.recipe import require
from ..study import plan
from ..study.config import Run, StudentRun, TeacherRun
from ..study.store import Store
from . import executors
from .execution import ensure_network, environment, execute, execute_together, lesson, likeness
from .kinds import Trained
from .names import check_names
from .pool import Outcome, Pool, WorkerDied
from .progress import following

Unit = tuple[Run, ...]  # what one call makes: a run, or students trained together
IN_TURN = 4  # students in turn at most: more gain little, and share the memory of one process
UNITS = 4  # for each of several jobs, so that all of them end at about the same time


class SweepError(RuntimeError):
    """Some runs failed, the others are done. The text names each with its error."""


def missing(runs: Sequence[Run], store: Store) -> list[Run]:
    """Those of the runs that are not done, or whose predictions are lost."""
    return [run for run in runs if not store.whole(run)]


def sweep(
    runs: Sequence[Run],
    store: Store,
    device: str = "cpu",
    jobs: int = 0,
    together: int = 1,
    executor: Executor | None = None,
    keep: Collection[str] = (),
) -> None:
    """Make every run that is missing: first the teachers, then the rest, `jobs` at a time.

    Teachers whose recipe names no number of threads are trained one after the other with all cores
    of this machine; by an executor, at a time and with the threads of one of its workers.

    jobs      processes on this machine. 0 chooses one per core on the CPU and one in all on a GPU.
              1 works in this process.
    together  students of one set-up that are trained as one network, see
              `paperlib.training.packing`. For a GPU, which one small student does not fill. With 1,
              this machine's processors train some of one `lesson` in turn.
    executor  an executor with `concurrent.futures`' interface, instead of a local pool. The device
              is then one of its workers'.
    keep      keys of the runs whose weights are to be committed, see `Store.keep`.

    Progress goes to `store.progress`, a line an epoch. A failed run does not stop the others.
    Raises SweepError at the end if some failed. Raises ValueError for a negative number of jobs,
    fewer than one student together, a device that is not there, or a name that is not known.
    """
    _check(device, jobs, together, here=executor is None)
    for run in runs:
        check_names(run)
    if executor is not None:  # its workers have working folders of their own
        store = replace(store, root=store.root.absolute())
    todo = missing(runs, store)
    if not todo:
        return
    jobs = jobs or (1 if device.startswith("cuda") else count_cores())
    work, total = _Sweep(store, device, jobs, executor, keep), len(todo)
    how = f"{jobs} at a time" if executor is None else "by an executor"
    place = f"in {store.folder}, {how}, on {device}"
    store.log(f"{total} of {len(runs)} runs to make {place}")

    needed = _needed(todo, store)
    teachers = {run.key: run for run in (*needed, *todo) if isinstance(run, TeacherRun)}
    if executor is None:
        work.make_alone([t for t in teachers.values() if t.recipe.threads is None])
    first = [run for run in needed if isinstance(run, TeacherRun)]
    work.make([(t,) for t in first if not work.failed(t) and not _is_there(t, store)])
    students = [run for run in needed if isinstance(run, StudentRun)]
    work.make([(s,) for s in students if not work.failed(s) and not _is_there(s, store)])
    left = [run for run in missing(todo, store) if not work.failed(run)]
    if together > 1 or device != "cpu" or executor is not None:
        work.make(packs(left, together))
    else:
        fair = len(left) // (UNITS * jobs) if jobs > 1 else IN_TURN
        work.make(packs(left, min(max(1, fair), IN_TURN), lesson))

    for run in (*needed, *runs):
        if run.key in keep and store.done(run):
            store.keep(run)
    seconds = time.perf_counter() - work.started
    lacking = missing(todo, store)
    store.log(f"{total - len(lacking)} of {total} runs done, {seconds:.0f} s")
    for run in lacking:
        why = "what it needs failed" if work.failed(run) else "another process is making it"
        work.failures.setdefault(run.key, f"{run.name}: not tried, since {why}")
    if work.failures:
        raise SweepError("\n".join(work.failures.values()))


def sweep_table(
    store: Store,
    table: str,
    part: plan.Selection = plan.ALL,
    device: str = "cpu",
    jobs: int = 0,
    together: int = 1,
    executor: str = "",
) -> None:
    """Make every run that a table of the store's profile lacks, or a part of it, and print how it
    goes.

    executor  a text, see `executors`; "" for this machine. The rest is that of `sweep`.

    Raises ValueError if the table has nothing of this part; what `executors.executor` and `sweep`
    raise.
    """
    if problem := plan.lacks(store.profile, table, part):
        raise ValueError(problem)
    keep = plan.kept(store.profile)
    with executors.executor(executor, store, device, jobs) as found, following(store):
        for runs in plan.stages(store.profile, table, store, part):
            sweep(runs, store, device, jobs, together, found, keep)


def _check(device: str, jobs: int, together: int, here: bool) -> None:
    require(together >= 1, f"at least one student is trained at a time, got together={together}")
    require(jobs >= 0, f"jobs must be 0 (choose) or more, got {jobs}")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f"unknown device {device!r}; known: cpu, cuda, cuda:N")
    if here and device != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} was asked for, and torch sees no CUDA GPU here")


def _needed(runs: Iterable[Run], store: Store) -> list[Trained]:
    """The trained runs whose weights these need, each once. Where one is not there, also those that
    it needs, before it.
    """
    found: dict[str, Trained] = {}
    for needed in (each for run in runs for each in run.needs):
        if not _is_there(needed, store):
            found |= {each.key: each for each in _needed([needed], store)}
        found[needed.key] = needed
    return list(found.values())


def _is_there(run: Trained, store: Store) -> bool:
    return store.whole(run) and store.weights(run).exists()


def packs(runs: Sequence[Run], size: int, kind_of: Callable[[Run], str] = likeness) -> list[Unit]:
    """Runs in units of up to `size` students of one kind. All others are alone."""
    groups: list[list[Run]] = []
    open_groups: dict[str, list[Run]] = {}  # that one more of their kind fits into
    for run in runs:
        kind = kind_of(run)
        group = open_groups.get(kind)
        if group is None or len(group) == size:
            groups.append(group := [])
            open_groups[kind] = group
        group.append(run)
    return [tuple(group) for group in groups]


def _execute(unit: Unit, store: Store, device: str) -> list[dict | str]:
    if len(unit) > 1:
        return execute_together(unit, store, device)
    if isinstance(unit[0], Trained):
        ensure_network(unit[0], store, device)
    return [execute(unit[0], store, device)]


@dataclass
class _Sweep:
    """Makes units of runs. `failures` has the label and error of each run that failed, by key.
    `parted` has the runs of a unit whose workers died, to be made alone.
    """

    store: Store
    device: str
    jobs: int
    executor: Executor | None
    keep: Collection[str]
    failures: dict[str, str] = field(default_factory=dict)
    parted: list[Unit] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    def make_alone(self, teachers: Sequence[TeacherRun]) -> None:
        """Train teachers one after the other, with all cores, in this process."""
        threads = torch.get_num_threads()
        torch.set_num_threads(count_cores())
        try:
            for teacher in teachers:
                try:
                    ensure_network(teacher, self.store, self.device)
                except Exception as error:  # in its record; what depends on it is not tried
                    self._fail([teacher], f"{type(error).__name__}: {error}")
        finally:
            torch.set_num_threads(threads)

    def make(self, todo: Sequence[Unit]) -> None:
        """Make units in this process, or in processes that may die."""
        threads = max(1, count_cores() // max(1, min(self.jobs, len(todo))))
        done = 0

        def collect(unit: Unit, outcome: Outcome) -> None:
            nonlocal done
            done += 1
            self._collect(unit, outcome, done, len(todo))

        pool = Pool(self.jobs, threads, self.executor, self.store.log)
        pool.work(partial(_execute, store=self.store, device=self.device), todo, collect)
        if self.parted:  # one of them may kill its worker: it does so alone
            parted, self.parted = self.parted, []
            self.make(parted)

    def _collect(self, unit: Unit, outcome: Outcome, done: int, total: int) -> None:
        """Log the records of a unit, or its failure."""
        try:
            records = outcome()
            left = (time.perf_counter() - self.started) / done * (total - done) / 60
            for run, record in zip(unit, records, strict=True):
                if isinstance(record, str):
                    self._fail([run], record)
                    continue
                if run.key in self.keep:
                    self.store.keep(run)
                at = f"[{done}/{total}, about {left:.0f} min left]"
                self.store.log(f"{at} {run.name}: {_headline(record)}")
        except CancelledError:  # the executor gave up
            raise
        except WorkerDied as error:
            if len(unit) > 1:
                self.parted += [(run,) for run in unit]
                return
            for run in unit:
                if not self._leave_failure(run, str(error)):
                    self._fail([run], str(error))
        except Exception as error:
            self._fail(unit, f"{type(error).__name__}: {error}")

    def _leave_failure(self, run: Run, error: str) -> bool:
        """Record that a run failed with its worker. Returns True if it is done all the same, made
        by another sweep, or being made by one.
        """
        # A process whose Dask worker was killed holds the lock for a second more.
        with self.store.lock(run, wait=5) as held:
            if not held or self.store.whole(run):
                return True
            device = self.device if self.executor is None else "cpu"  # this machine's own
            self.store.save(run, "failed", error=[error], environment=environment(device))
        return False

    def failed(self, run: Run) -> bool:
        """Whether this run, or one whose weights it needs, failed."""
        if not self.failures:  # looking for what thousands of runs need takes seconds
            return False
        return any(each.key in self.failures for each in (run, *_needed([run], self.store)))

    def _fail(self, unit: Sequence[Run], error: str) -> None:
        for run in unit:
            self.failures[run.key] = f"{run.name}: {error}"


def _headline(record: dict) -> str:
    accuracy = record["result"].get("accuracy")
    return f"{record['seconds']:.0f} s" + ("" if accuracy is None else f", {accuracy:.2f} %")
