"""CIFAR-10 and CIFAR-100: 60,000 photographs each, 32 x 32 (Krizhevsky, 2009)."""

import hashlib
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..basics.checks import require
from .dataset import DATASETS, Dataset, Source
from .download import explained


@dataclass(frozen=True)
class Cifar:
    """What tells CIFAR-10 from CIFAR-100. `folder` is that of torchvision's archive.

    `fingerprints` are those of the complete training and test sets (see `_canonical`), whatever the
    images' order.
    """

    classes: int
    folder: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fingerprints: tuple[str, str]


CIFAR = {
    "cifar10": Cifar(
        classes=10,
        folder="cifar-10-batches-py",
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
        fingerprints=("d249e8e6cf1e6606", "92a5e4aed1c08443"),
    ),
    "cifar100": Cifar(
        classes=100,
        folder="cifar-100-python",
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
        fingerprints=("ff1315503a66150d", "66ac771cee41e521"),
    ),
}


def _hashes(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) uint8 and (N,) labels below 256 -> (N, 16) uint8, a hash of each image with its
    label.
    """
    digests = [
        hashlib.blake2b(image.tobytes() + bytes([label]), digest_size=16).digest()
        for image, label in zip(images, labels.tolist(), strict=True)
    ]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)


def _canonical(images: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor, str]:
    """Images (N, H, W, 3) in an order that depends on their content alone, as (N, 3, H, W), and
    their fingerprint.

    The fingerprint is a hash over the sorted hashes of the labelled images: any order of the same
    ones gives the same.
    """
    hashes = _hashes(images, labels)
    order = np.lexsort(hashes.T[::-1])
    fingerprint = hashlib.sha256(hashes[order].tobytes()).hexdigest()[:16]
    chosen = torch.from_numpy(order)
    pixels = torch.from_numpy(images)[chosen].permute(0, 3, 1, 2).contiguous()
    return pixels, torch.from_numpy(labels.astype(np.int64))[chosen], fingerprint


def _read_npz(path: Path, classes: int) -> dict[str, np.ndarray]:
    """The arrays of cifar10.npz or cifar100.npz, checked; every error names the file."""
    kinds = {"images": (np.uint8, (32, 32, 3)), "labels": (np.int64, ())}
    wanted = {f"{part}_{name}": kinds[name] for part in ("train", "test") for name in kinds}
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in (*wanted, "classes")}
    except Exception as error:  # whatever a damaged file makes numpy and zipfile raise
        raise ValueError(f"{path} is not a data set in npz form, or is damaged: {error}") from error
    found = arrays["classes"]
    require(found.shape == (classes,), f"{path} has {found.size} classes, {classes} expected")
    for name, (dtype, shape) in wanted.items():
        array = arrays[name]
        good = array.dtype == dtype and array.ndim and array.shape[1:] == shape
        need = f"{name} must be {dtype.__name__} (N, *{shape})"
        require(good, f"{path}: {need}, got {array.dtype} {array.shape}")
    for part in ("train", "test"):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        require(len(images) == len(labels), f"{path}: {part}_labels must be one an image")
        covered = np.array_equal(np.unique(labels), np.arange(classes))
        every = f"must cover 0..{classes - 1}, every class with an image"
        require(covered, f"{path}: {part}_labels {every}")
    return arrays


def _download_cifar(name: str, root: Path, download: bool) -> dict[str, np.ndarray]:
    """Through torchvision, which checks the archive's and every file's MD5 before it reads them."""
    from torchvision import datasets

    arrays, read = {}, getattr(datasets, name.upper())
    for split in ("train", "test"):
        part = read(root, train=split == "train", download=download)
        labels = np.array(part.targets, np.int64)
        arrays |= {f"{split}_images": part.data, f"{split}_labels": labels}
    return arrays | {"classes": np.array(part.classes)}


def cifar(name: str, root: Path, download: bool) -> Dataset:
    """A key of `CIFAR` from `root`: NAME.npz, or torchvision's archive, downloaded if asked.

    Raises ValueError for a file that is not that data set, FileNotFoundError if there is none.
    """
    facts, path = CIFAR[name], root / f"{name}.npz"
    if path.exists():
        arrays = _read_npz(path, facts.classes)
    else:
        by_hand = (
            f"put {path.name} (as docs/data.md describes it) there",
            f"unpack torchvision's archive there, giving the folder {facts.folder}",
        )
        with explained(name, root, *by_hand):
            arrays = _download_cifar(name, root, download)
    tensors = {}
    sizes = zip(("train", "test"), (50_000, 10_000), facts.fingerprints, strict=True)
    for split, complete, expected in sizes:
        parts = f"{split}_images", f"{split}_labels"
        images, labels, found = _canonical(*(arrays[part] for part in parts))
        if len(images) != complete:
            text = f"{path} holds {len(images)} of {name}'s {complete} {split} images"
            warnings.warn(text, stacklevel=5)
        elif found != expected:
            source = path if path.exists() else root / facts.folder
            wrong = f"the labelled {split} images are not those of {name}"
            raise ValueError(f"{source}: {wrong} (fingerprint {found}, expected {expected})")
        tensors |= dict(zip(parts, (images, labels), strict=True))
    classes = tuple(map(str, arrays["classes"]))
    return Dataset(name, **tensors, classes=classes, mean=facts.mean, std=facts.std)


_PROOF = "test_npz_gives_the_same_tensors_in_any_order"
for name in CIFAR:
    DATASETS[name] = Source(partial(cifar, name), "Krizhevsky, 2009", _PROOF)
