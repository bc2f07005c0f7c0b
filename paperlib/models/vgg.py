"""VGG-8 and VGG-13 with batch normalisation for 32 x 32 images (Simonyan & Zisserman, 2015), as the paper uses them."""

import torch.nn.functional as F
from torch import Tensor, nn

from .classifier import Classifier, full_precision, pool

WIDTHS = (64, 128, 256, 512, 512)


def conv_bn(channels_in: int, channels_out: int) -> list[nn.Module]:
    """The three layers of which every stage is made: 3x3 convolution with bias, BatchNorm, ReLU."""
    return [nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True)]


class CifarVGG(Classifier):
    """Five stages of `convs` convolutions each, global average pooling, one linear layer."""

    full_precision = ("stages.0", "linear")  # the whole first stage: one convolution in VGG-8, two in VGG-13

    def __init__(self, convs: int, classes: int):
        super().__init__()
        self.stages = nn.ModuleList()
        channels_in = 3
        for channels in WIDTHS:
            layers = conv_bn(channels_in, channels)
            for _ in range(convs - 1):
                layers += conv_bn(channels, channels)
            self.stages.append(nn.Sequential(*layers))
            channels_in = channels
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
            # (N, 64, 32, 32), (N, 128, 16, 16), (N, 256, 8, 8), (N, 512, 4, 4), (N, 512, 4, 4)
            features[f"f{i}"] = x = stage(x)
            if i < 3:
                x = F.max_pool2d(x, 2)
        features["f5"] = pooled = pool(x)  # (N, 512)
        with full_precision(x):
            return self.linear(pooled), features
