"""Labelled images, whole data set on one device: uint8 in, no DataLoader.

    digits         1,797 handwritten digits, shipped with the package, up-scaled to 32 x 32 x 3
    cifar10        60,000 photographs, 32 x 32, 10 classes
    cifar100       60,000 photographs, 32 x 32, 100 classes
    tiny-imagenet  up to 110,000 photographs, 64 x 64, 200 classes

One file a data set, which ends with its entry in `DATASETS`. The CIFAR sets and Tiny-ImageNet are
read from the folder named by $PAPERLIB_DATA (default `data`), or downloaded into it. No file is
ever unpickled but the archives whose checksum torchvision verifies.
"""

import os
from pathlib import Path

from ..basics.checks import checked, kind_of
from ..basics.registry import import_all
from .checks import check_images, check_labels, check_targets
from .dataset import DATASETS, Dataset, Source, normalise
from .gathering import dataset_of, gather
from .subsets import balanced_indices, choosing_images, halves, resized, subset, validation_split

import_all(__name__, __path__)


@checked(root=kind_of(str, os.PathLike))
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
    root = Path(root if root is not None else os.environ.get("PAPERLIB_DATA", "data"))
    return DATASETS[name].load(root, download)
