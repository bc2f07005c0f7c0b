"""Online batch selection: scores of candidates, the choice among them, and the learner that makes
it at every step.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlib.augment import generator, to_device
from paperlib.basics.checks import checked, natural, number, one_of, require
from paperlib.data.checks import floats, labels_of
from paperlib.models import in_mode
from paperlib.models.precision import autocast
from paperlib.runs import kinds
from paperlib.study.store import Store
from paperlib.training.learners import Single, Task, batches

from .study import SELECTIONS, MisledTeacherRun, SelectedRun

CHOICES = 2_000_003  # added to the number of a step: the stream that chooses
PICK_TEMPERATURE = 4.0  # of CutMixPick's entropy, as released
logits = floats("N C")


def _needed(selection: str, student: Tensor | None, reference: Tensor | None) -> list[Tensor]:
    """The logits that a selection looks at."""
    one_of("selection", selection, SELECTIONS)
    found = []
    for role, looks, each in zip(
        ("student", "reference"), SELECTIONS[selection], (student, reference), strict=True
    ):
        require(not looks or each is not None, f"{selection} looks at the {role}, got None")
        found.append(each if looks else None)
    return found


@checked(student=logits, reference=logits, targets=labels_of(soft=True, door=False))
def scores(
    selection: str, student: Tensor | None, reference: Tensor | None, targets: Tensor
) -> Tensor:
    """How much each candidate is worth choosing, (N,); L is the cross-entropy with its label.

    easy          -L(reference): Udandarao et al. (2411.18674), easy-reference, I-ACID
    learnability  L(student) - L(reference): the same, H-ACID; RHO-LOSS (Mindermann et al., 2022)
    hard          L(student)
    cutmixpick    the entropy of the reference at a temperature of 4: Wang et al. (2012.02909), "T.
                  ent."; no label is used
    uniform       0

    student, reference  logits (N, C); None for one that the selection does not look at. targets
                        (N,) int64, or soft labels (N, C), as CutMix makes them.
    Raises ValueError for an unknown selection, or logits that it lacks.

    >>> same, labels = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 0])
    >>> scores("learnability", same, same, labels)
    tensor([0., 0.])
    >>> scores("easy", None, same, labels)
    tensor([-0.1269, -0.6931])
    """
    student, reference = _needed(selection, student, reference)
    if selection == "uniform":
        return torch.zeros(len(targets), device=targets.device)
    if selection == "cutmixpick":
        logs = F.log_softmax(reference / PICK_TEMPERATURE, 1)
        return -(logs.exp() * logs).sum(1)
    loss = partial(F.cross_entropy, target=targets, reduction="none")
    worth = 0.0 if student is None else loss(student)
    return worth if reference is None else worth - loss(reference)


@checked(values=floats("N"), count=natural, temperature=number("[0, inf)"))
def choose(values: Tensor, count: int, temperature: float, rng: np.random.Generator) -> Tensor:
    """Places of `count` candidates, drawn one after the other without replacement with weights
    exp(score / temperature): the highest of score / temperature + Gumbel noise (Kool et al., ICML
    2019). At 0 the highest scores, of equal ones the first.

    This is ACID's joint sampling (from JEST, 2406.17711) of a loss in which each sample stands
    alone, as in classification: what the samples that are chosen already add to a score is 0.

    values  (N,) float scores. Returns (count,) int64, ascending.
    Raises ValueError for more than N.

    >>> choose(torch.tensor([0.0, 3.0, 1.0, 2.0]), 2, 0.0, np.random.default_rng(0))
    tensor([1, 3])
    """
    require(count <= len(values), f"count must be at most {len(values)}, got {count}")
    if temperature:
        noise = to_device(rng.gumbel(size=len(values)).astype(np.float32), values.device)
        values = values / temperature + noise
    return values.sort(descending=True, stable=True).indices[:count].sort().values


@checked(
    classes=number("[2, inf)", whole=True, binds="C"), labels=labels_of(), share=number("[0, 1]")
)
def wrong_labels(labels: Tensor, classes: int, share: float, seed: int) -> Tensor:
    """Labels of which a share is wrong: another class, each equally likely. The same for equal
    seeds; what is wrong at a share is so, with the same class, at a greater one.

    labels  (N,) int64, 0 .. classes - 1. Returns (N,) int64; its input is not modified.

    >>> wrong_labels(torch.zeros(6, dtype=torch.int64), 2, 0.5, seed=0).sum()
    tensor(3)
    """
    rng = generator(seed, CHOICES)
    order = rng.permutation(len(labels))[: round(share * len(labels))]
    steps = np.zeros(len(labels), np.int64)
    steps[order] = rng.integers(1, classes, len(labels))[order]
    return (labels + to_device(steps, labels.device)) % classes


class Selecting(Single):
    """One network, whose batches are chosen from larger ones.

    1 / ratio ordinary batches, with their own augmentation and CutMix boxes, are the candidates for
    one: an epoch has as many updates as any other, and passes 1 / ratio times over the images. The
    reference is the task's teacher. The student scores in eval mode, so that neither BatchNorm nor
    a quantizer learns from candidates.

    wrong  (n,) bool, of the training images: those whose label is wrong. `share` is their share
           among the chosen of the last epoch.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        compiled: bool = False,
        *,
        selection: str = "uniform",
        ratio: float = 1.0,
        temperature: float = 1.0,
        wrong: Tensor | None = None,
    ):
        looked = SELECTIONS[selection][1] and task.teacher is None
        require(not looked, f"{selection} looks at a reference, and the task has no teacher")
        super().__init__(model, task, compiled)
        self.selection, self.pool, self.temperature = selection, round(1 / ratio), temperature
        labels = task.data.train_labels
        self.wrong = torch.zeros_like(labels, dtype=torch.bool) if wrong is None else wrong
        self.found = torch.zeros(2, dtype=torch.int64, device=labels.device)

    @property
    def share(self) -> float:
        wrong, chosen = self.found.tolist()
        return wrong / chosen

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        task = self.tasks[0]
        passes = (batches(task, epoch * self.pool + k) for k in range(self.pool))
        every = chain.from_iterable(passes)
        self.found.zero_()
        for step in range(self.steps()):
            parts = list(islice(every, self.pool))
            batch = parts[0]
            if self.pool > 1:
                batch = tuple(map(torch.cat, zip(*parts, strict=True)))
                rng = generator(task.seed, epoch, CHOICES + step)
                batch = self._chosen(*batch, rng)
            self.found[0] += self.wrong[batch[2]].sum()
            self.found[1] += len(batch[2])
            yield batch

    def _chosen(
        self, x: Tensor, targets: Tensor, places: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        values = scores(self.selection, *self._seen(x), targets)
        count = max(2, round(len(x) / self.pool))
        best = choose(values, count, self.temperature, rng)
        x = x[best].contiguous(memory_format=torch.channels_last)
        return x, targets[best], places[best]

    @torch.no_grad()
    def _seen(self, x: Tensor) -> list[Tensor | None]:
        """The logits of student and reference, of those that the selection looks at."""
        each = zip(
            SELECTIONS[self.selection], (self.looks.student, self.looks.teacher), strict=True
        )
        with (
            in_mode(self.models[0], training=False),
            autocast(x.device, self.tasks[0].recipe.precision),
        ):
            return [look(x)[0].float() if wanted else None for wanted, look in each]


# -------------------------------------------------------------------------------------------- runs


def _misled(run: MisledTeacherRun | SelectedRun, task: Task) -> tuple[Task, Tensor]:
    """A task with the wrong labels of its run, and (n,) bool: which they are."""
    data = task.data
    labels = wrong_labels(data.train_labels, len(data.classes), run.wrong_labels, run.data.seed)
    return replace(task, data=replace(data, train_labels=labels)), labels != data.train_labels


def make_teacher(run: MisledTeacherRun, store: Store, device: str) -> dict[str, Any]:
    """Train a teacher on labels of which some are wrong."""
    network, task = kinds.start_teacher(run, device)
    return kinds.trained_alone(run, network, _misled(run, task)[0], store)


def make_student(run: SelectedRun, store: Store, device: str) -> dict[str, Any]:
    """Train a student on chosen batches. Each row of its curve has `wrong_chosen`, the share of
    wrong labels among the images that were learned.
    """
    teacher = kinds.load_network(run.teacher, store, device)
    network, task = kinds.start_student(run, teacher, device)
    task, wrong = _misled(run, task)
    how = {name: getattr(run, name) for name in ("selection", "ratio", "temperature")}
    made = []

    def learner(*arguments: Any) -> Selecting:
        made.append(Selecting(*arguments, **how, wrong=wrong))
        return made[0]

    def look(epochs: int) -> dict[str, float]:
        return {"wrong_chosen": made[0].share}

    return kinds.trained_alone(run, network, task, store, learner=learner, inspect=look)
