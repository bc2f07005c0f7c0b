"""Pictures of what augmentations do, to be looked at."""

import io
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from .candidates import candidates


def strips(
    augmentations: Any,
    images: Tensor,
    labels: Tensor,
    classes: int,
    seed: int = 0,
    mirror: bool = True,
    padding: int = 4,
    height: int = 96,
) -> dict[str, bytes]:
    """A JPEG of a view of each image, side by side, for each candidate by name.

    augmentations  as for `candidates`. images  (B, C, H, W) uint8 of 1 or 3 channels. labels  (B,)
    int64, 0 .. classes - 1. height  of the picture, in pixels. The rest as for `augment`.

    >>> images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    >>> made = strips(["none"], images, torch.tensor([0, 1]), 2, height=32)
    >>> Image.open(io.BytesIO(made["none"])).size
    (68, 32)
    """
    found = {}
    for name, candidate in candidates(augmentations).items():
        key = candidate.key(seed, 0, 0)
        views, _ = candidate.views(images, labels, classes, key, mirror, padding)
        found[name] = jpeg(views, height)
    return found


def jpeg(views: Tensor, height: int = 96, gap: int = 4) -> bytes:
    """(B, C, H, W) uint8 side by side, with a white gap, as a JPEG of so many pixels height."""
    width = max(1, round(height * views.shape[3] / views.shape[2]))
    grow = v2.InterpolationMode.NEAREST if height > 2 * views.shape[2] else None
    mode = grow or v2.InterpolationMode.BILINEAR
    views = v2.functional.resize(views.cpu(), [height, width], mode, antialias=grow is None)
    white = torch.full((3, height, gap), 255, dtype=torch.uint8)
    parts = [part for view in views.expand(-1, 3, -1, -1) for part in (white, view)][1:]
    picture, file = Image.fromarray(torch.cat(parts, 2).permute(1, 2, 0).numpy()), io.BytesIO()
    picture.save(file, "JPEG", quality=88)
    return file.getvalue()
