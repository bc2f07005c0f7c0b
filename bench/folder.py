"""A folder of 224-pixel JPEGs of 1,000 classes through `rank`: memory against images, and speed
against torchvision's folder and torch's DataLoader alone.

    python -m bench.folder [--images 5000 20000] [--workers 0]

It writes results/bench/folder.csv and .md. About 6 minutes on 2 cores.
Each run has a process of its own. The JPEGs are generated: noise at a quarter of the size, scaled
up, one picture a class with several names.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn

from paperlib.basics.files import write_atomically
from paperlib.reporting.style import markdown
from paperlib.scoring import rank

from .workers import _memory, alone

CLASSES, SIDE = 1000, 224
CANDIDATES = ("none", "trivialaugment", "none+cutmix")
PASSES = len(CANDIDATES) + 2  # those of the base views, plain and under CutMix, for T. stddev


def generate(root: Path, images: int) -> None:
    """Write `images` JPEGs below `root`, a folder for each class."""
    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        folder = root / f"{label:04}"
        folder.mkdir()
        small = rng.integers(0, 256, (SIDE // 4, SIDE // 4, 3), dtype=np.uint8)
        first = folder / "0.jpg"
        Image.fromarray(small).resize((SIDE, SIDE)).save(first, quality=90)
        for k in range(1, images // CLASSES):
            os.link(first, folder / f"{k}.jpg")


def teacher() -> nn.Module:
    """Two convolutions with large strides."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 16, 7, 4), nn.Conv2d(16, 32, 3, 2)
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), *head).eval()


def prepare_rank(root: Path, workers: int) -> Callable[[], tuple[float, int]]:
    """In a fresh process: seconds of a ranking, and bytes resident at most."""
    from torchvision.datasets import ImageFolder

    def run() -> tuple[float, int]:
        began = time.perf_counter()
        data, scale = ImageFolder(root), {"mean": 0.5, "std": 0.25}
        rank(teacher(), data, CANDIDATES, replicates=10, workers=workers, **scale)
        return time.perf_counter() - began, _memory("VmHWM")

    return run


def prepare_loader(root: Path, workers: int, views: int) -> Callable[[], tuple[float, int]]:
    """In a fresh process: torchvision's way to decode, and the teacher on each batch `views` times
    (0: the images alone).
    """
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    steps = v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.25])
    data = ImageFolder(root, v2.Compose(steps))
    network = teacher()

    @torch.no_grad()
    def run() -> tuple[float, int]:
        began = time.perf_counter()
        for images, _ in torch.utils.data.DataLoader(data, 100, True, num_workers=workers):
            for _ in range(views):
                network(images)
        return time.perf_counter() - began, _memory("VmHWM")

    return run


def main(folder: Path = Path("results/bench")) -> None:
    """Print a line for each run, and write them all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[5000, 20_000])
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args()
    rows = []
    for images in args.images:
        with tempfile.TemporaryDirectory() as generated:
            root = Path(generated)
            generate(root, images)
            runs = {
                f"rank, {PASSES} passes": (prepare_rank, (root, args.workers)),
                f"loader and teacher {PASSES} times": (
                    prepare_loader,
                    (root, args.workers, PASSES),
                ),
                "loader alone": (prepare_loader, (root, args.workers, 0)),
            }
            for name, (prepare, given) in runs.items():
                seconds, peak = alone(prepare, given, 1).value
                rows.append((images, name, seconds, images / seconds, peak / 1e6))
                print(*rows[-1], flush=True)
    table = pd.DataFrame(rows, columns=["images", "run", "seconds", "images/s", "peak MB"])
    text = (
        "# A folder of images through rank\n\n"
        f"`python -m bench.folder` with torch {torch.__version__}, one thread, {args.workers} "
        f"workers: {SIDE}-pixel JPEGs of {CLASSES} classes, {len(CANDIDATES)} candidates, 10 "
        "replicates. One picture a class, so the disk's cache serves all of them. rank also makes "
        "the views and the intervals.\n\n"
    )
    write_atomically(folder / "folder.csv", table.to_csv(index=False))
    write_atomically(folder / "folder.md", text + markdown(table, 0))


if __name__ == "__main__":
    main()
