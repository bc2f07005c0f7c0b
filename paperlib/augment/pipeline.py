"""The sixteen candidates: the base augmentation, then a policy, then perhaps CutMix.

The base augmentation is CIFAR's, a crop of the padded image and a mirror, or the one of base.py, to
a size of one's choice.

Every step first *draws* its random numbers, batch by batch on the host, and then *applies* the
draws of any number of batches to all their pixels at once.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..basics.checks import arrays, checked, kind_of, natural, require, several
from ..data import Dataset
from ..data.checks import labels_of, uint8_images
from . import base, policies
from .ops import apply_chains, choose, packed, to_device, unpacked
from .policies import POLICIES, Draw, Policy

AUGMENTED_AT_ONCE = {"cpu": 512, "cuda": 32_768}  # images of 32 x 32, see `at_once`
CUTMIX = "+cutmix"
PAIR_NAME = re.compile(r"pair\d+(-\d+)*")
AUGMENTATIONS: tuple[str, ...] = (*POLICIES, *(name + CUTMIX for name in POLICIES))


@checked(augmentation=kind_of(str))
def parse(augmentation: str) -> tuple[str, bool]:
    """Name -> (policy, whether CutMix follows). Raises ValueError for an unknown name.

    >>> parse("augmix+cutmix")
    ('augmix', True)
    """
    policy = augmentation.removesuffix(CUTMIX)
    known = f"{', '.join(POLICIES)}, pairN and pairN-M-..., each also with {CUTMIX}"
    good = policy in POLICIES or PAIR_NAME.fullmatch(policy)
    require(good, f"unknown augmentation {augmentation!r}; known: {known}")
    return policy, augmentation.endswith(CUTMIX)


def augmentation_name(name: str, value: Any, seen: dict | None = None) -> None:
    """A name that `parse` knows."""
    parse(value)


augmentation_names = several(augmentation_name)
rng_kind = kind_of(np.random.Generator)
FEW_LABELS = labels_of(door=False)  # their data set was checked when it was made


def policy_of(name: str) -> Policy:
    """The policy of a name that `parse` gave: one of `POLICIES`, or of the random two-operation
    space (PAPER 4.6).

    There "pair7" is the policy with number 7, see `policies.pair`, and "pair7-12-30" takes one of
    these three for every image.

    >>> views, _ = augment(torch.ones(2, 3, 8, 8).byte(), torch.zeros(2).long(), "pair7-12",
    ...     generator(0), 10)
    >>> views.shape
    torch.Size([2, 3, 8, 8])
    """
    if name in POLICIES:
        return POLICIES[name]
    seeds = tuple(map(int, name.removeprefix("pair").split("-")))
    return Policy(partial(policies.pairs, seeds=seeds), apply_chains)


def at_once(device: torch.device, height: int, width: int) -> int:
    """How many views of this size `augment_batches` is best given at a time: more leave the CPU's
    cache, fewer let a GPU wait.

    >>> at_once(torch.device("cpu"), 32, 32), at_once(torch.device("cpu"), 224, 224)
    (512, 10)
    """
    return max(1, AUGMENTED_AT_ONCE[device.type] * 32 * 32 // (height * width))


def generator(*key: int) -> np.random.Generator:
    """Random numbers for a key such as (seed, epoch, batch); another key of the same length gives
    an independent stream.
    """
    for part in key:
        natural("each number of a key", part)
    return np.random.default_rng([int(k) for k in key])


def crop_draw(
    rng: np.random.Generator, count: int, height: int, width: int, padding: int, mirror: bool
) -> Draw:
    """RandomCrop and RandomHorizontalFlip(0.5) if `mirror`: corners (N, 2) of top and left, and
    flips (N,) bool.
    """
    top, left = rng.integers(0, 2 * padding + 1, (2, count))
    return np.column_stack([top, left]), (rng.random(count) < 0.5) & mirror


def crop_and_mirror(images: Tensor, corners: np.ndarray, flips: np.ndarray, padding: int) -> Tensor:
    """Cut (H, W) out of each image with `padding` black pixels around, from its corner on, then
    mirror it if it flips.
    """
    count, _, height, width = images.shape
    top, left = corners.T
    start = np.stack([top, left + np.where(flips, width - 1, 0), np.where(flips, -1, 1)])
    top, left, step = to_device(start, images.device).view(3, count, 1, 1)
    y = top + torch.arange(height, device=images.device).view(-1, 1)
    x = left + torch.arange(width, device=images.device) * step
    index = (y * (width + 2 * padding) + x).flatten(1)
    return unpacked(packed(images, padding).gather(1, index).view(count, height, width))


def cutmix_draw(rng: np.random.Generator, count: int, height: int, width: int) -> Draw:
    """One box for the whole batch, of side sqrt(1 - lambda) with lambda uniform, clipped at the
    border.

    Returns boxes (N, 4) of top, left, bottom, right, all the same, and partners (N,): how far back
    in the batch the image lies that image n is mixed with. It is the one before; for the first, the
    last.
    """
    half = 0.5 * np.sqrt(1.0 - rng.beta(1, 1))
    x, y = rng.integers(width), rng.integers(height)
    w, h = int(half * width), int(half * height)
    box = max(y - h, 0), max(x - w, 0), min(y + h, height), min(x + w, width)
    partners = np.ones(count, np.int64)
    partners[0] = 1 - count
    return np.tile(box, (count, 1)), partners


@checked(
    images=uint8_images, labels=FEW_LABELS, boxes=arrays("i", "N 4", 0), partners=arrays("i", "N")
)
def cutmix(
    images: Tensor, labels: Tensor, classes: int, boxes: np.ndarray, partners: np.ndarray
) -> tuple[Tensor, Tensor]:
    """CutMix (Yun et al., ICCV 2019) as torchvision's: inside of its box, image n is image n -
    partners[n].

    images (N, 3, H, W), labels (N,) int64; boxes (N, 4) and partners (N,) as drawn by `cutmix_draw`
    -> mixed images, and (N, classes) float32 soft labels: the weight of the partner's label is the
    share of the box. Neither input is modified.
    """
    places = np.arange(len(partners)) - partners
    inside = f"partners must lie in the batch, got {partners.tolist()}"
    require(places.min() >= 0 and places.max() < len(places), inside)
    partner = to_device(places, images.device)
    mixed = choose(policies.inside(boxes, images), images.index_select(0, partner), images)
    top, left, bottom, right = boxes.T
    share = (bottom - top) * (right - left) / (images.shape[-2] * images.shape[-1])
    shares = to_device(np.stack([1 - share, share]).astype(np.float32), images.device)
    own_share, its_share = shares.unsqueeze(2)
    own = F.one_hot(labels, classes).float()
    return mixed, own * own_share + own.index_select(0, partner) * its_share


@checked(images=uint8_images, rng=rng_kind)
def augment(
    images: Tensor,
    labels: Tensor,
    augmentation: str,
    rng: np.random.Generator,
    classes: int,
    mirror: bool = True,
    padding: int = 4,
    size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """One random view of every image of one batch, by one of `AUGMENTATIONS` or a pair
    (`policy_of`; PAPER: crop, mirror, policy, CutMix).

    images  (N, 3, H, W) uint8. labels (N,) int64, 0 .. classes - 1. Neither is modified.
    rng     a generator, see `generator`; the same one gives the same bytes on every device.
    mirror  whether images are flipped with probability 1/2. padding  pixels of the random crop, 0
            to leave it out.
    size    None: views are as large as the images. A number: the base augmentation is the resized
            crop and the colour jitter of base.py, views and all that follows are (size, size), and
            `padding` is not used.

    Returns (N, 3, H, W) or (N, 3, size, size) uint8 and the targets: the labels themselves or,
    after CutMix, (N, classes) float32 soft labels.
    Raises ValueError for an unknown augmentation, images that are not uint8 NCHW, labels out of
    range, or a size below 1.

    >>> images, labels = torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1, 2, 0])
    >>> views, targets = augment(images, labels, "augmix+cutmix", generator(0, 0, 0), classes=3)
    >>> views.shape, targets.shape
    (torch.Size([4, 3, 32, 32]), torch.Size([4, 3]))
    """
    base_views = mirror, padding, size
    return augment_batches(images, labels, augmentation, [rng], len(images), classes, *base_views)


@checked(
    images=uint8_images,
    labels=FEW_LABELS,
    augmentation=augmentation_name,
    rngs=several(rng_kind, 0),
    batch=natural,
)
def augment_batches(
    images: Tensor,
    labels: Tensor,
    augmentation: str,
    rngs: Sequence[np.random.Generator],
    batch: int,
    classes: int,
    mirror: bool = True,
    padding: int = 4,
    size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """`augment` for many batches in one go: what one call per batch would give, byte for byte,
    concatenated.

    Every batch draws from its own generator; then all pixels are worked on together, which costs a
    GPU a few launches and copies a call instead of a batch. On the CPU, too: about eight batches of
    100 a call are quickest, more leave its cache.

    images  (N, 3, H, W) uint8, cut into consecutive batches of `batch` images; the last one may be
            smaller.
    labels  (N,) int64, 0 .. classes - 1, and the other arguments: see `augment`.
    rngs    one generator per batch.

    Returns views and targets as `augment`. On CUDA nothing is waited for.
    Raises ValueError as `augment`, and if the number of generators is not that of the batches.

    >>> images, labels = torch.zeros(10, 3, 32, 32, dtype=torch.uint8), torch.arange(10)
    >>> views, targets = augment_batches(images, labels, "none+cutmix",
    ...     [generator(0, 0, k) for k in range(3)], 4, 10)
    >>> alone, target = augment(images[4:8], labels[4:8], "none+cutmix", generator(0, 0, 1), 10)
    >>> views[4:8].equal(alone), targets[4:8].equal(target)
    (True, True)
    """
    name, mix = parse(augmentation)
    good = batch >= 1 and len(rngs) == -(-len(images) // batch)
    wanted = f"{len(images)} images in batches of {batch} need one generator each"
    require(good, f"{wanted}, got {len(rngs)}")
    policy, before = policy_of(name), images.shape[-2:]
    if size is None:
        after, first = before, partial(crop_draw, padding=padding, mirror=mirror)
        apply_first = partial(crop_and_mirror, padding=padding)
    else:
        after, first = (size, size), partial(base.draw, mirror=mirror)
        apply_first = partial(base.apply, size=size)
    then = [policy.draw, *[cutmix_draw] * mix]
    draws = []
    for k, rng in enumerate(rngs):
        count = min(batch, len(images) - k * batch)
        draws.append([first(rng, count, *before), *(draw(rng, count, *after) for draw in then)])
    of_first, of_policy, *mixing = (_joined(step, len(images)) for step in zip(*draws, strict=True))
    parts = []
    for part in range(0, len(images), step := at_once(images.device, *after)):
        some = slice(part, part + step)
        first_rows, policy_rows = (
            [rows[some] for rows in drawn] for drawn in (of_first, of_policy)
        )
        parts.append(policy.apply(apply_first(images[some], *first_rows), *policy_rows))
    views = torch.cat(parts) if len(parts) > 1 else parts[0]
    return cutmix(views, labels, classes, *mixing[0]) if mix else (views, labels)


def augmented(
    data: Dataset,
    places: Tensor,
    augmentation: str,
    batch: int,
    rng_of: Callable[[int], np.random.Generator],
    padding: int = 4,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield views, targets and places of training images, batch by batch; see `augment_batches`.

    places  (N,) int64 on the data's device, of images in the data set: the order they come in.
    rng_of  the number of a batch -> its generator.
    """
    labels, classes = data.train_labels, len(data.classes)
    together = max(1, at_once(labels.device, *data.view_shape) // batch)
    base_views = data.mirror, padding, data.size
    for first, chunk in enumerate(places.split(together * batch)):
        rngs = [rng_of(first * together + k) for k in range(-(-len(chunk) // batch))]
        views, targets = augment_batches(
            data.train_images[chunk], labels[chunk], augmentation, rngs, batch, classes, *base_views
        )
        yield from zip(views.split(batch), targets.split(batch), chunk.split(batch), strict=True)


def _joined(draws: Sequence[Draw], count: int) -> Draw:
    """The draws of consecutive batches -> one for all their `count` images."""
    joined = tuple(np.concatenate(arrays) for arrays in zip(*draws, strict=True))
    for array in joined:
        wanted = f"a draw must have its {count} images on axis 0"
        require(len(array) == count, f"{wanted}, got an array of shape {array.shape}")
    return joined
