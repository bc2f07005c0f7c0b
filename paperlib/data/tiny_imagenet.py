"""Tiny-ImageNet-200: up to 110,000 photographs, 64 x 64, of 200 classes."""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .dataset import DATASETS, Dataset, Source
from .download import explained

TINY_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINY_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


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


def tiny_imagenet(root: Path, download: bool) -> Dataset:
    """The folder layout of the published archive; classes whose training folder is absent are left
    out.

    Test images are the published validation images: the test labels were never published.
    """
    folder = root / "tiny-imagenet-200"
    if not folder.exists():
        from torchvision.datasets.utils import download_and_extract_archive

        with explained(
            "tiny-imagenet",
            root,
            f"unpack tiny-imagenet-200.zip there, giving the folder {folder.name}",
            "point $PAPERLIB_DATA at a folder that has it",
        ):
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
        wnids = [
            w for w in (folder / "wnids.txt").read_text().split() if (folder / "train" / w).is_dir()
        ]
        rows = [
            line.split("\t")[:2]
            for line in (folder / "val/val_annotations.txt").read_text().splitlines()
        ]
    except OSError as error:
        raise ValueError(f"{folder} does not have Tiny-ImageNet's layout: {error}") from error
    label = {wnid: i for i, wnid in enumerate(sorted(wnids))}
    train = [
        (path, label[w])
        for w in sorted(wnids)
        for path in sorted((folder / "train" / w / "images").iterdir())
    ]
    test = [(folder / "val/images" / name, label[wnid]) for name, wnid in rows if wnid in label]
    if not train or not test:
        raise ValueError(f"{folder} has {len(train)} training and {len(test)} validation images")
    return Dataset(
        "tiny-imagenet",
        *_read_folder(train),
        *_read_folder(test),
        tuple(sorted(wnids)),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )


DATASETS["tiny-imagenet"] = Source(
    tiny_imagenet, "Le & Yang, 2015, Stanford CS231n", "test_tiny_imagenet_layout"
)
