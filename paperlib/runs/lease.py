"""What launcher and workers of a cluster agree on: versions, a folder, and that both are alive.

The launcher touches a file in the store's cache every few seconds, its lease. A unit is worked on
in a process of its own that watches the lease, and ends when it is gone or is no longer touched.
So nobody computes for long what nobody will collect, whatever died.
"""

import hashlib
import os
import pickle
import platform
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from ..basics.files import write_atomically

_watched: set[Path] = set()  # in a process of a worker: the leases that it watches


class Unfit(RuntimeError):
    """A worker that must not work for this launcher, and why."""


@dataclass(frozen=True)
class Lease:
    """What a worker needs to know of the launcher.

    path   the file that the launcher touches. versions  its `versions()`. data  its folder of data
           sets, and whether that is there. device  what a unit computes on.
    stale  after so many seconds without a touch the launcher counts as dead.
    """

    path: Path
    versions: dict[str, str]
    data: tuple[Path, bool]
    device: str
    stale: float

    def check(self) -> None:
        """On a worker: raise Unfit for other versions, or a device that is not there."""
        for what, here in versions().items():
            if here != (there := self.versions[what]):
                raise Unfit(f"on {platform.node()} has {what} {here}, the launcher has {there}")
        if self.device != "cpu" and not torch.cuda.is_available():
            raise Unfit(f"on {platform.node()} has no {self.device}")


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Python, torch and the source of the package, with what extends it, in this process."""
    packages = {"paperlib", *(e.module.split(".")[0] for e in entry_points(group="paperlib"))}
    source = hashlib.sha256()
    for package in sorted(packages):
        folder = Path(find_spec(package).submodule_search_locations[0])
        for path in sorted(folder.rglob("*.py")):
            source.update(f"{path.relative_to(folder)}".encode() + path.read_bytes())
    python = ".".join(platform.python_version_tuple()[:2])
    package = f"source {source.hexdigest()[:12]}"
    return {"Python": python, "torch": torch.__version__, "paperlib": package}


@contextmanager
def lock(lease: Lease) -> Iterator[bool]:
    """Hold the lock beside the lease. Yields False if somebody else holds it.

    Raises Unfit where files cannot be locked.
    """
    held = FileLock(f"{lease.path}.lock")
    try:
        with warnings.catch_warnings(action="error"):  # it warns of a lock that outlives its holder
            held.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError, Warning) as error:
        raise Unfit(f"cannot lock files in {lease.path.parent}: {error}") from None
    try:
        yield True
    finally:
        held.release()


def probe(lease: Lease, name: str) -> None:
    """On a worker, while the launcher holds the lock: read and replace its file `name` beside the
    lease. Raises Unfit for all that would go wrong with a unit.
    """
    lease.check()
    path = lease.path.with_name(name)
    try:
        path.read_bytes()
        write_atomically(path, name)
    except OSError as error:
        raise Unfit(f"does not share {path.parent} with the launcher: {error}") from None
    with lock(lease) as got:
        if got:
            raise Unfit(f"got the lock that the launcher holds: locks fail in {path.parent}")
    data, needed = lease.data
    if needed and not os.access(data, os.R_OK):
        raise Unfit(f"does not see {data}, which has the data sets")


def leased(lease: Lease, threads: int, work: bytes) -> Any:
    """In a process of its own on a worker: call a pickled (function, arguments) with so many
    threads, while the lease lasts. Raises Unfit, and what the function raises.
    """
    lease.check()
    torch.set_num_threads(threads)
    os.environ["PAPERLIB_DATA"] = str(lease.data[0])
    if lease.path not in _watched:
        _watched.add(lease.path)
        threading.Thread(target=_watch, args=(lease,), daemon=True).start()
    function, arguments = pickle.loads(work)
    return function(*arguments)


def _watch(lease: Lease) -> None:
    """End this process when the lease is over, also while it waits for more work."""
    seen, since = 0, time.monotonic()
    while True:
        try:
            with open(lease.path, "rb") as file:  # opening asks the file server, looking may not
                stamp = os.fstat(file.fileno()).st_mtime_ns
        except FileNotFoundError:
            os._exit(1)
        except OSError:
            stamp = seen
        if stamp != seen:
            seen, since = stamp, time.monotonic()
        elif time.monotonic() - since > lease.stale:
            os._exit(1)
        time.sleep(1)
