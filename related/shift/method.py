"""Data whose test images are not like the training images, and how networks fare on them: arXiv
2312.16242, its two shifts at the size of CIFAR.

Diversity is a corruption of the test images (corruptions.py), or classes that hold other things
than in training. Correlation is a colour that goes with the class in training, and not in testing.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paperlib.augment import generator, to_device
from paperlib.basics.checks import arrays, checked, choice, kind_of, number, require
from paperlib.data import DATASETS, Dataset, Source
from paperlib.data.checks import uint8_images
from paperlib.runs.kinds import load_data, load_network
from paperlib.study.store import Store
from paperlib.training import accuracy, predictions

from .corruptions import CORRUPTIONS, corrupt
from .study import STRENGTH, SUPERCLASSES, ShiftRun

# Share of the training images with the tint of their class: that of the second environment in the
# released code's ColorMNIST.
ALIGNED = 0.8

# ------------------------------------------------------------------------------ correlation shift


@checked(images=uint8_images, hues=arrays("f", "N", 0, 1), strength=number("[0, 1]"))
def tint(images: Tensor, hues: np.ndarray, strength: float) -> Tensor:
    """Images under light of a colour: each channel times 1 - strength (1 - the colour's part in
    it). The choice is ours; the paper zeroes a channel of MNIST, or takes the hair of CelebA.

    images  (N, 3, H, W) uint8. hues  (N,) float, places on the colour circle, 0 and 1 red.
    strength  0 leaves the images as they are. Returns (N, 3, H, W) uint8.

    >>> white = torch.full((2, 3, 1, 1), 255, dtype=torch.uint8)
    >>> tint(white, np.array([0.0, 0.5]), 0.5).flatten(1)
    tensor([[255, 127, 127],
            [127, 255, 255]], dtype=torch.uint8)
    """
    # The part of a channel: 1 within a sixth of the circle from it, 0 beyond a third.
    distance = np.abs((hues[:, None] - np.array([0, 1 / 3, 2 / 3]) + 0.5) % 1 - 0.5)
    factors = 1 - strength * (1 - np.clip(2 - 6 * distance, 0, 1))
    return (images * to_device(factors, images.device)[:, :, None, None] + 1e-9).byte()


@checked(labels=arrays("i", "N", 0), share=number("[0, 1]"))
def tints(labels: np.ndarray, classes: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """Tint of each image: with probability `share` that of its class, else any other.

    labels  (N,) integers. Returns (N,) integers: class k has tint k, the hue k / classes.

    >>> tints(np.array([2, 0, 1]), 3, 1.0, np.random.default_rng(0))
    array([2, 0, 1])
    """
    others = rng.integers(1, max(2, classes), len(labels))
    away = np.where(rng.random(len(labels)) < share, 0, others)
    return (labels + away) % classes


@checked(data=kind_of(Dataset), share=number("[0, 1]"), strength=number("[0, 1]"))
def tinted(
    data: Dataset, share: float = ALIGNED, strength: float = STRENGTH, seed: int = 0
) -> Dataset:
    """A data set whose training images have the tint of their class with probability `share`; that
    of the test images tells nothing.
    """
    classes = len(data.classes)
    parts = {}
    for number_, (part, of_part) in enumerate({"train": share, "test": 1 / classes}.items()):
        labels, rng = getattr(data, f"{part}_labels").cpu().numpy(), generator(seed, number_)
        hues = tints(labels, classes, of_part, rng) / classes
        parts[f"{part}_images"] = tint(getattr(data, f"{part}_images"), hues, strength)
    return replace(data, **parts)


# -------------------------------------------------------------------------------- sub-class shift


@checked(data=kind_of(Dataset), tested=choice(("seen", "unseen")))
def superclasses(
    data: Dataset, groups: dict[str, tuple[str, ...]], tested: str, held_out: int = 4
) -> Dataset:
    """A data set whose classes are groups of classes. One class of each group is not trained on.

    groups    name -> names of classes of `data`. held_out  the place in each group of the class
              that is left out of the training images.
    tested    "seen": the test images are of the classes that are trained on. "unseen": of those
              that are not.

    Raises ValueError for a class that `data` lacks, or a group without that place.
    """
    for name, members in groups.items():
        lacking = [each for each in members if each not in data.classes]
        require(not lacking, f"the classes {lacking} of the group {name!r} are not in {data.name}")
        require(0 <= held_out < len(members), f"the group {name!r} has no place {held_out}")
    group = torch.full((len(data.classes),), -1)
    unseen = torch.zeros(len(data.classes), dtype=torch.bool)
    for number_, members in enumerate(groups.values()):
        places = [data.classes.index(each) for each in members]
        group[places], unseen[places[held_out]] = number_, True
    parts = {}
    for part, wanted in (("train", ~unseen), ("test", unseen if tested == "unseen" else ~unseen)):
        labels = getattr(data, f"{part}_labels").cpu()
        keep = wanted[labels] & (group[labels] >= 0)
        own = getattr(data, f"{part}_images")
        parts[f"{part}_images"] = own[keep.to(own.device)]
        parts[f"{part}_labels"] = group[labels[keep]].to(own.device)
    return replace(data, **parts, classes=tuple(groups))


def _source(name: str, change: Callable[[Dataset], Dataset]) -> Source:
    """A shifted data set, for a run to name as "module:variable"."""

    def load(root: Path, download: bool) -> Dataset:
        return change(DATASETS[name].load(root, download))

    return Source(load, DATASETS[name].paper)


TINTED_DIGITS, TINTED_CIFAR10 = (_source(name, tinted) for name in ("digits", "cifar10"))
CIFAR100_SEEN, CIFAR100_UNSEEN = (
    _source("cifar100", partial(superclasses, groups=SUPERCLASSES, tested=tested))
    for tested in ("seen", "unseen")
)

# ------------------------------------------------------------------------------------ one network


def make_shift(run: ShiftRun, store: Store, device: str) -> dict[str, Any]:
    """Accuracies of a network, in percent: on the test images, `corruptions` by name and severity,
    and on images that all have the tint of their class (`aligned`), or the opposite one
    (`conflicting`), a number a class.
    """
    network, data = load_network(run.network, store, device), load_data(run.data, device)
    precision = run.network.recipe.precision

    def right(images: Tensor) -> Tensor:
        shown = replace(data, test_images=images)
        return predictions(network, shown, 100, precision)[0] == data.test_labels

    found = {
        name: [
            100 * float(right(corrupt(data.test_images, name, s, run.seed)).double().mean())
            for s in run.severities
        ]
        for name in (CORRUPTIONS if run.severities else ())
    }
    classes, labels = len(data.classes), data.test_labels.cpu().numpy()
    groups = {}
    for name, turn in (("aligned", 0.0), ("conflicting", 0.5)):
        hues = (labels / classes + turn) % 1
        hit = right(tint(data.test_images, hues, run.strength)).cpu().numpy()
        groups[name] = [100 * float(hit[labels == k].mean()) for k in np.unique(labels)]
    plain = accuracy(network, data, 100, precision)
    return {"accuracy": plain, "corruptions": found, **groups}
