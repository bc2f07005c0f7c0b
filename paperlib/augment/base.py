"""The base augmentation of ImageNet recipes: a resized crop, a mirror, jittered colours; the
paper's for Tiny-ImageNet.

As torchvision's RandomResizedCrop, RandomHorizontalFlip and ColorJitter one after the other, on
uint8 tensors. (The paper's code jitters Pillow's images, for which torchvision turns hues in 8-bit
HSV: there, a hue is rougher by some levels.) Like the policies it draws on the host, image by
image, and is applied to a whole batch on the images' device.
"""

import numpy as np
import torch
from torch import Tensor

from .ops import OPS, apply_chains, to_device
from .policies import Draw, first_fitting, tried_sides

AREA = (0.08, 1.0)  # of the crop, as a share of the image's
RATIO = (3 / 4, 4 / 3)  # of the crop, width to height
# Largest magnitudes, see `apply_op`.
JITTER = {"Brightness": 0.2, "Contrast": 0.2, "Color": 0.2, "Hue": 0.1}
# Weights are multiples of 1 / this: any sum of weighted bytes is then an integer below 2**24.
FIXED_POINT = 2**16


def crop_boxes(rng: np.random.Generator, count: int, height: int, width: int) -> np.ndarray:
    """RandomResizedCrop's draw (Szegedy et al., CVPR 2015, section 6): (N, 4) int of top, left,
    height, width.

    Area uniform, ratio log-uniform, place uniform. The first of ten tries that fits into the image
    counts; if none does, the largest central crop whose ratio is allowed.
    """
    w, h = tried_sides(rng, count, height * width, AREA, RATIO)
    w, h, found = first_fitting(w, h, (0 < w) & (w <= width) & (0 < h) & (h <= height))
    w = np.where(found, w, min(width, round(height * RATIO[1])))
    h = np.where(found, h, min(height, round(width / RATIO[0])))
    top, left = (rng.integers(0, gap + 1) for gap in (height - h, width - w))
    top, left = np.where(found, top, (height - h) // 2), np.where(found, left, (width - w) // 2)
    return np.column_stack([top, left, h, w])


def draw(rng: np.random.Generator, count: int, height: int, width: int, mirror: bool) -> Draw:
    """Boxes (N, 4) as `crop_boxes`, flips (N,) bool, true for half of the images if `mirror`, and
    jitter as chains for `apply_chains`: ops (N, 4), the four operations in a random order, and
    magnitudes (N, 4), uniform within +-`JITTER`.
    """
    boxes, flips = crop_boxes(rng, count, height, width), (rng.random(count) < 0.5) & mirror
    order = rng.permuted(np.tile(np.arange(len(JITTER)), (count, 1)), axis=1)
    ops, largest = np.array([OPS.index(op) for op in JITTER]), np.array(list(JITTER.values()))
    return boxes, flips, ops[order], rng.uniform(-1, 1, order.shape) * largest[order]


def apply(images: Tensor, *drawn: np.ndarray, size: int) -> Tensor:
    """(N, 3, H, W) uint8 and a `draw` -> (N, 3, size, size) uint8: cropped, resized, mirrored,
    jittered.
    """
    boxes, flips, ops, magnitudes = drawn
    return apply_chains(resized_crop(images, boxes, flips, size), ops, magnitudes)


def triangle_weights(start: Tensor, length: Tensor, side: int, size: int) -> Tensor:
    """How much each pixel of a line contributes to each pixel of a piece of it that is resized to
    `size` pixels.

    The triangle filter as Pillow and torch (antialias) use it: as wide as the distance of output
    pixels when scaling down, of input pixels when scaling up, cut off at the ends of the piece,
    normalised.

    start, length  (N,) int64 of the pieces, within 0 .. side. Returns (N, size, side) float32,
                   multiples of 1 / FIXED_POINT.

    >>> triangle_weights(torch.tensor([1]), torch.tensor([2]), side=4, size=4)[0]
    tensor([[0.0000, 1.0000, 0.0000, 0.0000],
            [0.0000, 0.7500, 0.2500, 0.0000],
            [0.0000, 0.2500, 0.7500, 0.0000],
            [0.0000, 0.0000, 1.0000, 0.0000]])
    """
    start, length = start.view(-1, 1, 1), length.view(-1, 1, 1)
    pixel = torch.arange(side, device=start.device) - start  # counted from the start of the piece
    centre = (2 * torch.arange(size, device=start.device).view(-1, 1) + 1) * length
    # All in units of 1 / (2 size) input pixels, where centres, distances and the filter's values
    # are integers.
    distance = ((2 * pixel + 1) * size - centre).abs_()
    weights = (2 * length.clamp(min=size) - distance).clamp_(min=0)
    weights = weights.mul_((pixel >= 0) & (pixel < length)).float()
    return weights.div_(weights.sum(2, keepdim=True)).mul_(FIXED_POINT).round_().div_(FIXED_POINT)


def resized_crop(images: Tensor, boxes: np.ndarray, flips: np.ndarray, size: int) -> Tensor:
    """Cut its box out of each image, resize it to (size, size), mirror it if it flips.

    Bilinear with antialias, columns first and rounded to bytes in between, as Pillow: within one
    level of its bytes, and for 64 x 64 images and views of 64 or 224 the same bytes wherever we
    looked. torchvision's for tensors have shorter weights and are up to one level off (rarely two).
    The sums are exact in float32, in any order, so that CPU and CUDA give the same bytes; where
    matrix products are allowed to be TF32, weights lose bits, and a byte may be one off.

    images  (N, 3, H, W) uint8. boxes  (N, 4) int of top, left, height, width. flips  (N,) bool.
    Returns (N, 3, size, size) uint8 on the device of `images`.

    >>> image = torch.tensor([0, 100], dtype=torch.uint8).expand(1, 3, 2, 2)
    >>> resized_crop(image, np.array([[0, 0, 2, 2]]), np.array([True]), 4)[0, 0, 0]
    tensor([100,  75,  25,   0], dtype=torch.uint8)
    """
    count, channels, height, width = images.shape
    top, left, h, w, flip = to_device(np.column_stack([boxes, flips]).T, images.device)
    across, down = triangle_weights(left, w, width, size), triangle_weights(top, h, height, size)
    across = torch.where(flip.view(-1, 1, 1) > 0, across.flip(1), across)
    rows = images.permute(0, 2, 1, 3).reshape(count, -1, width).float()  # (N, H 3, W)
    narrow = _rounded(rows @ across.mT).view(count, height, channels * size)  # (N, H, 3 size)
    views = _rounded(down @ narrow).view(count, size, channels, size)
    return views.int().to(torch.uint8).permute(0, 2, 1, 3).contiguous()


def _rounded(x: Tensor) -> Tensor:
    """To whole numbers, halves up."""
    return x.add_(0.5).floor_()
