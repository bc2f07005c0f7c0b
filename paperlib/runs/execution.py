"""Making one run: configuration in, record out.

A run that is done is never made again; one that was interrupted goes on from its last epoch; one
that fails leaves a record with the last lines of its error, and is tried again the next time.
"""

import contextlib
import hashlib
import json
import os
import platform
import subprocess
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch
import torch

from .. import data as datasets
from .. import scoring
from ..augment import augment, generator
from ..basics.files import write_atomically
from ..losses import objective
from ..models import build
from ..quantizers import quantize
from ..scoring.racing import rank_within
from ..study.config import (
    AblationRun,
    BudgetRun,
    Data,
    HeldOutRun,
    Run,
    ScoreRun,
    StudentRun,
    TeacherRun,
    TourRun,
    WalkRun,
)
from ..study.store import Store, weights_of
from ..training import Task, fit, fit_together, predictions

# schedules at least this long report the mean of their last five epochs, shorter ones the last
HEADLINE_EPOCHS = 100


@lru_cache(maxsize=4)
def load_data(data: Data, device: str) -> datasets.Dataset:
    """The data set of a run on a device; the last few are kept."""
    whole = datasets.load(data.name)
    part = datasets.choosing_images(whole) if data.split == "choosing" else whole
    return datasets.resized(datasets.subset(part, data.train, data.test, data.seed), data.size).to(
        device
    )


def load_teacher(run: TeacherRun, store: Store, device: str) -> torch.nn.Module:
    """A trained teacher, from the committed weights or the cache.

    Raises FileNotFoundError, naming the run, if its weights are not there; ValueError if they are
    not those of its record.
    """
    path = store.weights(run)
    if not path.exists():
        raise FileNotFoundError(
            f"no weights of the {run.label} ({run.key}) in {store.cache} or "
            f"{store.kept_weights(run).parent}"
        )
    model = build(run.model, len(load_data(run.data, device).classes), run.seed)
    model.load_state_dict(safetensors.torch.load_file(path))
    if _weights_hash(model) != weights_of(store.load(run) or {"kind": "student"}):
        raise ValueError(
            f"the weights in {path} are not those that the record {store.path(run)} speaks of"
        )
    return model.to(device).eval()


def execute(run: Run, store: Store, device: str = "cpu") -> dict[str, Any]:
    """The record of a run: the stored one if it is done, else made now, with its teacher if that is
    missing.

    Raises whatever the run raises, after a record with status "failed" was written.
    """
    for teacher in run.teachers:
        if not store.done(run):
            ensure_teacher(teacher, store, device)
    with store.lock(run):
        if store.done(run):
            return store.load(run)
        return _make(run, store, device)


def execute_together(
    runs: Sequence[StudentRun], store: Store, device: str = "cpu"
) -> list[dict[str, Any]]:
    """The records of students that `alike` holds for: those that are not done are trained as one
    network.

    Raises whatever the training raises, after records with status "failed" were written.
    """
    ensure_teacher(runs[0].teacher, store, device)
    with contextlib.ExitStack() as locks:
        for run in sorted(
            runs, key=lambda run: run.key
        ):  # one order everywhere, so that two packs cannot wait for each other
            locks.enter_context(store.lock(run))
        todo = [run for run in runs if not store.done(run)]
        if todo:
            _make_together(todo, store, device)
        return [store.load(run) for run in runs]


def alike(a: Run, b: Run) -> bool:
    """Whether two runs are students that `fit_together` can train as one network."""
    if (
        not (isinstance(a, StudentRun) and isinstance(b, StudentRun))
        or "hessian" in a.method_options.values()
    ):
        return False
    if not objective(a.loss, **a.loss_options).packable:
        return False
    return replace(a, augmentation=b.augmentation, seed=b.seed) == b


def ensure_teacher(run: TeacherRun, store: Store, device: str) -> None:
    """Train a teacher unless its record and the weights of that record are there. Weights never go
    into git.

    Weights that cannot be read, or are another run's, are set aside. If training again gives other
    weights, as on another kind of processor, what was made with the old ones is no longer
    `Store.done`.
    """
    with store.lock(run):
        if store.done(run) and store.weights(run).exists():
            try:
                load_teacher(run, store, device)
                return
            except Exception as error:  # whatever a damaged file makes torch raise
                aside = store.weights(run).with_suffix(".safetensors.rejected")
                store.weights(run).replace(aside)
                store.log(f"weights of {run.label} set aside as {aside.name}: {error}")
        _make(run, store, device)


def _make(run: Run, store: Store, device: str) -> dict[str, Any]:
    started, cpu_started = time.perf_counter(), time.process_time()
    with _failures([run], store, device), _threads(run):
        content = _MAKERS[type(run)](run, store, device)
        content["threads"] = torch.get_num_threads()
    seconds = content.pop("seconds", time.perf_counter() - started)
    cpu_seconds = content.pop("cpu_seconds", time.process_time() - cpu_started)
    where = environment(device) | {"threads": content.pop("threads")}
    record = store.save(
        run, "done", **content, seconds=seconds, cpu_seconds=cpu_seconds, environment=where
    )
    for leftover in (_checkpoint(run, store), _scored_so_far(run, store)):
        leftover.unlink(missing_ok=True)
    return record


@contextlib.contextmanager
def _threads(run: Run) -> Iterator[None]:
    """As many threads as the recipe of a training run asks for, if it does."""
    before = torch.get_num_threads()
    recipe = getattr(run, "recipe", None) or (
        run.teacher.recipe if isinstance(run, WalkRun) else None
    )
    torch.set_num_threads((recipe and recipe.threads) or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _make_together(runs: Sequence[StudentRun], store: Store, device: str) -> None:
    """Train these students as one network and write their records."""
    # The checkpoint belongs to this set of runs: another set starts anew.
    name = hashlib.sha256("".join(run.key for run in runs).encode()).hexdigest()[:16]
    checkpoint = store.cache / f"{name}.epoch.pt"
    reporters = [_reporter(run, store, run.recipe.epochs) for run in runs]
    with _failures(runs, store, device):
        teacher = load_teacher(runs[0].teacher, store, device)
        tasks, students = zip(*(_student(run, teacher, device) for run in runs), strict=True)
        curves = fit_together(
            students, tasks, checkpoint, lambda number, row: reporters[number](row)
        )
    facts = _teacher_facts(runs[0].teacher, store)
    for run, student, task, curve in zip(runs, students, tasks, curves, strict=True):
        where, result = (
            environment(device) | {"trained_together": len(runs)},
            _trained(run, student, task, curve, store),
        )
        store.save(run, "done", result=result, teacher=facts, **_seconds(curve), environment=where)
    checkpoint.unlink(missing_ok=True)


@contextlib.contextmanager
def _failures(runs: Sequence[Run], store: Store, device: str) -> Iterator[None]:
    """Record what goes wrong in this block as the failure of these runs."""
    try:
        yield
    except Exception as error:
        lines = "".join(traceback.format_exception(error)).splitlines()[-12:]
        for run in runs:
            store.save(run, "failed", error=lines, environment=environment(device))
            store.log(f"failed: {run.label}: {type(error).__name__}: {error}")
        raise


def _checkpoint(run: Run, store: Store) -> Path:
    return store.cache / f"{run.key}.epoch.pt"


def _scored_so_far(run: Run, store: Store) -> Path:
    """What a walk has scored before it was interrupted, JSON."""
    return store.cache / f"{run.key}.walk.json"


def environment(device: str) -> dict[str, Any]:
    """Where a run was made."""
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
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@lru_cache(maxsize=1)
def _commit() -> str:
    """The commit of the code, with "+" if the package was changed since; "unknown" outside a
    checkout.
    """
    folder = Path(__file__).parents[1]
    try:
        run = {"cwd": folder, "capture_output": True, "text": True, "check": True}
        commit = subprocess.run(["git", "rev-parse", "HEAD"], **run).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain", "--", "."], **run).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if changed else "")


# ------------------------------------------------------------------------------------ kinds of runs


def _curve_result(curve: list[dict]) -> dict[str, Any]:
    accuracies = [row["test_accuracy"] for row in curve if "test_accuracy" in row]
    last_five = sum(accuracies[-5:]) / len(accuracies[-5:])
    return {
        "accuracy": last_five if len(curve) >= HEADLINE_EPOCHS else accuracies[-1],
        "accuracy_last": accuracies[-1],
        "accuracy_last5": last_five,
        "accuracy_best_on_test": max(accuracies),
        "curve": curve,
    }


def _seconds(curve: list[dict]) -> dict[str, float]:
    """Of all epochs, also of those before an interruption and of a stage before the main one."""
    return {
        name: sum(row[name] + row.get(f"initial_{name}", 0.0) for row in curve)
        for name in ("seconds", "cpu_seconds")
    }


def _reporter(run: Run, store: Store, epochs: int) -> Callable[[dict], None]:
    def report(row: dict) -> None:
        if "initial_epoch" in row:
            store.log(
                f"{run.label}: initial epoch {row['initial_epoch'] + 1}, loss "
                f"{row['loss']:.3g}, {row['seconds']:.1f} s"
            )
        elif epochs <= 20 or (row["epoch"] + 1) % (epochs // 20) == 0 or row["epoch"] + 1 == epochs:
            reached = (
                f"{row['test_accuracy']:.2f} %"
                if "test_accuracy" in row
                else f"loss {row['loss']:.3g}"
            )
            store.log(
                f"{run.label}: epoch {row['epoch'] + 1}/{epochs}, {reached}, "
                f"{row['seconds']:.1f} s an epoch"
            )

    return report


def _teacher_facts(run: TeacherRun, store: Store) -> dict[str, Any]:
    record = store.load(run)
    return {
        "key": run.key,
        "accuracy": record["result"]["accuracy"],
        "weights_sha256": record["result"]["weights_sha256"],
    }


def _make_teacher(run: TeacherRun, store: Store, device: str) -> dict[str, Any]:
    data = load_data(run.data, device)
    model = build(run.model, len(data.classes), run.seed)
    task = Task(
        data, run.augmentation, objective("ce", smoothing=run.smoothing), run.recipe, run.seed
    )
    curve = fit(model, task, _checkpoint(run, store), _reporter(run, store, run.recipe.epochs))
    return {"result": _trained(run, model, task, curve, store), **_seconds(curve)}


def _trained(
    run: Run, model: torch.nn.Module, task: Task, curve: list[dict], store: Store
) -> dict[str, Any]:
    """The result of a training run, after its weights and its predictions on the test images were
    written.
    """
    write_atomically(store.weights(run), safetensors.torch.save(_tensors(model)))
    classes, confidence = predictions(model, task.data, precision=run.recipe.precision)
    written = store.save_predictions(run, classes.cpu().numpy(), confidence.cpu().numpy())
    return _curve_result(curve) | {
        "weights_sha256": _weights_hash(model),
        "predictions_sha256": written,
    }


def _weights_hash(model: torch.nn.Module) -> str:
    """Of the values, not of the file: torch.save does not promise the same bytes."""
    value = hashlib.sha256()
    for name, tensor in sorted(_tensors(model).items()):
        value.update(name.encode() + tensor.numpy().tobytes())
    return value.hexdigest()


def _tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """All state of a network as contiguous tensors on the CPU; whether a quantized layer is ready
    is a bool there.
    """
    return {
        name: torch.as_tensor(value).cpu().contiguous()
        for name, value in model.state_dict().items()
    }


def _make_score(run: ScoreRun, store: Store, device: str) -> dict[str, Any]:
    data, teacher = load_data(run.data, device), load_teacher(run.teacher, store, device)
    with warnings.catch_warnings(
        action="ignore", category=UserWarning
    ):  # what it warns of is in the tables
        table = scoring.rank(
            teacher,
            data,
            run.augmentations,
            seed=run.seed,
            batch=run.batch,
            stddev_group=run.stddev_group,
            replicates=run.replicates,
            precision=run.precision,
            progress=_progress(run, store),
        )
    return {"result": {"scores": _rows(table)}, "teacher": _teacher_facts(run.teacher, store)}


def _progress(run: Run, store: Store) -> Callable[[int, int, str], None]:
    return lambda done, total, name: store.log(f"{run.label}: {done}/{total} {name}")


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table as JSON: a dict a row, None for NaN."""
    return [{k: None if v != v else v for k, v in row.items()} for row in table.to_dict("records")]


def _make_ablation(run: AblationRun, store: Store, device: str) -> dict[str, Any]:
    data, teacher = load_data(run.data, device), load_teacher(run.teacher, store, device)
    table = scoring.ablate(
        teacher,
        data,
        run.augmentations,
        run.temperatures,
        run.counts,
        seed=run.seed,
        batch=run.batch,
        progress=_progress(run, store),
    )
    return {"result": {"rows": _rows(table)}, "teacher": _teacher_facts(run.teacher, store)}


def _make_budget(run: BudgetRun, store: Store, device: str) -> dict[str, Any]:
    data, teacher = load_data(run.data, device), load_teacher(run.teacher, store, device)
    table = rank_within(
        teacher,
        data,
        run.augmentations,
        budget=run.budget,
        top=run.top,
        confidence=run.confidence,
        seed=run.seed,
    )
    return {
        "result": {"scores": _rows(table), **table.attrs},
        "teacher": _teacher_facts(run.teacher, store),
    }


def _student(
    run: StudentRun, teacher: torch.nn.Module, device: str
) -> tuple[Task, torch.nn.Module]:
    """What a student is to learn, and the student as it starts."""
    data = load_data(run.data, device)
    student = quantize(
        teacher, run.method, run.weight_bits, run.activation_bits, **run.method_options
    )
    return Task(
        data,
        run.augmentation,
        objective(run.loss, **run.loss_options),
        run.recipe,
        run.seed,
        teacher,
    ), student


def _make_student(run: StudentRun, store: Store, device: str) -> dict[str, Any]:
    task, student = _student(run, load_teacher(run.teacher, store, device), device)
    curve = fit(student, task, _checkpoint(run, store), _reporter(run, store, run.recipe.epochs))
    result = _trained(run, student, task, curve, store)
    return {"result": result, "teacher": _teacher_facts(run.teacher, store), **_seconds(curve)}


def _make_held_out(run: HeldOutRun, store: Store, device: str) -> dict[str, Any]:
    data, held_out = load_data(run.data, device), load_data(run.held_out, device)
    teacher = load_teacher(run.teacher, store, device)
    plain = torch.cat(
        [
            scoring.logits_of(teacher, held_out, images)
            for images in held_out.train_images.split(run.batch)
        ]
    )
    temperature, rows = scoring.calibrating_temperature(plain, held_out.train_labels), []
    for done, name in enumerate(run.augmentations):
        _progress(run, store)(done, len(run.augmentations), name)
        logits, targets = scoring.predict(teacher, data, name, run.seed, run.batch)
        scores = {
            "calibrated": scoring.score(logits / temperature, targets),
            "held_out": scoring.score(
                *scoring.predict_views(teacher, held_out, name, run.views, run.seed, run.batch)
            ),
        }
        rows.append(
            {"augmentation": name}
            | {
                f"{way}_{column}": getattr(value, column)
                for way, value in scores.items()
                for column in ("score", "cmi", "divergence")
            }
        )
    result = {"temperature": temperature, "scores": rows}
    return {"result": result, "teacher": _teacher_facts(run.teacher, store)}


def _make_walk(run: WalkRun, store: Store, device: str) -> dict[str, Any]:
    """Train the teacher as its own run does, and score every candidate after some of its epochs."""
    trained_on, data = load_data(run.teacher.data, device), load_data(run.data, device)
    model = build(run.teacher.model, len(trained_on.classes), run.teacher.seed)
    objective_of_teacher = objective("ce", smoothing=run.teacher.smoothing)
    task = Task(
        trained_on,
        run.teacher.augmentation,
        objective_of_teacher,
        run.teacher.recipe,
        run.teacher.seed,
    )
    path = _scored_so_far(run, store)
    # what was scored before an interruption is lost: so must be the epochs that it was scored after
    if not path.exists():
        _checkpoint(run, store).unlink(missing_ok=True)
    steps = {step["epoch"]: step for step in json.loads(path.read_text())} if path.exists() else {}

    def look(epochs: int) -> None:
        if epochs in run.epochs:
            rows = []
            for name in run.augmentations:
                logits, targets = scoring.predict_views(
                    model, data, name, run.views, run.seed, run.batch, run.teacher.recipe.precision
                )
                rows.append(
                    {"augmentation": name, **scoring.evaluate(logits, targets, 1.0, 0, run.seed)}
                )
            steps[epochs] = {"epoch": epochs, "scores": rows}
            write_atomically(path, json.dumps(list(steps.values())))
            store.log(f"{run.label}: scored after epoch {epochs}")

    curve = fit(
        model, task, _checkpoint(run, store), _reporter(run, store, run.teacher.recipe.epochs), look
    )
    result = _curve_result(curve) | {
        "weights_sha256": _weights_hash(model),
        "steps": [steps[e] for e in run.epochs],
    }
    return {"result": result, **_seconds(curve)}


def _make_tour(run: TourRun, store: Store, device: str) -> dict[str, Any]:
    data, teacher = load_data(run.data, device), load_teacher(run.teacher, store, device)
    views = {}
    for name in run.augmentations:
        logits, targets = scoring.predict(teacher, data, name, run.seed, run.batch)
        centroids = scoring.class_centroids(logits.double().softmax(1), targets)
        image, label = tour_view(data, run, name)
        with torch.no_grad():
            prediction = teacher(data.normalise(image.unsqueeze(0))).double().softmax(1)[0]
        views[name] = {
            "prediction": prediction.tolist(),
            "target": label.tolist(),
            "centroids": centroids.tolist(),
        }
    return {"result": {"views": views}, "teacher": _teacher_facts(run.teacher, store)}


def tour_view(
    data: datasets.Dataset, run: TourRun, augmentation: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The tour's image under one augmentation, (3, H, W) uint8, and its soft label (C,).

    Its CutMix partner is the image before it in the data set. The image keeps its place and is not
    mirrored, so that the sixteen pictures can be compared.
    """
    pair = torch.tensor([run.image - 1, run.image], device=data.train_images.device)
    views, targets = augment(
        data.train_images[pair],
        data.train_labels[pair],
        augmentation,
        generator(run.seed, run.image),
        len(data.classes),
        mirror=False,
        padding=0,
    )
    if not targets.is_floating_point():
        targets = torch.nn.functional.one_hot(targets, len(data.classes)).float()
    return views[1], targets[1]


_MAKERS: dict[type[Run], Callable[..., dict[str, Any]]] = {
    TeacherRun: _make_teacher,
    ScoreRun: _make_score,
    BudgetRun: _make_budget,
    AblationRun: _make_ablation,
    StudentRun: _make_student,
    TourRun: _make_tour,
    HeldOutRun: _make_held_out,
    WalkRun: _make_walk,
}


def count_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
