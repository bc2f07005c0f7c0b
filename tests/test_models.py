"""The networks have the paper's parameter counts and features."""

import pytest
import torch

from paperlib.models import MODELS, build

COUNTS = {("resnet20", 10): 269_850, ("vgg8", 10): 3_918_858, ("resnet32", 100): 470_132, ("vgg13", 100): 9_462_180}
RESNET = {"f0": (16, 32, 32), "f1": (16, 32, 32), "f2": (32, 16, 16), "f3": (64, 8, 8), "f4": (64,)}
VGG = {"f0": (64, 32, 32), "f1": (128, 16, 16), "f2": (256, 8, 8), "f3": (512, 4, 4), "f4": (512, 4, 4), "f5": (512,)}


@pytest.mark.parametrize("name, classes", COUNTS)
def test_parameter_counts(name, classes):
    assert sum(p.numel() for p in build(name, classes).parameters()) == COUNTS[name, classes]


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_features(name):
    model = build(name, 7).eval()
    x = torch.randn(2, 3, 32, 32)
    logits, features = model.features(x)
    assert torch.equal(model(x), logits) and logits.shape == (2, 7)
    assert {k: tuple(f.shape[1:]) for k, f in features.items()} == (RESNET if name.startswith("resnet") else VGG)
    assert all((f >= 0).all() for f in features.values())  # after the ReLU, and not overwritten by a later one


def test_the_distilled_vector_comes_before_the_last_norm():
    model = build("resnet8", 3).train()
    _, features = model.features(torch.randn(8, 3, 32, 32))
    assert torch.allclose(features["f4"], features["f3"].mean((2, 3)))


def test_shortcuts_pad_channels_on_both_sides():
    block = build("resnet8", 3).eval().stages[1][0]
    for conv in (block.conv1, block.conv2):
        torch.nn.init.zeros_(conv.weight)
    x = torch.rand(2, 16, 8, 8)
    y = block(x)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert (y[:, :8] == 0).all() and (y[:, 24:] == 0).all()


def test_weights_are_seeded_without_touching_the_global_state():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, same, other = build("resnet8", 3, seed=1), build("resnet8", 3, seed=1), build("resnet8", 3, seed=2)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first.conv.weight, same.conv.weight) and not torch.equal(first.conv.weight, other.conv.weight)
    with pytest.raises(ValueError, match="resnet9"):
        build("resnet9", 3)
    with pytest.raises(ValueError, match="1"):
        build("resnet8", 1)
