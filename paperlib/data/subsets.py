"""Parts of a data set: class-balanced subsets, a validation split, the two halves of the test
images.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..basics.checks import checked, count, kind_of, require
from .checks import labels_of
from .dataset import Dataset

HALVES_SEED = 2  # of `halves`: never to be changed, committed records were judged by these halves


_LABELS, _DATA = labels_of(), kind_of(Dataset)


@checked(labels=_LABELS)
def balanced_indices(labels: Tensor, count: int, seed: int) -> Tensor:
    """Indices of `count` images, chosen at random with every class as often as the others, or once
    more.

    labels  (N,) int64. count  at least the number of classes. seed  of the choice and of the order.
    Returns (count,) int64 on the CPU, in random order.
    Raises ValueError if a class has too few images or `count` is smaller than the number of
    classes.

    >>> balanced_indices(torch.tensor([0, 0, 0, 1, 1]), 4, seed=0).sort().values.shape
    torch.Size([4])
    """
    rng = np.random.default_rng([seed, 0x5AB5E7])
    values = labels.cpu().numpy()
    classes = np.unique(values)
    require(count >= len(classes), f"{count} images cannot hold one of {len(classes)} classes each")
    quota = np.full(len(classes), count // len(classes))
    quota[rng.permutation(len(classes))[: count % len(classes)]] += 1
    chosen = []
    for label, wanted in zip(classes, quota, strict=True):
        members = np.flatnonzero(values == label)
        lacks = f"class {label} has {len(members)} images, a subset of {count} needs {wanted}"
        require(len(members) >= wanted, lacks)
        chosen.append(rng.choice(members, wanted, replace=False))
    return torch.from_numpy(rng.permutation(np.concatenate(chosen)))


@checked(data=_DATA)
def subset(
    data: Dataset, train: int | None = None, test: int | None = None, seed: int = 0
) -> Dataset:
    """A class-balanced, seeded choice of `train` training and `test` test images; None keeps all of
    them.

    >>> from paperlib.data import load
    >>> len(subset(load("digits"), train=200).train_images)
    200
    """
    parts = {}
    for part, wanted in (("train", train), ("test", test)):
        if wanted is not None:
            labels = getattr(data, f"{part}_labels")
            chosen = balanced_indices(labels, wanted, seed).to(labels.device)
            names = f"{part}_images", f"{part}_labels"
            parts |= {name: getattr(data, name)[chosen] for name in names}
    return replace(data, **parts)


@checked(data=_DATA, images=count)
def validation_split(data: Dataset, images: int, seed: int = 0) -> Dataset:
    """The data set to make choices on: `images` of the training images take the place of the test
    images.

    The test images are for reporting; whatever is chosen (a learning rate, an epoch, a pick) is
    chosen on this.

    >>> from paperlib.data import load
    >>> choices = validation_split(load("digits"), images=300)
    >>> len(choices.train_images), len(choices.test_images)
    (997, 300)
    """
    held_out = balanced_indices(data.train_labels, images, seed).to(data.train_labels.device)
    keep = torch.ones(len(data.train_labels), dtype=torch.bool, device=data.train_labels.device)
    keep[held_out] = False
    return replace(
        data,
        train_images=data.train_images[keep],
        train_labels=data.train_labels[keep],
        test_images=data.train_images[held_out],
        test_labels=data.train_labels[held_out],
    )


@checked(labels=_LABELS)
def halves(labels: Tensor) -> tuple[Tensor, Tensor]:
    """The two fixed halves of the test images: the choosing half, for what chooses by held-out
    images, and the judging half.

    labels  (N,) int64 of the test images. Returns the places of each half's images, ascending, (N
    // 2,) and (N - N // 2,) int64 on the device of `labels`. Both have half of each class, or one
    more or less.

    >>> halves(torch.tensor([0, 0, 1, 1]))[0].shape
    torch.Size([2])
    """
    shuffled = np.random.default_rng(HALVES_SEED).permutation(len(labels))
    by_class = shuffled[np.argsort(labels.cpu().numpy()[shuffled], kind="stable")]
    halves = (torch.from_numpy(np.sort(by_class[start::2])) for start in (1, 0))
    return tuple(half.to(labels.device) for half in halves)


@checked(data=_DATA)
def choosing_images(data: Dataset) -> Dataset:
    """The data set with the choosing half of its test images in the place of the training images.

    >>> from paperlib.data import load
    >>> len(choosing_images(load("digits")).train_images)
    250
    """
    choosing, _ = halves(data.test_labels)
    return replace(
        data, train_images=data.test_images[choosing], train_labels=data.test_labels[choosing]
    )


@checked(data=_DATA)
def resized(data: Dataset, size: int | None) -> Dataset:
    """The same images, with training views of (size, size) by the base augmentation of
    `paperlib.augment.base`, and test views to match (`Dataset.test_views`). None: views as large as
    the images, crops of the padded image.

    >>> from paperlib.data import load
    >>> resized(load("digits"), 64).view_shape
    (64, 64)
    """
    return replace(data, size=size)
