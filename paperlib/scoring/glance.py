"""Does a teacher know these images at all? To be seen before anything is ranked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor

from ..basics.checks import anything, checked, count, require
from ..data.streams import shelf
from .options import Scoring
from .racing import nested_order
from .streaming import Look, scale_of, scale_tensors
from .teachers import check_steady, device_of, evaluating, teacher_kind

CHANCE = 0.001  # a teacher at chance level looks better with this probability


@dataclass(frozen=True)
class Glance:
    """What a teacher says of some images without augmentation.

    predicted  (N,) int64 classes. labels  (N,) int64, which may be beyond them. classes  outputs of
    the teacher.
    confidence  mean of the largest probability.
    """

    predicted: Tensor
    labels: Tensor
    classes: int
    confidence: float

    @property
    def accuracy(self) -> float:
        """Share of the images that it knows, 0 .. 1."""
        return float((self.predicted == self.labels).float().mean())

    @property
    def guess(self) -> float:
        """The share that guessing gives: of the commonest class, or of one output in all."""
        commonest = int(torch.bincount(self.labels).max()) / len(self.labels)
        return max(commonest, 1 / self.classes)

    @property
    def enough(self) -> bool:
        """Whether so many images could show that a teacher which knows them all does not guess."""
        return self.guess ** len(self.labels) < CHANCE

    @property
    def knows(self) -> bool:
        """Whether the accuracy is more than guessing could give."""
        right = int((self.predicted == self.labels).sum())
        found = binomtest(right, len(self.labels), self.guess, "greater")
        return bool(found.pvalue < CHANCE)

    def renumbered(self, numbers: Sequence[int]) -> "Glance":
        """The same with label k called numbers[k]."""
        return replace(self, labels=torch.tensor(numbers)[self.labels])


@checked(teacher=teacher_kind, data=anything, images=count)
def glance(teacher: Callable, data: Any, images: int = 1000, **options: Any) -> Glance:
    """A teacher's predictions of so many images, of each class in its share, as they are.

    teacher, data, options  as for `scoring.rank`; the data must be readable at any place. Raises
    what that raises, but for labels beyond the teacher's outputs, which are wrong predictions.

    >>> net = lambda x: x.mean((2, 3))[:, :2] * 9
    >>> pictures = torch.zeros(40, 3, 8, 8, dtype=torch.uint8)
    >>> labels = torch.arange(40) % 2
    >>> pictures[labels == 0, 0], pictures[labels == 1, 1] = 255, 255
    >>> found = glance(net, (pictures, labels), mean=0.5, std=0.25)
    >>> found.accuracy, found.knows
    (1.0, True)
    """
    how, _ = scale_of(data, Scoring(**options))
    source = shelf(data, how.workers)
    require(source is not None, f"data must be readable at any place, got {type(data).__name__}")
    order = nested_order(source.labels(), how.seed)[:images]
    look, parts = None, []
    with torch.no_grad(), evaluating(teacher), how.watched(len(order)) as watch:
        for some, labels in source.read(order.numpy(), how.batch):
            some = some.to(device_of(teacher, some))
            if look is None:
                look = Look(teacher, how, *scale_tensors(how, some))
                classes = check_steady(look, some).shape[1]
            watch(len(some), "none")
            top = look(some).softmax(1).max(1)
            parts.append((top.indices.cpu(), top.values.cpu(), labels))
    predicted, confidence, labels = map(torch.cat, zip(*parts, strict=True))
    require(confidence.isfinite().all(), "the teacher gives logits that are not finite")
    return Glance(predicted, labels, classes, float(confidence.mean()))
