"""Learners: one network, or many students at once, with losses, optimisers and batches.

The data set lives on the device; each batch is augmented there, by random numbers keyed by (seed,
epoch, batch). Nothing inside an epoch waits for the device. On CUDA a whole step is one graph.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..augment import augmented, generator, to_device
from ..augment.pipeline import augmentation_name
from ..basics.checks import check_fields, require
from ..basics.recipe import Recipe
from ..data import Dataset
from ..losses import Loss, Objective
from ..models import Classifier, in_mode, learning
from ..models.precision import autocast
from ..quantizers import quantizer_parameters
from ..quantizers.ewgs import by_hessian
from ..quantizers.fusion import or_as_written
from .capture import Captured
from .looks import Look, check_look, look_of
from .packing import Pack

SHUFFLE = 1_000_003  # in the place of the batch number: the stream that shuffles an epoch
INITIAL = 1_000_000  # added to the epoch: the streams of the stage before the main one
WARM_UP_FROM = 1e-4  # learning rate at the first step of a schedule by steps (PAPER 7.5)


@dataclass(frozen=True)
class Task:
    """What one network learns: views of `data` by `augmentation`, `objective` against `teacher` if
    it needs one. Raises ValueError or TypeError, naming the field, for what is not that.
    """

    data: Dataset
    augmentation: str
    objective: Objective
    recipe: Recipe
    seed: int
    teacher: nn.Module | None = None

    def __post_init__(self):
        check_fields(self, augmentation=augmentation_name)


def batches(task: Task, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (normalised views, targets, places in the training set) of an epoch, in a shuffled
    order.

    A last batch of one image is left out.
    """
    data = task.data
    shuffled = generator(task.seed, epoch, SHUFFLE).permutation(len(data.train_images))
    order = to_device(shuffled, data.train_images.device)

    def rng_of(number: int) -> np.random.Generator:
        return generator(task.seed, epoch, number)

    for views, targets, places in augmented(
        data, order, task.augmentation, task.recipe.batch, rng_of
    ):
        if len(views) > 1:  # BatchNorm has no statistics of a single value
            yield data.network_input(views), targets, places


Split = tuple[list[Tensor], list[Tensor]]  # parameters: weights, and those of the quantizers


def split_parameters(model: nn.Module) -> Split:
    """The weights of a network, and its quantizers' parameters, which have an optimiser of their
    own.
    """
    of_quantizers = quantizer_parameters(model)
    ids = {id(p) for p in of_quantizers}
    return [p for p in model.parameters() if id(p) not in ids], of_quantizers


def optimisers(split: Split, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """One for the weights and, if the network is quantized, an Adam of its own for the quantizers'
    parameters.

    "sgd_nesterov" has all parameters in one group, as the released Tiny-ImageNet runs.
    """
    weights, of_quantizers = split

    on_gpu, decay = weights[0].is_cuda, {"weight_decay": recipe.weight_decay}

    def rate(value: float) -> float | Tensor:
        """On CUDA a tensor: a captured step reads it anew every time."""
        return torch.full((), value, device=weights[0].device) if on_gpu else value

    # Fused: one kernel for all parameters instead of a dozen for each.
    adam = {"fused": True, "capturable": on_gpu}
    sgd = {"fused": True, "momentum": 0.9, **decay}
    if recipe.optimiser == "sgd_nesterov":
        return [torch.optim.SGD(weights + of_quantizers, rate(recipe.lr), nesterov=True, **sgd)]
    if recipe.optimiser == "sgd":
        result = [torch.optim.SGD(weights, rate(recipe.lr), **sgd)]
    else:
        result = [torch.optim.Adam(weights, rate(recipe.lr), **decay, **adam)]
    if of_quantizers:
        result.append(torch.optim.Adam(of_quantizers, rate(recipe.quantizer_lr), **adam))
    return result


def rate_factor(recipe: Recipe, epoch: int, step: int, steps: int) -> float:
    """Learning rate over `recipe.lr` at a step of an epoch of `steps`: the cosine from 1 to 0, by
    epochs or by steps.

    By steps, `recipe.warmup_steps` go before it, linearly from a learning rate of `WARM_UP_FROM`.

    >>> recipe = Recipe(epochs=4, batch=2, lr=0.1, weight_decay=0.0)
    >>> rate_factor(recipe, 2, 5, 10)
    0.5
    """
    if recipe.schedule == "epoch":
        return 0.5 * (1 + math.cos(math.pi * epoch / recipe.epochs))
    done, first = epoch * steps + step, recipe.warmup_steps
    if done < first:
        start = WARM_UP_FROM / recipe.lr
        return start + (1 - start) * done / first
    return 0.5 * (1 + math.cos(math.pi * (done - first) / max(1, recipe.epochs * steps - first)))


def set_rates(optimisers: list[torch.optim.Optimizer], recipe: Recipe, factor: float) -> None:
    """The recipe's learning rates, of weights and of quantizers, times `factor`."""
    for optimiser, lr in zip(optimisers, (recipe.lr, recipe.quantizer_lr), strict=False):
        for group in optimiser.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr * factor)
            else:
                group["lr"] = lr * factor


@contextmanager
def modes(students: Sequence[nn.Module], teacher: nn.Module | None) -> Iterator[None]:
    """A block in which the students learn and the teacher is in eval mode; then both are as they
    were.
    """
    with ExitStack() as stack:
        for student in students:
            stack.enter_context(learning(student))
        if teacher is not None:
            stack.enter_context(in_mode(teacher, training=False))
        yield


class Learners(ABC):
    """One or more networks with their tasks, losses, optimisers and step: what the loop of loop.py
    moves along.
    """

    models: list[nn.Module]
    tasks: list[Task]
    loss: Loss
    steppers: list[torch.optim.Optimizer]

    @abstractmethod
    def losses(self, x: Tensor, targets: Tensor, indices: Tensor) -> Tensor:
        """The loss of every network on its share of a batch, (S,)."""

    @abstractmethod
    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The inputs of `losses`, step by step."""

    def steps(self) -> int:
        """How many batches an epoch has."""
        return steps_of(self.tasks[0])

    @abstractmethod
    def networks(self) -> list[nn.Module]:
        """The networks as they are now."""

    @abstractmethod
    def state(self) -> dict:
        """All weights and statistics, of the loss too, for `load_state`."""

    @abstractmethod
    def load_state(self, state: dict) -> None:
        """Go back to a `state`."""

    def _prepare(self, compiled: bool) -> None:
        """The step: compiled and captured where the device is a GPU and the run long enough; on a
        processor compiled where the recipe asks for one graph.
        """
        self.step, recipe = self._step, self.tasks[0].recipe
        own = "one_graph is for the package's own networks, which are called without hooks"
        require(self.looks.plain or not recipe.one_graph, own)
        if self.tasks[0].data.train_images.is_cuda and self.looks.plain:
            if compiled:
                self.losses = or_as_written(self.losses)
            if self.loss.capturable:
                self.step = Captured(self._step)
        elif compiled and recipe.one_graph:
            self.losses = _of_whole_batches(self.losses, recipe.batch)

    def _step(self, *inputs: Tensor) -> Tensor:
        losses = self.losses(*inputs)
        for optimiser in self.steppers:
            optimiser.zero_grad(set_to_none=True)
        losses.sum().backward()
        for optimiser in self.steppers:
            optimiser.step()
        return losses.detach()

    def epoch(self, number: int) -> list[float]:
        """One pass over the training images; returns the mean loss of each network's steps."""
        total = torch.zeros(len(self.models), device=self.tasks[0].data.train_images.device)
        with modes(self.models, self.tasks[0].teacher):
            for done, inputs in enumerate(self.batches(number)):
                total += self.take(number, done, inputs)
        return (total / self.steps()).tolist()

    def take(self, epoch: int, done: int, inputs: tuple[Tensor, ...]) -> Tensor:
        """A step of an epoch after `done` others, on one of its `batches`; returns the losses."""
        recipe = self.tasks[0].recipe
        if done == 0:
            self.loss.set_epoch(epoch)
        if done == 0 or recipe.schedule == "step":
            set_rates(self.steppers, recipe, rate_factor(recipe, epoch, done, self.steps()))
        return self.step(*inputs)


def _of_whole_batches(losses: Callable[..., Tensor], batch: int) -> Callable[..., Tensor]:
    """`Learners.losses` compiled for whole batches. A last, smaller one goes as it is: compiling
    for it would take as long again.
    """
    whole = or_as_written(losses, dynamic=False)

    def call(x: Tensor, *others: Tensor) -> Tensor:
        return (whole if x.shape[-4] == batch else losses)(x, *others)

    return call


def steps_of(task: Task) -> int:
    """Steps of an epoch; a last batch of one image is left out."""
    whole, rest = divmod(len(task.data.train_images), task.recipe.batch)
    return whole + (rest > 1)


def _seen_by(teacher: Look, x: Tensor) -> tuple:
    """The teacher's logits and features; all images of x (..., N, 3, H, W) are one batch."""
    # Not inference mode: losses save the teacher's outputs for the backward pass.
    with torch.no_grad():
        return teacher(x.flatten(0, -4))


@dataclass(frozen=True)
class Looks:
    """How the objective of a task looks at the student and, if it needs one, at the teacher, and
    the objective attached to both.
    """

    task: Task
    student: Look
    teacher: Look | None
    loss: Loss

    def outputs(self, student: Look, x: Tensor) -> tuple:
        """Logits and features of student and teacher, the teacher's None where the objective does
        not look at them.
        """
        with autocast(x.device, self.task.recipe.precision):
            each_step = self.task.objective.needs_teacher_each_step
            wanted = _seen_by(self.teacher, x) if each_step else None
            return student(x), wanted

    @property
    def plain(self) -> bool:
        """Whether both networks are the package's own, whose steps can be compiled and captured:
        what others do on the host, in their forward passes or hooks, a replay would leave out.
        """
        looks = [self.student] if self.teacher is None else [self.student, self.teacher]
        return all(isinstance(getattr(look, "__self__", None), Classifier) for look in looks)


@torch.no_grad()
def looks(task: Task, model: nn.Module) -> Looks:
    """The looks of a task at a network and its teacher, both of which are tried.

    Raises ValueError unless both give as many logits as the data set has classes, and features
    that a loss can compare; TypeError for what is no tensor.
    """
    data, how = task.data, task.objective
    view = torch.zeros(2, 3, *data.view_shape, dtype=torch.uint8, device=data.train_images.device)
    x, found, features = data.network_input(view), [None, None], [{}, {}]
    layers = (how.layers, how.teacher_layers or how.layers)
    for k, (role, network) in enumerate((("network", model), ("teacher", task.teacher))):
        if network is None:
            continue
        with in_mode(network, training=False):
            found[k] = look_of(network, layers[k] if how.feature_loss else (), x)
            outputs = found[k](x)
        check_look(role, outputs, len(x), len(data.classes), data.name)
        features[k] = outputs[1]
    return Looks(
        task, *found, how.attach(*features, data.train_labels, len(data.classes), task.seed)
    )


def _part(outputs: tuple, part: int | slice) -> tuple:
    """Logits and features of a part of the images, or of one of many students."""
    logits, features = outputs
    return logits[part], {name: f[part] for name, f in features.items()}


class Single(Learners):
    """One network."""

    def __init__(self, model: nn.Module, task: Task, compiled: bool = False):
        self.models, self.tasks, self.looks = [model], [task], looks(task, model)
        self.loss = self.looks.loss
        weights, of_quantizers = split_parameters(model)
        split = [*weights, *self.loss.parameters()], of_quantizers
        self.steppers = optimisers(split, task.recipe)
        self._prepare(compiled)

    def losses(self, x: Tensor, targets: Tensor, indices: Tensor) -> Tensor:
        student, wanted = self.looks.outputs(self.looks.student, x)
        return self.loss(student, wanted, targets, indices).reshape(1)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return batches(self.tasks[0], epoch)

    def networks(self) -> list[nn.Module]:
        return self.models

    def state(self) -> dict:
        return {"network": self.models[0].state_dict(), "loss": self.loss.state_dict()}

    def load_state(self, state: dict) -> None:
        self.models[0].load_state_dict(state["network"])
        self.loss.load_state_dict(state["loss"])


class Together(Learners):
    """Many students of one architecture, stacked into a `Pack`; their tasks differ in augmentation
    and seed.
    """

    def __init__(self, models: Sequence[nn.Module], tasks: Sequence[Task], compiled: bool = False):
        first = tasks[0]
        things = [(id(task.data), id(task.teacher), task.objective, task.recipe) for task in tasks]
        shared = "students trained together share data, teacher, objective and recipe"
        require(all(own == things[0] for own in things), f"{shared}; these do not")
        learns = "a student with this loss, which learns or smooths labels, is trained alone"
        require(first.objective.packable, f"{learns}: {first.objective}")
        alone = "a student with delta='hessian' is trained alone, for its second derivatives"
        require(not any(map(by_hessian, models)), alone)
        own = all(isinstance(model, Classifier) for model in models)
        hooked = "a student that is no Classifier is trained alone with a loss of features"
        require(own or not first.objective.feature_loss, hooked)
        self.models, self.tasks, self.looks = list(models), list(tasks), looks(first, models[0])
        self.loss = self.looks.loss
        self.pack = Pack(models)
        names = {id(p): name for name, p in models[0].named_parameters()}
        stacked = self.pack.parameters
        split = ([stacked[names[id(p)]] for p in part] for part in split_parameters(models[0]))
        self.steppers = optimisers(tuple(split), first.recipe)
        self._prepare(compiled)

    def losses(self, x: Tensor, targets: Tensor, indices: Tensor) -> Tensor:
        found, wanted = self.looks.outputs(self.pack.features, x)
        result = []
        for k in range(len(self.tasks)):
            share = slice(k * x.shape[1], (k + 1) * x.shape[1])
            student = _part(found, k)
            teacher = wanted and _part(wanted, share)
            result.append(self.loss(student, teacher, targets[k], indices[k]))
        return torch.stack(result)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        classes = len(self.tasks[0].data.classes)
        for parts in zip(*(batches(task, epoch) for task in self.tasks), strict=True):
            images, targets, indices = zip(*parts, strict=True)
            soft = [
                t if t.is_floating_point() else nn.functional.one_hot(t, classes).float()
                for t in targets
            ]
            yield tuple(map(torch.stack, (images, soft, indices)))

    def networks(self) -> list[nn.Module]:
        return self.pack.unpack()

    def state(self) -> dict:
        return self.pack.state_dict()

    def load_state(self, state: dict) -> None:
        self.pack.load_state_dict(state)


class InitialStage:
    """The epochs before the main ones that some losses have: FT's paraphraser, FSP's feature layers
    (PAPER 7.4).

    SGD with momentum 0.9 at a constant learning rate. learner  the network and loss, changed in
    place.
    """

    def __init__(self, learner: Single):
        self.task, self.looks, self.loss = learner.tasks[0], learner.looks, learner.loss
        self.model, self.distiller = learner.models[0], learner.loss.distiller
        self.of_student = self.distiller.pretrains == "student"
        # Layers that the loss does not see, as the last one, get no gradient and stay as they are.
        parameters = self.distiller.pretrained()
        if self.of_student:
            parameters += self.model.parameters()
        lr = self.task.objective.init_lr or self.task.recipe.lr
        self.stepper = torch.optim.SGD(parameters, lr, momentum=0.9)

    def epoch(self, number: int) -> float:
        """One pass over the training images; returns the mean loss."""
        total = torch.zeros((), device=self.task.data.train_images.device)
        with modes([self.model], self.task.teacher):
            for x, _, _ in batches(self.task, INITIAL + number):
                total += self._step(x)
        # A gradient left behind would be an optimiser's reason to decay the weight.
        self.stepper.zero_grad(set_to_none=True)
        return float(total / steps_of(self.task))

    def _step(self, x: Tensor) -> Tensor:
        with autocast(x.device, self.task.recipe.precision):
            wanted = _seen_by(self.looks.teacher, x)[1]
            own = self.looks.student(x)[1] if self.of_student else None
        loss = self.loss.pretraining_loss(own, wanted)
        self.stepper.zero_grad(set_to_none=True)
        loss.backward()
        self.stepper.step()
        return loss.detach()
