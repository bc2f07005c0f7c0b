"""Full-precision networks of the paper, by name.

Every network is a `Classifier`: `model(images)` gives logits, `model.features(images)` the logits and the named
feature maps that the feature-based distillation losses read (PAPER section 7.4 of the repository's facts: f0 .. f4
for ResNets, f0 .. f5 for VGGs).
"""

from collections.abc import Callable
from functools import partial

import torch

from .classifier import Classifier
from .resnet import CifarResNet
from .vgg import CifarVGG

MODELS: dict[str, Callable[[int], Classifier]] = {
    "resnet8": partial(CifarResNet, 1),
    "resnet20": partial(CifarResNet, 3),
    "resnet32": partial(CifarResNet, 5),
    "resnet44": partial(CifarResNet, 7),
    "resnet56": partial(CifarResNet, 9),
    "vgg8": partial(CifarVGG, 1),
    "vgg13": partial(CifarVGG, 2),
}


def build(name: str, classes: int, seed: int = 0) -> Classifier:
    """A freshly initialised network.

    name     a key of `MODELS`.
    classes  number of classes, at least 2.
    seed     of the initial weights; the global random state is left as it was.

    Raises ValueError for an unknown name or fewer than two classes.

    >>> sum(p.numel() for p in build("resnet20", classes=10).parameters())
    269850
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    if classes < 2:
        raise ValueError(f"a classifier needs at least 2 classes, got {classes}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[name](classes)


__all__ = ["MODELS", "CifarResNet", "CifarVGG", "Classifier", "build"]
