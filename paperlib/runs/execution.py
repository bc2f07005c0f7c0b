"""Making one run: configuration in, record out.

A run that is done is not made again. An interrupted run resumes from its last finished epoch. A run
that fails leaves a record with the last lines of its error, and is tried again the next time.
"""

import contextlib
import hashlib
import platform
import subprocess
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch

from ..basics.files import set_aside
from ..losses import objective
from ..study.config import Run, StudentRun, WalkRun
from ..study.store import Store
from ..training import fit_in_turn, fit_together
from . import kinds
from .kinds import load_network


def execute(run: Run, store: Store, device: str = "cpu") -> dict[str, Any]:
    """The record of a run: the stored one if it is done, else a new one. A missing teacher is
    trained first.

    Raises whatever the run raises, after a record with status "failed" was written.
    """
    if not store.whole(run):
        ensure_needs(run, store, device)
    with store.lock(run):
        return store.load(run) if store.whole(run) else _make(run, store, device)


def execute_together(
    runs: Sequence[StudentRun], store: Store, device: str = "cpu"
) -> list[dict[str, Any] | str]:
    """The records of students of one `likeness`, or of one `lesson`. Those not done are trained as
    one network, or in turn. One that fails in turn has its error, in words, in place of a record.

    Raises whatever the training of one network raises, after records with status "failed" were
    written.
    """
    ensure_needs(runs[0], store, device)
    errors: dict[str, str] = {}
    with contextlib.ExitStack() as locks:
        # One order everywhere, so that two packs cannot wait for each other.
        for run in sorted(runs, key=lambda run: run.key):
            locks.enter_context(store.lock(run))
        todo = [run for run in runs if not store.whole(run)]
        if todo and len({*map(lesson, runs)}) == 1:
            errors = _make_in_turn(todo, store, device)
        elif todo:
            _make_together(todo, store, device)
        return [errors.get(run.key) or store.load(run) for run in runs]


def likeness(run: Run) -> str:
    """Equal for students that `fit_together` can train as one network, another for each other
    run.
    """
    if type(run) is not StudentRun or "hessian" in run.method_options.values():
        return run.key
    if not objective(run.loss, **run.loss_options).packable:
        return run.key
    return replace(run, augmentation="none", seed=0).key


def lesson(run: Run) -> str:
    """Equal for students that `fit_in_turn` can train: they differ in quantizer, bits or loss."""
    if type(run) is not StudentRun:
        return run.key
    quantizer = {"weight_bits": 2, "activation_bits": 2, "method": "ewgs", "method_options": {}}
    return replace(run, **quantizer, loss="kd", loss_options={}).key


def ensure_needs(run: Run, store: Store, device: str) -> None:
    """Train the networks that a run needs, unless they are there."""
    for needed in run.needs:
        ensure_network(needed, store, device)


def ensure_network(run: kinds.Trained, store: Store, device: str) -> None:
    """Train a teacher or student unless its record and the weights of that record are there.

    Training again may give other weights, as on another kind of processor. What was made with the
    old ones is then no longer `Store.done`.
    """
    with store.lock(run):
        if _has_weights(run, store, device):
            return
    ensure_needs(run, store, device)
    with store.lock(run):
        if not _has_weights(run, store, device):
            _make(run, store, device)


def _has_weights(run: kinds.Trained, store: Store, device: str) -> bool:
    """Whether a network is done and its weights are there. Weights that cannot be read, or that are
    another run's, are set aside.
    """
    weights = store.weights(run)
    if not (store.whole(run) and weights.exists()):
        return False
    try:
        load_network(run, store, device)
        return True
    except Exception as error:  # whatever a damaged file makes torch raise
        store.log(f"weights of {run.name} set aside as {set_aside(weights).name}: {error}")
        return False


def _make(run: Run, store: Store, device: str) -> dict[str, Any]:
    """Compute a run and write its record. The caller holds its lock."""
    started, cpu_started = time.perf_counter(), time.process_time()
    first = store.begin(run)
    store.set_aside_damaged(run)
    with _failures([run], store, device), _threads(run):
        teacher = teacher_facts(run, store)
        result = resolve_name(run.compute)(run, store, device)
        seconds = {
            "seconds": time.perf_counter() - started,
            "cpu_seconds": time.process_time() - cpu_started,
        }
        record = _save(run, store, result, teacher, environment(device), seconds)
    store.clear(run.key, first)
    return record


def teacher_facts(run: Run, store: Store) -> dict[str, Any]:
    """What the record of a run says of its teacher, or of the network that it looks at, and of
    `others` that it needs: key, accuracy and hash of the weights.
    """
    found = [(needed.key, store.load(needed)["result"]) for needed in run.needs]
    names = ("accuracy", "weights_sha256")
    facts = [{"key": key} | {name: result[name] for name in names} for key, result in found]
    return dict(zip(("teacher",), facts, strict=False)) | (
        {"others": facts[1:]} if facts[1:] else {}
    )


def _save(
    run: Run,
    store: Store,
    result: dict[str, Any],
    teacher: dict[str, Any],
    where: dict[str, Any],
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Write the record of a success. A training curve has seconds of its own.

    Raises RuntimeError if the teacher was made again meanwhile, with other weights.
    """
    if teacher_facts(run, store) != teacher:
        raise RuntimeError("the teacher was trained again meanwhile, and has other weights now")
    if "curve" in result:
        seconds = kinds.curve_seconds(result["curve"])
    return store.save(run, "done", result=result, **teacher, **seconds, environment=where)


def _make_together(runs: Sequence[StudentRun], store: Store, device: str) -> None:
    """Train these students as one network and write their records. The caller holds their locks."""
    # The checkpoint belongs to this set of runs: another set starts anew.
    name = hashlib.sha256("".join(run.key for run in runs).encode()).hexdigest()[:16]
    checkpoint = store.checkpoint(name)
    reporters = [kinds.reporter(run, store, run.recipe.epochs) for run in runs]
    first = all([store.begin(run) for run in runs])
    for run in runs:
        store.set_aside_damaged(run)
    with _failures(runs, store, device), _threads(runs[0]):
        facts, teacher = teacher_facts(runs[0], store), load_network(runs[0].teacher, store, device)
        students, tasks = zip(
            *(kinds.start_student(run, teacher, device) for run in runs), strict=True
        )
        curves = fit_together(
            students,
            tasks,
            checkpoint,
            lambda number, row: reporters[number](row),
            kinds.identity(runs, store),
        )
        where = environment(device) | {"trained_together": len(runs)}
        for run, student, task, curve in zip(runs, students, tasks, curves, strict=True):
            _save(run, store, kinds.trained(run, student, task, curve, store), facts, where, {})
    for key in (name, *(run.key for run in runs)):
        store.clear(key, first)


def _make_in_turn(runs: Sequence[StudentRun], store: Store, device: str) -> dict[str, str]:
    """Train these students in turn and write their records; returns the errors of those that
    failed, by key. The caller holds their locks.
    """
    first = {run.key: store.begin(run) for run in runs}
    for run in runs:
        store.set_aside_damaged(run)
    errors: dict[str, str] = {}
    with _failures(runs, store, device), _threads(runs[0]):
        facts, teacher = teacher_facts(runs[0], store), load_network(runs[0].teacher, store, device)
        started = []
        for run in runs:
            with _failing_alone(run, store, device, errors):
                started.append((run, *kinds.start_student(run, teacher, device)))
        for each, curve in zip(started, _curves_in_turn(started, store), strict=True):
            with _failing_alone(each[0], store, device, errors):
                if isinstance(curve, Exception):
                    raise curve
                where = environment(device) | {"trained_in_turn": len(started)}
                _save(each[0], store, kinds.trained(*each, curve, store), facts, where, {})
                store.clear(each[0].key, first[each[0].key])
    return errors


def _curves_in_turn(started: Sequence[tuple], store: Store) -> list[list[dict] | Exception]:
    """The curves of (run, student, task) each, trained in turn from the checkpoints of each."""
    if not started:
        return []
    runs, students, tasks = zip(*started, strict=True)
    reporters = [kinds.reporter(run, store, run.recipe.epochs) for run in runs]
    return fit_in_turn(
        students,
        tasks,
        [store.checkpoint(run.key) for run in runs],
        lambda number, row: reporters[number](row),
        [kinds.identity([run], store) for run in runs],
    )


@contextlib.contextmanager
def _threads(run: Run) -> Iterator[None]:
    """Compute with as many threads as the recipe of a training run asks for, if it does."""
    before = torch.get_num_threads()
    recipe = getattr(run.teacher if isinstance(run, WalkRun) else run, "recipe", None)
    torch.set_num_threads((recipe and recipe.threads) or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _failures(runs: Sequence[Run], store: Store, device: str) -> Iterator[None]:
    """Write an error in this block to the records of these runs, and raise it."""
    try:
        yield
    except Exception as error:
        lines = "".join(traceback.format_exception(error)).splitlines()[-12:]
        for run in runs:
            try:
                store.save(run, "failed", error=lines, environment=environment(device))
            except OSError as another:  # a full disk: it must not hide the first error
                error.add_note(f"its record could not be written: {another}")
            store.log(f"failed: {run.name}: {type(error).__name__}: {error}")
        raise


@contextlib.contextmanager
def _failing_alone(run: Run, store: Store, device: str, errors: dict[str, str]) -> Iterator[None]:
    """Write an error in this block to the record of a run and, in words, to `errors`."""
    try:
        with _failures([run], store, device):
            yield
    except Exception as error:
        errors[run.key] = f"{type(error).__name__}: {error}"


def environment(device: str) -> dict[str, Any]:
    """Device, versions, threads and commit of a run, and when it finished."""
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else _cpu_name(),
        "device_type": torch.device(device).type,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@lru_cache(maxsize=1)
def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line for line in lines if line.startswith("model name"))
        return model.split(":", 1)[1].strip()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@lru_cache(maxsize=1)
def _commit() -> str:
    """The commit of the code, with "+" if the package was changed since. "unknown" outside a
    checkout.
    """
    folder = Path(__file__).parents[1]
    try:
        run = {"cwd": folder, "capture_output": True, "encoding": "utf-8", "check": True}
        commit = subprocess.run(["git", "rev-parse", "HEAD"], **run).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain", "--", "."], **run).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if changed else "")
