"""ResNet-8/20/32/44/56 for 32 x 32 images (He et al., CVPR 2016, section 4.2), as the paper uses
them.

Two details differ from most implementations and are the paper's: shortcuts of option A pad the
channels on both sides, and a BatchNorm1d sits between the pooled vector and the classifier.
Distillation takes the vector before that norm.
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from .classifier import MODELS, Classifier, Network, full_precision, pool


class BasicBlock(nn.Module):
    """conv - BN - ReLU - conv - BN, plus shortcut, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        self.stride = stride
        # Zero channels added to the shortcut, on each side.
        self.padding = (channels_out - channels_in) // 2
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.padding:
            pixels = x[:, :, :: self.stride, :: self.stride]
            shortcut = F.pad(pixels, (0, 0, 0, 0, self.padding, self.padding))
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + shortcut, inplace=True)


class CifarResNet(Classifier):
    """`blocks` basic blocks in each of three stages with 16, 32 and 64 channels: depth 6 * blocks +
    2.
    """

    full_precision = ("conv", "linear")

    def __init__(self, blocks: int, classes: int):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.stages = nn.ModuleList()
        for before, channels, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2)):
            first = BasicBlock(before, channels, stride)
            others = [BasicBlock(channels, channels, 1) for _ in range(blocks - 1)]
            self.stages.append(nn.Sequential(first, *others))
        self.bn_pooled = nn.BatchNorm1d(64)
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def features(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x = F.relu(self.bn(self.conv(images)), inplace=True)
        features = {"f0": x}  # (N, 16, 32, 32)
        for i, stage in enumerate(self.stages, start=1):
            features[f"f{i}"] = x = stage(x)  # (N, 16, 32, 32), (N, 32, 16, 16), (N, 64, 8, 8)
        features["f4"] = pooled = pool(x)  # (N, 64)
        with full_precision(x):
            return self.linear(self.bn_pooled(pooled)), features


for blocks in (1, 3, 5, 7, 9):
    MODELS[f"resnet{6 * blocks + 2}"] = Network(
        partial(CifarResNet, blocks), "He et al., CVPR 2016", "test_logits_and_features"
    )
