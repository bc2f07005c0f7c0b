"""1,797 handwritten digits, shipped with the package."""

from pathlib import Path

import numpy as np
import torch

from .dataset import DATASETS, Dataset, Source
from .subsets import balanced_indices


def digits(root: Path, download: bool) -> Dataset:
    """Alpaydin & Kaynak 1998, UCI optdigits (CC BY 4.0): the 1,797 images that scikit-learn ships,
    8 x 8, 0 .. 16.
    """
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as arrays:
        small, labels = (arrays[name].astype(np.int64) for name in ("images", "labels"))
    labels = torch.from_numpy(labels)
    # Bilinear interpolation by 4 in integers, so that every machine gets the same bytes: weights
    # are eighths.
    position = np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7)
    weights = np.maximum(0, 8 - 8 * np.abs(position[:, None] - np.arange(8))).astype(np.int64)
    large = (255 * (weights @ small @ weights.T) + 512) // 1024  # (N, 32, 32), 0 .. 255
    images = torch.from_numpy(large.astype(np.uint8))[:, None].expand(-1, 3, -1, -1).contiguous()
    test = balanced_indices(labels, 500, seed=0)
    train = torch.ones(len(labels), dtype=torch.bool)
    train[test] = False
    tensors = images[train], labels[train], images[test], labels[test]
    scale = {"mean": (0.305,) * 3, "std": (0.3237,) * 3}
    return Dataset("digits", *tensors, tuple("0123456789"), **scale, mirror=False)


_PAPER = "Alpaydin & Kaynak, 1998, UCI optdigits (CC BY 4.0)"
DATASETS["digits"] = Source(digits, _PAPER, "test_digits")
