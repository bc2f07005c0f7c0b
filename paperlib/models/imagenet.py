"""ResNet-18, MobileNetV2, EfficientNet-B0, ShuffleNetV2 and SqueezeNet: torchvision's layers, cut
into stages.

Each has two forms, for images of about 224 pixels and (`small`) of 64. The second strides less at
the beginning, which leaves about as many pixels to the last map:

                    224 -> last map   64 -> last map   what the small form changes
    ResNet-18             7                 8          stem 3x3 instead of 7x7, stride 1 instead of
                          2; no max-pooling
    MobileNetV2           7                 8          stride 1 in the stem and in the first stage
                          that has 2
    EfficientNet-B0       7                 8          the same
    ShuffleNetV2          7                 8          stride 1 in the stem; no max-pooling
    SqueezeNet 1.0       13                16          stem 3x3 padded instead of 7x7, stride 1; no
                         first max-pooling

Features are f0, the stem's output; one map a resolution after that, the last one before the next
halving; and the pooled vector that the classifier sees. MobileNetV2 and EfficientNet-B0 widen the
last map to 1280 channels before they pool, ShuffleNetV2 to 1024; SqueezeNet's classifier comes
before the pooling, so its vector is the mean of the last map.

MobileNetV2 and SqueezeNet have dropout, EfficientNet-B0 dropout and stochastic depth. They draw
from torch's global random state in train mode: a resumed run of them differs from one that was not
interrupted, and they cannot be packed.

torchvision is imported when one of these is built, because that takes a second or two.
"""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from .classifier import MODELS, Classifier, Network, full_precision, pool
from .precision import widen


class Staged(Classifier):
    """Stages one after the other, pooling, a classifier.

    stages    each gives a feature map, which no later one may overwrite. widening  between the last
              map and the pooling.
    head      (N, C) -> (N, classes); with `over_map`, (N, C, H, W) -> (N, classes, H, W), whose
              mean over positions is taken.

    Full precision keep the first convolution and the last linear layer. A classifier made of a
    convolution, SqueezeNet's, is quantized like the rest: the paper's rule looks for what gives the
    network's output, and finds no layer there.
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        head: nn.Module,
        widening: nn.Module | None = None,
        over_map: bool = False,
    ):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.widening, self.head, self.over_map = widening, head, over_map
        first = [name for name, module in self.named_modules() if isinstance(module, nn.Conv2d)][:1]
        last = [name for name, module in self.named_modules() if isinstance(module, nn.Linear)][-1:]
        self.full_precision = (*first, *last)

    def features(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        features, x = {}, images
        for i, stage in enumerate(self.stages):
            features[f"f{i}"] = x = stage(x)
        if self.widening is not None:
            x = self.widening(x)
        features[f"f{len(self.stages)}"] = pooled = pool(x)
        with full_precision(x):
            return (pool(self.head(widen(x))) if self.over_map else self.head(pooled)), features


def _stride(conv: nn.Conv2d, stride: int) -> None:
    conv.stride = (stride, stride)


def _small_stem(conv: nn.Conv2d) -> nn.Conv2d:
    """A 3x3 convolution of stride 1 that keeps the size in the place of the first one of a
    network.
    """
    return nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, bias=conv.bias is not None)


def resnet18(classes: int, small: bool = False) -> Staged:
    """ResNet-18 (He et al., CVPR 2016): f0 (64 channels), f1 .. f4 (64, 128, 256, 512), f5 the
    vector of 512.
    """
    from torchvision import models

    net = models.resnet18(num_classes=classes)
    stem = [net.conv1, net.bn1, net.relu, net.maxpool]
    if small:
        stem = [_small_stem(net.conv1), net.bn1, net.relu]
        nn.init.kaiming_normal_(stem[0].weight, mode="fan_out", nonlinearity="relu")
    return Staged([nn.Sequential(*stem), net.layer1, net.layer2, net.layer3, net.layer4], net.fc)


def mobilenetv2(classes: int, small: bool = False) -> Staged:
    """MobileNetV2 (Sandler et al., CVPR 2018), width 1, dropout 0.2: f0 .. f4 (32, 24, 32, 96,
    320), f5 the vector of 1280.
    """
    from torchvision import models

    net = models.mobilenet_v2(num_classes=classes)
    layers = net.features
    if small:
        _stride(layers[0][0], 1)
        _stride(layers[2].conv[1][0], 1)
    stages = [layers[0], layers[1:4], layers[4:7], layers[7:14], layers[14:18]]
    return Staged(stages, net.classifier, layers[18])


def efficientnet_b0(classes: int, small: bool = False) -> Staged:
    """EfficientNet-B0 (Tan & Le, ICML 2019), stochastic depth up to 0.2, dropout 0.2: f0 .. f4 (32,
    24, 40, 112, 320), f5 the vector of 1280.
    """
    from torchvision import models

    net = models.efficientnet_b0(num_classes=classes)
    layers = net.features
    if small:
        _stride(layers[0][0], 1)
        _stride(layers[2][0].block[1][0], 1)
    dropout, linear = net.classifier
    head = nn.Sequential(nn.Dropout(dropout.p), linear)  # torchvision's overwrites the vector
    return Staged([layers[0], layers[1:3], layers[3], layers[4:6], layers[6:8]], head, layers[8])


def shufflenetv2_x0_5(classes: int, small: bool = False) -> Staged:
    """ShuffleNetV2 x0.5 (Ma et al., ECCV 2018): f0 .. f3 (24, 48, 96, 192), f4 the vector of
    1024.
    """
    from torchvision import models

    net = models.shufflenet_v2_x0_5(num_classes=classes)
    stem = [net.conv1] if small else [net.conv1, net.maxpool]
    if small:
        _stride(net.conv1[0], 1)
    return Staged([nn.Sequential(*stem), net.stage2, net.stage3, net.stage4], net.fc, net.conv5)


def squeezenet1_0(classes: int, small: bool = False) -> Staged:
    """SqueezeNet 1.0 (Iandola et al., 2016), dropout 0.5: f0 .. f3 (96, 256, 512, 512), f4 the mean
    of f3 over positions.
    """
    from torchvision import models

    net = models.squeezenet1_0(num_classes=classes)
    layers = net.features
    stem = list(layers[:3])
    if small:
        stem = [_small_stem(layers[0]), layers[1]]
        nn.init.kaiming_uniform_(stem[0].weight)
        nn.init.zeros_(stem[0].bias)
    stages = [nn.Sequential(*stem), layers[3:6], layers[6:11], layers[11:]]
    return Staged(stages, net.classifier[:3], over_map=True)


_LARGE = "test_same_seed_same_logits_as_torchvision"
_SMALL = "test_features_at_224_and_of_the_small_form_at_64"
for network, paper in (
    (resnet18, "He et al., CVPR 2016"),
    (mobilenetv2, "Sandler et al., CVPR 2018"),
    (efficientnet_b0, "Tan & Le, ICML 2019"),
    (shufflenetv2_x0_5, "Ma et al., ECCV 2018"),
    (squeezenet1_0, "Iandola et al., 2016"),
):
    MODELS[network.__name__] = Network(network, paper, _LARGE)
    MODELS[network.__name__ + "_64"] = Network(partial(network, small=True), paper, _SMALL)
