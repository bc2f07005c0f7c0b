"""Labelled images, whole data set on one device: uint8 in, no DataLoader.

    digits         1,797 handwritten digits, shipped with the package, up-scaled to 32 x 32 x 3
    cifar10        60,000 photographs, 32 x 32, 10 classes
    cifar100       60,000 photographs, 32 x 32, 100 classes
    tiny-imagenet  up to 110,000 photographs, 64 x 64, 200 classes

The CIFAR sets and Tiny-ImageNet are read from the folder named by $PAPERLIB_DATA (default `data`), or downloaded into it.
No file is ever unpickled but the archives whose checksum torchvision verifies.
"""

import hashlib
import os
import shutil
import socket
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

TINY_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINY_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
HALVES_SEED = 2  # of `halves`: never to be changed, committed records were judged by these halves


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test images of one classification task.

    train_images, test_images  (N, 3, H, W) uint8.
    train_labels, test_labels  (N,) int64, 0 .. classes - 1.
    classes                    their names, in label order.
    mean, std                  of the channels, on the scale 0 .. 1, for the normalisation.
    mirror                     whether a mirrored image keeps its class: true of photographs, not of digits.
    size                       None: training views are crops of the padded images, as large as the images. A number: the side
                               of views made by the base augmentation of `paperlib.augment.base`, see `resized`.

    Raises TypeError or ValueError, naming the value, if the arrays are not that.
    """

    name: str
    train_images: Tensor = field(repr=False)
    train_labels: Tensor = field(repr=False)
    test_images: Tensor = field(repr=False)
    test_labels: Tensor = field(repr=False)
    classes: tuple[str, ...]
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    mirror: bool = True
    size: int | None = None

    def __post_init__(self):
        if self.size is not None and self.size < 1:
            raise ValueError(f"size must be None or at least 1, got {self.size}")
        check_images(self.train_images)
        check_images(self.test_images)
        check_labels(self.train_labels, len(self.train_images), len(self.classes))
        check_labels(self.test_labels, len(self.test_images), len(self.classes))

    def to(self, device: str | torch.device) -> "Dataset":
        """The same data set with its four tensors on `device`."""
        names = ("train_images", "train_labels", "test_images", "test_labels")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def normalise(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 -> float32 of the same shape, (x / 255 - mean) / std per channel."""
        return normalise(images, self.mean, self.std)

    @property
    def view_shape(self) -> tuple[int, int]:
        """(height, width) of a training view."""
        return tuple(self.train_images.shape[-2:]) if self.size is None else (self.size, self.size)

    def test_views(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 -> uint8 as a network trained on this data set is tested on them; no randomness.

        The images themselves if `size` is None or their own side. Else they are resized to a square of 256 pixels for views
        of 224, and in that proportion for others (bilinear, antialias); nothing is cut off, as in the paper's code. Random
        crops show objects larger than the whole image of the same size would (Touvron et al., NeurIPS 2019).
        """
        if self.size is None or images.shape[-2:] == (self.size, self.size):
            return images
        side = round(self.size * 256 / 224)
        large = F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True)
        return large.round_().to(torch.uint8)


def check_images(images: Tensor) -> None:
    """Raise unless `images` is a non-empty (N, 3, H, W) uint8 tensor."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a torch tensor, got {type(images).__name__}")
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(f"images must be a non-empty uint8 tensor (N, 3, H, W), got {images.dtype} {tuple(images.shape)}")


def check_labels(labels: Tensor, images: int, classes: int) -> None:
    """Raise unless `labels` is (images,) int64 with values 0 .. classes - 1."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a torch tensor, got {type(labels).__name__}")
    if labels.dtype != torch.int64 or labels.shape != (images,):
        raise ValueError(f"labels must be int64 of shape ({images},), got {labels.dtype} {tuple(labels.shape)}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(f"labels must lie in 0..{classes - 1}, found {low if low < 0 else high}")


@lru_cache(maxsize=64)  # made from Python numbers, they would be copied from the host for every batch
def _scaled(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers on the scale 0 .. 1, one per channel -> (1, C, 1, 1) float32 on the scale 0 .. 255. Not to be modified."""
    return torch.tensor(values, device=device).view(1, -1, 1, 1) * 255


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(N, 3, H, W) uint8 -> float32 of the same shape and memory format, (x / 255 - mean) / std per channel."""
    return images.float().sub_(_scaled(tuple(mean), images.device)).div_(_scaled(tuple(std), images.device))


def balanced_indices(labels: Tensor, count: int, seed: int) -> Tensor:
    """Indices of `count` images, chosen at random with every class as often as the others, or once more.

    labels  (N,) int64. count  at least the number of classes. seed  of the choice and of the order.
    Returns (count,) int64 on the CPU, in random order.
    Raises ValueError if a class has too few images or `count` is smaller than the number of classes.

    >>> balanced_indices(torch.tensor([0, 0, 0, 1, 1]), 4, seed=0).sort().values.shape
    torch.Size([4])
    """
    rng = np.random.default_rng([seed, 0x5AB5E7])
    values = labels.cpu().numpy()
    classes = np.unique(values)
    if count < len(classes):
        raise ValueError(f"a subset needs at least one image per class: {count} < {len(classes)}")
    quota = np.full(len(classes), count // len(classes))
    quota[rng.permutation(len(classes))[: count % len(classes)]] += 1
    chosen = []
    for label, wanted in zip(classes, quota, strict=True):
        members = np.flatnonzero(values == label)
        if len(members) < wanted:
            raise ValueError(f"class {label} has {len(members)} images, {wanted} wanted for a subset of {count}")
        chosen.append(rng.choice(members, wanted, replace=False))
    return torch.from_numpy(rng.permutation(np.concatenate(chosen)))


def subset(data: Dataset, train: int | None = None, test: int | None = None, seed: int = 0) -> Dataset:
    """A class-balanced, seeded choice of `train` training and `test` test images; None keeps all of them.

    >>> len(subset(load("digits"), train=200).train_images)
    200
    """
    parts = {}
    for part, count in (("train", train), ("test", test)):
        if count is not None:
            images, labels = getattr(data, f"{part}_images"), getattr(data, f"{part}_labels")
            chosen = balanced_indices(labels, count, seed).to(labels.device)
            parts |= {f"{part}_images": images[chosen], f"{part}_labels": labels[chosen]}
    return replace(data, **parts)


def validation_split(data: Dataset, images: int, seed: int = 0) -> Dataset:
    """The data set to make choices on: `images` of the training images take the place of the test images.

    The test images are for reporting; whatever is chosen (a learning rate, an epoch, a pick) is chosen on this.

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


def halves(labels: Tensor) -> tuple[Tensor, Tensor]:
    """The two fixed halves of the test images: the choosing half, for what chooses by held-out images, and the judging half.

    labels  (N,) int64 of the test images. Returns the places of each half's images, ascending, (N // 2,) and (N - N // 2,) int64
    on the device of `labels`. Both have half of each class, or one more or less.

    >>> halves(torch.tensor([0, 0, 1, 1]))[0].shape
    torch.Size([2])
    """
    shuffled = np.random.default_rng(HALVES_SEED).permutation(len(labels))
    by_class = shuffled[np.argsort(labels.cpu().numpy()[shuffled], kind="stable")]
    choosing, judging = (torch.from_numpy(np.sort(by_class[start::2])).to(labels.device) for start in (1, 0))
    return choosing, judging


def choosing_images(data: Dataset) -> Dataset:
    """The data set with the choosing half of its test images in the place of the training images.

    >>> len(choosing_images(load("digits")).train_images)
    250
    """
    choosing, _ = halves(data.test_labels)
    return replace(data, train_images=data.test_images[choosing], train_labels=data.test_labels[choosing])


def resized(data: Dataset, size: int | None) -> Dataset:
    """The same images, with training views of (size, size) by the base augmentation of `paperlib.augment.base`, and test views
    to match (`Dataset.test_views`). None: views as large as the images, crops of the padded image.

    >>> resized(load("digits"), 64).view_shape
    (64, 64)
    """
    return replace(data, size=size)


def load(name: str, root: str | Path | None = None, download: bool = True) -> Dataset:
    """A data set by name, on the CPU.

    name      a key of `DATASETS`.
    root      folder of the files; default $PAPERLIB_DATA, else `data` in the working folder.
    download  fetch what is not there.

    Images come in an order that depends on their content alone, so every source of CIFAR gives the same tensors.
    Raises ValueError for an unknown name or a file that is not what its name says, FileNotFoundError, with the ways to
    get the data, if it is neither there nor downloadable.

    >>> load("digits").train_images.shape
    torch.Size([1297, 3, 32, 32])
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    root = Path(root if root is not None else os.environ.get("PAPERLIB_DATA", "data"))
    return DATASETS[name](root, download)


# --------------------------------------------------------------------------------------------------------- digits


def _digits(root: Path, download: bool) -> Dataset:
    """Alpaydin & Kaynak 1998, UCI optdigits (CC BY 4.0): the 1,797 images that scikit-learn ships, 8 x 8, 0 .. 16."""
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as arrays:
        small, labels = arrays["images"].astype(np.int64), torch.from_numpy(arrays["labels"].astype(np.int64))
    # Bilinear interpolation by 4 in integers, so that every machine gets the same bytes: weights are eighths.
    position = (np.arange(32) + 0.5) / 4 - 0.5
    weights = np.maximum(0, 8 - 8 * np.abs(np.clip(position, 0, 7)[:, None] - np.arange(8))).astype(np.int64)
    large = (255 * (weights @ small @ weights.T) + 512) // 1024  # (N, 32, 32), 0 .. 255
    images = torch.from_numpy(large.astype(np.uint8))[:, None].expand(-1, 3, -1, -1).contiguous()
    test = balanced_indices(labels, 500, seed=0)
    train = torch.ones(len(labels), dtype=torch.bool)
    train[test] = False
    return Dataset(
        "digits", images[train], labels[train], images[test], labels[test], tuple("0123456789"),
        mean=(0.305,) * 3, std=(0.3237,) * 3, mirror=False,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- CIFAR


@dataclass(frozen=True)
class Cifar:
    """What tells CIFAR-10 from CIFAR-100.

    `fingerprints` are those of the complete training and test sets (see `fingerprint`), whatever the images' order.
    """

    classes: int
    torchvision_class: str
    folder: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fingerprints: dict[str, str]


CIFAR = {
    "cifar10": Cifar(
        10, "CIFAR10", "cifar-10-batches-py", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010),
        {"train": "d249e8e6cf1e6606", "test": "92a5e4aed1c08443"},
    ),
    "cifar100": Cifar(
        100, "CIFAR100", "cifar-100-python", (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761),
        {"train": "ff1315503a66150d", "test": "66ac771cee41e521"},
    ),
}  # fmt: skip


def _hashes(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) uint8 and (N,) labels below 256 -> (N, 16) uint8, a hash of each image with its label."""
    digests = [
        hashlib.blake2b(image.tobytes() + bytes([label]), digest_size=16).digest()
        for image, label in zip(images, labels.tolist(), strict=True)
    ]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)


def _canonical(images: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor, str]:
    """Images (N, H, W, 3) in an order that depends on their content alone, as (N, 3, H, W), and their fingerprint.

    The fingerprint is a hash over the sorted hashes of the labelled images: any order of the same ones gives the same.
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
    shapes = {"train_images": (32, 32, 3), "test_images": (32, 32, 3), "train_labels": (), "test_labels": ()}
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = {*shapes, "classes"} - set(file.files)
            if missing:
                raise ValueError(f"has no array {', '.join(sorted(missing))}")
            arrays = {name: file[name] for name in (*shapes, "classes")}
    except (ValueError, TypeError, OSError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a data set in npz form, or is damaged: {error}") from error
    if arrays["classes"].shape != (classes,):
        raise ValueError(f"{path} has {arrays['classes'].size} classes, {classes} expected")
    for split in ("train", "test"):
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3):
            raise ValueError(f"{path}: {split}_images must be uint8 (N, 32, 32, 3), got {images.dtype} {images.shape}")
        if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
            raise ValueError(f"{path}: {split}_labels must be int64 ({len(images)},), got {labels.dtype} {labels.shape}")
        counts = np.bincount(labels, minlength=classes) if len(labels) and labels.min() >= 0 else np.zeros(0)
        if len(counts) != classes or counts.min() == 0:
            raise ValueError(f"{path}: {split}_labels must cover 0..{classes - 1}, every class with an image")
    return arrays


def _download_cifar(facts: Cifar, root: Path, download: bool) -> dict[str, np.ndarray]:
    """Through torchvision, which checks the archive's and every file's MD5 before it reads them."""
    from torchvision import datasets

    arrays = {}
    for split in ("train", "test"):
        part = getattr(datasets, facts.torchvision_class)(root, train=split == "train", download=download)
        arrays |= {f"{split}_images": part.data, f"{split}_labels": np.array(part.targets, np.int64)}
    return arrays | {"classes": np.array(part.classes)}


def _cifar(name: str, root: Path, download: bool) -> Dataset:
    facts, path = CIFAR[name], root / f"{name}.npz"
    if path.exists():
        arrays = _read_npz(path, facts.classes)
    else:
        with _explained(
            name, root, f"put {path.name} (as documented in the README) there",
            f"unpack torchvision's archive there, giving the folder {facts.folder}",
        ):  # fmt: skip
            arrays = _download_cifar(facts, root, download)
    tensors = {}
    for split, complete in (("train", 50_000), ("test", 10_000)):
        images, labels, fingerprint = _canonical(arrays[f"{split}_images"], arrays[f"{split}_labels"])
        if len(images) != complete:
            warnings.warn(f"{path} holds {len(images)} of {name}'s {complete} {split} images", stacklevel=4)
        elif fingerprint != facts.fingerprints[split]:
            raise ValueError(
                f"{path if path.exists() else root / facts.folder}: the labelled {split} images are not those of {name} "
                f"(fingerprint {fingerprint}, expected {facts.fingerprints[split]})"
            )
        tensors |= {f"{split}_images": images, f"{split}_labels": labels}
    return Dataset(name, **tensors, classes=tuple(map(str, arrays["classes"])), mean=facts.mean, std=facts.std)


# -------------------------------------------------------------------------------------------------- Tiny-ImageNet


def _read_folder(files: list[tuple[Path, int]]) -> tuple[Tensor, Tensor]:
    """JPEG files with labels -> (N, 3, 64, 64) uint8 and (N,) int64; grey pictures become RGB."""
    from PIL import Image

    images = np.empty((len(files), 64, 64, 3), np.uint8)
    for i, (path, _) in enumerate(files):
        try:
            with Image.open(path) as picture:
                images[i] = np.asarray(picture.convert("RGB"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is not a 64 x 64 picture, or is damaged: {error}") from error
    labels = torch.tensor([label for _, label in files], dtype=torch.int64)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels


def _tiny_imagenet(root: Path, download: bool) -> Dataset:
    """The folder layout of the published archive; classes whose training folder is absent are left out.

    Test images are the published validation images: the test labels were never published.
    """
    folder = root / "tiny-imagenet-200"
    if not folder.exists():
        from torchvision.datasets.utils import download_and_extract_archive

        with _explained(
            "tiny-imagenet", root, f"unpack tiny-imagenet-200.zip there, giving the folder {folder.name}",
            "point $PAPERLIB_DATA at a folder that has it",
        ):  # fmt: skip
            if not download:
                raise RuntimeError("download=False")
            root.mkdir(parents=True, exist_ok=True)
            unpacked = Path(tempfile.mkdtemp(dir=root, prefix=".unpacking-"))
            try:  # into place in one step: half an archive must never look like the data set
                download_and_extract_archive(TINY_URL, root, unpacked, md5=TINY_MD5)
                os.replace(unpacked / folder.name, folder)
            finally:
                shutil.rmtree(unpacked)
    try:
        wnids = [w for w in (folder / "wnids.txt").read_text().split() if (folder / "train" / w).is_dir()]
        rows = [line.split("\t")[:2] for line in (folder / "val/val_annotations.txt").read_text().splitlines()]
    except OSError as error:
        raise ValueError(f"{folder} does not have Tiny-ImageNet's layout: {error}") from error
    label = {wnid: i for i, wnid in enumerate(sorted(wnids))}
    train = [(path, label[w]) for w in sorted(wnids) for path in sorted((folder / "train" / w / "images").iterdir())]
    test = [(folder / "val/images" / name, label[wnid]) for name, wnid in rows if wnid in label]
    if not train or not test:
        raise ValueError(f"{folder} has {len(train)} training and {len(test)} validation images")
    return Dataset(
        "tiny-imagenet", *_read_folder(train), *_read_folder(test), tuple(sorted(wnids)),
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
    )  # fmt: skip


@contextmanager
def _explained(name: str, root: Path, *by_hand: str) -> Iterator[None]:
    """Turn a failed download into an error that names the ways to get the data."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # urllib, which torchvision uses, would wait for ever
    try:
        yield
    except (OSError, RuntimeError) as error:
        ways = [f"let it be downloaded (tried just now: {(str(error).splitlines() or [type(error).__name__])[0]})", *by_hand]
        listed = "\n".join(f"  {i}. {way}" for i, way in enumerate(ways, start=1))
        raise FileNotFoundError(
            f"{name} is not in {root.resolve()} (set by $PAPERLIB_DATA). Ways to get it:\n{listed}"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


DATASETS: dict[str, Callable[[Path, bool], Dataset]] = {
    "digits": _digits,
    "cifar10": partial(_cifar, "cifar10"),
    "cifar100": partial(_cifar, "cifar100"),
    "tiny-imagenet": _tiny_imagenet,
}
