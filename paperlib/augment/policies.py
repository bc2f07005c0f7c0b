"""Which operations a policy draws for an image, and how strong; and what it does to the pixels with
that.

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
    return (
        torch.linspace(low, high, bins).double().numpy()
    )  # torch's float32 values, which torchvision looks up


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
    ranges = {
        "ShearX": shear,
        "ShearY": shear,
        "TranslateX": shift_x,
        "TranslateY": shift_y,
        "Rotate": rotate,
    }
    ranges |= dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), enhance)
    for op, high in ranges.items():
        table[INDEX[op]] = _linspace(0, high, bins)
    most, least = posterize
    table[INDEX["Posterize"]] = (
        (most - torch.arange(bins) / ((bins - 1) / (most - least))).round().numpy()
    )
    table[INDEX["Solarize"]] = 255.0 * _linspace(1, 0, bins)
    table.flags.writeable = False
    return table


def _chains(links: list[tuple[np.ndarray, np.ndarray]]) -> Draw:
    """A list of (operations, magnitudes), each (N,), one per link -> the two as (N, links)."""
    return tuple(np.stack(part, axis=1) for part in zip(*links, strict=True))


def _signs(rng: np.random.Generator, ops: np.ndarray) -> np.ndarray:
    return np.where(SIGNED[ops] & (rng.random(ops.shape) < 0.5), -1.0, 1.0)


# ------------------------------------------------------------------------------------- the policies

# AutoAugment's sub-policies (Cubuk et al., CVPR 2019, appendix; torchvision's tables): two of
# (operation, probability, magnitude bin of 10); "-" where an operation has no magnitude.
_AUTOAUGMENT = {
    "cifar10": """
        Invert .1 - Contrast .2 6|Rotate .7 2 TranslateX .3 9|Sharpness .8 1 Sharpness .9 3
        ShearY .5 8 TranslateY .7 9
        AutoContrast .5 - Equalize .9 -|ShearY .2 7 Posterize .3 7|Color .4 3 Brightness .6 7
        Sharpness .3 9 Brightness .7 9
        Equalize .6 - Equalize .5 -|Contrast .6 7 Sharpness .6 5|Color .7 7 TranslateX .5 8
        Equalize .3 - AutoContrast .4 -
        TranslateY .4 3 Sharpness .2 6|Brightness .9 6 Color .2 8|Solarize .5 2 Invert 0 -
        Equalize .2 - AutoContrast .6 -
        Equalize .2 - Equalize .6 -|Color .9 9 Equalize .6 -|AutoContrast .8 - Solarize .2 8
        Brightness .1 3 Color .7 0
        Solarize .4 5 AutoContrast .9 -|TranslateY .9 9 TranslateY .7 9
        AutoContrast .9 - Solarize .8 3
        Equalize .8 - Invert .1 -|TranslateY .7 9 AutoContrast .9 -""",
    "imagenet": """
        Posterize .4 8 Rotate .6 9|Solarize .6 5 AutoContrast .6 -|Equalize .8 - Equalize .6 -
        Posterize .6 7 Posterize .6 6
        Equalize .4 - Solarize .2 4|Equalize .4 - Rotate .8 8|Solarize .6 3 Equalize .6 -
        Posterize .8 5 Equalize 1 -
        Rotate .2 3 Solarize .6 8|Equalize .6 - Posterize .4 6|Rotate .8 8 Color .4 0
        Rotate .4 9 Equalize .6 -
        Equalize 0 - Equalize .8 -|Invert .6 - Equalize 1 -|Color .6 4 Contrast 1 8
        Rotate .8 8 Color 1 2
        Color .8 8 Solarize .8 7|Sharpness .4 7 Invert .6 -|ShearX .6 5 Equalize 1 -
        Color .4 0 Equalize .6 -
        Equalize .4 - Solarize .2 4|Solarize .6 5 AutoContrast .6 -|Invert .6 - Equalize 1 -
        Color .6 4 Contrast 1 8
        Equalize .8 - Equalize .6 -""",
    "svhn": """
        ShearX .9 4 Invert .2 -|ShearY .9 8 Invert .7 -|Equalize .6 - Solarize .6 6
        Invert .9 - Equalize .6 -
        Equalize .6 - Rotate .9 3|ShearX .9 4 AutoContrast .8 -|ShearY .9 8 Invert .4 -
        ShearY .9 5 Solarize .2 6
        Invert .9 - AutoContrast .8 -|Equalize .6 - Rotate .9 3|ShearX .9 4 Solarize .3 3
        ShearY .8 8 Invert .7 -
        Equalize .9 - TranslateY .6 6|Invert .9 - Equalize .6 -|Contrast .3 3 Rotate .8 4
        Invert .8 - TranslateY 0 2
        ShearY .7 6 Solarize .4 8|Invert .6 - Rotate .8 4|ShearY .3 7 TranslateX .9 3
        ShearX .1 6 Invert .6 -
        Solarize .7 2 TranslateY .6 7|ShearY .8 4 Invert .8 -|ShearX .7 9 TranslateY .8 3
        ShearY .8 5 AutoContrast .7 -
        ShearX .7 2 Invert .1 -""",
}


def _parse(table: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """-> (25, 2) operation indices, probabilities and magnitude bins."""
    rows = [row.split() for row in table.replace("\n", "|").split("|") if row.strip()]
    ops = np.array([[INDEX[row[0]], INDEX[row[3]]] for row in rows])
    probabilities = np.array([[float(row[1]), float(row[4])] for row in rows])
    bins = np.array(
        [[0 if cell == "-" else int(cell) for cell in (row[2], row[5])] for row in rows]
    )
    return ops, probabilities, bins


AUTOAUGMENT = {name: _parse(table) for name, table in _AUTOAUGMENT.items()}


def autoaugment(rng: np.random.Generator, count: int, height: int, width: int, table: str) -> Draw:
    """AutoAugment: one of 25 sub-policies, each of two operations that are left out with a given
    probability.
    """
    ops, probabilities, bins = AUTOAUGMENT[table]
    magnitudes = magnitude_table(10, 0.3, 150 / 331 * width, 150 / 331 * height, 30, 0.9, (8, 4))
    chosen = rng.integers(len(ops), size=count)
    links = []
    for k in range(2):
        op = np.where(
            rng.random(count) <= probabilities[chosen, k], ops[chosen, k], INDEX["Identity"]
        )
        links.append((op, magnitudes[op, bins[chosen, k]] * _signs(rng, op)))
    return _chains(links)


FOURTEEN = np.array([INDEX[op] for op in OPS if op not in ("Invert", "Hue")])
THIRTEEN = np.array([INDEX[op] for op in OPS if op not in ("Invert", "Hue", "Identity")])


def randaugment(rng: np.random.Generator, count: int, height: int, width: int) -> Draw:
    """RandAugment (Cubuk et al., 2020): two of 14 operations at magnitude 9 of 0 .. 30."""
    magnitudes = magnitude_table(31, 0.3, 150 / 331 * width, 150 / 331 * height, 30, 0.9, (8, 4))[
        :, 9
    ]
    ops = rng.choice(FOURTEEN, (2, count))
    return _chains([(op, magnitudes[op] * _signs(rng, op)) for op in ops])


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
        operations = [
            f"{OPS[op]} below bucket {limit}" for op, limit in zip(*pair(int(number)), strict=True)
        ]
        lines.append(f"pair{number}: {', '.join(operations)}")
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


def erasing(rng: np.random.Generator, count: int, height: int, width: int) -> Draw:
    """RandomErasing (Zhong et al., AAAI 2020): boxes (N, 4) of top, left, bottom, right, empty
    where nothing is erased.

    With probability 1/2 a box of 2 to 33 % of the area and a ratio of 0.3 to 3.3, log-uniform; the
    first of ten tries that fits into the image counts.
    """
    shape = (count, 10)
    area = height * width * rng.uniform(0.02, 0.33, shape)
    ratio = np.exp(rng.uniform(np.log(0.3), np.log(3.3), shape))
    h, w = np.rint(np.sqrt(area * ratio)).astype(int), np.rint(np.sqrt(area / ratio)).astype(int)
    fits = (h < height) & (w < width)
    first = fits.argmax(1)
    h, w = (np.take_along_axis(x, first[:, None], 1)[:, 0] for x in (h, w))
    erased = (rng.random(count) < 0.5) & fits.any(1)
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
POLICIES["erasing"] = Policy(
    erasing, erase, "Zhong et al., AAAI 2020", "test_erasing_boxes_as_torchvision"
)
POLICIES["randaugment"] = Policy(randaugment, apply_chains, "Cubuk et al., 2020", _DRAWS)
POLICIES["trivialaugment"] = Policy(
    trivialaugment, apply_chains, "Mueller & Hutter, ICCV 2021", _DRAWS
)
POLICIES["augmix"] = Policy(
    augmix, apply_augmix, "Hendrycks et al., ICLR 2020", "test_augmix_mixes_as_torchvision"
)
for table in AUTOAUGMENT:
    draw = partial(autoaugment, table=table)
    POLICIES[f"autoaugment_{table}"] = Policy(draw, apply_chains, "Cubuk et al., CVPR 2019", _DRAWS)
