"""The sixteen candidates: crop and mirror, then a policy, then perhaps CutMix."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data import check_images, check_labels
from . import policies

Policy = Callable[[Tensor, np.random.Generator], Tensor]


def _chain(images: Tensor, rng: np.random.Generator, draw: Callable) -> Tensor:
    for links in draw(rng, len(images), *images.shape[-2:]):
        images = policies.apply_links(images, links)
    return images


def _augmix(images: Tensor, rng: np.random.Generator) -> Tensor:
    return policies.apply_augmix(images, policies.augmix_draw(rng, len(images), *images.shape[-2:]))


def _erasing(images: Tensor, rng: np.random.Generator) -> Tensor:
    return policies.erase(images, policies.erasing_boxes(rng, len(images), *images.shape[-2:]))


def _none(images: Tensor, rng: np.random.Generator) -> Tensor:
    return images


# One entry is one policy: (N, 3, H, W) uint8 images and a random generator -> images of the same shape.
POLICIES: dict[str, Policy] = {
    "none": _none,
    "erasing": _erasing,
    "randaugment": partial(_chain, draw=policies.randaugment),
    "trivialaugment": partial(_chain, draw=policies.trivialaugment),
    "augmix": _augmix,
    "autoaugment_cifar10": partial(_chain, draw=partial(policies.autoaugment, table="cifar10")),
    "autoaugment_imagenet": partial(_chain, draw=partial(policies.autoaugment, table="imagenet")),
    "autoaugment_svhn": partial(_chain, draw=partial(policies.autoaugment, table="svhn")),
}
CUTMIX = "+cutmix"
AUGMENTATIONS: tuple[str, ...] = (*POLICIES, *(name + CUTMIX for name in POLICIES))


def parse(augmentation: str) -> tuple[str, bool]:
    """Name -> (policy, whether CutMix follows). Raises ValueError for an unknown name.

    >>> parse("augmix+cutmix")
    ('augmix', True)
    """
    policy = augmentation.removesuffix(CUTMIX)
    if policy not in POLICIES:
        raise ValueError(f"unknown augmentation {augmentation!r}; known: {', '.join(AUGMENTATIONS)}")
    return policy, augmentation.endswith(CUTMIX)


def generator(*key: int) -> np.random.Generator:
    """Random numbers for a key such as (seed, epoch, batch); another key of the same length gives an independent stream."""
    return np.random.default_rng([int(k) for k in key])


def crop_and_mirror(images: Tensor, rng: np.random.Generator, padding: int, mirror: bool) -> Tensor:
    """RandomCrop with zero padding, then RandomHorizontalFlip(0.5) if `mirror`, each image for itself."""
    n, channels, height, width = images.shape
    top, left = rng.integers(0, 2 * padding + 1, (2, n))
    flipped = (rng.random(n) < 0.5) & mirror
    y = top[:, None] + np.arange(height)
    x = left[:, None] + np.where(flipped[:, None], np.arange(width)[::-1], np.arange(width))
    index = y[:, :, None] * (width + 2 * padding) + x[:, None, :]  # (N, H, W) into the padded image
    index = torch.from_numpy(index.reshape(n, 1, -1)).to(images.device).expand(-1, channels, -1)
    return F.pad(images, (padding,) * 4).flatten(2).gather(2, index).view(images.shape)


def cutmix_box(rng: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
    """One box (top, left, bottom, right) for a batch: side sqrt(1 - lambda), lambda uniform; clipped at the border."""
    half = 0.5 * np.sqrt(1.0 - rng.beta(1, 1))
    x, y = rng.integers(width), rng.integers(height)
    half_width, half_height = int(half * width), int(half * height)
    return (
        max(y - half_height, 0), max(x - half_width, 0), min(y + half_height, height), min(x + half_width, width)
    )  # fmt: skip


def cutmix(images: Tensor, labels: Tensor, classes: int, box: tuple[int, int, int, int]) -> tuple[Tensor, Tensor]:
    """CutMix (Yun et al., ICCV 2019) as torchvision's: the partner of image n is image n - 1 of the batch.

    images (N, 3, H, W), labels (N,) int64 -> mixed images, and (N, classes) float32 soft labels: the weight of the
    partner's label is the share of the box. Neither input is modified.
    """
    top, left, bottom, right = box
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images.roll(1, 0)[..., top:bottom, left:right]
    share = (bottom - top) * (right - left) / (images.shape[-2] * images.shape[-1])
    own = F.one_hot(labels, classes).float()
    return mixed, own * (1 - share) + own.roll(1, 0) * share


def augment(
    images: Tensor,
    labels: Tensor,
    augmentation: str,
    rng: np.random.Generator,
    classes: int,
    mirror: bool = True,
    padding: int = 4,
) -> tuple[Tensor, Tensor]:
    """One random view of every image, by one of `AUGMENTATIONS` (PAPER: crop, mirror, policy, CutMix).

    images  (N, 3, H, W) uint8. labels (N,) int64, 0 .. classes - 1. Neither is modified.
    rng     a generator, see `generator`; the same one gives the same bytes on every device.
    mirror  whether images are flipped with probability 1/2. padding  pixels of the random crop, 0 to leave it out.

    Returns (N, 3, H, W) uint8 and the targets: the labels themselves or, after CutMix, (N, classes) float32 soft labels.
    Raises ValueError for an unknown augmentation, images that are not uint8 NCHW, or labels out of range.

    >>> images, labels = torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1, 2, 0])
    >>> views, targets = augment(images, labels, "augmix+cutmix", generator(0, 0, 0), classes=3)
    >>> views.shape, targets.shape
    (torch.Size([4, 3, 32, 32]), torch.Size([4, 3]))
    """
    policy, mix = parse(augmentation)
    check_images(images)
    if labels.device.type == "cpu":  # on a GPU the check would wait for the device; data sets are checked when made
        check_labels(labels, len(images), classes)
    views = crop_and_mirror(images, rng, padding, mirror)
    views = POLICIES[policy](views, rng)
    if mix:
        return cutmix(views, labels, classes, cutmix_box(rng, *images.shape[-2:]))
    return views, labels
