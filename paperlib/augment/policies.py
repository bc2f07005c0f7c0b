"""Which operations a policy draws for an image, and how strong.

A policy draws a *chain*: for every image of a batch, one (operation, magnitude) per link. Supports, probabilities and
magnitudes are torchvision's (`torchvision.transforms.v2`, defaults), and a test compares them with torchvision's own
draws; the streams of random numbers are ours, so that every image of a batch is drawn for itself.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .ops import OPS, apply_op

INDEX = {op: i for i, op in enumerate(OPS)}
SIGNED = np.array([OPS.index("ShearX") <= i <= OPS.index("Sharpness") for i in range(len(OPS))])


@dataclass(frozen=True)
class Links:
    """One link of the chains of a batch: ops (N,) int, indices into `OPS`; magnitudes (N,) float, as `apply_op`'s."""

    ops: np.ndarray
    magnitudes: np.ndarray


def apply_links(images: Tensor, links: Links, interpolation: str = "nearest") -> Tensor:
    """(N, 3, H, W) uint8 -> the same shape, image n after operation links.ops[n]; one batched call per operation."""
    output = images.clone()
    for op in np.unique(links.ops):
        if OPS[op] != "Identity":
            members = np.flatnonzero(links.ops == op)
            index = torch.from_numpy(members).to(images.device)
            magnitudes = torch.from_numpy(links.magnitudes[members])
            output[index] = apply_op(images[index], OPS[op], magnitudes, interpolation)
    return output


def _linspace(low: float, high: float, bins: int) -> np.ndarray:
    return torch.linspace(low, high, bins).double().numpy()  # torch's float32 values, which torchvision looks up


def magnitude_table(
    bins: int, shear: float, shift_x: float, shift_y: float, rotate: float, enhance: float, posterize: tuple[int, int]
) -> np.ndarray:
    """(operations, bins) magnitudes, growing from bin 0 on; a row of zeros where an operation has none."""
    table = np.zeros((len(OPS), bins))
    ranges = {"ShearX": shear, "ShearY": shear, "TranslateX": shift_x, "TranslateY": shift_y, "Rotate": rotate}
    ranges |= dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), enhance)
    for op, high in ranges.items():
        table[INDEX[op]] = _linspace(0, high, bins)
    most, least = posterize
    table[INDEX["Posterize"]] = (most - torch.arange(bins) / ((bins - 1) / (most - least))).round().numpy()
    table[INDEX["Solarize"]] = 255.0 * _linspace(1, 0, bins)
    return table


def _signs(rng: np.random.Generator, ops: np.ndarray) -> np.ndarray:
    return np.where(SIGNED[ops] & (rng.random(ops.shape) < 0.5), -1.0, 1.0)


# ---------------------------------------------------------------------------------------------------- the policies

# AutoAugment's sub-policies (Cubuk et al., CVPR 2019, appendix; torchvision's tables): two of (operation, probability,
# magnitude bin of 10); "-" where an operation has no magnitude.
_AUTOAUGMENT = {
    "cifar10": """
        Invert .1 - Contrast .2 6|Rotate .7 2 TranslateX .3 9|Sharpness .8 1 Sharpness .9 3|ShearY .5 8 TranslateY .7 9
        AutoContrast .5 - Equalize .9 -|ShearY .2 7 Posterize .3 7|Color .4 3 Brightness .6 7|Sharpness .3 9 Brightness .7 9
        Equalize .6 - Equalize .5 -|Contrast .6 7 Sharpness .6 5|Color .7 7 TranslateX .5 8|Equalize .3 - AutoContrast .4 -
        TranslateY .4 3 Sharpness .2 6|Brightness .9 6 Color .2 8|Solarize .5 2 Invert 0 -|Equalize .2 - AutoContrast .6 -
        Equalize .2 - Equalize .6 -|Color .9 9 Equalize .6 -|AutoContrast .8 - Solarize .2 8|Brightness .1 3 Color .7 0
        Solarize .4 5 AutoContrast .9 -|TranslateY .9 9 TranslateY .7 9|AutoContrast .9 - Solarize .8 3
        Equalize .8 - Invert .1 -|TranslateY .7 9 AutoContrast .9 -""",
    "imagenet": """
        Posterize .4 8 Rotate .6 9|Solarize .6 5 AutoContrast .6 -|Equalize .8 - Equalize .6 -|Posterize .6 7 Posterize .6 6
        Equalize .4 - Solarize .2 4|Equalize .4 - Rotate .8 8|Solarize .6 3 Equalize .6 -|Posterize .8 5 Equalize 1 -
        Rotate .2 3 Solarize .6 8|Equalize .6 - Posterize .4 6|Rotate .8 8 Color .4 0|Rotate .4 9 Equalize .6 -
        Equalize 0 - Equalize .8 -|Invert .6 - Equalize 1 -|Color .6 4 Contrast 1 8|Rotate .8 8 Color 1 2
        Color .8 8 Solarize .8 7|Sharpness .4 7 Invert .6 -|ShearX .6 5 Equalize 1 -|Color .4 0 Equalize .6 -
        Equalize .4 - Solarize .2 4|Solarize .6 5 AutoContrast .6 -|Invert .6 - Equalize 1 -|Color .6 4 Contrast 1 8
        Equalize .8 - Equalize .6 -""",
    "svhn": """
        ShearX .9 4 Invert .2 -|ShearY .9 8 Invert .7 -|Equalize .6 - Solarize .6 6|Invert .9 - Equalize .6 -
        Equalize .6 - Rotate .9 3|ShearX .9 4 AutoContrast .8 -|ShearY .9 8 Invert .4 -|ShearY .9 5 Solarize .2 6
        Invert .9 - AutoContrast .8 -|Equalize .6 - Rotate .9 3|ShearX .9 4 Solarize .3 3|ShearY .8 8 Invert .7 -
        Equalize .9 - TranslateY .6 6|Invert .9 - Equalize .6 -|Contrast .3 3 Rotate .8 4|Invert .8 - TranslateY 0 2
        ShearY .7 6 Solarize .4 8|Invert .6 - Rotate .8 4|ShearY .3 7 TranslateX .9 3|ShearX .1 6 Invert .6 -
        Solarize .7 2 TranslateY .6 7|ShearY .8 4 Invert .8 -|ShearX .7 9 TranslateY .8 3|ShearY .8 5 AutoContrast .7 -
        ShearX .7 2 Invert .1 -""",
}  # fmt: skip


def _parse(table: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """-> (25, 2) operation indices, probabilities and magnitude bins."""
    rows = [row.split() for row in table.replace("\n", "|").split("|") if row.strip()]
    ops = np.array([[INDEX[row[0]], INDEX[row[3]]] for row in rows])
    probabilities = np.array([[float(row[1]), float(row[4])] for row in rows])
    bins = np.array([[0 if cell == "-" else int(cell) for cell in (row[2], row[5])] for row in rows])
    return ops, probabilities, bins


AUTOAUGMENT = {name: _parse(table) for name, table in _AUTOAUGMENT.items()}


def autoaugment(rng: np.random.Generator, count: int, height: int, width: int, table: str) -> list[Links]:
    """AutoAugment: one of 25 sub-policies, each of two operations that are left out with a given probability."""
    ops, probabilities, bins = AUTOAUGMENT[table]
    magnitudes = magnitude_table(10, 0.3, 150 / 331 * width, 150 / 331 * height, 30, 0.9, (8, 4))
    chosen = rng.integers(len(ops), size=count)
    links = []
    for k in range(2):
        op = np.where(rng.random(count) <= probabilities[chosen, k], ops[chosen, k], INDEX["Identity"])
        links.append(Links(op, magnitudes[op, bins[chosen, k]] * _signs(rng, op)))
    return links


FOURTEEN = np.array([INDEX[op] for op in OPS if op != "Invert"])
THIRTEEN = np.array([INDEX[op] for op in OPS if op not in ("Invert", "Identity")])


def randaugment(rng: np.random.Generator, count: int, height: int, width: int) -> list[Links]:
    """RandAugment (Cubuk et al., 2020): two of 14 operations at magnitude 9 of 0 .. 30."""
    magnitudes = magnitude_table(31, 0.3, 150 / 331 * width, 150 / 331 * height, 30, 0.9, (8, 4))[:, 9]
    ops = rng.choice(FOURTEEN, (2, count))
    return [Links(op, magnitudes[op] * _signs(rng, op)) for op in ops]


def trivialaugment(rng: np.random.Generator, count: int, height: int, width: int) -> list[Links]:
    """TrivialAugment Wide (Mueller & Hutter, ICCV 2021): one of 14 operations at one of 31 magnitudes."""
    magnitudes = magnitude_table(31, 0.99, 32, 32, 135, 0.99, (8, 2))
    op = rng.choice(FOURTEEN, count)
    return [Links(op, magnitudes[op, rng.integers(31, size=count)] * _signs(rng, op))]


@dataclass(frozen=True)
class AugMixDraw:
    """weights (N, 4): of the image itself and of three chains, summing to 1; each chain is up to three links."""

    weights: np.ndarray
    chains: list[list[Links]]


def augmix_draw(rng: np.random.Generator, count: int, height: int, width: int) -> AugMixDraw:
    """AugMix (Hendrycks et al., ICLR 2020): severity 3 of 10, three chains of one to three of 13 operations, alpha 1."""
    magnitudes = magnitude_table(10, 0.3, width / 3, height / 3, 30, 0.9, (4, 0))
    own = rng.beta(1, 1, count)
    weights = np.column_stack([own, rng.dirichlet([1, 1, 1], count) * (1 - own)[:, None]])
    chains = []
    for _ in range(3):
        depth = rng.integers(1, 4, count)
        chain = []
        for k in range(3):
            op = np.where(k < depth, rng.choice(THIRTEEN, count), INDEX["Identity"])
            chain.append(Links(op, magnitudes[op, rng.integers(3, size=count)] * _signs(rng, op)))
        chains.append(chain)
    return AugMixDraw(weights, chains)


def apply_augmix(images: Tensor, draw: AugMixDraw) -> Tensor:
    """Weighted mean of the images and of the ends of their chains, fractions cut off as torchvision does."""
    weights = torch.from_numpy(draw.weights).float().to(images.device).view(len(images), 4, 1, 1, 1)
    mix = weights[:, 0] * images
    for k, chain in enumerate(draw.chains, start=1):
        mixed_in = images
        for links in chain:
            mixed_in = apply_links(mixed_in, links, "bilinear")
        mix = mix + weights[:, k] * mixed_in
    return mix.to(torch.uint8)


def erasing_boxes(rng: np.random.Generator, count: int, height: int, width: int) -> np.ndarray:
    """RandomErasing (Zhong et al., AAAI 2020) -> (N, 4) boxes (top, left, bottom, right), empty where nothing is erased.

    With probability 1/2 a box of 2 to 33 % of the area and a ratio of 0.3 to 3.3, log-uniform; the first of ten tries
    that fits into the image counts.
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
    return np.column_stack([top, left, top + h, left + w])


def erase(images: Tensor, boxes: np.ndarray) -> Tensor:
    """(N, 3, H, W) uint8 -> a copy that is black inside each image's box. Before normalisation, as the paper's code."""
    box = torch.from_numpy(boxes).to(images.device)
    top, left, bottom, right = box.view(len(images), 4, 1, 1).unbind(1)
    y = torch.arange(images.shape[2], device=images.device).view(1, -1, 1)
    x = torch.arange(images.shape[3], device=images.device).view(1, 1, -1)
    outside = (y < top) | (y >= bottom) | (x < left) | (x >= right)
    return images * outside.unsqueeze(1)
