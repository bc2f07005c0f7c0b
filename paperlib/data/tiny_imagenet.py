"""Tiny-ImageNet-200: up to 110,000 photographs, 64 x 64, of 200 classes."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..basics.checks import require
from ..basics.files import write_atomically
from .dataset import DATASETS, Dataset, Source
from .download import explained

TINY_URL = "https://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINY_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"  # the only published checksum


class Fingerprints:
    """SHA-256 of each file of a folder, written beside it (FOLDER.sha256.json) when the file is
    first read. A file that has changed since is refused.
    """

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder.with_name(f"{folder.name}.sha256.json")
        self.known: dict[str, str] = {}
        if self.path.exists():
            self.known = json.loads(self.path.read_text(encoding="utf-8"))
        self.new = False

    def read(self, path: Path) -> bytes:
        """The content of a file. Raises ValueError if it is not what it was."""
        content, name = path.read_bytes(), path.relative_to(self.folder).as_posix()
        found = hashlib.sha256(content).hexdigest()
        self.new |= name not in self.known
        same = self.known.setdefault(name, found) == found
        require(same, f"{path} has changed since it was first read ({self.path})")
        return content

    def save(self) -> None:
        """Write those of new files, where the folder can be written."""
        if self.new:
            with contextlib.suppress(PermissionError):
                write_atomically(self.path, json.dumps(self.known, indent=0, sort_keys=True))


def _read_folder(
    files: list[tuple[Path, int]], fingerprints: Fingerprints
) -> tuple[Tensor, Tensor]:
    """JPEG files with labels -> (N, 3, 64, 64) uint8 and (N,) int64; grey pictures become RGB."""
    from PIL import Image

    images = np.empty((len(files), 64, 64, 3), np.uint8)
    for i, (path, _) in enumerate(files):
        content = fingerprints.read(path)
        try:
            with Image.open(io.BytesIO(content)) as picture:
                images[i] = np.asarray(picture.convert("RGB"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is not a 64 x 64 picture, or is damaged: {error}") from error
    labels = torch.tensor([label for _, label in files], dtype=torch.int64)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels


def _download(folder: Path, download: bool) -> None:
    """Fetch the archive into the folder's parent, and unpack it there."""
    from torchvision.datasets.utils import download_and_extract_archive

    root = folder.parent
    by_hand = (
        f"unpack tiny-imagenet-200.zip there, giving the folder {folder.name}",
        "point $PAPERLIB_DATA at a folder that has it",
    )
    with explained("tiny-imagenet", root, *by_hand):
        if not download:
            raise RuntimeError("download=False")
        root.mkdir(parents=True, exist_ok=True)
        unpacked = Path(tempfile.mkdtemp(dir=root, prefix=".unpacking-"))
        try:  # into place in one step: half an archive must never look like the data set
            download_and_extract_archive(TINY_URL, root, unpacked, md5=TINY_MD5)
            os.replace(unpacked / folder.name, folder)
        finally:
            shutil.rmtree(unpacked)


def tiny_imagenet(root: Path, download: bool) -> Dataset:
    """The folder layout of the published archive; classes whose training folder is absent are left
    out.

    Test images are the published validation images: the test labels were never published.
    """
    folder = root / "tiny-imagenet-200"
    if not folder.exists():
        _download(folder, download)
    try:
        names = (folder / "wnids.txt").read_text(encoding="utf-8").split()
        lines = (folder / "val/val_annotations.txt").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"{folder} does not have Tiny-ImageNet's layout: {error}") from error
    wnids = sorted(name for name in names if (folder / "train" / name).is_dir())
    rows = [line.split("\t")[:2] for line in lines]
    label = {wnid: i for i, wnid in enumerate(wnids)}
    folders = {wnid: folder / "train" / wnid / "images" for wnid in wnids}
    train = [(path, label[w]) for w in wnids for path in sorted(folders[w].iterdir())]
    test = [(folder / "val/images" / name, label[wnid]) for name, wnid in rows if wnid in label]
    has = f"{folder} has {len(train)} training and {len(test)} validation images"
    require(train and test, has)
    fingerprints = Fingerprints(folder)
    tensors = *_read_folder(train, fingerprints), *_read_folder(test, fingerprints)
    fingerprints.save()
    scale = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    return Dataset("tiny-imagenet", *tensors, tuple(wnids), **scale)


_PAPER = "Le & Yang, 2015, Stanford CS231n"
DATASETS["tiny-imagenet"] = Source(tiny_imagenet, _PAPER, "test_tiny_imagenet_layout")
