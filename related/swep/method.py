"""A learned multiplicative perturbation of the first feature map, conditioned on the teacher.

Lee, Kang, Lee & Hwang, *Learning to perturb word embeddings for out-of-distribution QA*, ACL 2021
(arXiv 2105.02692; released code seanie12/SWEP 0ec48ff). There z multiplies each word's embedding,
and is read off the model's own last hidden states. Here it multiplies f0, and our choices are:

- it is read off the frozen teacher's last vector of the same image, so a channel has one z for all
  positions; it starts at the prior, where the source starts anywhere;
- the prior's variance is that of Gaussian dropout, p / (1 - p); the code takes its square root;
- the likelihood is the student's objective, with the teacher's logits of the clean image;
- clean and perturbed images are one batch of the student, so that BatchNorm has one set of
  statistics.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from paperlib.augment import generator, to_device
from paperlib.basics.checks import checked, require
from paperlib.data import Dataset
from paperlib.data.checks import floats
from paperlib.models import Classifier, in_mode
from paperlib.models.precision import autocast, widen
from paperlib.runs.kinds import Result, load_data, load_network, start_student, trained_alone
from paperlib.scoring import evaluate, predict
from paperlib.study.store import Store
from paperlib.training.learners import Single, Task

from .study import DropoutScoresRun, SweptRun

NOISE = 1  # the last number of the key of a batch's noise
FIRST = "stages.0"  # what takes f0 in a CifarResNet
LOOKED_AT = 500  # training images whose perturbation is logged

_channels = floats("N C")


@checked(mean=_channels, log_variance=_channels)
def kl_to_dropout(mean: Tensor, log_variance: Tensor, variance: float) -> Tensor:
    """KL(N(mean, v) || N(1, s^2)) in nats, summed over channels, mean over images: a scalar, 1/2
    sum_c (log(s^2 / v) + (v + (mean - 1)^2) / s^2 - 1).

    mean, log_variance  (N, C) float, log v. variance  s^2. Raises ValueError for shapes that
    differ, or a variance that is not positive.

    >>> kl_to_dropout(torch.ones(1, 2), torch.zeros(1, 2), 1.0), kl_to_dropout(
    ...     torch.full((1, 2), 3.0), torch.zeros(1, 2), 1.0)
    (tensor(0.), tensor(4.))
    """
    require(variance > 0, f"variance must be above 0, got {variance}")
    scaled = (log_variance.exp() + (mean - 1).square()) / variance
    return (math.log(variance) - log_variance + scaled - 1).sum(1).mean() / 2


@checked(mean=_channels, log_variance=_channels, noise=_channels)
def drawn(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """z = mean + sqrt(v) noise, (N, C), of standard normal noise (N, C). Raises ValueError for
    shapes that differ.

    >>> drawn(torch.ones(1, 2), torch.full((1, 2), -torch.inf), torch.randn(1, 2))
    tensor([[1., 1.]])
    """
    return mean + (log_variance / 2).exp() * noise


@contextmanager
def multiplied(network: nn.Module, z: Tensor) -> Iterator[None]:
    """A block in which f0 of a ResNet of this package is multiplied by z, (N, C), before all that
    follows. The network's feature "f0" is the one before.

    Raises ValueError for a network without the module that takes f0.
    """
    modules = dict(network.named_modules())
    require(FIRST in modules, f"a network with a module {FIRST!r} expected, got {network!r:.60}")

    def multiply(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0] * z[:, :, None, None].to(inputs[0].dtype),)

    handle = modules[FIRST].register_forward_pre_hook(multiply)
    try:
        yield
    finally:
        handle.remove()


class Perturbation(nn.Module):
    """The network that reads mean and log variance of z, (N, C) each, off the teacher's last vector
    (N, D). It starts at the prior, N(1, variance), and stays there if it is frozen.

    variance  0 is no perturbation, if it is frozen.
    """

    def __init__(self, width: int, channels: int, variance: float, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.hidden = nn.Linear(width, width)
        self.out = nn.Linear(width, 2 * channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.variance = variance

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        offset, log_ratio = self.out(self.hidden(vectors).relu()).chunk(2, 1)
        start = math.log(self.variance) if self.variance else -math.inf
        return 1 + offset, start + log_ratio


@torch.no_grad()
def perturbation_for(
    teacher: Classifier, data: Dataset, variance: float, seed: int = 0
) -> Perturbation:
    """A perturbation of the width of this teacher's last vector and f0, where the data are."""
    with in_mode(teacher, training=False):
        _, features = teacher.features(data.network_input(data.train_images[:2]))
    found = Perturbation(vector(features).shape[1], features["f0"].shape[1], variance, seed)
    return found.to(data.train_images.device)


def vector(features: dict[str, Tensor]) -> Tensor:
    """The last feature, (N, D), in float32 at least."""
    return widen(list(features.values())[-1])


class Perturbed(nn.Module):
    """A teacher whose f0 is multiplied by what a perturbation draws for each image, by a generator
    of its own: every call draws anew.
    """

    def __init__(self, teacher: Classifier, perturbation: Perturbation, seed: int = 0):
        super().__init__()
        self.teacher, self.perturbation = teacher, perturbation
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, images: Tensor) -> Tensor:
        features = self.teacher.features(images)[1]
        size = len(images), features["f0"].shape[1]
        noise = torch.randn(size, generator=self.generator).to(images.device)
        with multiplied(self.teacher, drawn(*self.perturbation(vector(features)), noise)):
            return self.teacher(images)


class Swept(Single):
    """One student: half its objective on clean images, half with f0 perturbed, and beta times the
    KL of the perturbation, which learns beside it unless it is frozen.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        compiled: bool = False,
        *,
        perturbation: Perturbation,
        beta: float,
    ):
        self.perturbation, self.beta = perturbation, beta
        super().__init__(model, task)  # as it is written: a hook changes the pass
        learn = [p for p in perturbation.parameters() if p.requires_grad]
        self.learns = bool(learn)
        if learn:
            group = self.steppers[0].param_groups[0]
            self.steppers[0].add_param_group({**group, "params": learn})

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, ...]]:
        task, channels = self.tasks[0], self.perturbation.out.out_features // 2
        for number, inputs in enumerate(super().batches(epoch)):
            rng = generator(task.seed, epoch, number, NOISE)
            noise = rng.standard_normal((len(inputs[0]), channels), dtype="float32")
            yield *inputs, to_device(noise, inputs[0].device)

    def losses(self, x: Tensor, targets: Tensor, indices: Tensor, noise: Tensor) -> Tensor:
        model, precision = self.models[0], self.tasks[0].recipe.precision
        with autocast(x.device, precision), torch.no_grad():
            wanted = self.looks.teacher(x)
        mean, log_variance = self.perturbation(vector(wanted[1]))
        z = drawn(mean, log_variance, noise)
        with autocast(x.device, precision), multiplied(model, torch.cat([torch.ones_like(z), z])):
            logits, _ = self.looks.student(torch.cat([x, x]))
        halves = [self.loss((part, {}), wanted, targets, indices) for part in logits.chunk(2)]
        total = sum(halves) / 2
        if self.learns:
            kl = kl_to_dropout(mean, log_variance, self.perturbation.variance)
            total = total + self.beta * kl
        return total.reshape(1)

    def state(self) -> dict:
        return super().state() | {"perturbation": self.perturbation.state_dict()}

    def load_state(self, state: dict) -> None:
        super().load_state(state)
        self.perturbation.load_state_dict(state["perturbation"])


def scored(
    teacher: Classifier, perturbation: Perturbation, data: Dataset, seed: int = 0
) -> dict[str, float]:
    """Score, CMI, D and the other columns of `paperlib.scoring.rank`, of the perturbation as an
    augmentation of the training images, which are cropped and mirrored too.
    """
    views = predict(Perturbed(teacher, perturbation, seed), data, "none", seed)
    return evaluate(*views, 1.0, 200, seed)


def make_swept(run: SweptRun, store: Store, device: str) -> Result:
    """Train a student, and score the perturbation on the teacher's images afterwards."""
    teacher, data = load_network(run.teacher, store, device), load_data(run.teacher.data, device)
    student, task = start_student(run, teacher, device)
    perturbation = perturbation_for(teacher, data, run.variance, run.seed)
    perturbation.requires_grad_(run.learned)
    few = data.network_input(data.train_images[:LOOKED_AT])

    @torch.no_grad()
    def look(epochs: int) -> dict[str, float]:
        """KL and mean variance: if it went to 0, nothing would be perturbed."""
        with in_mode(teacher, training=False):
            mean, log_variance = perturbation(vector(teacher.features(few)[1]))
        kl = kl_to_dropout(mean, log_variance, run.variance)
        return {"kl": float(kl), "variance": float(log_variance.exp().mean())}

    learner = partial(Swept, perturbation=perturbation, beta=run.beta)
    result = trained_alone(run, student, task, store, learner=learner, inspect=look)
    return result | {"perturbed": scored(teacher, perturbation, data, run.seed)}


def make_dropout_scores(run: DropoutScoresRun, store: Store, device: str) -> Result:
    """A row a variance."""
    teacher, data = load_network(run.teacher, store, device), load_data(run.data, device)
    rows = []
    for variance in run.variances:
        dropout = perturbation_for(teacher, data, variance).requires_grad_(False)
        rows.append({"variance": variance, **scored(teacher, dropout, data, run.seed)})
    return {"rows": rows}
