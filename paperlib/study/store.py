"""One JSON record per run, written atomically, found again by its key. No torch here.

    results/<profile>/{runs,tables,figures,weights}      committed: what we measured
    build/<profile>/{runs,tables,figures,notebooks}      yours, made anew; ignored by git
    build/<profile>/{cache,cache-results}                weights and checkpoints of the two, ignored
    by git

Beside its record, a trained network's predictions on the test images lie as
runs/KEY.predictions.safetensors. Weights lie in the cache; those that other records depend on are
committed too (`Store.keep`).

A record is trusted only if its content matches its key and its digest. One that does not is set
aside under another name, with a warning, and the run is made again.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from filelock import FileLock

from ..basics.files import write_atomically
from .config import Run, canonical, key_of

SCHEMA = 1
TREES = ("build", "results")
# What was read and checked, by the file's time, size and number: a pass over a profile asks for a
# teacher's record once for each of its students. Nobody modifies a record.
_READ: dict[Path, tuple[tuple[int, int, int], dict[str, Any]]] = {}


@dataclass(frozen=True)
class Store:
    """The files of one profile in one of the two trees, below `root` (the repository)."""

    profile: str
    tree: str = "build"
    root: Path = Path()

    def __post_init__(self):
        if self.tree not in TREES:
            raise ValueError(f"unknown tree {self.tree!r}; known: {', '.join(TREES)}")

    @property
    def folder(self) -> Path:
        return self.root / self.tree / self.profile

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def tables(self) -> Path:
        return self.folder / "tables"

    @property
    def figures(self) -> Path:
        return self.folder / "figures"

    @property
    def notebooks(self) -> Path:
        return self.root / "build" / self.profile / "notebooks"

    @property
    def cache(self) -> Path:
        return (
            self.root
            / "build"
            / self.profile
            / ("cache" if self.tree == "build" else "cache-results")
        )

    @property
    def progress(self) -> Path:
        return self.root / "build" / self.profile / "progress.log"

    def path(self, run: Run) -> Path:
        return self.runs / f"{run.key}.json"

    def kept_weights(self, run: Run) -> Path:
        """Where weights lie that are committed with the records."""
        return self.folder / "weights" / f"{run.key}.safetensors"

    def weights(self, run: Run) -> Path:
        """Where a run's weights are, or will be: the committed ones if there are any, else in the
        cache.
        """
        kept = self.kept_weights(run)
        return kept if kept.exists() else self.cache / kept.name

    def keep(self, run: Run) -> None:
        """Copy a run's weights from the cache to those that are committed, in the tree that is."""
        weights = self.weights(run)
        if self.tree == "results" and weights.exists() and weights != self.kept_weights(run):
            write_atomically(self.kept_weights(run), weights.read_bytes())

    def predictions_path(self, run: Run) -> Path:
        return self.runs / f"{run.key}.predictions.safetensors"

    def save_predictions(self, run: Run, classes: np.ndarray, confidence: np.ndarray) -> str:
        """Write what a network says of the test images; returns the file's hash, for its record.

        classes  (N,) integers. confidence  (N,) probabilities of those; stored in 255ths.
        """
        of_classes = np.uint8 if classes.max(initial=0) < 256 else np.uint16
        arrays = {
            "classes": classes.astype(of_classes),
            "confidence": np.rint(255 * confidence).astype(np.uint8),
        }
        content = safetensors.numpy.save(arrays)
        write_atomically(self.predictions_path(run), content)
        return hashlib.sha256(content).hexdigest()

    def predictions(self, run: Run) -> tuple[np.ndarray, np.ndarray]:
        """Predicted class (N,) int64 and its probability (N,) float32, to 1/510, of the test images
        in the data set's order.

        Raises FileNotFoundError if the run is not done or left none; ValueError if the file is not
        the one that its record speaks of.
        """
        path, record = self.predictions_path(run), self.finished(run)
        wanted = record and record["result"].get("predictions_sha256")
        if wanted is None:
            raise FileNotFoundError(f"no predictions of the {run.label} ({run.key}) in {self.runs}")
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != wanted:
            raise ValueError(
                f"{path} does not hold the predictions that the record {self.path(run)} speaks of"
            )
        arrays = safetensors.numpy.load(content)
        return arrays["classes"].astype(np.int64), arrays["confidence"].astype(np.float32) / 255

    def load(self, run: Run) -> dict[str, Any] | None:
        """The record of a run, whatever its status; None if there is none, or none that can be
        trusted.
        """
        return self.read(self.path(run))

    def finished(self, run: Run) -> dict[str, Any] | None:
        """The record of a run if it is one of success, made with the teacher whose record lies
        beside it; else None.
        """
        record = self.load(run)
        if record is None or record["status"] != "done":
            return None
        teachers = [self.load(teacher) for teacher in run.teachers]
        same = all(
            t and t["status"] == "done" and weights_of(t) == weights_of(record) for t in teachers
        )
        return record if same else None

    def done(self, run: Run) -> bool:
        """Whether a run is `finished`."""
        return self.finished(run) is not None

    def read(self, path: Path) -> dict[str, Any] | None:
        """The record in a file, or None if the file is absent or was set aside just now."""
        try:
            facts = path.stat()
            stamp = facts.st_mtime_ns, facts.st_size, facts.st_ino
            if (known := _READ.get(path)) and known[0] == stamp:
                return known[1]
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        problem = fault(text, path.stem)
        if problem is None:
            _READ[path] = stamp, json.loads(text)
            return _READ[path][1]
        aside = path.with_name(f"{path.name}.rejected-{hashlib.sha256(text).hexdigest()[:8]}")
        os.replace(path, aside)
        warnings.warn(f"record {path} {problem}; set aside as {aside.name}", stacklevel=2)
        return None

    def all(self) -> list[dict[str, Any]]:
        """Every trusted record of the profile, in the order of their keys."""
        records = (self.read(path) for path in sorted(self.runs.glob("*.json")))
        return [record for record in records if record is not None]

    def save(self, run: Run, status: str, **content: Any) -> dict[str, Any]:
        """Write the record of a run, replacing an earlier one. `content` is JSON; see
        `paperlib.runs.execution`.
        """
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
    def lock(self, run: Run) -> Iterator[None]:
        """Hold while making a run, so that two processes never make the same one; released if the
        process dies.
        """
        path = self.cache / f"{run.key}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path):
            yield

    def log(self, message: str) -> None:
        """Append a line to the progress file: long work reports there, outside the notebook's
        outputs.
        """
        self.progress.parent.mkdir(parents=True, exist_ok=True)
        with open(self.progress, "a") as file:
            file.write(message + "\n")


def weights_of(record: dict[str, Any]) -> str | None:
    """The hash of the teacher's weights that a record speaks of: its own, or those it was made
    with.
    """
    facts = record["result"] if record["kind"] == "teacher" else record.get("teacher", {})
    return facts.get("weights_sha256")


def digest(record: dict[str, Any]) -> str:
    """Hash of a record's content, but for the field `digest` itself."""
    content = {name: value for name, value in record.items() if name != "digest"}
    return hashlib.sha256(canonical(content).encode()).hexdigest()[:16]


def fault(text: bytes, key: str) -> str | None:
    """What is wrong with a record found under `key`; None if nothing is."""
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
    except (ValueError, KeyError, TypeError) as error:
        return f"is not a record ({type(error).__name__}: {error})"
    return None
