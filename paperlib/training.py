"""One training loop, for a teacher, a student, or many students at once.

The data set lives on the device; each batch is augmented there, by random numbers keyed by (seed, epoch, batch), so a
resumed run goes on exactly as it would have. Nothing inside an epoch waits for the device. On CUDA a whole step is one graph.
"""

import math
import os
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .augment import AUGMENTED_AT_ONCE, augment_batches, generator, to_device
from .capture import Captured
from .config import Recipe
from .data import Dataset
from .hardware import autocast, keep_freed_memory
from .losses import Objective
from .packing import Pack
from .quantizers import QuantizedLayer, fusing, initialise, quantizer_parameters
from .quantizers.ewgs import EwgsQuantizer, update_deltas
from .quantizers.fusion import or_as_written

SHUFFLE = 1_000_003  # in the place of the batch number: the stream that shuffles an epoch
COMPILE_FROM = 500  # steps of a run from which on compiling, some seconds to a minute, pays
HESSIAN_EVERY = 10  # epochs between updates of EWGS's factors, as its authors do on CIFAR; never at epoch 0


@dataclass(frozen=True)
class Task:
    """What one network learns: views of `data` by `augmentation`, `objective` against `teacher` if it needs one."""

    data: Dataset
    augmentation: str
    objective: Objective
    recipe: Recipe
    seed: int
    teacher: nn.Module | None = None


def batches(task: Task, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (normalised views, targets) of an epoch, in a shuffled order; a last batch of one image is left out."""
    data, size, device = task.data, task.recipe.batch, task.data.train_images.device
    order = to_device(generator(task.seed, epoch, SHUFFLE).permutation(len(data.train_images)), device)
    at_once = max(1, AUGMENTED_AT_ONCE[device.type] // size)
    for first, chunk in enumerate(order.split(at_once * size)):
        rngs = [generator(task.seed, epoch, first * at_once + k) for k in range(-(-len(chunk) // size))]
        views, targets = augment_batches(
            data.train_images[chunk], data.train_labels[chunk], task.augmentation, rngs, size, len(data.classes), data.mirror
        )
        for x, t in zip(views.split(size), targets.split(size), strict=True):
            if len(x) > 1:  # BatchNorm has no statistics of a single value
                yield data.normalise(x).contiguous(memory_format=torch.channels_last), t


@torch.no_grad()
def accuracy(model: nn.Module, data: Dataset, batch: int = 500, precision: str = "float32") -> float:
    """Top-1 accuracy on the test images, in percent. The model is left in the mode it was in."""
    training = model.training
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=data.test_images.device)
    for images, labels in zip(data.test_images.split(batch), data.test_labels.split(batch), strict=True):
        x = data.normalise(images).contiguous(memory_format=torch.channels_last)
        with autocast(x.device, precision):
            correct += (model(x).argmax(1) == labels).sum()
    model.train(training)
    return 100 * int(correct) / len(data.test_labels)


Split = tuple[list[Tensor], list[Tensor]]  # parameters: weights, and those of the quantizers


def split_parameters(model: nn.Module) -> Split:
    """The weights of a network, and its quantizers' parameters, which have an optimiser of their own."""
    of_quantizers = quantizer_parameters(model)
    ids = {id(p) for p in of_quantizers}
    return [p for p in model.parameters() if id(p) not in ids], of_quantizers


def optimisers(split: Split, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """One for the weights and, if the network is quantized, an Adam of its own for the quantizers' parameters."""
    weights, of_quantizers = split

    def rate(value: float) -> float | Tensor:  # on CUDA a tensor: a captured step reads it anew every time
        return torch.full((), value, device=weights[0].device) if weights[0].is_cuda else value

    # Fused: one kernel for all parameters instead of a dozen for each.
    adam = {"fused": True, "capturable": weights[0].is_cuda}
    if recipe.optimiser == "sgd":
        result = [torch.optim.SGD(weights, rate(recipe.lr), 0.9, weight_decay=recipe.weight_decay, fused=True)]
    else:
        result = [torch.optim.Adam(weights, rate(recipe.lr), weight_decay=recipe.weight_decay, **adam)]
    if of_quantizers:
        result.append(torch.optim.Adam(of_quantizers, rate(recipe.quantizer_lr), **adam))
    return result


def set_rates(optimisers: list[torch.optim.Optimizer], recipe: Recipe, epoch: int) -> float:
    """Cosine to 0 over the epochs, for both optimisers; returns the factor, 1 at epoch 0."""
    factor = 0.5 * (1 + math.cos(math.pi * epoch / recipe.epochs))
    for optimiser, lr in zip(optimisers, (recipe.lr, recipe.quantizer_lr), strict=False):
        for group in optimiser.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr * factor)
            else:
                group["lr"] = lr * factor
    return factor


class Learners(ABC):
    """One or more networks with their tasks, optimisers and step: what the loop of `_train` moves along."""

    models: list[nn.Module]
    tasks: list[Task]
    steppers: list[torch.optim.Optimizer]

    @abstractmethod
    def losses(self, x: Tensor, targets: Tensor) -> Tensor:
        """The loss of every network on its share of a batch, (S,)."""

    @abstractmethod
    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The inputs of `losses`, step by step."""

    @abstractmethod
    def networks(self) -> list[nn.Module]:
        """The networks as they are now."""

    @abstractmethod
    def state(self) -> dict:
        """All weights and statistics, for `load_state`."""

    @abstractmethod
    def load_state(self, state: dict) -> None:
        """Go back to a `state`."""

    def _prepare(self, compiled: bool) -> None:
        """Optimisers and step: compiled and captured where the device is a GPU and the run long enough."""
        self.step = self._step
        if self.tasks[0].data.train_images.is_cuda:
            if compiled:
                self.losses = or_as_written(self.losses)
            self.step = Captured(self._step)

    def _step(self, x: Tensor, targets: Tensor) -> Tensor:
        losses = self.losses(x, targets)
        for optimiser in self.steppers:
            optimiser.zero_grad(set_to_none=True)
        losses.sum().backward()
        for optimiser in self.steppers:
            optimiser.step()
        return losses.detach()

    def epoch(self, number: int) -> list[float]:
        """One pass over the training images; returns the mean loss of each network's steps."""
        total, steps = torch.zeros(len(self.models), device=self.tasks[0].data.train_images.device), 0
        for x, targets in self.batches(number):
            total += self.step(x, targets)
            steps += 1
        return (total / steps).tolist()


def _outputs(task: Task, student: Callable[[Tensor], tuple], x: Tensor) -> tuple:
    """Logits and features of student and teacher; the teacher sees all images of x (..., N, 3, H, W) as one batch."""
    wanted = None
    with autocast(x.device, task.recipe.precision):
        if task.objective.needs_teacher:
            with torch.no_grad():  # not inference mode: losses save the teacher's outputs for the backward pass
                wanted = task.teacher.features(x.flatten(0, -4))
        return student(x), wanted


class Single(Learners):
    """One network."""

    def __init__(self, model: nn.Module, task: Task, compiled: bool = False):
        self.models, self.tasks = [model], [task]
        self.steppers = optimisers(split_parameters(model), task.recipe)
        self._prepare(compiled)

    def losses(self, x: Tensor, targets: Tensor) -> Tensor:
        (task,) = self.tasks
        student, wanted = _outputs(task, self.models[0].features, x)
        return task.objective(student, wanted, targets).reshape(1)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        self.models[0].train()
        return batches(self.tasks[0], epoch)

    def networks(self) -> list[nn.Module]:
        return self.models

    def state(self) -> dict:
        return self.models[0].state_dict()

    def load_state(self, state: dict) -> None:
        self.models[0].load_state_dict(state)


class Together(Learners):
    """Many students of one architecture, stacked into a `Pack`; their tasks differ in augmentation and seed."""

    def __init__(self, models: Sequence[nn.Module], tasks: Sequence[Task], compiled: bool = False):
        first = tasks[0]
        for task in tasks:
            alike = (task.data is first.data, task.teacher is first.teacher, task.objective == first.objective, task.recipe == first.recipe)
            if not all(alike):
                raise ValueError("students trained together share data, teacher, objective and recipe; these do not")
        if any(isinstance(m, EwgsQuantizer) and m.by_hessian for model in models for m in model.modules()):
            raise ValueError("students with delta='hessian' are trained alone: each needs second derivatives of its own")
        self.models, self.tasks = list(models), list(tasks)
        self.pack = Pack([model.train() for model in models])
        names = {id(p): name for name, p in models[0].named_parameters()}
        self.steppers = optimisers(
            tuple([self.pack.parameters[names[id(p)]] for p in part] for part in split_parameters(models[0])), first.recipe
        )
        self._prepare(compiled)

    def losses(self, x: Tensor, targets: Tensor) -> Tensor:
        (logits, features), wanted = _outputs(self.tasks[0], self.pack.features, x)
        result = []
        for k, task in enumerate(self.tasks):
            share = slice(k * x.shape[1], (k + 1) * x.shape[1])
            teacher = wanted and (wanted[0][share], {name: f[share] for name, f in wanted[1].items()})
            result.append(task.objective((logits[k], {name: f[k] for name, f in features.items()}), teacher, targets[k]))
        return torch.stack(result)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        classes = len(self.tasks[0].data.classes)
        for parts in zip(*(batches(task, epoch) for task in self.tasks), strict=True):
            soft = [t if t.is_floating_point() else nn.functional.one_hot(t, classes).float() for _, t in parts]
            yield torch.stack([x for x, _ in parts]), torch.stack(soft)

    def networks(self) -> list[nn.Module]:
        return self.pack.unpack()

    def state(self) -> dict:
        return self.pack.state_dict()

    def load_state(self, state: dict) -> None:
        self.pack.load_state_dict(state)


def _start(model: nn.Module, task: Task) -> None:
    """Quantizer parameters of a fresh student, from the first training batch."""
    if any(isinstance(module, QuantizedLayer) for module in model.modules()):
        x, _ = next(batches(task, 0))
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
                raise ValueError(f"the {name} has {found} classes, the data set {task.data.name!r} has {classes}")


def _update_factors(model: nn.Module, task: Task, epoch: int) -> None:
    by_hessian = any(isinstance(m, EwgsQuantizer) and m.by_hessian for m in model.modules())
    if by_hessian and epoch and epoch % HESSIAN_EVERY == 0:
        three = [batch for batch, _ in zip(batches(task, epoch), range(3), strict=False)]
        update_deltas(model, three, nn.functional.cross_entropy, seed=task.seed)


def fit(
    model: nn.Module,
    task: Task,
    checkpoint: Path | None = None,
    report: Callable[[dict], None] = lambda row: None,
) -> list[dict]:
    """Train `model` in place; returns the curve, one row an epoch.

    checkpoint  a file written after every epoch; if it is there, training goes on from it, and ends with the same
                weights as without the interruption. It is removed by the caller once the result is safe.
    report      called with each new row: epoch (from 0), lr, loss, test_accuracy (percent), seconds, cpu_seconds.

    Raises FloatingPointError, naming the epoch, if the loss is no longer finite; ValueError if the objective needs a
    teacher and the task has none, or if a network has another number of classes than the data set.
    """
    return _train(lambda m, t, compiled: Single(m[0], t[0], compiled), [model], [task], checkpoint, lambda _, row: report(row))[0]


def fit_together(
    models: Sequence[nn.Module],
    tasks: Sequence[Task],
    checkpoint: Path | None = None,
    report: Callable[[int, dict], None] = lambda number, row: None,
) -> list[list[dict]]:
    """Train students of one architecture at once, in place; returns their curves.

    Each ends as if trained by `fit` alone but for rounding, of which training makes more, see the README. tasks differ in
    augmentation and seed only. checkpoint  one file for all. report  is called with the number of the student and its row;
    its seconds are the student's share.

    Raises what `fit` raises, and ValueError for tasks that differ in more, other architectures, or delta="hessian".
    """
    if len(models) != len(tasks) or not models:
        raise ValueError(f"one task for each student, and at least one: got {len(models)} students, {len(tasks)} tasks")
    return _train(lambda m, t, compiled: Together(m, t, compiled), models, tasks, checkpoint, report)


def _train(
    kind: Callable[..., Learners],
    models: Sequence[nn.Module],
    tasks: Sequence[Task],
    checkpoint: Path | None,
    report: Callable[[int, dict], None],
) -> list[list[dict]]:
    keep_freed_memory()
    first = tasks[0]
    device, recipe = first.data.train_images.device, first.recipe
    state = _read_checkpoint(checkpoint, device)
    for model, task in zip(models, tasks, strict=True):
        if task.objective.needs_teacher and task.teacher is None:
            raise ValueError("this loss compares with a teacher, and the task has none")
        model.to(device=device, memory_format=torch.channels_last)
        if task.teacher is not None:
            task.teacher.to(device=device, memory_format=torch.channels_last).eval()
        _start(model, task)
        _check_classes(model, task)
    compiled = recipe.epochs * len(first.data.train_images) // recipe.batch >= COMPILE_FROM
    learners = kind(models, tasks, compiled)
    curves: list[list[dict]] = [[] for _ in models]
    if state is not None:
        learners.load_state(state["model"])
        curves = state["curves"]
        for optimiser, saved in zip(learners.steppers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
    for epoch in range(len(curves[0]), recipe.epochs):
        started, cpu_started = time.perf_counter(), time.process_time()
        _update_factors(models[0], first, epoch)
        factor = set_rates(learners.steppers, recipe, epoch)
        with fusing(compiled):
            losses = learners.epoch(epoch)
        if not all(map(math.isfinite, losses)):
            raise FloatingPointError(f"the loss is {[x for x in losses if not math.isfinite(x)][0]} in epoch {epoch}")
        accuracies = [accuracy(m, t.data, precision=recipe.precision) for m, t in zip(learners.networks(), tasks, strict=True)]
        seconds = (time.perf_counter() - started) / len(models)
        cpu_seconds = (time.process_time() - cpu_started) / len(models)
        for curve, loss, value in zip(curves, losses, accuracies, strict=True):
            curve.append({
                "epoch": epoch, "lr": recipe.lr * factor, "loss": loss, "test_accuracy": value,
                "seconds": seconds, "cpu_seconds": cpu_seconds,
            })  # fmt: skip
        if checkpoint is not None:
            content = {"model": learners.state(), "optimisers": [o.state_dict() for o in learners.steppers], "curves": curves}
            save_tensors(checkpoint, content)
        for number, curve in enumerate(curves):
            report(number, curve[-1])
    return curves


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
        return {name: state[name] for name in ("model", "optimisers", "curves")}
    except Exception as error:  # whatever a damaged file makes torch raise; the run then starts over
        aside = path.with_name(path.name + ".rejected")
        path.replace(aside)
        warnings.warn(f"checkpoint {path} cannot be read ({type(error).__name__}); set aside as {aside.name}", stacklevel=2)
        return None
