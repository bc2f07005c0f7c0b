"""Labelled images, whole data set on one device: uint8 in, no DataLoader.

    digits         1,797 handwritten digits, shipped with the package, up-scaled to 32 x 32 x 3
    cifar10        60,000 photographs, 32 x 32, 10 classes
    cifar100       60,000 photographs, 32 x 32, 100 classes
    tiny-imagenet  up to 110,000 photographs, 64 x 64, 200 classes

One file a data set. The CIFAR sets and Tiny-ImageNet are read from the folder named by
$PAPERLIB_DATA (default `data`), or downloaded into it. No file is ever unpickled but the archives
whose checksum torchvision verifies.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from .cifar import CIFAR, cifar
from .dataset import Dataset, check_images, check_labels, normalise
from .digits import digits
from .subsets import balanced_indices, choosing_images, halves, resized, subset, validation_split
from .tiny_imagenet import tiny_imagenet

# Name -> function of (folder, whether to download) that gives the data set. An entry is all that a
# data set of one's own needs.
DATASETS: dict[str, Callable[[Path, bool], Dataset]] = {
    "digits": digits,
    **{name: partial(cifar, name) for name in CIFAR},
    "tiny-imagenet": tiny_imagenet,
}


def load(name: str, root: str | Path | None = None, download: bool = True) -> Dataset:
    """A data set by name, on the CPU.

    name      a key of `DATASETS`.
    root      folder of the files; default $PAPERLIB_DATA, else `data` in the working folder.
    download  fetch what is not there.

    Images come in an order that depends on their content alone, so every source of CIFAR gives the
    same tensors. Raises ValueError for an unknown name or a file that is not what its name says,
    FileNotFoundError, with the ways to get the data, if it is neither there nor downloadable.

    >>> load("digits").train_images.shape
    torch.Size([1297, 3, 32, 32])
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    root = Path(root if root is not None else os.environ.get("PAPERLIB_DATA", "data"))
    return DATASETS[name](root, download)


__all__ = [
    "DATASETS",
    "Dataset",
    "balanced_indices",
    "check_images",
    "check_labels",
    "choosing_images",
    "halves",
    "load",
    "normalise",
    "resized",
    "subset",
    "validation_split",
]
