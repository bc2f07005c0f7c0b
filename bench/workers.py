"""Spawned processes that start together and are waited for together, and how much memory they take
at most.
"""

import multiprocessing
import resource
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

START = 120.0  # seconds a process may take to import torch and to prepare


@dataclass(frozen=True)
class Answer:
    """What a worker returned, and the most memory it has held so far beyond what its imports
    take.
    """

    value: Any
    host_bytes: int
    device_bytes: int


class WorkerError(RuntimeError):
    """A spawned process failed or died; the text holds its traceback."""


def _memory(field: str) -> int:
    """Bytes: "VmRSS" (now) or "VmHWM" (at most).

    Not `getrusage`, where Linux tells it otherwise: there a spawned process inherits its parent's
    maximum.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith(field + ":")))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _forget_peak() -> None:
    """Let "VmHWM" begin anew: imports take more for a moment than they keep. Linux only; elsewhere
    the peak stays.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        pass


def _serve(connection, factory: Callable[..., Callable], arguments: tuple, threads: int) -> None:
    """In the spawned process: prepare, then run once for every command until the pipe is closed."""
    torch.set_num_threads(threads)
    _forget_peak()
    imported = _memory("VmRSS")
    try:
        run = factory(*arguments)
        connection.send(Answer(None, 0, 0))
        while True:
            command = connection.recv()
            value = run(**command)
            on_device = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
            connection.send(Answer(value, max(0, _memory("VmHWM") - imported), on_device))
    except EOFError:  # the parent is gone
        pass
    except Exception:
        connection.send(traceback.format_exc())


class Group:
    """`count` processes that each hold `factory(*arguments)`; calling the group calls that in all
    of them at once.

    factory, arguments  of module level and picklable; the processes are spawned, since CUDA forbids
                        to fork.
    threads             of each process.

    Nothing but the function itself runs between the call and its return: imports and preparation
    are over before. Raises WorkerError if a process fails.
    """

    def __init__(
        self, count: int, factory: Callable[..., Callable], arguments: tuple = (), threads: int = 1
    ):
        if count < 1:
            raise ValueError(f"a group needs at least 1 process, got {count}")
        context = multiprocessing.get_context("spawn")
        self.processes, self.connections = [], []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, factory, arguments, threads))
            process.start()
            theirs.close()  # so that its death ends our waiting
            self.processes.append(process)
            self.connections.append(ours)
        for connection in self.connections:
            if not connection.poll(START):
                self.close()
                raise WorkerError(f"a process was not ready within {START:.0f} s")
            self._receive(connection)

    def __call__(self, active: int | None = None, **command: Any) -> list[Answer]:
        """Run in the first `active` processes (all), with the same keyword arguments; their
        answers, once all are done.
        """
        chosen = self.connections[:active]
        for connection in chosen:
            connection.send(command)
        return [self._receive(connection) for connection in chosen]

    def _receive(self, connection) -> Answer:
        try:
            answer = connection.recv()
        except EOFError:
            answer = "a process of the benchmark died, perhaps for want of memory"
        if isinstance(answer, str):
            self.close()
            raise WorkerError(answer)
        return answer

    def close(self) -> None:
        """End the processes: by their pipes, so that they can end workers of their own, and by
        force if that fails.
        """
        for connection in self.connections:
            connection.close()
        for process in self.processes:
            process.join(10)
            if process.is_alive():
                process.terminate()
                process.join()

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def alone(factory: Callable[..., Callable], arguments: tuple, threads: int) -> Answer:
    """One call in a fresh process of its own: its value and its peak of memory."""
    with Group(1, factory, arguments, threads) as group:
        return group()[0]
