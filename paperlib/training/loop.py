"""One training loop for a teacher, a student, or many students at once. You can interrupt it: it
resumes from the last finished epoch, with the same result.
"""

import io
import math
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..basics.checks import require
from ..basics.files import write_atomically
from ..basics.recipe import Recipe
from ..data import Dataset, halves
from ..models import in_mode
from ..models.precision import autocast
from ..quantizers import QuantizedLayer, fusing, initialise
from ..quantizers.ewgs import by_hessian, update_deltas
from .learners import InitialStage, Learners, Single, Task, Together, batches, rate_factor, steps_of

COMPILE_FROM = 500  # steps of a run from which on compiling, some seconds to a minute, pays
LAST_EPOCHS = 5  # always evaluated: the headline of long schedules is their mean
# Epochs between updates of EWGS's factors, as its authors do on CIFAR; never at epoch 0.
HESSIAN_EVERY = 10


@torch.no_grad()
def predictions(
    model: nn.Module, data: Dataset, batch: int = 500, precision: str = "float32"
) -> tuple[Tensor, Tensor]:
    """What a network says of the test images: predicted class (N,) int64, and its probability (N,)
    float32.

    batch  images of 32 x 32 pixels in a forward pass; of larger views correspondingly fewer. The
    model is left in the mode it was in.
    """
    batch = max(1, batch * 32 * 32 // math.prod(data.view_shape))
    found = []
    with in_mode(model, training=False):
        for images in data.test_images.split(batch):
            x = data.network_input(data.test_views(images))
            with autocast(x.device, precision):
                logits = model(x)
            classes = logits.argmax(1, keepdim=True)
            found.append((classes[:, 0], logits.float().softmax(1).gather(1, classes)[:, 0]))
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
    parts = halves(data.test_labels) if len(right) > 1 else ()
    of_halves = [_percent(right[part]) for part in parts]
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
    data, classes = task.data, len(task.data.classes)
    x = data.network_input(data.test_images[:1])
    for name, network in (("network", model), ("teacher", task.teacher)):
        if network is not None:
            with in_mode(network, training=False):
                found = network(x).shape[1]
            text = f"the {name} has {found} classes, the data set {data.name!r} has {classes}"
            require(found == classes, text)


def _update_factors(model: nn.Module, task: Task, epoch: int) -> None:
    if by_hessian(model) and epoch and epoch % HESSIAN_EVERY == 0:
        three = [(x, targets) for x, targets, _ in islice(batches(task, epoch), 3)]
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
    session = _Session(partial(Single, model, task), [model], [task], checkpoint)
    return session.run(lambda _, row: report(row), inspect)[0]


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
    found = f"got {len(models)} students, {len(tasks)} tasks"
    good = 0 < len(models) == len(tasks)
    require(good, f"one task for each student, and at least one: {found}")
    session = _Session(partial(Together, models, tasks), models, tasks, checkpoint)
    return session.run(report, lambda epochs: None)


class _Session:
    """A training run: networks, learners, curves and checkpoint.

    It starts from the checkpoint if there is one.
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

    def run(
        self, report: Callable[[int, dict], None], inspect: Callable[[int], None]
    ) -> list[list[dict]]:
        """All epochs that are left. Returns the curves."""
        while self.initial_left():
            report(0, self.initial_epoch())
        for epoch in range(len(self.curves[0]), self.tasks[0].recipe.epochs):
            for number, row in enumerate(self.epoch(epoch, inspect)):
                report(number, row)
        return self.curves

    def _resume(self, state: dict) -> None:
        self.learners.load_state(state["learners"])
        self.curves, self.initial = state["curves"], state["initial"]
        steppers = self.learners.steppers if self.curves[0] else [self.stage.stepper]
        for optimiser, saved in zip(steppers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)

    def _save(self, optimisers: list[torch.optim.Optimizer]) -> None:
        if self.checkpoint is not None:
            content = {"learners": self.learners.state(), "curves": self.curves}
            content |= {"optimisers": [x.state_dict() for x in optimisers], "initial": self.initial}
            save_tensors(self.checkpoint, content)

    def initial_left(self) -> bool:
        """Whether the stage before the main one has epochs to go."""
        return not self.curves[0] and self.initial["epochs"] < self.tasks[0].objective.init_epochs

    def initial_epoch(self) -> dict:
        """One epoch of the stage before the main one; returns its row."""
        clock, done = _Clock(), self.initial["epochs"]
        (loss,) = _finite([self.stage.epoch(done)], f"initial epoch {done}")
        spent = clock.spent()
        row = {"initial_epoch": done, "loss": loss, **spent}
        for name, more in (("epochs", 1), *spent.items()):
            self.initial[name] += more
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
    missing = task.objective.needs_teacher and task.teacher is None
    require(not missing, "this loss compares with a teacher, and the task has none")
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
        seconds = time.perf_counter() - self.started
        cpu_seconds = time.process_time() - self.cpu_started
        return {"seconds": seconds / shares, "cpu_seconds": cpu_seconds / shares}


def _finite(losses: list[float], where: str) -> list[float]:
    for loss in losses:
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} in {where}")
    return losses


def save_tensors(path: Path, content: dict) -> None:
    """torch.save, atomically."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


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
        problem = f"checkpoint {path} cannot be read ({type(error).__name__})"
        warnings.warn(f"{problem}; set aside as {aside.name}", stacklevel=2)
        return None
