"""One training loop for a teacher, a student, or many students at once. You can interrupt it: it
resumes from the last finished epoch, with the same result.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..basics.checks import checked, kind_of, one_of, require
from ..basics.recipe import Recipe
from ..data import Dataset, halves
from ..data.checks import module
from ..models import channels_last, in_mode
from ..models.outputs import logits_in
from ..models.precision import autocast
from ..quantizers import LowBit, fusing, initialise
from ..quantizers.ewgs import by_hessian, update_deltas
from .checkpoint import Checkpoint, not_finite
from .learners import InitialStage, Learners, Single, Task, Together, batches, rate_factor
from .sharing import Attempts, epoch_in_turn, share_teacher

COMPILE_FROM = 500  # steps of a run from which on compiling, some seconds to a minute, pays
LAST_EPOCHS = 5  # always evaluated: the headline of long schedules is their mean
# Epochs between updates of EWGS's factors, as its authors do on CIFAR; never at epoch 0.
HESSIAN_EVERY = 10


@checked(model=module, data=kind_of(Dataset))
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
                logits = logits_in(model(x))
            classes = logits.argmax(1, keepdim=True)
            found.append((classes[:, 0], logits.float().softmax(1).gather(1, classes)[:, 0]))
    return tuple(map(torch.cat, zip(*found, strict=True)))


@checked(model=module, data=kind_of(Dataset))
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
    """Quantizer parameters of the layers that have none yet, from the first training batch."""
    if any(isinstance(part, LowBit) and not part.ready for part in model.modules()):
        x, _, _ = next(batches(task, 0))
        with autocast(x.device, task.recipe.precision):
            initialise(model, x)


def _update_factors(model: nn.Module, task: Task, epoch: int) -> None:
    if by_hessian(model) and epoch and epoch % HESSIAN_EVERY == 0:
        three = [(x, targets) for x, targets, _ in islice(batches(task, epoch), 3)]
        update_deltas(model, three, _cross_entropy, seed=task.seed)


def _cross_entropy(output: Any, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits_in(output), targets)


@checked(model=module, task=kind_of(Task))
def fit(
    model: nn.Module,
    task: Task,
    checkpoint: Path | None = None,
    report: Callable[[dict], None] = lambda row: None,
    inspect: Callable[[int], dict[str, Any]] = lambda epochs: {},
    identity: str = "",
    *,
    validation: tuple[Tensor, Tensor] | None = None,
    keep: str = "last",
    learner: Callable[[nn.Module, Task, bool], Learners] = Single,
) -> list[dict]:
    """Train `model` in place; returns the curve, one row an epoch.

    checkpoint  a file written after every epoch. If it is there, training resumes from it, and ends
                with the same weights as without the interruption. A file that is damaged, or of
                another task or identity, is set aside with a warning. The caller removes it once
                the result is safe.
    report      called with each new row: epoch (from 0), lr (at its start), loss, seconds,
                cpu_seconds and, if the recipe has this epoch evaluated, test_accuracy and
                test_accuracy_halves (percent, see `evaluation`); the first one also has
                initial_seconds and initial_cpu_seconds, if the loss has a stage before the main
                one. That stage reports rows of its own: initial_epoch (from 0), loss, seconds,
                cpu_seconds.
    inspect     called with the number of finished epochs before each checkpoint is written, to look
                at `model` as it is then. It returns what is added to the row, JSON, and must leave
                the network as it was.
    identity    any text that tells this training from others which the task alone does not, such
                as a hash of the teacher's weights.
    validation  images (M, 3, H, W) uint8 and labels (M,) int64 of your own, where the data are.
                Each row then has validation_accuracy, in percent.
    keep        "last": the weights of the last epoch. "best": those of the epoch with the highest
                validation_accuracy, of equal ones the first, whose row then has kept = True. The
                test images choose nothing.
    learner     what learns, and how: (model, task, whether to compile) -> a subclass of
                `learners.Single` that takes other batches, or has another loss.

    model, and the teacher, are any network of (N, 3, H, W) images in whose output `logits_in` (of
    `models.outputs`) finds logits. The package's own are the fastest; others are called as they
    are, and losses of features name modules of theirs (`Objective.layers`). What is frozen stays
    so: parameters that require no gradient, and modules in eval mode of a network in train mode.
    Afterwards every module is in the mode that it was in.

    Raises FloatingPointError, naming the epoch, if the loss or a weight is no longer finite;
    ValueError if the objective needs a teacher and the task has none, if a network has another
    number of classes than the data set, if nothing in it learns, or for keep="best" without
    validation images.
    """
    one_of("keep", keep, ("last", "best"))
    chosen = "keep='best' is chosen on validation images: give some, as validation=(images, labels)"
    require(keep == "last" or validation is not None, chosen)
    held_out = validation and replace(
        task.data, test_images=validation[0], test_labels=validation[1]
    )
    chooses = f"\nkeep {keep}" if held_out or keep == "best" else ""
    file = _checkpoint(checkpoint, [task], identity + chooses)
    with _where_the_data_are([model], [task]):
        session = _Session(partial(learner, model, task), [model], [task], file, held_out, keep)
        return session.run(lambda _, row: report(row), inspect)[0]


def fit_together(
    models: Sequence[nn.Module],
    tasks: Sequence[Task],
    checkpoint: Path | None = None,
    report: Callable[[int, dict], None] = lambda number, row: None,
    identity: str = "",
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
    file = _checkpoint(checkpoint, tasks, identity)
    with _where_the_data_are(models, tasks):
        session = _Session(partial(Together, models, tasks), models, tasks, file)
        return session.run(report, lambda epochs: {})


def fit_in_turn(
    models: Sequence[nn.Module],
    tasks: Sequence[Task],
    checkpoints: Sequence[Path | None],
    report: Callable[[int, dict], None] = lambda number, row: None,
    identities: Sequence[str] = (),
) -> list[list[dict] | Exception]:
    """Train students over the same batches, one after the other, in place; returns their curves.

    Each ends as by `fit` alone, digit by digit, and goes on from its checkpoint. Views are made
    once and, on a CPU, the teacher is asked once a batch. A student that fails has what it raised
    in the place of its curve, and the others go on.

    models  may differ in all but classes, tasks in their objective.
    checkpoints, identities  one for each, as `fit` has them.
    report  is called with the number of the student and its row; its seconds are the student's
            share.

    Raises ValueError for no or too few tasks, or tasks that differ in more.
    """
    files = _files_in_turn(models, tasks, checkpoints, identities)
    attempt, sessions = Attempts(), {}
    with _where_the_data_are(models, tasks):
        for number, each in enumerate(zip(models, tasks, files, strict=True)):
            if session := attempt(number, _alone, *each):
                sessions[number] = session
            while session and attempt(number, session.initial_left):
                if row := attempt(number, session.initial_epoch):
                    report(number, row)
        in_graph = tasks[0].data.train_images.is_cuda or tasks[0].recipe.one_graph
        if not in_graph:  # a step that is one graph asks within it
            share_teacher(session.learners for session in sessions.values())
        for epoch in range(tasks[0].recipe.epochs):
            due = {
                number: session
                for number, session in sessions.items()
                if number not in attempt.failed and len(session.curves[0]) == epoch
            }
            for number, row in _epoch_in_turn(due, epoch, attempt) if due else ():
                report(number, row)
    curves = {number: session.curves[0] for number, session in sessions.items()}
    return [attempt.failed.get(number) or curves[number] for number in range(len(models))]


def _files_in_turn(
    models: Sequence, tasks: Sequence[Task], checkpoints: Sequence, identities: Sequence[str]
) -> list[Checkpoint | None]:
    """The checkpoint of each student. Raises what `fit_in_turn` says."""
    found = f"got {len(models)} students, {len(tasks)} tasks, {len(checkpoints)} checkpoints"
    good = 0 < len(models) == len(tasks) == len(checkpoints)
    require(good, f"one task and checkpoint for each student, and at least one: {found}")
    things = [(id(t.data), id(t.teacher), t.augmentation, t.recipe, t.seed) for t in tasks]
    shared = "students trained in turn share data, teacher, augmentation, recipe and seed"
    require(all(own == things[0] for own in things), f"{shared}; these do not")
    each = zip(checkpoints, tasks, identities or [""] * len(tasks), strict=True)
    return [_checkpoint(path, [task], identity) for path, task, identity in each]


def _alone(model: nn.Module, task: Task, file: Checkpoint | None) -> "_Session":
    return _Session(partial(Single, model, task), [model], [task], file)


def _epoch_in_turn(
    due: dict[int, "_Session"], epoch: int, attempt: Attempts
) -> Iterator[tuple[int, dict]]:
    """An epoch of these sessions, which are all at it; yields the row of each that did not fail."""
    clock = _Clock()
    for number, session in due.items():
        attempt(number, _update_factors, session.models[0], session.tasks[0], epoch)
    with fusing(next(iter(due.values())).compiled):
        learners = {number: session.learners for number, session in due.items()}
        losses = epoch_in_turn(learners, epoch, attempt)
    spent = clock.spent(len(due))
    for number, session in due.items():
        rows = attempt(number, session.close, epoch, [losses[number]], _Clock(**spent))
        if rows is not None:
            yield number, rows[0]


def _where_the_data_are(
    models: Sequence[nn.Module], tasks: Sequence[Task]
) -> AbstractContextManager:
    """Networks and teachers on the data's device; within this block with the channels last."""
    teachers = {id(task.teacher): task.teacher for task in tasks if task.teacher is not None}
    networks = *models, *teachers.values()
    for network in networks:
        network.to(tasks[0].data.train_images.device)
    return channels_last(*networks)


def _checkpoint(path: Path | None, tasks: Sequence[Task], identity: str) -> Checkpoint | None:
    """The file of these tasks: whatever they hold but data and networks is in its identity."""
    if path is None:
        return None
    words = [
        identity,
        *((t.data.name, t.augmentation, t.seed, t.objective, t.recipe) for t in tasks),
    ]
    return Checkpoint(path, "\n".join(map(str, words)))


class _Session:
    """A training run: networks, learners, curves and checkpoint.

    It starts from the checkpoint if there is one.
    """

    def __init__(
        self,
        learners_of: Callable[[bool], Learners],
        models: Sequence[nn.Module],
        tasks: Sequence[Task],
        checkpoint: Checkpoint | None,
        held_out: Dataset | None = None,
        keep: str = "last",
    ):
        first = tasks[0]
        self.held_out, self.keeps_best = held_out, keep == "best"
        self.best: dict[str, Any] = {}  # the learners' state after the best epoch so far
        self.models, self.tasks, self.checkpoint = models, tasks, checkpoint
        for model, task in zip(models, tasks, strict=True):
            _prepare(model, task)
        steps = first.recipe.epochs * len(first.data.train_images) // first.recipe.batch
        self.compiled = steps >= COMPILE_FROM
        self.learners = learners_of(self.compiled)
        self.curves: list[list[dict]] = [[] for _ in models]
        self.initial = {"epochs": 0, "seconds": 0.0, "cpu_seconds": 0.0}
        self.stage = InitialStage(self.learners) if first.objective.init_epochs else None
        state = checkpoint and checkpoint.load(first.data.train_images.device)
        if state is not None:
            self._resume(state)

    def run(
        self, report: Callable[[int, dict], None], inspect: Callable[[int], dict[str, Any]]
    ) -> list[list[dict]]:
        """All epochs that are left. Returns the curves."""
        while self.initial_left():
            report(0, self.initial_epoch())
        for epoch in range(len(self.curves[0]), self.tasks[0].recipe.epochs):
            clock = _Clock()
            _update_factors(self.models[0], self.tasks[0], epoch)
            with fusing(self.compiled):
                losses = self.learners.epoch(epoch)
            for number, row in enumerate(self.close(epoch, losses, clock, inspect)):
                report(number, row)
        if self.keeps_best:
            self.learners.load_state(self.best)
            self.curves[0][_best(self.curves[0])]["kept"] = True
        return self.curves

    def _resume(self, state: dict) -> None:
        """Go on from a state, or start as if there were none if it does not fit."""
        fresh = copy.deepcopy(self._state())
        try:
            _check_curves(state["curves"], len(self.models), self.tasks[0].recipe.epochs)
            if broken := next(not_finite(state), None):
                raise ValueError(f"{broken} is not finite")
            self._load(state)
        except Exception as error:  # whatever a state of other networks makes torch raise
            self.checkpoint.reject(error)
            self._load(fresh)

    def _state(self) -> dict[str, Any]:
        """All that the epochs to come depend on."""
        optimisers = [optimiser.state_dict() for optimiser in self._optimisers()]
        parts = {"curves": self.curves, "initial": self.initial, "optimisers": optimisers}
        return parts | {"learners": self.learners.state(), "best": self.best}

    def _load(self, state: dict[str, Any]) -> None:
        self.learners.load_state(state["learners"])
        for optimiser, saved in zip(self._optimisers(), state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.curves, self.initial = state["curves"], state["initial"]
        self.best = state.get("best", {})

    def _optimisers(self) -> list[torch.optim.Optimizer]:
        return [*self.learners.steppers, *([self.stage.stepper] if self.stage else [])]

    def _save(self) -> None:
        """Write the checkpoint, unless a weight or a statistic is no longer finite."""
        state = self._state()
        if broken := next(not_finite(state["learners"]), None):
            done = len(self.curves[0])
            raise FloatingPointError(f"{broken} is not finite after {done} epochs")
        if self.checkpoint is not None:
            self.checkpoint.save(state)

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
        self._save()
        return row

    def close(
        self,
        epoch: int,
        losses: list[float],
        clock: "_Clock",
        inspect: Callable[[int], dict[str, Any]] = lambda epochs: {},
    ) -> list[dict]:
        """End an epoch of the main stage that had these losses; returns the row of each network."""
        first, losses = self.tasks[0], _finite(losses, f"epoch {epoch}")
        measured = self._measured(epoch)
        spent = clock.spent(len(self.models))
        if self.stage is not None and epoch == 0:
            spent |= {f"initial_{name}": self.initial[name] for name in ("seconds", "cpu_seconds")}
        lr = first.recipe.lr * rate_factor(first.recipe, epoch, 0, self.learners.steps())
        for curve, loss, values in zip(self.curves, losses, measured, strict=True):
            curve.append({"epoch": epoch, "lr": lr, "loss": loss, **values, **spent})
        if self.keeps_best and _best(self.curves[0]) == epoch:
            self.best = copy.deepcopy(self.learners.state())
        self.curves[0][-1] |= inspect(epoch + 1)
        self._save()
        return [curve[-1] for curve in self.curves]

    def _measured(self, epoch: int) -> list[dict[str, Any]]:
        recipe = self.tasks[0].recipe
        measured: list[dict[str, Any]] = [{} for _ in self.tasks]
        if evaluated(recipe, epoch):
            networks = zip(self.learners.networks(), self.tasks, strict=True)
            measured = [evaluation(model, task.data, recipe.precision) for model, task in networks]
        if self.held_out is not None:
            found = accuracy(self.models[0], self.held_out, precision=recipe.precision)
            measured[0]["validation_accuracy"] = found
        return measured


def _prepare(model: nn.Module, task: Task) -> None:
    """Check network and task, and start the quantizers of a fresh student."""
    missing = task.objective.needs_teacher and task.teacher is None
    require(not missing, "this loss compares with a teacher, and the task has none")
    require(model is not task.teacher, "the network is its own teacher: copy one of them")
    learn = {id(p): (name, p.dtype) for name, p in model.named_parameters() if p.requires_grad}
    require(learn, "nothing learns: every parameter of the network is frozen")
    fixed = map(id, task.teacher.parameters()) if isinstance(task.teacher, nn.Module) else ()
    shared = [learn[each][0] for each in fixed if each in learn]
    copied = "the teacher would move with the network that it teaches: copy one of them"
    require(not shared, f"{copied}; they share {shared[:3]}")
    images = task.data.normalise(task.data.train_images[:1]).dtype
    other = next(
        (dtype for _, dtype in learn.values() if dtype not in (images, torch.float32)), None
    )
    wide = f"weights learn in {images}, as the images: set the recipe's precision instead"
    require(other is None, f"{wide}; got {other}")
    _start(model, task)


def _best(curve: list[dict]) -> int:
    """The place of the first row with the highest validation accuracy."""
    accuracies = [row["validation_accuracy"] for row in curve]
    return accuracies.index(max(accuracies))


class _Clock:
    """Seconds since it was made, and those before."""

    def __init__(self, seconds: float = 0.0, cpu_seconds: float = 0.0):
        self.started = time.perf_counter() - seconds
        self.cpu_started = time.process_time() - cpu_seconds

    def spent(self, shares: int = 1) -> dict[str, float]:
        seconds = time.perf_counter() - self.started
        cpu_seconds = time.process_time() - self.cpu_started
        return {"seconds": seconds / shares, "cpu_seconds": cpu_seconds / shares}


def _finite(losses: list[float], where: str) -> list[float]:
    for loss in losses:
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} in {where}")
    return losses


def _check_curves(curves: list[list[dict]], networks: int, epochs: int) -> None:
    """Raise ValueError unless there is a curve of the same first epochs for each network."""
    numbers = [[row["epoch"] for row in curve] for curve in curves]
    good = len(numbers) == networks and all(each == numbers[0] for each in numbers)
    known = numbers[0] == list(range(len(numbers[0]))) and len(numbers[0]) <= epochs
    require(good and known, f"its curves are not those of {epochs} epochs of {networks} networks")
