"""CIFAR-10 and CIFAR-100: 60,000 photographs each, 32 x 32 (Krizhevsky, 2009)."""

import hashlib
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .dataset import DATASETS, Dataset, Source
from .download import explained


@dataclass(frozen=True)
class Cifar:
    """What tells CIFAR-10 from CIFAR-100.

    `fingerprints` are those of the complete training and test sets (see `fingerprint`), whatever
    the images' order.
    """

    classes: int
    torchvision_class: str
    folder: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fingerprints: dict[str, str]


CIFAR = {
    "cifar10": Cifar(
        10,
        "CIFAR10",
        "cifar-10-batches-py",
        (0.4914, 0.4822, 0.4465),
        (0.2023, 0.1994, 0.2010),
        {"train": "d249e8e6cf1e6606", "test": "92a5e4aed1c08443"},
    ),
    "cifar100": Cifar(
        100,
        "CIFAR100",
        "cifar-100-python",
        (0.5071, 0.4867, 0.4408),
        (0.2675, 0.2565, 0.2761),
        {"train": "ff1315503a66150d", "test": "66ac771cee41e521"},
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
    return (
        torch.from_numpy(images)[chosen].permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(labels.astype(np.int64))[chosen],
        fingerprint,
    )


def _read_npz(path: Path, classes: int) -> dict[str, np.ndarray]:
    """The arrays of cifar10.npz or cifar100.npz, checked; every error names the file."""
    shapes = {
        "train_images": (32, 32, 3),
        "test_images": (32, 32, 3),
        "train_labels": (),
        "test_labels": (),
    }
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = {*shapes, "classes"} - set(file.files)
            if missing:
                raise ValueError(f"has no array {', '.join(sorted(missing))}")
            arrays = {name: file[name] for name in (*shapes, "classes")}
    except (
        ValueError,
        TypeError,
        OSError,
        EOFError,
        KeyError,
        NotImplementedError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError(f"{path} is not a data set in npz form, or is damaged: {error}") from error
    if arrays["classes"].shape != (classes,):
        raise ValueError(f"{path} has {arrays['classes'].size} classes, {classes} expected")
    for split in ("train", "test"):
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3):
            raise ValueError(
                f"{path}: {split}_images must be uint8 (N, 32, 32, 3), got {images.dtype} "
                f"{images.shape}"
            )
        if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"{path}: {split}_labels must be int64 ({len(images)},), got {labels.dtype} "
                f"{labels.shape}"
            )
        counts = (
            np.bincount(labels, minlength=classes)
            if len(labels) and labels.min() >= 0
            else np.zeros(0)
        )
        if len(counts) != classes or counts.min() == 0:
            raise ValueError(
                f"{path}: {split}_labels must cover 0..{classes - 1}, every class with an image"
            )
    return arrays


def _download_cifar(facts: Cifar, root: Path, download: bool) -> dict[str, np.ndarray]:
    """Through torchvision, which checks the archive's and every file's MD5 before it reads them."""
    from torchvision import datasets

    arrays = {}
    for split in ("train", "test"):
        part = getattr(datasets, facts.torchvision_class)(
            root, train=split == "train", download=download
        )
        arrays |= {
            f"{split}_images": part.data,
            f"{split}_labels": np.array(part.targets, np.int64),
        }
    return arrays | {"classes": np.array(part.classes)}


def cifar(name: str, root: Path, download: bool) -> Dataset:
    """A key of `CIFAR` from `root`: NAME.npz, or torchvision's archive, downloaded if asked.

    Raises ValueError for a file that is not that data set, FileNotFoundError if there is none.
    """
    facts, path = CIFAR[name], root / f"{name}.npz"
    if path.exists():
        arrays = _read_npz(path, facts.classes)
    else:
        with explained(
            name,
            root,
            f"put {path.name} (as docs/data.md describes it) there",
            f"unpack torchvision's archive there, giving the folder {facts.folder}",
        ):
            arrays = _download_cifar(facts, root, download)
    tensors = {}
    for split, complete in (("train", 50_000), ("test", 10_000)):
        images, labels, fingerprint = _canonical(
            arrays[f"{split}_images"], arrays[f"{split}_labels"]
        )
        if len(images) != complete:
            warnings.warn(
                f"{path} holds {len(images)} of {name}'s {complete} {split} images", stacklevel=4
            )
        elif fingerprint != facts.fingerprints[split]:
            raise ValueError(
                f"{path if path.exists() else root / facts.folder}: the labelled {split} "
                f"images are not those of {name} "
                f"(fingerprint {fingerprint}, expected {facts.fingerprints[split]})"
            )
        tensors |= {f"{split}_images": images, f"{split}_labels": labels}
    return Dataset(
        name, **tensors, classes=tuple(map(str, arrays["classes"])), mean=facts.mean, std=facts.std
    )


for name in CIFAR:
    DATASETS[name] = Source(
        partial(cifar, name), "Krizhevsky, 2009", "test_npz_gives_the_same_tensors_in_any_order"
    )
