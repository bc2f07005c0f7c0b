"""One training loop, for a teacher, a student, or many students at once; resumable, it goes on
exactly as it would have.
"""

import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..basics.recipe import Recipe
from ..data import Dataset, halves
from ..models.precision import autocast
from ..quantizers import QuantizedLayer, fusing, initialise
from ..quantizers.ewgs import EwgsQuantizer, update_deltas
from .learners import InitialStage, Learners, Single, Task, Together, batches, rate_factor, steps_of

COMPILE_FROM = 500  # steps of a run from which on compiling, some seconds to a minute, pays
LAST_EPOCHS = 5  # always evaluated: the headline of long schedules is their mean
HESSIAN_EVERY = (
    10  # epochs between updates of EWGS's factors, as its authors do on CIFAR; never at epoch 0
)


@torch.no_grad()
def predictions(
    model: nn.Module, data: Dataset, batch: int = 500, precision: str = "float32"
) -> tuple[Tensor, Tensor]:
    """What a network says of the test images: predicted class (N,) int64, and its probability (N,)
    float32.

    batch  images of 32 x 32 pixels in a forward pass; of larger views correspondingly fewer. The
    model is left in the mode it was in.
    """
    training = model.training
    batch = max(1, batch * 32 * 32 // math.prod(data.view_shape))
    model.eval()
    found = []
    for images in data.test_images.split(batch):
        x = data.normalise(data.test_views(images)).contiguous(memory_format=torch.channels_last)
        with autocast(x.device, precision):
            logits = model(x)
        classes = logits.argmax(1, keepdim=True)
        found.append((classes[:, 0], logits.float().softmax(1).gather(1, classes)[:, 0]))
    model.train(training)
    return tuple(map(torch.cat, zip(*found, strict=True)))


def accuracy(
    model: nn.Module, data: Dataset, batch: int = 500, precision: str = "float32"
) -> float:
    """Top-1 accuracy on the test images, in percent; arguments as for `predictions`."""
    return _percent(predictions(model, data, batch, precision)[0] == data.test_labels)


def _percent(right: Tensor) -> float:
    return 100 * int(right.sum()) / len(right)


def evaluation(model: nn.Module, data: Dataset, precision: str) -> dict[str, Any]:
    """Accuracy in percent on the test images, and on their choosing and judging halves
    (`paperlib.data.halves`).
    """
    right = predictions(model, data, precision=precision)[0] == data.test_labels
    of_halves = (
        [_percent(right[half]) for half in halves(data.test_labels)] if len(right) > 1 else []
    )
    return {"test_accuracy": _percent(right), "test_accuracy_halves": of_halves}


def evaluated(recipe: Recipe, epoch: int) -> bool:
    """Whether the test images are looked at after this epoch (from 0).

    >>> [e for e in range(12) if evaluated(Recipe(12, 2, 0.1, 0.0, evaluate_every=5), e)]
    [4, 7, 8, 9, 10, 11]
    """
    return (epoch + 1) % recipe.evaluate_every == 0 or epoch >= recipe.epochs - LAST_EPOCHS


def _start(model: nn.Module, task: Task) -> None:
    """Quantizer parameters of a fresh student, from the first training batch."""
    if any(isinstance(module, QuantizedLayer) for module in model.modules()):
        x, _, _ = next(batches(task, 0))
        with autocast(x.device, task.recipe.precision):
            initialise(model, x)


@torch.no_grad()
def _check_classes(model: nn.Module, task: Task) -> None:
    """Raise ValueError unless model and teacher give as many logits as the data set has classes."""
    x, classes = task.data.normalise(task.data.test_images[:1]), len(task.data.classes)
    for name, network in (("network", model), ("teacher", task.teacher)):
        if network is not None:
            training = network.training
            found = network.eval()(x.contiguous(memory_format=torch.channels_last)).shape[1]
            network.train(training)
            if found != classes:
                raise ValueError(
                    f"the {name} has {found} classes, the data set {task.data.name!r} has {classes}"
                )


def _update_factors(model: nn.Module, task: Task, epoch: int) -> None:
    by_hessian = any(isinstance(m, EwgsQuantizer) and m.by_hessian for m in model.modules())
    if by_hessian and epoch and epoch % HESSIAN_EVERY == 0:
        three = [
            (x, targets) for (x, targets, _), _ in zip(batches(task, epoch), range(3), strict=False)
        ]
        update_deltas(model, three, nn.functional.cross_entropy, seed=task.seed)


def fit(
    model: nn.Module,
    task: Task,
    checkpoint: Path | None = None,
    report: Callable[[dict], None] = lambda row: None,
    inspect: Callable[[int], None] = lambda epochs: None,
) -> list[dict]:
    """Train `model` in place; returns the curve, one row an epoch.

    checkpoint  a file written after every epoch; if it is there, training goes on from it, and ends
                with the same weights as without the interruption. It is removed by the caller once
                the result is safe.
    report      called with each new row: epoch (from 0), lr (at its start), loss, seconds,
                cpu_seconds and, if the recipe has this epoch evaluated, test_accuracy and
                test_accuracy_halves (percent, see `evaluation`); the first one also has
                initial_seconds and initial_cpu_seconds, if the loss has a stage before the main
                one. That stage reports rows of its own: initial_epoch (from 0), loss, seconds,
                cpu_seconds.
    inspect     called with the number of finished epochs before each checkpoint is written, to look
                at `model` as it is then; after an interruption meanwhile it is called again. It
                must leave the network as it was.

    Raises FloatingPointError, naming the epoch, if the loss is no longer finite; ValueError if the
    objective needs a teacher and the task has none, or if a network has another number of classes
    than the data set.
    """

    def learner(compiled: bool) -> Learners:
        return Single(model, task, compiled)

    return _train(learner, [model], [task], checkpoint, lambda _, row: report(row), inspect)[0]


def fit_together(
    models: Sequence[nn.Module],
    tasks: Sequence[Task],
    checkpoint: Path | None = None,
    report: Callable[[int, dict], None] = lambda number, row: None,
) -> list[list[dict]]:
    """Train students of one architecture at once, in place; returns their curves.

    Each ends as if trained by `fit` alone but for rounding, of which training makes more, see
    docs/results.md. tasks differ in augmentation and seed only. checkpoint  one file for all.
    report  is called with the number of the student and its row; its seconds are the student's
    share.

    Raises what `fit` raises, and ValueError for tasks that differ in more, other architectures,
    delta="hessian", or a loss that learns or remembers something, or smooths labels.
    """
    if len(models) != len(tasks) or not models:
        raise ValueError(
            f"one task for each student, and at least one: got {len(models)} students, "
            f"{len(tasks)} tasks"
        )

    def learners(compiled: bool) -> Learners:
        return Together(models, tasks, compiled)

    return _train(learners, models, tasks, checkpoint, report)


def _train(
    learners_of: Callable[[bool], Learners],
    models: Sequence[nn.Module],
    tasks: Sequence[Task],
    checkpoint: Path | None,
    report: Callable[[int, dict], None],
    inspect: Callable[[int], None] = lambda epochs: None,
) -> list[list[dict]]:
    session = _Session(learners_of, models, tasks, checkpoint)
    while session.initial_left():
        report(0, session.initial_epoch())
    for epoch in range(len(session.curves[0]), tasks[0].recipe.epochs):
        for number, row in enumerate(session.epoch(epoch, inspect)):
            report(number, row)
    return session.curves


class _Session:
    """A training run under way: networks with their learners, curves, and the file they survive in.

    It starts where the checkpoint, if there is one, left it.
    """

    def __init__(
        self,
        learners_of: Callable[[bool], Learners],
        models: Sequence[nn.Module],
        tasks: Sequence[Task],
        checkpoint: Path | None,
    ):
        first = tasks[0]
        self.models, self.tasks, self.checkpoint = models, tasks, checkpoint
        state = _read_checkpoint(checkpoint, first.data.train_images.device)
        for model, task in zip(models, tasks, strict=True):
            _prepare(model, task)
        steps = first.recipe.epochs * len(first.data.train_images) // first.recipe.batch
        self.compiled = steps >= COMPILE_FROM
        self.learners = learners_of(self.compiled)
        self.curves: list[list[dict]] = [[] for _ in models]
        self.initial = {"epochs": 0, "seconds": 0.0, "cpu_seconds": 0.0}
        self.stage = InitialStage(self.learners) if first.objective.init_epochs else None
        if state is not None:
            self._resume(state)

    def _resume(self, state: dict) -> None:
        self.learners.load_state(state["learners"])
        self.curves, self.initial = state["curves"], state["initial"]
        steppers = self.learners.steppers if self.curves[0] else [self.stage.stepper]
        for optimiser, saved in zip(steppers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)

    def _save(self, optimisers: list[torch.optim.Optimizer]) -> None:
        if self.checkpoint is not None:
            content = {
                "learners": self.learners.state(),
                "optimisers": [optimiser.state_dict() for optimiser in optimisers],
                "curves": self.curves,
                "initial": self.initial,
            }
            save_tensors(self.checkpoint, content)

    def initial_left(self) -> bool:
        """Whether the stage before the main one has epochs to go."""
        return not self.curves[0] and self.initial["epochs"] < self.tasks[0].objective.init_epochs

    def initial_epoch(self) -> dict:
        """One epoch of the stage before the main one; returns its row."""
        clock, done = _Clock(), self.initial["epochs"]
        (loss,) = _finite([self.stage.epoch(done)], f"initial epoch {done}")
        row = {"initial_epoch": done, "loss": loss, **clock.spent()}
        self.initial = {"epochs": done + 1} | {
            name: self.initial[name] + row[name] for name in ("seconds", "cpu_seconds")
        }
        self._save([self.stage.stepper])
        return row

    def epoch(self, epoch: int, inspect: Callable[[int], None]) -> list[dict]:
        """One epoch of the main stage; returns the row of each network."""
        clock, first = _Clock(), self.tasks[0]
        _update_factors(self.models[0], first, epoch)
        with fusing(self.compiled):
            losses = _finite(self.learners.epoch(epoch), f"epoch {epoch}")
        measured = self._measured(epoch)
        spent = clock.spent(len(self.models))
        if self.stage is not None and epoch == 0:
            spent |= {f"initial_{name}": self.initial[name] for name in ("seconds", "cpu_seconds")}
        lr = first.recipe.lr * rate_factor(first.recipe, epoch, 0, steps_of(first))
        for curve, loss, values in zip(self.curves, losses, measured, strict=True):
            curve.append({"epoch": epoch, "lr": lr, "loss": loss, **values, **spent})
        inspect(epoch + 1)
        self._save(self.learners.steppers)
        return [curve[-1] for curve in self.curves]

    def _measured(self, epoch: int) -> list[dict[str, Any]]:
        recipe = self.tasks[0].recipe
        if not evaluated(recipe, epoch):
            return [{} for _ in self.tasks]
        networks = zip(self.learners.networks(), self.tasks, strict=True)
        return [evaluation(model, task.data, recipe.precision) for model, task in networks]


def _prepare(model: nn.Module, task: Task) -> None:
    """Put network and teacher where the data are, and start the quantizers of a fresh student."""
    device = task.data.train_images.device
    if task.objective.needs_teacher and task.teacher is None:
        raise ValueError("this loss compares with a teacher, and the task has none")
    model.to(device=device, memory_format=torch.channels_last)
    if task.teacher is not None:
        task.teacher.to(device=device, memory_format=torch.channels_last).eval()
    _start(model, task)
    _check_classes(model, task)


class _Clock:
    """Seconds since it was made."""

    def __init__(self):
        self.started, self.cpu_started = time.perf_counter(), time.process_time()

    def spent(self, shares: int = 1) -> dict[str, float]:
        seconds, cpu_seconds = (
            time.perf_counter() - self.started,
            time.process_time() - self.cpu_started,
        )
        return {"seconds": seconds / shares, "cpu_seconds": cpu_seconds / shares}


def _finite(losses: list[float], where: str) -> list[float]:
    for loss in losses:
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} in {where}")
    return losses


def save_tensors(path: Path, content: dict) -> None:
    """torch.save, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_tensors(path: Path, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """torch.load without unpickling anything but tensors and plain values."""
    return torch.load(path, map_location=device, weights_only=True)


def _read_checkpoint(path: Path | None, device: torch.device) -> dict | None:
    if path is None or not path.exists():
        return None
    try:
        state = load_tensors(path, device)
        return {name: state[name] for name in ("learners", "optimisers", "curves", "initial")}
    except Exception as error:  # whatever a damaged file makes torch raise: the run starts over
        aside = path.with_name(path.name + ".rejected")
        path.replace(aside)
        warnings.warn(
            f"checkpoint {path} cannot be read ({type(error).__name__}); set aside as {aside.name}",
            stacklevel=2,
        )
        return None
