"""`rank` of images that come batch by batch: each batch is read once, and goes through all
candidates.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..augment import Candidate, generator
from ..augment.candidates import keyed
from ..basics.checks import require
from ..data import Dataset
from ..data.dataset import each_channel
from ..data.streams import Batch, Stream, stream
from ..models.frozen import frozen, worth_compiling
from ..models.outputs import logits_in
from ..models.precision import autocast
from .options import Scoring
from .tally import Groups, Tally
from .teachers import check_steady, device_of, evaluating, fitted

ORDER, READING = 0x0DE5, 0x0DE6  # keys of the order of a pass, and of what the source draws
SORTED = (
    "the images come sorted by class, so that CutMix mixes within classes and T. stddev compares "
    "classes: shuffle them, or give a data set that can be read at any place"
)


def scoring_places(images: int, seed: int) -> np.ndarray:
    """(N,) int64, the order in which a pass takes N images."""
    return generator(seed, ORDER).permutation(images)


@dataclass(frozen=True)
class Look:
    """How one teacher looks at views: (B, C, H, W) uint8 -> (B, classes) float32 logits."""

    teacher: Callable
    how: Scoring
    mean: Tensor  # (1, C, 1, 1) each, on the scale 0 .. 255
    std: Tensor
    classes: int = 0  # 0: any

    def __call__(self, views: Tensor) -> Tensor:
        with autocast(views.device, self.how.precision):
            output = self.teacher(self._input(views))
        logits = logits_in(output, self.how.output)
        wanted = f"the teacher must give (N, classes) float logits for {len(views)} images"
        good = logits.ndim == 2 and len(logits) == len(views) and logits.is_floating_point()
        require(good, f"{wanted}, got {logits.dtype} {tuple(logits.shape)}")
        same = f"the teacher must give {self.classes} logits an image, got {logits.shape[1]}"
        require(self.classes in (0, logits.shape[1]), same)
        return logits.float()

    def _input(self, views: Tensor) -> Tensor:
        views = views.contiguous(memory_format=torch.channels_last)  # as convolutions like best
        return fitted(self.teacher, views.float().sub_(self.mean).div_(self.std))

    def swift(self, views: Tensor, left: int) -> "Look":
        """This look with the teacher compiled, if it is a network and so many views to come are
        worth it. views  (B, C, H, W) uint8, a batch of them; looked at before.
        """
        if not isinstance(self.teacher, nn.Module):
            return self
        started = time.perf_counter()
        self(views).sum().item()  # waits for a GPU
        seconds = (time.perf_counter() - started) / len(views)
        if not worth_compiling(self.teacher, seconds * left):
            return self
        with autocast(views.device, self.how.precision):
            made = frozen(self.teacher, self._input(views), self.how.output)
        return replace(self, teacher=made)

    def check_classes(self, classes: int | None) -> None:
        """Raise ValueError if the data is known to have another number of classes."""
        own = f"the teacher gives logits of {self.classes} classes, the data has {classes}"
        require(classes in (None, self.classes), own)


def look_of(
    teacher: Callable,
    images: Tensor,
    candidates: Sequence[Candidate],
    how: Scoring,
    base: tuple[bool, int, int | None],
    left: int = 0,
) -> Look:
    """How a teacher looks at images such as these, (B, C, H, W) uint8 on its device, on which it is
    tried. base  as `scale_of` gives it. left  views to come, as far as that is known.

    Raises ValueError for a candidate, mean or std that is not for so many channels, and for
    probabilities. Warns of what is likely wrong with the images, a transform or the teacher.
    """
    channels = images.shape[1]
    if images.max() <= 1:
        text = "the images are black: uint8 is 0 .. 255, and floats of 0 .. 1 must stay floats"
        warnings.warn(text, stacklevel=4)
    for candidate in candidates:
        candidate.check_channels(channels)
        candidate.check_keyed(images[:2])
    look = Look(teacher, how, *scale_tensors(how, images))
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    plain = replace(candidates[0], transform=None, mixing="")
    views, _ = plain.views(images, labels, 1, (how.seed, 0, 0, 0), *base)
    with torch.no_grad(), evaluating(teacher):
        look = replace(look, classes=check_steady(look, views).shape[1])
        return look.swift(views, left) if how.compiled else look


def scale_tensors(how: Scoring, images: Tensor) -> tuple[Tensor, Tensor]:
    """mean and std for images such as these, where they are."""
    scale = ((how.mean, "mean"), (how.std, "std"))
    return tuple(_scale(*each, images.shape[1]).to(images.device) for each in scale)


def _scale(values: Sequence[float] | float, name: str, channels: int) -> Tensor:
    """mean or std, one number or one a channel -> (1, C, 1, 1) on the scale 0 .. 255."""
    each = each_channel(values, channels)
    right = f"{name} must be a number for each of {channels} channels, got {values!r}"
    require(len(each) == channels, right)
    return torch.tensor(each).view(1, -1, 1, 1) * 255


def scale_of(data: Any, how: Scoring) -> tuple[Scoring, tuple[bool, int, int | None]]:
    """The options with a Dataset's own mean and std, and how base views are made: mirror, padding,
    size.
    """
    how.check_scale(data)
    if isinstance(data, Dataset):
        return replace(how, mean=data.mean, std=data.std), (data.mirror, how.padding, data.size)
    return how, (how.mirror is not False, how.padding, None)


def streamed(
    teachers: Sequence[Callable],
    data: Any,
    candidates: Sequence[Candidate],
    how: Scoring,
    stddev_group: int,
    replicates: int,
) -> tuple[list[list[dict[str, Any]]], Tensor]:
    """The rows of `rank` for each teacher, from one reading of the images and the same views, and
    (C,) images of each class.

    Memory does not grow with the images: each candidate has sums as large as the classes squared
    and, for intervals and CutMix, a temporary file of its logits.
    """
    how, base = scale_of(data, how)
    source = stream(data, how.batch, lambda images: scoring_places(images, how.seed), how.workers)
    grouped = source.length is None or source.length >= 2 * stddev_group
    partners = list({c.partner: None for c in candidates}) if grouped else []
    total, run = source.length and source.length * (len(candidates) + len(partners)), None
    with torch.no_grad(), evaluating(*teachers), how.watched(total) as watch:
        for number, (images, labels) in enumerate(_warned(source, how.seed)):
            device = device_of(teachers[0], images)
            batch = images.to(device), labels.to(device)
            if run is None:
                looks = []
                for each in teachers:  # no comprehension: warnings count the frames to the caller
                    looks.append(look_of(each, batch[0], candidates, how, base, total or 0))
                looks[0].check_classes(source.classes)
                for look in looks:
                    look.check_classes(looks[0].classes)
                run = _Passes(looks, candidates, partners, base, watch)
                run.start(stddev_group, replicates > 0)
            run.add(number, *batch)
    if run is None:
        raise ValueError("data must have images, got none")
    return run.rows(replicates), run.counts


@dataclass
class _Passes:
    """All candidates' passes by each teacher, and those of the base views that T. stddev pairs them
    with.
    """

    looks: Sequence[Look]
    candidates: Sequence[Candidate]
    partners: Sequence[Candidate]
    base: tuple[bool, int, int | None]  # of the views
    watch: Callable[[int, str], None]

    def start(self, group: int, spooled: bool) -> None:
        self.classes = self.looks[0].classes
        self.tallies = [
            {c.name: Tally(self.classes, group, spooled) for c in self.candidates}
            for _ in self.looks
        ]
        self.bases = [{c.name: Groups(group) for c in self.partners} for _ in self.looks]
        self.counts = torch.zeros(self.classes, dtype=torch.int64)

    def add(self, number: int, images: Tensor, labels: Tensor) -> None:
        """Batch `number`: one view of each image for each candidate."""
        most, least = int(labels.max()), f"labels must lie in 0..{self.classes - 1}"
        require(most < self.classes, f"{least}, the teacher's classes, found {most}")
        self.counts += torch.bincount(labels, minlength=self.classes).cpu()
        for candidate in self.candidates:
            views, targets = self._views(candidate, images, labels, number, 0)
            for look, tallies in zip(self.looks, self.tallies, strict=True):
                tallies[candidate.name].add(look(views), targets)
        for partner in self.partners:
            views, _ = self._views(partner, images, labels, number, 1)
            for look, bases in zip(self.looks, self.bases, strict=True):
                bases[partner.name].add(look(views).double().softmax(1))

    def _views(
        self, candidate: Candidate, images: Tensor, labels: Tensor, number: int, draw: int
    ) -> Batch:
        self.watch(len(images), candidate.name)
        key = candidate.key(self.looks[0].how.seed, number, draw)
        return candidate.views(images, labels, self.classes, key, *self.base)

    def rows(self, replicates: int) -> list[list[dict[str, Any]]]:
        how = self.looks[0].how
        return [
            [self._row(candidate, tallies, bases, replicates, how) for candidate in self.candidates]
            for tallies, bases in zip(self.tallies, self.bases, strict=True)
        ]

    def _row(self, candidate, tallies, bases, replicates: int, how: Scoring) -> dict[str, Any]:
        tally, base = tallies[candidate.name], bases.get(candidate.partner.name)
        row = tally.row(how.cmi_weight, replicates, how.seed)
        stddev = tally.groups.stddev(base) if base else float("nan")
        return {"augmentation": candidate.name, **row, "teacher_stddev": stddev}


def read(batches: Iterator[Batch], seed: int) -> Iterator[Batch]:
    """The batches. What a source draws from the global random states, such as random crops of a
    torch Dataset, depends on the seed alone.
    """
    for number in count():
        with keyed(seed, READING, number):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _warned(source: Stream, seed: int) -> Iterator[Batch]:
    """The batches of a source. Warns if their order is the source's own, and sorted by class."""
    last = first = None
    is_sorted = not source.ordered
    for images, labels in read(source.batches, seed):
        first = int(labels[0]) if first is None else first
        steps = torch.cat([labels[:1] if last is None else last, labels]).diff()
        is_sorted, last = is_sorted and bool((steps >= 0).all()), labels[-1:]
        yield images, labels
    if is_sorted and last is not None and int(last) > first:
        warnings.warn(SORTED, stacklevel=5)
