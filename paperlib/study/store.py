"""One JSON record per run, written atomically, found again by its key. No torch here.

    results/<profile>/{runs,tables,figures,weights}   committed: what we measured
    build/<profile>/{runs,tables,figures,notebooks}   yours, made anew; ignored by git
    build/<profile>/{cache,cache-results}             weights, checkpoints; ignored by git

The predictions of a trained network on the test images are beside its record, as
runs/KEY.predictions.safetensors. Weights are in the cache. Those that other records depend on are
committed too (`Store.keep`).

A record is trusted only if its content matches its key and its digest. Of any other a reader warns;
only the maker of its run sets it aside under another name, and makes the run again. A finished
record is replaced by a finished one only.
"""

import hashlib
import json
import math
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from filelock import FileLock, Timeout

from ..basics.files import set_aside, write_atomically
from ..basics.recipe import require_known
from .config import Run, canonical, key_of

SCHEMA = 1
LONG = 50  # epochs of a curve from which on it is not kept in memory
# What was read and checked, with the file's time, size and number: a record, or what is wrong. A
# pass over a profile asks for a teacher's record once for each of its students. Nobody modifies a
# record.
_READ: dict[Path, tuple[tuple[int, int, int], dict[str, Any] | str]] = {}


@dataclass(frozen=True)
class Store:
    """The files of one profile in one of the two trees, below `root` (the repository).

    Raises ValueError for another tree, or a profile that is not a plain name.
    """

    profile: str
    tree: str = "build"
    root: Path = Path()

    def __post_init__(self):
        require_known("tree", self.tree, ("build", "results"))
        if not re.fullmatch(r"[\w-]+", self.profile):
            raise ValueError(
                f"the name of a profile has letters, digits, - and _: {self.profile!r}"
            )

    @cached_property
    def folder(self) -> Path:
        return self.root / self.tree / self.profile

    @cached_property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def tables(self) -> Path:
        return self.folder / "tables"

    @property
    def figures(self) -> Path:
        return self.folder / "figures"

    @property
    def ignored(self) -> Path:
        """The folder that git ignores, also of the committed tree."""
        return self.root / "build" / self.profile

    @property
    def notebooks(self) -> Path:
        return self.ignored / "notebooks"

    @property
    def cache(self) -> Path:
        return self.ignored / ("cache" if self.tree == "build" else "cache-results")

    @property
    def progress(self) -> Path:
        return self.ignored / "progress.log"

    def path(self, run: Run) -> Path:
        return self.runs / f"{run.key}.json"

    def kept_weights(self, run: Run) -> Path:
        """The path of weights that are committed with the records."""
        return self.folder / "weights" / f"{run.key}.safetensors"

    def weights(self, run: Run) -> Path:
        """The path of a run's weights: the committed ones if they are there, else the cached."""
        kept = self.kept_weights(run)
        return kept if kept.exists() else self.cache / kept.name

    def keep(self, run: Run) -> None:
        """Copy a run's weights from the cache to the committed ones; only in the tree "results".

        Raises ValueError if they are not those of its record.
        """
        weights = self.weights(run)
        if self.tree == "results" and weights.exists() and weights != self.kept_weights(run):
            content = weights.read_bytes()
            if weights_hash(content) != self.load(run)["result"]["weights_sha256"]:
                raise ValueError(f"the weights in {weights} are not those that the record names")
            write_atomically(self.kept_weights(run), content)

    def checkpoint(self, key: str) -> Path:
        """The path of a training's state after its last finished epoch. key  a run's, or a name."""
        return self.cache / f"{key}.epoch.pt"

    def begin(self, run: Run) -> bool:
        """Whether nobody began to make this run and was killed. The caller holds the run's lock."""
        try:
            (self.cache / f"{run.key}.begun").touch(exist_ok=False)
            return True
        except FileExistsError:
            return False

    def clear(self, key: str, first: bool) -> None:
        """Remove what a finished run needs no more: its checkpoint, and temporary files of killed
        processes. The caller holds the run's lock, so nobody writes them now.

        first  what `begin` said. Then there are no such files to look for among thousands.
        """
        self.checkpoint(key).unlink(missing_ok=True)
        for folder in () if first else (self.cache, self.runs):
            for path in folder.glob(f".{key}.*.tmp"):
                path.unlink(missing_ok=True)
        (self.cache / f"{key}.begun").unlink(missing_ok=True)

    def predictions_path(self, run: Run) -> Path:
        return self.runs / f"{run.key}.predictions.safetensors"

    def save_predictions(self, run: Run, classes: np.ndarray, confidence: np.ndarray) -> str:
        """Write a network's predictions on the test images. Returns the file's hash for the record.

        classes  (N,) integers. confidence  (N,) probabilities of those, stored in 255ths.
        """
        small = np.uint8 if classes.max(initial=0) < 256 else np.uint16
        shades = np.rint(255 * confidence).astype(np.uint8)
        content = safetensors.numpy.save({"classes": classes.astype(small), "confidence": shades})
        write_atomically(self.predictions_path(run), content)
        return hashlib.sha256(content).hexdigest()

    def predictions(self, run: Run) -> tuple[np.ndarray, np.ndarray]:
        """Predicted class (N,) int64 and its probability (N,) float32, to 1/510, of each test image
        in the data set's order.

        Raises FileNotFoundError if the run is not done or has no predictions, ValueError if the
        file is not the one that its record names.
        """
        record = self.finished(run)
        if record is None or "predictions_sha256" not in record["result"]:
            raise FileNotFoundError(f"no predictions of the {run.label} ({run.key}) in {self.runs}")
        if problem := self.predictions_fault(record):
            raise ValueError(problem)
        arrays = safetensors.numpy.load(self.predictions_path(run).read_bytes())
        return arrays["classes"].astype(np.int64), arrays["confidence"].astype(np.float32) / 255

    def predictions_fault(self, record: dict[str, Any]) -> str:
        """What is wrong with the predictions that a record names; "" if nothing is, or it names
        none.
        """
        path = self.runs / f"{record['key']}.predictions.safetensors"
        wanted = record.get("result", {}).get("predictions_sha256")
        try:
            same = wanted in (None, hashlib.sha256(path.read_bytes()).hexdigest() if wanted else "")
            return "" if same else f"{path} has not the predictions that its record names"
        except OSError as error:
            return f"{path} cannot be read ({error.strerror})"

    def load(self, run: Run) -> dict[str, Any] | None:
        """The record of a run, whatever its status. None if no record can be trusted."""
        return self.read(self.path(run))

    def finished(self, run: Run) -> dict[str, Any] | None:
        """The record of a run with status "done", made with the weights of those records in the
        store which it needs, else None.
        """
        record = self.load(run)
        if record is None or record["status"] != "done":
            return None
        needed = [
            each and each["result"].get("weights_sha256") for each in map(self.finished, run.needs)
        ]
        return record if None not in needed and needed == needed_weights(record) else None

    def done(self, run: Run) -> bool:
        """Whether a run is `finished`."""
        return self.finished(run) is not None

    def whole(self, run: Run) -> bool:
        """Whether a run is `finished` and the predictions that its record names are there."""
        record = self.finished(run)
        return record is not None and not self.predictions_fault(record)

    def read(self, path: Path) -> dict[str, Any] | None:
        """The record in a file. None if there is no file, or, with a warning, no record in it."""
        found = _look(path)
        if isinstance(found, str):
            warnings.warn(f"record {path} {found}; it counts as missing", stacklevel=2)
            return None
        return found

    def faults(self) -> list[str]:
        """Every file among the records that is damaged, with what is wrong with it."""
        found = []
        for path in sorted(self.runs.glob("*.json")):
            record = _look(path)
            if isinstance(record, str):
                found.append(f"record {path} {record}")
            elif record and (problem := self.predictions_fault(record)):
                found.append(problem)
        return found

    def set_aside_damaged(self, run: Run) -> None:
        """Rename what lies in place of a run's record or predictions and is damaged. For the maker
        of the run, who holds its lock.
        """
        record = _look(self.path(run))
        if isinstance(record, str):
            self.log(f"record {self.path(run)} {record}: {set_aside(self.path(run)).name}")
        elif record and (problem := self.predictions_fault(record)):
            path = self.predictions_path(run)
            aside = f": {set_aside(path).name}" if path.exists() else ""
            self.log(f"{problem}{aside}")

    def all(self) -> list[dict[str, Any]]:
        """Every trusted record of the profile, in the order of their keys."""
        records = (self.read(path) for path in sorted(self.runs.glob("*.json")))
        return [record for record in records if record is not None]

    def save(self, run: Run, status: str, **content: Any) -> dict[str, Any]:
        """Write the record of a run, and return it. The caller holds the run's lock.

        A failure leaves a finished record as it is, and returns that.

        status  "done" or "failed". content  JSON, see `paperlib.runs.execution`. Raises ValueError,
        naming the place, for a number that is not finite.
        """
        known = self.load(run) if status == "failed" else None
        if known and known["status"] == "done":
            return known
        _require_finite(content, "")
        record = {
            "schema": SCHEMA,
            "key": run.key,
            "kind": run.kind,
            "profile": self.profile,
            "status": status,
            "config": json.loads(canonical(asdict(run))),
            **content,
        }
        record["digest"] = digest(record)
        write_atomically(self.path(run), json.dumps(record, indent=1, allow_nan=False) + "\n")
        return record

    @contextmanager
    def lock(self, run: Run, wait: float = -1) -> Iterator[bool]:
        """Hold this while making a run: two processes then never make the same one. The lock is
        released if the process dies.

        wait  seconds to wait for another holder; -1: for ever. Yields whether the lock is held.
        """
        path = self.cache / f"{run.key}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=wait)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def log(self, message: str) -> None:
        """Append a line to the progress file, which is no output of a notebook. Where that cannot
        be, the line goes to stderr: no run fails for want of its progress.
        """
        try:
            self.progress.parent.mkdir(parents=True, exist_ok=True)
            with open(self.progress, "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(message + "\n")
        except OSError:
            print(message, file=sys.stderr)


def read_ahead(stores: Iterable[Store], processes: Executor) -> None:
    """Let processes read and check all records of some stores, which are then known here."""
    paths = [path for store in stores for path in store.runs.glob("*.json")]
    portions = [paths[place : place + 100] for place in range(0, len(paths), 100)]
    for found in processes.map(_looks, portions):
        _READ.update(found)


def _looks(paths: list[Path]) -> dict[Path, Any]:
    for path in paths:
        _look(path)
    return {path: _READ.pop(path) for path in paths if path in _READ}


class Snapshot(Store):
    """A store as it was when its records were first asked for. Each is then found in memory: a
    table asks for a teacher's once for each of its students. Pickled, it is a plain store.
    """

    @cached_property
    def _records(self) -> dict[str, dict[str, Any]]:
        return {record["key"]: record for record in super().all()}

    @cached_property
    def _finished(self) -> dict[str, dict[str, Any] | None]:
        return {}

    def load(self, run: Run) -> dict[str, Any] | None:
        return self._records.get(run.key)

    def all(self) -> list[dict[str, Any]]:
        return list(self._records.values())

    def finished(self, run: Run) -> dict[str, Any] | None:
        if run.key not in self._finished:
            self._finished[run.key] = super().finished(run)
        return self._finished[run.key]

    def __reduce__(self) -> Any:
        return Store, (self.profile, self.tree, self.root)


def _look(path: Path) -> dict[str, Any] | str | None:
    """The record in a file, or what is wrong with it; None if there is no file."""
    try:
        facts = path.stat()
        stamp = facts.st_mtime_ns, facts.st_size, facts.st_ino
        if (known := _READ.get(path)) and known[0] == stamp:
            return known[1]
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    record = record_in(text, path.stem)
    if isinstance(record, dict):
        result = record.get("result") or {}
        if len(curve := result.get("curve", ())) > LONG:
            result["curve"] = Curve(path, record["digest"], len(curve))
    _READ[path] = stamp, record
    return record


@dataclass(frozen=True)
class Curve(Sequence):
    """The rows of a long training curve, in the file of its record: as objects, those of thousands
    of records take gigabytes, and few are looked at.

    digest  of the record. Raises ValueError when its rows are looked at, if the file has another.
    """

    path: Path
    digest: str
    epochs: int

    def __len__(self) -> int:
        return self.epochs

    def __getitem__(self, place: Any) -> Any:
        return _rows(self.path, self.digest)[place]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(_rows(self.path, self.digest))


@lru_cache(maxsize=4)
def _rows(path: Path, wanted: str) -> list[dict[str, Any]]:
    record = record_in(path.read_bytes(), path.stem)
    if isinstance(record, str) or record["digest"] != wanted:
        raise ValueError(f"record {path} is no longer the one that was read")
    return record["result"]["curve"]


def _require_finite(content: Any, place: str) -> None:
    """Raise ValueError if a number in some JSON is not finite."""
    if isinstance(content, float) and not math.isfinite(content):
        raise ValueError(f"{content} in {place.lstrip('.')}")
    if isinstance(content, dict | list | tuple):
        parts = content.items() if isinstance(content, dict) else enumerate(content)
        for name, value in parts:
            _require_finite(value, f"{place}.{name}")


def weights_hash(content: bytes) -> str:
    """Hash of the values in a safetensors file, by name. The same values may lie in other files."""
    value = hashlib.sha256()
    for name, array in sorted(safetensors.numpy.load(content).items()):
        value.update(name.encode() + array.tobytes())
    return value.hexdigest()


def needed_weights(record: dict[str, Any]) -> list[str]:
    """Hashes of the weights with which a run was made, in the order of its `needs`: the first is
    that of the teacher, or of the network that it looks at.
    """
    parts = record.get("teacher"), *record.get("others", ())
    return [part["weights_sha256"] for part in parts if part]


def digest(record: dict[str, Any]) -> str:
    """Hash of a record's content without the field `digest`."""
    content = {name: value for name, value in record.items() if name != "digest"}
    return hashlib.sha256(canonical(content).encode()).hexdigest()[:16]


def record_in(text: bytes, key: str) -> dict[str, Any] | str:
    """The record in a text found under `key`, or what is wrong with it."""
    try:
        record = json.loads(text)
        if record["schema"] != SCHEMA:
            return f"has schema {record['schema']!r}, not {SCHEMA}"
        if record["key"] != key or key_of(record["kind"], record["config"]) != key:
            return "has a configuration that does not match its key"
        if record["digest"] != digest(record):
            return "has a content that does not match its digest"
        if record["status"] not in ("done", "failed"):
            return f"has the unknown status {record['status']!r}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"is not a record ({type(error).__name__}: {error})"
    return record
