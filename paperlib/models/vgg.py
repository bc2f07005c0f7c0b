"""VGG-8, VGG-11 and VGG-13 with batch normalisation (Simonyan & Zisserman, 2015), as the paper uses
them.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from .classifier import MODELS, Classifier, Network, full_precision, pool

WIDTHS = (64, 128, 256, 512, 512)


def conv_bn(channels_in: int, channels_out: int) -> list[nn.Module]:
    """The three layers of which every stage is made: 3x3 convolution with bias, BatchNorm, ReLU."""
    return [
        nn.Conv2d(channels_in, channels_out, 3, padding=1),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    ]


class VGG(Classifier):
    """Five stages, global average pooling, one linear layer.

    convs  convolutions of each stage.

    Maps are halved after the first three stages and, if the images are 64 pixels high, after the
    fourth: the last ones have 4 x 4 pixels for images of 32 or 64, and 28 x 28 for images of 224.
    """

    # The whole first stage: two convolutions in VGG-13, one in the others.
    full_precision = ("stages.0", "linear")

    def __init__(self, convs: Sequence[int], classes: int):
        super().__init__()
        self.stages = nn.ModuleList()
        for count, before, channels in zip(convs, (3, *WIDTHS), WIDTHS, strict=False):
            widths = pairwise([before, *[channels] * count])
            self.stages.append(nn.Sequential(*(layer for w in widths for layer in conv_bn(*w))))
        self.linear = nn.Linear(WIDTHS[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=(2 / (9 * module.out_channels)) ** 0.5)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def features(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        features, x = {}, images
        for i, stage in enumerate(self.stages):
            # (N, 64, 32, 32), (N, 128, 16, 16), (N, 256, 8, 8), (N, 512, 4, 4), (N, 512, 4, 4) for
            # images of 32
            features[f"f{i}"] = x = stage(x)
            if i < 3 or (i == 3 and images.shape[2] == 64):
                x = F.max_pool2d(x, 2)
        features["f5"] = pooled = pool(x)  # (N, 512)
        with full_precision(x):
            return self.linear(pooled), features


_PAPER = "Simonyan & Zisserman, ICLR 2015"
for name, convs in (("vgg8", (1, 1, 1, 1, 1)), ("vgg13", (2, 2, 2, 2, 2))):
    MODELS[name] = Network(partial(VGG, convs), _PAPER, "test_logits_and_features")
# One network by two names: the paper's form has a rule of its own for 64 pixels.
for name in ("vgg11_bn", "vgg11_bn_64"):
    proof = "test_vgg_halves_after_the_fourth_stage_at_64_only"
    MODELS[name] = Network(partial(VGG, (1, 1, 2, 2, 2)), _PAPER, proof)
