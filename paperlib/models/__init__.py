"""Full-precision networks of the paper, by name.

Every network is a `Classifier`: `model(images)` gives logits, `model.features(images)` the logits
and the named feature maps that the feature-based distillation losses read: f0, f1, ... from the
stem on, the last one a vector.

For images of 32 pixels: resnet8 .. resnet56, vgg8, vgg13. For Tiny-ImageNet at 224 pixels:
resnet18, mobilenetv2, efficientnet_b0, vgg11_bn, shufflenetv2_x0_5, squeezenet1_0; the same with
_64 are meant for images of 64 pixels, see imagenet.py. (vgg11_bn_64 is vgg11_bn: the paper's form
has a rule of its own for images of 64.)
"""

from collections.abc import Callable
from functools import partial

import torch

from .classifier import Classifier
from .imagenet import NETWORKS, Staged
from .resnet import CifarResNet
from .vgg import VGG

MODELS: dict[str, Callable[[int], Classifier]] = {
    "resnet8": partial(CifarResNet, 1),
    "resnet20": partial(CifarResNet, 3),
    "resnet32": partial(CifarResNet, 5),
    "resnet44": partial(CifarResNet, 7),
    "resnet56": partial(CifarResNet, 9),
    "vgg8": partial(VGG, (1, 1, 1, 1, 1)),
    "vgg13": partial(VGG, (2, 2, 2, 2, 2)),
    **dict.fromkeys(("vgg11_bn", "vgg11_bn_64"), partial(VGG, (1, 1, 2, 2, 2))),
    **NETWORKS,
    **{f"{name}_64": partial(network, small=True) for name, network in NETWORKS.items()},
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


__all__ = ["MODELS", "VGG", "CifarResNet", "Classifier", "Staged", "build"]
