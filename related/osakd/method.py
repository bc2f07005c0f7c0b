"""Calibration of a network, and the labels that it would give itself. The loss is
`paperlib.losses.osakd`.
"""

import torch
from torch import Tensor, nn

from paperlib.basics.checks import checked, number
from paperlib.data import Dataset, validation_split
from paperlib.data.checks import distributions, floats
from paperlib.losses import objective, self_labels
from paperlib.models import build, in_mode
from paperlib.models.outputs import logits_in
from paperlib.runs import kinds
from paperlib.runs.kinds import Result
from paperlib.study.config import StudentRun
from paperlib.study.store import Store
from paperlib.training import Task, predictions

from .study import SelfTaughtRun


@checked(confidence=floats("N", door=True), bins=number("[1, inf)", whole=True))
def calibration_error(confidence: Tensor, right: Tensor, bins: int = 15) -> float:
    """The expected calibration error (Guo et al., ICML 2017, arXiv 1706.04599, eq. 3): the mean
    over the images of |accuracy - mean confidence| in their bin of equal width.

    confidence  (N,) float probabilities of the predicted class. right  (N,) bool.
    bins        intervals (m / bins, (m + 1) / bins]; 15 as theirs. Returns a share, 0 .. 1.

    >>> round(calibration_error(torch.tensor([0.9, 0.9]), torch.tensor([True, False])), 3)
    0.4
    """
    inside = (confidence.double() * bins).ceil().long().clamp(1, bins) - 1
    gap = right.double() - confidence.double()
    sums = torch.zeros(bins, dtype=torch.double, device=gap.device).index_add_(0, inside, gap)
    return float(sums.abs().sum() / len(gap))


@checked(labels=distributions("N C"))
def entropy(labels: Tensor) -> float:
    """Mean entropy of soft labels (N, C), in nats.

    >>> round(entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]])), 4)
    0.3466
    """
    return float(torch.special.entr(labels).sum(1).mean())


@torch.no_grad()
def own_labels(network: nn.Module, data: Dataset, k: int, batch: int) -> Tensor:
    """The `self_labels` that a network gives to the training images, in batches of its training,
    without augmentation: (N, C) float. The network is left as it was.
    """
    found, classes = [], len(data.classes)
    with in_mode(network, training=False):
        for images, labels in zip(
            data.train_images.split(batch), data.train_labels.split(batch), strict=True
        ):
            if len(images) > 1:
                logits = logits_in(network(data.network_input(images))).float()
                found.append(self_labels(logits, labels, k, classes))
    return torch.cat(found)


def make_self_taught(run: SelfTaughtRun, store: Store, device: str) -> Result:
    """Train a network, looking at its own labels after each epoch, and measure its calibration."""
    data = kinds.load_data(run.data, device)
    if run.held_out:
        data = validation_split(data, run.held_out, run.seed)
    teacher = kinds.load_network(run.teacher, store, device)
    network = build(run.model, len(data.classes), run.seed)
    if run.low_bits:
        low = StudentRun(run.data, run.teacher, "none", run.recipe, run.low_bits, run.low_bits)
        network = kinds.quantized(low, teacher)
    goal = objective(run.loss, **({"k": run.k} if run.loss == "osakd" else {}))
    task = Task(data, "none", goal, run.recipe, run.seed, teacher)

    def look(epochs: int) -> Result:
        own = own_labels(network, data, run.k, run.recipe.batch)
        return {"own_entropy": entropy(own)}

    result = kinds.trained_alone(run, network, task, store, inspect=look)
    classes, confidence = predictions(network, data, precision=run.recipe.precision)
    error = calibration_error(confidence, classes == data.test_labels)
    return result | {"calibration_error": 100 * error, "confidence": 100 * float(confidence.mean())}
