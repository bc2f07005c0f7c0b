"""Augmentation policies: what they draw for an image, and how they apply it to the pixels.

Drawing is numpy on the host: a *draw* is a tuple of arrays, each with the images on axis 0, so that
draws of several batches are joined by concatenation. Applying is tensor code without chance.
Supports, probabilities and magnitudes are torchvision's (`torchvision.transforms.v2`, defaults),
and a test compares them with torchvision's own draws; the streams of random numbers are ours, so
that every image of a batch is drawn for itself.

Most policies draw *chains*: ops (N, links) int and magnitudes (N, links) float, as `apply_chains`
takes them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from ..basics.registry import Registry
from .ops import OPS, apply_chains, to_device

Draw = tuple[np.ndarray, ...]
INDEX = {op: i for i, op in enumerate(OPS)}
SIGNED = np.array([OPS.index("ShearX") <= i <= OPS.index("Sharpness") for i in range(len(OPS))])


def _linspace(low: float, high: float, bins: int) -> np.ndarray:
    """torch's float32 values, which torchvision looks up."""
    return torch.linspace(low, high, bins).double().numpy()


@lru_cache(maxsize=64)  # it costs more than a batch's random numbers
def magnitude_table(
    bins: int,
    shear: float,
    shift_x: float,
    shift_y: float,
    rotate: float,
    enhance: float,
    posterize: tuple[int, int],
) -> np.ndarray:
    """(operations, bins) magnitudes, growing from bin 0 on; a row of zeros where an operation has
    none.
    """
    table = np.zeros((len(OPS), bins))
    ranges = {"ShearX": shear, "ShearY": shear, "TranslateX": shift_x, "TranslateY": shift_y}
    ranges |= dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), enhance)
    for op, high in (ranges | {"Rotate": rotate}).items():
        table[INDEX[op]] = _linspace(0, high, bins)
    most, least = posterize
    kept = most - torch.arange(bins) / ((bins - 1) / (most - least))
    table[INDEX["Posterize"]] = kept.round().numpy()
    table[INDEX["Solarize"]] = 255.0 * _linspace(1, 0, bins)
    table.flags.writeable = False
    return table


def _chains(links: list[tuple[np.ndarray, np.ndarray]]) -> Draw:
    """A list of (operations, magnitudes), each (N,), one per link -> the two as (N, links)."""
    return tuple(np.stack(part, axis=1) for part in zip(*links, strict=True))


def _signs(rng: np.random.Generator, ops: np.ndarray) -> np.ndarray:
    return np.where(SIGNED[ops] & (rng.random(ops.shape) < 0.5), -1.0, 1.0)


# ------------------------------------------------------------------------------------- the policies


@lru_cache
def sub_policies(table: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """AutoAugment's 25 sub-policies (Cubuk et al., CVPR 2019, appendix), from torchvision: (25, 2)
    operations, probabilities, and magnitude bins of 10, 0 where an operation has no magnitude.

    >>> [part[0].tolist() for part in sub_policies("cifar10")]  # Invert, Contrast
    [[14, 8], [0.1, 0.2], [0, 6]]
    """
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy  # takes a second or two

    found = AutoAugment(AutoAugmentPolicy(table)).policies
    rows = [[(INDEX[op], chance, bin or 0) for op, chance, bin in pair] for pair in found]
    ops, probabilities, bins = np.moveaxis(np.array(rows), 2, 0)
    return ops.astype(int), probabilities, bins.astype(int)


def autoaugment(rng: np.random.Generator, count: int, height: int, width: int, table: str) -> Draw:
    """AutoAugment: one of 25 sub-policies, each of two operations that are left out with a given
    probability.
    """
    ops, probabilities, bins = sub_policies(table)
    magnitudes = magnitude_table(10, 0.3, 150 / 331 * width, 150 / 331 * height, 30, 0.9, (8, 4))
    chosen = rng.integers(len(ops), size=count)
    links = []
    for k in range(2):
        done = rng.random(count) <= probabilities[chosen, k]
        op = np.where(done, ops[chosen, k], INDEX["Identity"])
        links.append((op, magnitudes[op, bins[chosen, k]] * _signs(rng, op)))
    return _chains(links)


FOURTEEN = np.array([INDEX[op] for op in OPS if op not in ("Invert", "Hue")])
THIRTEEN = np.array([INDEX[op] for op in OPS if op not in ("Invert", "Hue", "Identity")])


def randaugment(rng: np.random.Generator, count: int, height: int, width: int) -> Draw:
    """RandAugment (Cubuk et al., 2020): two of 14 operations at magnitude 9 of 0 .. 30."""
    magnitudes = magnitude_table(31, 0.3, 150 / 331 * width, 150 / 331 * height, 30, 0.9, (8, 4))
    ops = rng.choice(FOURTEEN, (2, count))
    return _chains([(op, magnitudes[op, 9] * _signs(rng, op)) for op in ops])


def trivialaugment(rng: np.random.Generator, count: int, height: int, width: int) -> Draw:
    """TrivialAugment Wide (Mueller & Hutter, ICCV 2021): one of 14 operations at one of 31
    magnitudes.
    """
    magnitudes = magnitude_table(31, 0.99, 32, 32, 135, 0.99, (8, 2))
    op = rng.choice(FOURTEEN, count)
    return _chains([(op, magnitudes[op, rng.integers(31, size=count)] * _signs(rng, op))])


PAIR_BUCKETS = 7


@lru_cache(maxsize=4096)
def pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Policy number `seed` of the random two-operation space (PAPER 4.6): (2,) operations and (2,)
    bucket limits, 1 .. 6.

    The space is the released code's, its numbering is not: two of 14 operations, drawn with
    replacement, each with a limit below which its magnitude is one of seven buckets. The
    magnitudes, which the code leaves to its 14 operations, are TrivialAugment's.

    >>> ops, limits = pair(3)
    >>> [OPS[op] for op in ops], limits.tolist()
    (['Solarize', 'ShearX'], [2, 2])
    """
    rng = np.random.default_rng(seed)
    return FOURTEEN[rng.integers(len(FOURTEEN), size=2)], rng.integers(1, PAIR_BUCKETS, size=2)


def describe_pairs(augmentation: str) -> list[str]:
    """What the pairs in the name of a searched policy are: a line each.

    >>> describe_pairs("pair3-5")[0]
    'pair3: Solarize below bucket 2, ShearX below bucket 2'
    """
    lines = []
    for number in augmentation.removeprefix("pair").split("-"):
        (first, second), (limit, other) = pair(int(number))
        both = f"{OPS[first]} below bucket {limit}, {OPS[second]} below bucket {other}"
        lines.append(f"pair{number}: {both}")
    return lines


def pairs(
    rng: np.random.Generator, count: int, height: int, width: int, seeds: tuple[int, ...]
) -> Draw:
    """For every image one of the policies `pair(seed)`, uniformly, and in it both operations,
    buckets uniform below their limits.
    """
    magnitudes = magnitude_table(PAIR_BUCKETS, 0.99, 32, 32, 135, 0.99, (8, 2))
    chosen = rng.integers(len(seeds), size=count)
    ops, limits = (np.stack(part)[chosen] for part in zip(*map(pair, seeds), strict=True))
    return ops, magnitudes[ops, rng.integers(limits)] * _signs(rng, ops)


def augmix(rng: np.random.Generator, count: int, height: int, width: int) -> Draw:
    """AugMix (Hendrycks et al., ICLR 2020): severity 3 of 10, three chains of one to three of 13
    operations, alpha 1.

    Returns weights (N, 4), of the image itself and of the chains, summing to 1, then ops and
    magnitudes (N, 3, 3): those of image n's chain c are ops[n, c] and magnitudes[n, c].
    """
    magnitudes = magnitude_table(10, 0.3, width / 3, height / 3, 30, 0.9, (4, 0))
    own = rng.beta(1, 1, count)
    weights = np.column_stack([own, rng.dirichlet([1, 1, 1], count) * (1 - own)[:, None]])
    links = []
    for _ in range(3):
        depth = rng.integers(1, 4, count)
        for k in range(3):
            op = np.where(k < depth, rng.choice(THIRTEEN, count), INDEX["Identity"])
            links.append((op, magnitudes[op, rng.integers(3, size=count)] * _signs(rng, op)))
    return weights, *(part.reshape(count, 3, 3) for part in _chains(links))


def apply_augmix(
    images: Tensor, weights: np.ndarray, ops: np.ndarray, magnitudes: np.ndarray
) -> Tensor:
    """Weighted mean of the images and of the ends of their chains, fractions cut off as torchvision
    does.
    """
    count, chains, links = ops.shape
    side_by_side = [x.swapaxes(0, 1).reshape(chains * count, links) for x in (ops, magnitudes)]
    ends = apply_chains(images.repeat(chains, 1, 1, 1), *side_by_side, "bilinear").split(count)
    shares = to_device(weights.T.astype(np.float32), images.device).view(-1, count, 1, 1, 1)
    mix = shares[0] * images
    for share, end in zip(shares[1:], ends, strict=True):
        mix += share * end
    return mix.int().to(torch.uint8)


def tried_sides(
    rng: np.random.Generator,
    count: int,
    pixels: int,
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> np.ndarray:
    """(2, N, 10) int, the sides of ten boxes an image: sqrt(area ratio) and sqrt(area / ratio).

    area  of the box as a share of the image's pixels, uniform. ratio  of its sides, log-uniform.
    """
    areas = pixels * rng.uniform(*area, (count, 10))
    ratios = np.exp(rng.uniform(*np.log(ratio), (count, 10)))
    return np.rint(np.sqrt([areas * ratios, areas / ratios])).astype(int)


def first_fitting(a: np.ndarray, b: np.ndarray, fits: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of sides (N, tries) and whether they fit: the first that do, (N,), and whether any does."""
    first = np.arange(len(fits)), fits.argmax(1)
    return a[first], b[first], fits.any(1)


def erasing(rng: np.random.Generator, count: int, height: int, width: int) -> Draw:
    """RandomErasing (Zhong et al., AAAI 2020): boxes (N, 4) of top, left, bottom, right, empty
    where nothing is erased.

    With probability 1/2 a box of 2 to 33 % of the area and a ratio of 0.3 to 3.3, log-uniform; the
    first of ten tries that fits into the image counts.
    """
    h, w = tried_sides(rng, count, height * width, (0.02, 0.33), (0.3, 3.3))
    h, w, fits = first_fitting(h, w, (h < height) & (w < width))
    erased = (rng.random(count) < 0.5) & fits
    h, w = np.where(erased, h, 0), np.where(erased, w, 0)
    top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    return (np.column_stack([top, left, top + h, left + w]),)


def inside(boxes: np.ndarray, images: Tensor) -> Tensor:
    """Boxes (N, 4) of top, left, bottom, right -> (N, 1, H, W) bool on the device of `images`, true
    inside of image n's.
    """
    top, left, bottom, right = to_device(boxes.T, images.device).view(4, -1, 1, 1, 1)
    y = torch.arange(images.shape[2], device=images.device).view(-1, 1)
    x = torch.arange(images.shape[3], device=images.device)
    return ((y >= top) & (y < bottom)) & ((x >= left) & (x < right))


def erase(images: Tensor, boxes: np.ndarray) -> Tensor:
    """(N, 3, H, W) uint8 -> a copy that is black inside each image's box. Before normalisation, as
    the paper's code.
    """
    return images * ~inside(boxes, images)


@dataclass(frozen=True)
class Policy:
    """A random change of images, in two steps.

    draw   (generator, N, H, W) -> the random numbers of a batch of N images: a tuple of arrays with
           the images on axis 0.
    apply  (images, *arrays) -> images. Gets (N, 3, H, W) uint8, which it must not modify, and the
           arrays of `draw`, those of several batches concatenated; gives the same shape. What it
           does to an image depends on that image and its rows alone. It draws nothing, and moves
           arrays to the images' device with `to_device`.
    paper  authors, venue. proof  the test that compares it with torchvision's.

    An entry in `POLICIES` is all that an augmentation of one's own needs:

    >>> from paperlib.augment import augment, generator
    >>> def lighten(images, shifts):
    ...     return (images + to_device(shifts, images.device).view(-1, 1, 1,
    ...     1)).clamp(max=255).to(torch.uint8)
    >>> POLICIES["lighten"] = Policy(lambda rng, count, height,
    ...     width: (rng.integers(0, 100, count),), lighten, "mine")
    >>> views, _ = augment(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4).long(),
    ...     "lighten", generator(0), 10)
    >>> views.amax((1, 2, 3))
    tensor([63, 54, 55, 93], dtype=torch.uint8)
    >>> del POLICIES["lighten"]
    """

    draw: Callable[[np.random.Generator, int, int, int], Draw]
    apply: Callable[..., Tensor]
    paper: str = ""
    proof: str = ""


POLICIES: Registry[Policy] = Registry("augmentation")
_DRAWS = "test_draws_are_distributed_as_torchvisions"
POLICIES["none"] = Policy(lambda rng, count, height, width: (), lambda images: images, "-")
_BOXES, _MIX = "test_erasing_boxes_as_torchvision", "test_augmix_mixes_as_torchvision"
POLICIES["erasing"] = Policy(erasing, erase, "Zhong et al., AAAI 2020", _BOXES)
POLICIES["randaugment"] = Policy(randaugment, apply_chains, "Cubuk et al., 2020", _DRAWS)
_WIDE = "Mueller & Hutter, ICCV 2021"
POLICIES["trivialaugment"] = Policy(trivialaugment, apply_chains, _WIDE, _DRAWS)
POLICIES["augmix"] = Policy(augmix, apply_augmix, "Hendrycks et al., ICLR 2020", _MIX)
for table in ("cifar10", "imagenet", "svhn"):
    draw = partial(autoaugment, table=table)
    POLICIES[f"autoaugment_{table}"] = Policy(draw, apply_chains, "Cubuk et al., CVPR 2019", _DRAWS)
