"""The networks have the paper's parameter counts and features, and torchvision's are
torchvision's.
"""

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from paperlib.models import MODELS, build, in_mode
from paperlib.quantizers import initialise, layers_to_quantize, quantize
from paperlib.training.packing import Pack

COUNTS = {
    ("resnet20", 10): 269_850,
    ("vgg8", 10): 3_918_858,
    ("resnet32", 100): 470_132,
    ("vgg13", 100): 9_462_180,
    ("resnet18", 200): 11_279_112,
    ("mobilenetv2", 200): 2_480_072,
    ("efficientnet_b0", 200): 4_263_748,
    ("vgg11_bn", 200): 9_328_584,
    ("shufflenetv2_x0_5", 200): 546_792,
    ("squeezenet1_0", 200): 838_024,
}
QUANTIZED = {
    "resnet18": 19,
    "mobilenetv2": 51,
    "efficientnet_b0": 80,
    "vgg11_bn": 7,
    "shufflenetv2_x0_5": 55,
    "squeezenet1_0": 25,
}
TINY = tuple(QUANTIZED)
TORCHVISION = {
    "resnet18": "resnet18",
    "mobilenetv2": "mobilenet_v2",
    "efficientnet_b0": "efficientnet_b0",
    "shufflenetv2_x0_5": "shufflenet_v2_x0_5",
    "squeezenet1_0": "squeezenet1_0",
}
RESNET = [(16, 32), (16, 32), (32, 16), (64, 8)]  # channels and side of f0, f1, ...
VGG = [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)]
# At 224 pixels, then at 64 with the small form; the vector follows.
MAPS = {
    "resnet18": ([(64, 56), (64, 56), (128, 28), (256, 14), (512, 7)], [64, 64, 32, 16, 8], 512),
    "mobilenetv2": ([(32, 112), (24, 56), (32, 28), (96, 14), (320, 7)], [64, 64, 32, 16, 8], 1280),
    "efficientnet_b0": (
        [(32, 112), (24, 56), (40, 28), (112, 14), (320, 7)],
        [64, 64, 32, 16, 8],
        1280,
    ),
    "vgg11_bn": ([(64, 224), (128, 112), (256, 56), (512, 28), (512, 28)], [64, 32, 16, 8, 4], 512),
    "shufflenetv2_x0_5": ([(24, 56), (48, 28), (96, 14), (192, 7)], [64, 32, 16, 8], 1024),
    "squeezenet1_0": ([(96, 54), (256, 54), (512, 27), (512, 13)], [64, 64, 32, 16], 512),
}


@pytest.mark.parametrize("name, classes", COUNTS)
def test_parameter_counts(name, classes):
    assert sum(p.numel() for p in build(name, classes).parameters()) == COUNTS[name, classes]


def shapes(features):
    """(channels, side) of square maps, (channels,) of vectors."""
    assert all(f.ndim == 2 or f.shape[2] == f.shape[3] for f in features.values())
    return [tuple(f.shape[1:3]) for f in features.values()]


@pytest.mark.parametrize(
    "name", [name for name, n in MODELS.items() if n.proof == "test_logits_and_features"]
)
def test_logits_and_features(name):
    model = build(name, 7).eval()
    x = torch.randn(2, 3, 32, 32)
    logits, features = model.features(x)
    assert torch.equal(model(x), logits) and logits.shape == (2, 7)
    expected = [*RESNET, (64,)] if name.startswith("resnet") else [*VGG, (512,)]
    assert shapes(features) == expected and list(features) == [
        f"f{i}" for i in range(len(expected))
    ]
    assert all(
        (f >= 0).all() for f in features.values()
    )  # after the ReLU, and not overwritten by a later one


@pytest.mark.parametrize("name", TINY)
def test_features_at_224_and_of_the_small_form_at_64(name):
    large, small, vector = MAPS[name]
    for suffix, side, maps in (
        ("", 224, large),
        ("_64", 64, [(c, s) for (c, _), s in zip(large, small, strict=True)]),
    ):
        with FakeTensorMode():  # shapes without arithmetic
            model = MODELS[name + suffix].make(7).eval()
            logits, features = model.features(torch.randn(2, 3, side, side))
        assert logits.shape == (2, 7) and shapes(features) == [*maps, (vector,)]
        assert list(features) == [f"f{i}" for i in range(len(maps) + 1)]


@pytest.mark.parametrize("name", TORCHVISION)
def test_same_seed_same_logits_as_torchvision(name):
    torch.manual_seed(4)
    theirs = getattr(torchvision.models, TORCHVISION[name])(num_classes=9).eval()
    ours, x = build(name, 9, seed=4).eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), atol=1e-5)


@pytest.mark.parametrize("name", [n + suffix for n in TINY for suffix in ("", "_64")])
def test_features_stay_as_they_were_computed(name):
    """Layers that work in place, dropout among them, must not touch what `features` hands out."""
    model, seen = build(name, 5).train(), []
    for stage in model.stages:
        stage.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    widening = getattr(model, "widening", None)
    if widening is not None:
        widening.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    x = torch.randn(2, 3, 64, 64)
    before = x.clone()
    with torch.no_grad():
        _, features = model.features(x)
    *maps, vector = features.values()
    assert torch.equal(vector, seen[-1].mean((2, 3))) and vector.std() > 0
    assert all(
        torch.equal(f, s) for f, s in zip(maps, seen, strict=widening is None)
    ) and torch.equal(x, before)


@pytest.mark.parametrize("name", TINY)
def test_layers_to_quantize_are_the_papers(name):
    for suffix in ("", "_64"):
        model = build(name + suffix, 200)
        chosen = layers_to_quantize(model)
        assert len(chosen) == QUANTIZED[name]
        kept = [
            n
            for n, m in model.named_modules()
            if isinstance(m, nn.Conv2d | nn.Linear) and n not in chosen
        ]
        assert len(kept) == (1 if name == "squeezenet1_0" else 2)
        assert model.get_submodule(kept[0]).in_channels == 3
        assert name == "squeezenet1_0" or model.get_submodule(kept[1]).out_features == 200


# EWGS starts an activation's interval at its minimum and ends it at a multiple of its spread, which
# is less than the minimum for the pooled inputs of EfficientNet's squeeze-and-excitation. The paper
# trains that network with PACT.
METHOD = {"efficientnet_b0": "pact"}


@pytest.mark.parametrize("name", TINY)
def test_a_quantized_student_learns(name):
    x, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 3, 5, 7])
    teacher = build(name, 8)
    student = quantize(teacher, METHOD.get(name, "ewgs"), 4, 4)
    initialise(student, x)
    student.train()
    optimiser = torch.optim.SGD(student.parameters(), 1e-3)
    logits, features = copy.deepcopy(student).features(x)
    assert logits.shape == (4, 8) and all(f.isfinite().all() for f in features.values())
    loss = nn.functional.cross_entropy(student(x), labels)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())
    before = [p.detach().clone() for p in student.parameters()]
    optimiser.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "shufflenetv2_x0_5"])
def test_networks_without_dropout_can_be_packed(name):
    models, x = [build(name, 5, seed).train() for seed in (1, 2)], torch.randn(2, 3, 3, 64, 64)
    alone = [copy.deepcopy(model)(images) for model, images in zip(models, x, strict=True)]
    logits, _ = Pack(models).features(x)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(logits, alone, strict=True))


@pytest.mark.parametrize("name", TINY)
def test_logits_are_float32_under_autocast(name):
    model, x = build(name, 5).eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits, features = model.features(x)
    *maps, vector = features.values()
    assert logits.dtype == vector.dtype == torch.float32 and maps[-1].dtype == torch.bfloat16


def test_vgg_halves_after_the_fourth_stage_at_64_only():
    model = build("vgg8", 3).eval()
    for side, expected in (
        (32, [32, 16, 8, 4, 4]),
        (64, [64, 32, 16, 8, 4]),
        (96, [96, 48, 24, 12, 12]),
    ):
        _, features = model.features(torch.randn(1, 3, side, side))
        assert [f.shape[2] for f in list(features.values())[:-1]] == expected


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


@pytest.mark.parametrize(
    "name, weight", [("resnet8", "conv.weight"), ("resnet18_64", "stages.0.0.weight")]
)
def test_weights_are_seeded_without_touching_the_global_state(name, weight):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, same, other = (build(name, 3, seed=seed).state_dict()[weight] for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="resnet9"):
        build("resnet9", 3)
    with pytest.raises(ValueError, match="1"):
        build("resnet8", 1)


def test_every_module_gets_its_own_mode_back():
    """A frozen BatchNorm stays frozen after a block in either mode."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train()
    network[1].eval()
    for training in (True, False):
        with in_mode(network, training):
            assert all(module.training == training for module in network.modules())
        assert [module.training for module in network] == [True, False, True]
