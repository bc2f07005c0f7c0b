"""Mixed images as questions to the teacher: the loss, mixup, and the learner that asks."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import repeat
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from paperlib.augment import generator
from paperlib.basics.checks import checked, number, one_of, require
from paperlib.data.checks import floats, labels_of
from paperlib.losses import cross_entropy, kd
from paperlib.runs import kinds
from paperlib.study.profiles import CUTMIX
from paperlib.study.store import Store
from paperlib.training.learners import Single, Task, batches

from .study import FORMS, MIXING, MixedRun

MIXES = 3_000_003  # added to the number of a step: the stream that draws mixup's shares
Seen = tuple[Tensor, Tensor, Tensor]  # logits (N, C) of student and teacher, and targets


def mixed_loss(
    form: str, plain: Seen | None, mixed: Seen, gamma: float, alpha: float, temperature: float = 4.0
) -> Tensor:
    """Distillation with mixed images (Wang et al., 2012.02909 v1), a scalar.

    mixed        gamma CE + alpha KL, both on the mixed image: as everywhere else in this package
    tl           gamma CE on the plain image + alpha KL on the mixed one: TLmixup, TLCutMix
    tl_released  tl + alpha KL on the plain image, as the released code sums them, with its weights
                 [1, 0, 1]; there gamma is 0.1 and alpha 0.9

    KL is `paperlib.losses.kd`. plain, mixed  the logits of student and teacher and the targets, of
    plain images and of mixed ones, whose label is soft; plain may be None for "mixed".
    Raises ValueError for an unknown form, or plain images that it lacks.

    >>> z = torch.zeros(2, 3)
    >>> seen = z, torch.eye(3)[:2], torch.tensor([0, 1])
    >>> mixed_loss("tl", seen, seen, 1.0, 0.0) == mixed_loss("mixed", None, seen, 1.0, 0.0)
    tensor(True)
    """
    one_of("form", form, FORMS)
    terms, total = FORMS[form], mixed[0].new_zeros(())
    require(not any(terms[:2]) or plain is not None, f"{form} looks at the plain images, got None")
    for seen, labels, taught in ((plain or mixed, *terms[:2]), (mixed, *terms[2:])):
        student, teacher, targets = seen
        if labels:
            total = total + gamma * cross_entropy(student, targets)
        if taught:
            total = total + alpha * kd(student, teacher, temperature)
    return total


@checked(
    classes=number("[2, inf)", whole=True, binds="C"),
    x=floats("N ..."),
    labels=labels_of(door=False),
    own=number("[0, 1]"),
)
def mixup(x: Tensor, labels: Tensor, classes: int, own: float) -> tuple[Tensor, Tensor]:
    """mixup (Zhang et al., ICLR 2018): own x_n + (1 - own) x_(n-1), as of the pixels, so of the
    labels; the first image is mixed with the last.

    x  (N, ...) float. labels  (N,) int64. Returns x mixed, and soft labels (N, classes). Inputs are
    not modified.

    >>> mixup(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1]), 2, 0.75)
    (tensor([[0.2500],
            [0.7500]]), tensor([[0.7500, 0.2500],
            [0.2500, 0.7500]]))
    """
    soft = F.one_hot(labels, classes).float()
    return tuple(part.lerp(part.roll(1, 0), 1 - own) for part in (x, soft))


class Mixing(Single):
    """One network that learns from mixed images, and in some forms from the plain ones too.

    The mixed images are made of the plain ones: same crops, same policy. As in the released code,
    plain and mixed images go through the student one after the other, each with BatchNorm's
    statistics of their own. mixing, form  as in `MixedRun`.

    Raises ValueError for an augmentation that mixes, or an objective other than CE + plain KD.
    """

    def __init__(
        self, model: nn.Module, task: Task, compiled: bool = False, *, mixing: str, form: str
    ):
        one_of("mixing", mixing, MIXING)
        one_of("form", form, FORMS)
        self.mixing, self.form = mixing, form
        how, name = task.objective, task.augmentation
        require(not name.endswith(CUTMIX), f"{mixing} on top of the augmentation {name}")
        good = (
            how.alpha and how.logit_loss == "kd" and not (how.beta or how.warmup or how.smoothing)
        )
        require(good, f"mixing needs an objective of CE and plain KD, got {how}")
        super().__init__(model, task, compiled)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, ...]]:
        """Plain images, mixed images, labels, soft labels, step by step."""
        task, classes = self.tasks[0], len(self.tasks[0].data.classes)
        # The draws of a step begin with crop and policy, so both have the same views.
        boxes = replace(task, augmentation=task.augmentation + CUTMIX)
        cut = batches(boxes, epoch) if self.mixing == "cutmix" else repeat(None)
        for step, ((x, labels, _), pair) in enumerate(zip(batches(task, epoch), cut, strict=False)):
            if pair is None:
                own = float(generator(task.seed, epoch, MIXES + step).beta(1, 1))
                pair = mixup(x, labels, classes, own)
            yield x, pair[0], labels, pair[1]

    def losses(self, x: Tensor, mixed: Tensor, labels: Tensor, soft: Tensor) -> Tensor:
        plain = self._seen(x, labels) if any(FORMS[self.form][:2]) else None
        how = self.tasks[0].objective
        weights = how.gamma, how.alpha, how.temperature
        return mixed_loss(self.form, plain, self._seen(mixed, soft), *weights).reshape(1)

    def _seen(self, x: Tensor, targets: Tensor) -> Seen:
        student, teacher = self.looks.outputs(self.looks.student, x)
        return student[0].float(), teacher[0].float(), targets


def make_student(run: MixedRun, store: Store, device: str) -> dict[str, Any]:
    """Train a student on mixed images."""
    teacher = kinds.load_network(run.teacher, store, device)
    learner = partial(Mixing, mixing=run.mixing, form=run.form)
    return kinds.trained_alone(
        run, *kinds.start_student(run, teacher, device), store, learner=learner
    )
