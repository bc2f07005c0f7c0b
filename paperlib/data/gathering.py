"""What people have as a `Dataset` to train on: read once, kept whole as uint8."""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..basics.checks import require
from ..basics.progress import progress
from .dataset import Dataset, each_channel
from .streams import class_names, stream

AT_ONCE = 256  # images that are read, and measured, together


def gather(data: Any, file: str | Path | None = None, workers: int = 0) -> tuple[Tensor, Tensor]:
    """Images (N, 3, H, W) uint8 and labels (N,) int64 on the CPU, in the source's order.

    data     a torch Dataset of images and labels, torchvision's ImageFolder, a DataLoader, a
             Hugging Face dataset, or whatever else `streams.stream` reads. Images of one size, so
             it may need a transform that resizes; uint8, or floats in 0 .. 1.
    file     where the images lie, memory-mapped, if they are more than the memory holds; it must
             not be there yet. None: in memory. The source must then say how many images it has.
    workers  processes that read; 0 reads in this one.

    Raises ValueError for an image that is not RGB, or not of the size of the first; FileExistsError
    for a file that is there; and what `streams.stream` raises.

    >>> images, labels = gather([(np.full((8, 8, 3), k, np.uint8), k % 2) for k in range(5)])
    >>> images.shape, images[:, 0, 0, 0].tolist(), labels.tolist()
    (torch.Size([5, 3, 8, 8]), [0, 1, 2, 3, 4], [0, 1, 0, 1, 0])
    """
    source, images, labels = stream(data, AT_ONCE, np.arange, workers), None, []
    parts, done = [], 0
    with progress("images", source.length) as advance:
        for batch, targets in source.batches:
            grey = "images must be RGB, let the transform repeat grey; got"
            require(batch.shape[1] == 3, f"{grey} {batch.shape[1]} channels")
            if images is None and source.length is not None:
                images = _room((source.length, *batch.shape[1:]), file)
            if images is None:
                require(file is None, "a file needs a source that says how many images it has")
                parts.append(batch)
            else:
                one = f"images must be of one size, got {tuple(batch.shape[2:])} after others"
                require(batch.shape[1:] == images.shape[1:], one)
                images[done : done + len(batch)] = batch
            labels.append(targets)
            done += len(batch)
            advance(len(batch))
    require(done, "the source has no images")
    return torch.cat(parts) if images is None else images[:done], torch.cat(labels)


def dataset_of(
    train: Any,
    test: Any,
    *,
    name: str = "own data",
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    mirror: bool = True,
    size: int | None = None,
    file: str | Path | None = None,
    workers: int = 0,
) -> Dataset:
    """A `Dataset` of one's own images, on the CPU; `.to("cuda")` puts it on a GPU, where it trains
    without a copy a step.

    train, test  as `gather` reads them; `file` holds the training images. classes  their names;
                 None: those that `train` says it has, else numbers. mean, std  of the channels, or
                 one number for all; None: the training images' own. The others as for `Dataset` and
                 `gather`.

    >>> pairs = [(torch.full((3, 8, 8), 0.2 * k), k % 2) for k in range(6)]
    >>> data = dataset_of(pairs, pairs[:2], classes=("even", "odd"), std=(0.25,) * 3)
    >>> data.classes, [round(m, 3) for m in data.mean]
    (('even', 'odd'), [0.5, 0.5, 0.5])
    """
    names, others = class_names(train), class_names(test)
    same = f"train and test must number their classes alike, got {names} and {others}"
    require(names == others or not (names and others), same)
    images, labels = gather(train, file, workers)
    if classes is None:
        classes = names or tuple(map(str, range(int(labels.max()) + 1)))
    if mean is None or std is None:
        own = moments(images)
        mean, std = (own[0] if mean is None else mean), (own[1] if std is None else std)
    tensors = images, labels, *gather(test, None, workers)
    scale = each_channel(mean), each_channel(std)
    return Dataset(name, *tensors, tuple(map(str, classes)), *scale, mirror, size)


def moments(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the channels of (N, C, H, W) uint8 images, on the scale 0 ..
    1. A channel of one value has a deviation of 1.

    >>> moments(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1))
    ((0.5,), (0.5,))
    """
    sums = torch.zeros(2, images.shape[1], dtype=torch.float64)
    for part in images.split(AT_ONCE):
        x = part.double().transpose(0, 1).flatten(1) / 255
        sums += torch.stack([x.sum(1), x.square().sum(1)]).cpu()
    mean, square = sums * images.shape[1] / images.numel()
    std = (square - mean**2).clamp(min=0).sqrt()
    return tuple(mean.tolist()), tuple(std.where(std > 0, 1.0).tolist())


def _room(shape: tuple[int, ...], file: str | Path | None) -> Tensor:
    """An uint8 tensor of this shape, in memory or in a new file."""
    if file is None:
        return torch.empty(shape, dtype=torch.uint8)
    Path(file).touch(exist_ok=False)
    return torch.from_file(str(file), shared=True, size=prod(shape), dtype=torch.uint8).view(shape)
