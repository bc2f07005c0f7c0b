"""Units of work over processes, any of which may die: each unit is answered for once.

A worker that dies takes its whole pool with it. What was running then is tried again, alone, until
the culprit shows itself; everything else goes on in a new pool.
"""

import multiprocessing
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import torch

Outcome = Callable[[], Any]  # gives what the work on a unit returned, or raises what it raised
SPAWN = multiprocessing.get_context("spawn")
DEATHS = 3  # of the worker that works on one unit, before the unit is given up

_marks: Any = None  # in a worker: a flag for each unit, set while it is worked on


class WorkerDied(RuntimeError):
    """Whoever worked on a unit died, each time it was tried: killed, as for want of memory."""


@dataclass(frozen=True)
class Pool:
    """Processes of this machine, or somebody's executor.

    jobs, threads  processes at a time, and threads of each. executor  something with the interface
    of `concurrent.futures` to use instead, in which a worker that dies takes only its own unit with
    it. say  is told when a worker died.
    """

    jobs: int
    threads: int
    executor: Executor | None = None
    say: Callable[[str], None] = print

    def work(
        self, function: Callable[[Any], Any], units: Sequence[Any], collect: Callable[..., None]
    ) -> None:
        """Call function(unit) for each unit, in any order, and collect(unit, outcome) after each.

        With one job and no executor in this process. Raises WorkerDied if workers die before they
        begin; what `collect` raises.
        """
        if self.executor is None and min(self.jobs, len(units)) <= 1:
            for unit in units:
                collect(unit, lambda unit=unit: function(unit))
            return
        left, deaths, idle_deaths = set(range(len(units))), Counter(), 0
        while left:
            suspects = sorted(left & set(deaths)) if self.executor is None else []
            batch = suspects[:1] or sorted(left)
            running = self._pass(function, units, batch, left, collect)
            deaths.update(running)
            lost = left.intersection(batch)
            idle_deaths += bool(lost and not running)
            if idle_deaths == DEATHS:
                raise WorkerDied(f"{DEATHS} times a worker process died before it began to work")
            for number in [number for number in running if deaths[number] == DEATHS]:
                left.remove(number)
                collect(units[number], _gave_up)
            if lost:
                self.say(f"a worker process died; {len(left)} units are left")

    def _pass(self, function, units, batch, left, collect) -> set[int]:
        """Send a batch to a pool, and collect what comes back; returns what was being worked on
        when a worker died.
        """
        before, marks, executor = set(multiprocessing.active_children()), None, self.executor
        if executor is None:
            marks = SPAWN.RawArray("b", len(units))
            executor = processes(min(self.jobs, len(batch)), self.threads, marks)
        futures = {}
        try:
            try:
                for number in batch:
                    futures[executor.submit(_marked, function, number, units[number])] = number
            except BrokenExecutor:
                pass  # what was not submitted is left
            for future in as_completed(futures):
                number = futures.pop(future)  # and with it the record: there may be thousands
                if not isinstance(future.exception(), BrokenExecutor):
                    left.remove(number)
                    collect(units[number], future.result)
        except BaseException:  # Ctrl-C: leave at once; what runs now loses at most one epoch
            for process in set(multiprocessing.active_children()) - before:
                process.terminate()
            raise
        finally:
            if self.executor is None:
                executor.shutdown(cancel_futures=True)
        lost = left.intersection(batch)
        known = lost if marks is None or len(batch) == 1 else {n for n in lost if marks[n]}
        return known


def processes(number: int, threads: int, marks: Any = None) -> ProcessPoolExecutor:
    """Spawned processes of so many threads, which end when this process does."""
    return ProcessPoolExecutor(number, SPAWN, _start, (threads, os.getpid(), marks))


def _gave_up() -> None:
    raise WorkerDied("the worker process died each time, perhaps for want of memory")


def _marked(function: Callable[[Any], Any], number: int, unit: Any) -> Any:
    if _marks is None:
        return function(unit)
    _marks[number] = 1
    try:
        return function(unit)
    finally:
        _marks[number] = 0


def _start(threads: int, parent: int, marks: Any) -> None:
    """In each spawned process: its share of the cores, and an end when the parent is gone."""
    global _marks
    _marks = marks
    torch.set_num_threads(threads)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)  # the parent was killed: nobody will collect this result

    threading.Thread(target=watch, daemon=True).start()
