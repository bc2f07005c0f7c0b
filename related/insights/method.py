"""Ways in which a trained network teaches another: KD, mutual learning, data partition."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paperlib.basics.checks import checked, choice, several
from paperlib.data import Dataset, balanced_indices, validation_split
from paperlib.data.checks import floats, labels_of
from paperlib.losses import Objective, cross_entropy, kd, objective
from paperlib.models.outputs import logits_in
from paperlib.models.precision import autocast, widen
from paperlib.runs import kinds
from paperlib.runs.kinds import Result
from paperlib.study.config import StudentRun
from paperlib.study.store import Store
from paperlib.training import Task, fit, predictions
from paperlib.training.learners import Single, modes, optimisers, split_parameters

from .study import SHARINGS, GridRun, ShareRun, TransferRun

CONCENTRATION = 0.5  # of the Dirichlet distribution: most of a class goes to one share
logits = floats("N C")


@checked(labels=labels_of(), kind=choice(SHARINGS))
def shares(labels: Tensor, kind: str, count: int = 2, seed: int = 0) -> list[Tensor]:
    """Shares of a training set, as in federated learning (McMahan et al., AISTATS 2017; Hsu et al.,
    2019, arXiv 1909.06335): every image is in one of them.

    labels  (N,) int64. kind  "iid": at random, in equal parts. "disjoint": share s has the s-th of
    `count` equal parts of the classes. "dirichlet": of each class, parts drawn from a Dirichlet
    distribution with all parameters 0.5; a share may lack a class.
    Returns `count` tensors of places, ascending, int64, on the device of `labels`.
    Raises ValueError for another kind, or labels that are negative.

    >>> [places.tolist() for places in shares(torch.tensor([0, 1, 0, 1]), "disjoint")]
    [[0, 2], [1, 3]]
    """
    rng = np.random.default_rng([seed, 0x5A4E])
    order = rng.permutation(len(labels))
    of = labels.cpu().numpy()[order]
    if kind == "iid":
        share = np.arange(len(of)) % count
    elif kind == "disjoint":
        share = of * count // (of.max() + 1)
    else:
        share = np.empty(len(of), int)
        for label in np.unique(of):
            members = np.flatnonzero(of == label)
            ends = rng.dirichlet([CONCENTRATION] * count).cumsum()[:-1] * len(members)
            share[members] = np.searchsorted(ends, np.arange(len(members)), side="right")
    found = (np.sort(order[share == k]) for k in range(count))
    return [torch.from_numpy(places).to(labels.device) for places in found]


_outputs = {"teacher_logits": logits, "anchor_logits": logits}
_targets = labels_of(soft=True, door=False)


@checked(**_outputs, targets=_targets)
def surer(teacher_logits: Tensor, anchor_logits: Tensor, targets: Tensor | None = None) -> Tensor:
    """Of which images the teacher is surer than the anchor: (N,) bool. A tie is the anchor's.

    teacher_logits, anchor_logits  (N, C) float.
    targets  (N,) int64 or (N, C) soft labels: the probability of the label is compared, of a soft
             one sum_c t_c p_c. None: the largest probability.

    >>> surer(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    tensor([False])
    """

    def confidence(z: Tensor) -> Tensor:
        p = z.softmax(1)
        if targets is None:
            return p.amax(1)
        if targets.is_floating_point():
            return (p * targets).sum(1)
        return p.gather(1, targets[:, None])[:, 0]

    return confidence(teacher_logits) > confidence(anchor_logits)


@checked(student_logits=logits, **_outputs, targets=_targets)
def dp_kd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    anchor_logits: Tensor,
    targets: Tensor | None = None,
    temperature: float = 4.0,
) -> Tensor:
    """KD with data partition (Roth et al., ICLR 2024, arXiv 2310.17653: KL-Dist + DP): T^2 mean_x
    KL(q || p_student), where q is the teacher's distribution for the images of which it is `surer`,
    and the anchor's, a frozen copy of the student's start, for the others.

    The three logits are (N, C) float; the latter two receive no gradient if they require none.
    targets  as for `surer`: labels, or None for the unsupervised partition. The temperature's value
    is ours. Returns a scalar. Raises ValueError for shapes that differ.

    The teacher is surer of the first image, the anchor of the second, and both are right already.

    >>> sure, unsure = torch.tensor([4.0, 0.0]), torch.tensor([1.0, 0.0])
    >>> teacher, anchor = torch.stack([sure, unsure]), torch.stack([unsure, sure])
    >>> dp_kd(torch.stack([sure, sure]), teacher, anchor, torch.tensor([0, 0])).item()
    0.0
    """
    taught = surer(teacher_logits, anchor_logits, targets)[:, None]
    return kd(student_logits, torch.where(taught, teacher_logits, anchor_logits), temperature)


@checked(targets=_targets, logits=several(logits, 2))
def mutual_losses(logits: Sequence[Tensor], targets: Tensor) -> list[Tensor]:
    """Deep mutual learning (Zhang et al., CVPR 2018, arXiv 1706.00384, eqs. 5 and 6): CE(y, p_k) +
    mean over j != k of KL(p_j || p_k), for each of K networks.

    logits   K times (N, C) float, all of one batch. Those of its peers give no gradient to a
             network's loss. targets  as for `cross_entropy`. Returns K scalars.
    The released code sums over the peers; for two networks that is the same.

    >>> same = torch.zeros(1, 2)
    >>> [round(loss.item(), 4) for loss in mutual_losses([same, same], torch.tensor([0]))]
    [0.6931, 0.6931]
    """
    found = []
    for k, own in enumerate(logits):
        peers = [kd(own, other.detach(), 1.0) for j, other in enumerate(logits) if j != k]
        found.append(cross_entropy(own, targets) + sum(peers) / len(peers))
    return found


class Mutual(Single):
    """A network that learns together with its peers, by `mutual_losses` of the same forward passes.

    peers  networks of the same classes, changed in place. Their weights have the network's
    optimiser. The released code updates all networks from one pass; the paper's algorithm passes
    anew after each update. The loss of the curve is the sum of all.
    """

    def __init__(
        self, model: nn.Module, task: Task, compiled: bool = False, *, peers: Sequence[nn.Module]
    ):
        self.peers = list(peers)
        super().__init__(model, task, compiled)
        weights, of_quantizers = split_parameters(model)
        weights += [p for peer in self.peers for p in peer.parameters()]
        self.steppers = optimisers((weights, of_quantizers), task.recipe)

    def losses(self, x: Tensor, targets: Tensor, indices: Tensor) -> Tensor:
        with autocast(x.device, self.tasks[0].recipe.precision):
            found = [self.looks.student(x)[0], *(logits_in(peer(x)) for peer in self.peers)]
        return sum(mutual_losses([widen(z) for z in found], targets)).reshape(1)

    def epoch(self, number: int) -> list[float]:
        with modes(self.peers, None):
            return super().epoch(number)

    def state(self) -> dict:
        return super().state() | {"peers": [peer.state_dict() for peer in self.peers]}

    def load_state(self, state: dict) -> None:
        super().load_state(state)
        for peer, own in zip(self.peers, state["peers"], strict=True):
            peer.load_state_dict(own)


class Partition(Single):
    """A network that learns by `dp_kd` from the teacher of its task and from an anchor.

    anchor  the frozen start, in eval mode. supervised  whether the labels choose between the two.
    The objective of the task must be one that looks at the teacher.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        compiled: bool = False,
        *,
        anchor: nn.Module,
        supervised: bool,
        temperature: float,
    ):
        self.anchor, self.supervised, self.temperature = anchor.eval(), supervised, temperature
        super().__init__(model, task, compiled)

    def losses(self, x: Tensor, targets: Tensor, indices: Tensor) -> Tensor:
        student, teacher = self.looks.outputs(self.looks.student, x)
        with torch.no_grad(), autocast(x.device, self.tasks[0].recipe.precision):
            anchor = logits_in(self.anchor(x))
        three = map(widen, (student[0], teacher[0], anchor))
        labels = targets if self.supervised else None
        return dp_kd(*three, labels, self.temperature).reshape(1)


@checked(before=labels_of(), after=labels_of(), teacher=labels_of(), labels=labels_of())
def flips(before: Tensor, after: Tensor, teacher: Tensor, labels: Tensor) -> dict[str, float]:
    """What teaching changed, in percent of the images; all arguments are (N,) int64 classes.

    positive, negative  wrong before and right after; right before and wrong after. complementary
    what the teacher alone had right; transferred  how much of that is right after, in percent of it
    (0 if there is none).

    >>> zero = torch.zeros(4, dtype=torch.int64)
    >>> flips(torch.tensor([0, 1, 1, 1]), torch.tensor([1, 0, 0, 1]), zero, zero)
    {'positive': 50.0, 'negative': 25.0, 'complementary': 75.0, 'transferred': 66.66666666666667}
    """
    was, now, knows = (classes == labels for classes in (before, after, teacher))

    def percent(part: Tensor) -> float:
        return 100 * int(part.sum()) / len(part)

    lacked = knows & ~was
    return {
        "positive": percent(now & ~was),
        "negative": percent(was & ~now),
        "complementary": percent(lacked),
        "transferred": percent(now[lacked]) if lacked.any() else 0.0,
    }


# -------------------------------------------------------------------------------------------- runs


def places(run: ShareRun, data: Dataset) -> tuple[Tensor, Tensor]:
    """Where the images of the public part and of the run's share are in the training set."""
    labels = data.train_labels
    public = balanced_indices(labels, run.public, run.seed).to(labels.device)
    others = torch.ones(len(labels), dtype=torch.bool, device=labels.device)
    others[public] = False
    rest = others.nonzero()[:, 0]
    return public, rest[shares(labels[rest], run.sharing, 2, run.seed)[run.part]]


def only(data: Dataset, chosen: Tensor) -> Dataset:
    """The data set with these of its training images."""
    images, labels = data.train_images[chosen], data.train_labels[chosen]
    return replace(data, train_images=images, train_labels=labels)


def make_share(run: ShareRun, store: Store, device: str) -> Result:
    """Train a network on its share."""
    network, task = kinds.start_teacher(run, device)
    own = only(task.data, places(run, task.data)[1])
    return kinds.trained_alone(run, network, replace(task, data=own), store)


def tuned(temperature: float, weight: float) -> Objective:
    """(1 - weight) CE + weight T^2 KL (Hinton et al., 2015)."""
    return objective("kd", gamma=1 - weight, alpha=weight, temperature=temperature)


def _student(run: TransferRun | GridRun, before: nn.Module) -> nn.Module:
    if not run.low_bits:
        return copy.deepcopy(before)
    low = StudentRun(run.data, run.teacher, "none", run.recipe, run.low_bits, run.low_bits)
    return kinds.quantized(low, before)


def _start(run: TransferRun | GridRun, store: Store, device: str) -> tuple:
    """Teacher, student before, and the data set whose training images are the public part."""
    data = kinds.load_data(run.data, device)
    networks = (kinds.load_network(each, store, device) for each in run.needs)
    return *networks, only(data, places(run.before, data)[0])


def make_grid(run: GridRun, store: Store, device: str) -> Result:
    """Accuracy on the validation split for each temperature and weight, and the best, of equal ones
    the first.
    """
    teacher, before, data = _start(run, store, device)
    choosing, rows = validation_split(data, run.held_out, run.seed), []
    for temperature in run.temperatures:
        for weight in run.weights:
            store.log(f"{run.name}: temperature {temperature:g}, weight {weight:g}")
            values = {"temperature": temperature, "weight": weight}
            task = Task(choosing, "none", tuned(**values), run.recipe, run.seed, teacher)
            curve = fit(_student(run, before), task)
            rows.append(values | {"validation_accuracy": curve[-1]["test_accuracy"]})
    best = max(rows, key=lambda row: row["validation_accuracy"])
    return {"rows": rows, "chosen": {name: best[name] for name in ("temperature", "weight")}}


def _way(
    run: TransferRun, teacher: nn.Module, before: nn.Module
) -> tuple[Objective, nn.Module | None, Callable[..., Single]]:
    """Objective, teacher of the task, and learner of a way."""
    if run.way == "ce":
        return objective("ce"), None, Single
    if run.way == "kd":
        return tuned(run.temperature, run.weight), teacher, Single
    if run.way == "mutual":
        return objective("ce"), None, partial(Mutual, peers=[teacher])
    supervised = run.way == "partition"
    how: dict[str, Any] = {"supervised": supervised, "temperature": run.temperature}
    return objective("sqakd"), teacher, partial(Partition, anchor=before, **how)


def make_transfer(run: TransferRun, store: Store, device: str) -> Result:
    """Teach a network, and count what changed on the test images."""
    teacher, before, data = _start(run, store, device)
    was, knows = (predictions(network, data)[0] for network in (before, teacher))
    student = _student(run, before)
    goal, taught_by, learner = _way(run, teacher, before)
    task = Task(data, "none", goal, run.recipe, run.seed, taught_by)
    result = kinds.trained_alone(run, student, task, store, learner=learner)
    now = predictions(student, data, precision=run.recipe.precision)[0]
    if run.way == "mutual":
        result["teacher_after"] = flips(knows, predictions(teacher, data)[0], was, data.test_labels)
    return result | {"flips": flips(was, now, knows, data.test_labels)}
