"""Full-precision networks of the paper, by name.

Every network is a `Classifier`: `model(images)` gives logits, `model.features(images)` the logits
and the named feature maps that the feature-based distillation losses read: f0, f1, ... from the
stem on, the last one a vector.

For images of 32 pixels: resnet8 .. resnet56, vgg8, vgg13. For Tiny-ImageNet at 224 pixels:
resnet18, mobilenetv2, efficientnet_b0, vgg11_bn, shufflenetv2_x0_5, squeezenet1_0; the same with
_64 are meant for images of 64 pixels, see imagenet.py. A new network is one file that ends with its
entry in `MODELS`.
"""

import torch

from ..basics.checks import checked, kind_of, natural, number
from ..basics.registry import import_all
from .classifier import MODELS, Classifier, Network, channels_last, in_mode, learning
from .imagenet import Staged
from .resnet import CifarResNet
from .vgg import VGG

import_all(__name__, __path__)


@checked(classes=number("[2, inf)", whole=True))
def build(name: str, classes: int, seed: int = 0) -> Classifier:
    """A freshly initialised network.

    name     a key of `MODELS`.
    classes  number of classes, at least 2.
    seed     of the initial weights; the global random state is left as it was.

    Raises ValueError for an unknown name or fewer than two classes.

    >>> sum(p.numel() for p in build("resnet20", classes=10).parameters())
    269850
    """
    network = MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = network.make(classes)
    made.built = name, classes
    return made
