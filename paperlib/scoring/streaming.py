"""`rank` of images that come batch by batch: each batch is read once, and goes through all
candidates.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..augment import Candidate, generator
from ..basics.checks import require
from ..basics.progress import progress
from ..data import Dataset
from ..data.streams import Batch, Stream, stream
from ..models.outputs import logits_in
from ..models.precision import autocast
from .options import Scoring
from .tally import Groups, Tally
from .teachers import check_logits, device_of, evaluating, fitted

ORDER = 0x0DE5  # key of the order of a pass
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

    def __call__(self, views: Tensor) -> Tensor:
        views = views.contiguous(memory_format=torch.channels_last)  # as convolutions like best
        images = views.float().sub_(self.mean).div_(self.std)
        with autocast(views.device, self.how.precision):
            output = self.teacher(fitted(self.teacher, images))
        logits = logits_in(output, self.how.output)
        wanted = f"the teacher must give (N, classes) float logits for {len(views)} images"
        good = logits.ndim == 2 and len(logits) == len(views) and logits.is_floating_point()
        require(good, f"{wanted}, got {logits.dtype} {tuple(logits.shape)}")
        return logits.float()


def _scale(values: Sequence[float] | float, name: str, channels: int) -> Tensor:
    """mean or std, one number or one a channel -> (1, C, 1, 1) on the scale 0 .. 255."""
    each = (values,) * channels if isinstance(values, int | float) else tuple(values)
    right = f"{name} must be a number for each of {channels} channels, got {values!r}"
    require(len(each) == channels, right)
    return torch.tensor(each).view(1, -1, 1, 1) * 255


def streamed(
    teacher: Callable,
    data: Any,
    candidates: Sequence[Candidate],
    how: Scoring,
    stddev_group: int,
    replicates: int,
) -> tuple[list[dict[str, Any]], Tensor]:
    """The rows of `rank` from one reading of the images, and (C,) images of each class.

    Memory does not grow with the images: each candidate has sums as large as the classes squared
    and, for intervals and CutMix, a temporary file of its logits.
    """
    size = None
    if isinstance(data, Dataset):
        how, size = replace(how, mean=data.mean, std=data.std, mirror=data.mirror), data.size
    source = stream(data, how.batch, lambda images: scoring_places(images, how.seed), how.workers)
    grouped = source.length is None or source.length >= 2 * stddev_group
    partners = list({c.partner: None for c in candidates}) if grouped else []
    passes, run = len(candidates) + len(partners), None
    total = source.length and source.length * passes
    with torch.no_grad(), evaluating(teacher), progress("views", total) as done:
        for number, (images, labels) in enumerate(_watched(source)):
            batch = images.to(device_of(teacher)), labels.to(device_of(teacher))
            if run is None:
                look, classes = _begin(teacher, batch, candidates, how, size, source.classes)
                run = _Passes(look, classes, candidates, partners, size)
                run.start(stddev_group, replicates > 0)
            run.add(number, *batch)
            done(len(images) * passes)
    if run is None:
        raise ValueError("data must have images, got none")
    return run.rows(replicates), run.counts


def _begin(
    teacher: Callable,
    batch: Batch,
    candidates: Sequence[Candidate],
    how: Scoring,
    size: int | None,
    classes: int | None,
) -> tuple[Look, int]:
    """What the first batch shows: how the teacher looks, and its number of classes."""
    images, labels = batch
    channels = images.shape[1]
    for candidate in candidates:
        candidate.check_channels(channels)
    scale = _scale(how.mean, "mean", channels), _scale(how.std, "std", channels)
    look = Look(teacher, how, *(x.to(images.device) for x in scale))
    unmixed, base = replace(candidates[0], mixing=""), (how.mirror is not False, how.padding, size)
    views, _ = unmixed.views(images, labels * 0, 1, (how.seed, 0, 0, 0), *base)
    logits = look(views)
    check_logits(logits)
    found = logits.shape[1]
    own = f"the teacher gives logits of {found} classes, the data has {classes}"
    require(classes in (None, found), own)
    return look, found


@dataclass
class _Passes:
    """All candidates' passes, and those of the base views that T. stddev pairs them with."""

    look: Look
    classes: int
    candidates: Sequence[Candidate]
    partners: Sequence[Candidate]
    size: int | None

    def start(self, group: int, spooled: bool) -> None:
        self.tallies = {c.name: Tally(self.classes, group, spooled) for c in self.candidates}
        self.bases = {c.name: Groups(group) for c in self.partners}
        self.counts = torch.zeros(self.classes, dtype=torch.int64)

    def add(self, number: int, images: Tensor, labels: Tensor) -> None:
        """Batch `number`: one view of each image for each candidate."""
        most, least = int(labels.max()), f"labels must lie in 0..{self.classes - 1}"
        require(most < self.classes, f"{least}, the teacher's classes, found {most}")
        self.counts += torch.bincount(labels, minlength=self.classes).cpu()
        for candidate in self.candidates:
            self.tallies[candidate.name].add(*self._looked(candidate, images, labels, number, 0))
        for partner in self.partners:
            logits, _ = self._looked(partner, images, labels, number, 1)
            self.bases[partner.name].add(logits.double().softmax(1))

    def _looked(
        self, candidate: Candidate, images: Tensor, labels: Tensor, number: int, draw: int
    ) -> Batch:
        how = self.look.how
        base = how.mirror is not False, how.padding, self.size
        key = candidate.key(how.seed, number, draw)
        views, targets = candidate.views(images, labels, self.classes, key, *base)
        logits = self.look(views)
        same = f"the teacher must give {self.classes} logits an image, got {logits.shape[1]}"
        require(logits.shape[1] == self.classes, same)
        return logits, targets

    def rows(self, replicates: int) -> list[dict[str, Any]]:
        how, rows = self.look.how, []
        for candidate in self.candidates:
            tally, base = self.tallies[candidate.name], self.bases.get(candidate.partner.name)
            row = tally.row(how.cmi_weight, replicates, how.seed)
            stddev = tally.groups.stddev(base) if base else float("nan")
            rows.append({"augmentation": candidate.name, **row, "teacher_stddev": stddev})
        return rows


def _watched(source: Stream) -> Iterator[Batch]:
    """The batches of a source. Warns if their order is the source's own, and sorted by class."""
    last = first = None
    is_sorted = not source.ordered
    for images, labels in source.batches:
        first = int(labels[0]) if first is None else first
        steps = torch.cat([labels[:1] if last is None else last, labels]).diff()
        is_sorted, last = is_sorted and bool((steps >= 0).all()), labels[-1:]
        yield images, labels
    if is_sorted and last is not None and int(last) > first:
        warnings.warn(SORTED, stacklevel=5)
