"""One training loop, for teachers and students.

The data set lives on the device; each batch is augmented there, by random numbers keyed by (seed, epoch, batch), so a
resumed run goes on exactly as it would have. Nothing inside an epoch waits for the device.
"""

import math
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .augment import augment, generator
from .config import Recipe
from .data import Dataset
from .losses import Objective
from .quantizers import QuantizedLayer, initialise, quantizer_parameters
from .quantizers.ewgs import EwgsQuantizer, update_deltas

SHUFFLE = 1_000_003  # in the place of the batch number: the stream that shuffles an epoch
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


def batches(task: Task, epoch: int):
    """Yield (normalised views, targets) of an epoch, in a shuffled order; a last batch of one image is left out."""
    data, count = task.data, len(task.data.train_images)
    order = torch.from_numpy(generator(task.seed, epoch, SHUFFLE).permutation(count)).to(data.train_images.device)
    for k, index in enumerate(order.split(task.recipe.batch)):
        if len(index) > 1:  # BatchNorm has no statistics of a single value
            views, targets = augment(
                data.train_images[index], data.train_labels[index], task.augmentation,
                generator(task.seed, epoch, k), len(data.classes), data.mirror,
            )  # fmt: skip
            yield data.normalise(views).contiguous(memory_format=torch.channels_last), targets


@torch.no_grad()
def accuracy(model: nn.Module, data: Dataset, batch: int = 500) -> float:
    """Top-1 accuracy on the test images, in percent. The model is left in the mode it was in."""
    training = model.training
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=data.test_images.device)
    for images, labels in zip(data.test_images.split(batch), data.test_labels.split(batch), strict=True):
        x = data.normalise(images).contiguous(memory_format=torch.channels_last)
        correct += (model(x).argmax(1) == labels).sum()
    model.train(training)
    return 100 * int(correct) / len(data.test_labels)


def optimisers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """One for the weights and, if the model is quantized, an Adam of its own for the quantizers' parameters."""
    of_quantizers = quantizer_parameters(model)
    ids = {id(p) for p in of_quantizers}
    weights = [p for p in model.parameters() if id(p) not in ids]
    if recipe.optimiser == "sgd":
        result = [torch.optim.SGD(weights, recipe.lr, momentum=0.9, weight_decay=recipe.weight_decay)]
    else:
        result = [torch.optim.Adam(weights, recipe.lr, weight_decay=recipe.weight_decay)]
    if of_quantizers:
        result.append(torch.optim.Adam(of_quantizers, recipe.quantizer_lr))
    return result


def set_rates(optimisers: list[torch.optim.Optimizer], recipe: Recipe, epoch: int) -> float:
    """Cosine to 0 over the epochs, for both optimisers; returns the factor, 1 at epoch 0."""
    factor = 0.5 * (1 + math.cos(math.pi * epoch / recipe.epochs))
    for optimiser, lr in zip(optimisers, (recipe.lr, recipe.quantizer_lr), strict=False):
        for group in optimiser.param_groups:
            group["lr"] = lr * factor
    return factor


def train_epoch(model: nn.Module, task: Task, optimisers: list[torch.optim.Optimizer], epoch: int) -> float:
    """One pass over the training images; returns the mean loss of its steps."""
    model.train()
    total, steps = torch.zeros((), device=task.data.train_images.device), 0
    for x, targets in batches(task, epoch):
        teacher = None
        if task.objective.needs_teacher:
            with torch.no_grad():
                teacher = task.teacher.features(x)
        loss = task.objective(model.features(x), teacher, targets)
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
        total += loss.detach()
        steps += 1
    return float(total) / steps


def _start(model: nn.Module, task: Task) -> None:
    """Quantizer parameters of a fresh student, from the first training batch."""
    if any(isinstance(module, QuantizedLayer) for module in model.modules()):
        initialise(model, next(batches(task, 0))[0])


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
    if task.objective.needs_teacher and task.teacher is None:
        raise ValueError("this loss compares with a teacher, and the task has none")
    device = task.data.train_images.device
    model.to(device=device, memory_format=torch.channels_last)
    if task.teacher is not None:
        task.teacher.to(device=device, memory_format=torch.channels_last).eval()
    curve: list[dict] = []
    state = _read_checkpoint(checkpoint, device)
    if state is None:
        _start(model, task)
        _check_classes(model, task)
    else:
        model.load_state_dict(state["model"])
        curve = state["curve"]
    steppers = optimisers(model, task.recipe)
    for optimiser, saved in zip(steppers, state["optimisers"] if state else (), strict=False):
        optimiser.load_state_dict(saved)
    for epoch in range(len(curve), task.recipe.epochs):
        started, cpu_started = time.perf_counter(), time.process_time()
        _update_factors(model, task, epoch)
        factor = set_rates(steppers, task.recipe, epoch)
        loss = train_epoch(model, task, steppers, epoch)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} in epoch {epoch}")
        curve.append({
            "epoch": epoch, "lr": task.recipe.lr * factor, "loss": loss, "test_accuracy": accuracy(model, task.data),
            "seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu_started,
        })  # fmt: skip
        if checkpoint is not None:
            save_tensors(
                checkpoint,
                {"model": model.state_dict(), "optimisers": [o.state_dict() for o in steppers], "curve": curve},
            )
        report(curve[-1])
    return curve


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
        return {name: state[name] for name in ("model", "optimisers", "curve")}
    except Exception as error:  # whatever a damaged file makes torch raise; the run then starts over
        aside = path.with_name(path.name + ".rejected")
        path.replace(aside)
        warnings.warn(f"checkpoint {path} cannot be read ({type(error).__name__}); set aside as {aside.name}", stacklevel=2)
        return None
