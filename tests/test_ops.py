"""Every operation equals torchvision's, image by image, byte for byte; Hue to within one level,
bilinear interpolation to the rounding of float32.
"""

import math

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from paperlib.augment import OPS, apply_op

RANGES = {
    "ShearX": (-0.99, 0.99),
    "ShearY": (-0.99, 0.99),
    "TranslateX": (-32, 32),
    "TranslateY": (-32, 32),
    "Rotate": (-135, 135),
    "Brightness": (-0.99, 0.99),
    "Color": (-0.99, 0.99),
    "Contrast": (-0.99, 0.99),
    "Sharpness": (-0.99, 0.99),
    "Posterize": (0, 8),
    "Solarize": (0, 255),
    "Hue": (-0.5, 0.5),
}

PICTURES = [
    ("noise", (32, 32)),
    ("smooth", (32, 32)),
    ("grey", (32, 32)),
    ("flat", (32, 32)),
    ("noise", (64, 64)),
    ("noise", (17, 23)),
]


def reference(image, op, m, interpolation):
    """The operation on one (3, H, W) image, called as torchvision's own policies call it."""
    mode = InterpolationMode(interpolation)
    angle = math.degrees(math.atan(m))
    shear = dict(angle=0.0, translate=[0, 0], scale=1.0, interpolation=mode, center=[0, 0])
    shift = dict(angle=0.0, scale=1.0, shear=[0.0, 0.0], interpolation=mode)
    calls = {
        "Identity": lambda: image,
        "ShearX": lambda: TF.affine(image, shear=[angle, 0.0], **shear),
        "ShearY": lambda: TF.affine(image, shear=[0.0, angle], **shear),
        "TranslateX": lambda: TF.affine(image, translate=[int(m), 0], **shift),
        "TranslateY": lambda: TF.affine(image, translate=[0, int(m)], **shift),
        "Rotate": lambda: TF.rotate(image, m, interpolation=mode),
        "Brightness": lambda: TF.adjust_brightness(image, 1.0 + m),
        "Color": lambda: TF.adjust_saturation(image, 1.0 + m),
        "Contrast": lambda: TF.adjust_contrast(image, 1.0 + m),
        "Sharpness": lambda: TF.adjust_sharpness(image, 1.0 + m),
        "Posterize": lambda: TF.posterize(image, int(m)),
        "Solarize": lambda: TF.solarize(image, m),
        "AutoContrast": lambda: TF.autocontrast(image),
        "Equalize": lambda: TF.equalize(image),
        "Invert": lambda: TF.invert(image),
        "Hue": lambda: TF.adjust_hue(image, m),
    }
    return calls[op]()


def applied(images, op, magnitudes, mode):
    """`reference` of each image."""
    return torch.stack(
        [reference(i, op, float(m), mode) for i, m in zip(images, magnitudes, strict=True)]
    )


def magnitudes_for(op, count):
    """Random magnitudes, and the grid of 31 bins on both sides, where the policies' own values and
    all ties are.
    """
    low, high = RANGES.get(op, (0, 1))
    rng = np.random.default_rng(7)
    bins = torch.linspace(low, high, 31).double()
    random = torch.from_numpy(rng.uniform(low, high, count - 31))
    return torch.cat([bins, random])


def pictures(kind, count, size):
    rng = np.random.default_rng(11)
    if kind == "noise":
        x = rng.integers(0, 256, (count, 3, *size))
    elif (
        kind == "smooth"
    ):  # few values, large flat areas: the hard case for histograms and rounding
        x = rng.integers(60, 200, (count, 3, 1, 1)) + np.arange(size[1]) // 4 * rng.integers(
            -3, 4, (count, 3, 1, 1)
        )
        x = np.broadcast_to(x, (count, 3, *size))
    elif kind == "grey":
        x = np.broadcast_to(rng.integers(0, 256, (count, 1, *size)), (count, 3, *size))
    else:  # one colour
        x = np.broadcast_to(rng.integers(0, 256, (count, 3, 1, 1)), (count, 3, *size))
    return torch.from_numpy(np.ascontiguousarray(x.astype(np.uint8)))


@pytest.mark.parametrize("kind, size", PICTURES)
@pytest.mark.parametrize("op", OPS)
def test_equals_torchvision_byte_for_byte(op, kind, size):
    count = 200 if size == (32, 32) else 60
    images, magnitudes = pictures(kind, count, size), magnitudes_for(op, count)
    before = images.clone()
    ours = apply_op(images, op, magnitudes, "nearest")
    theirs = applied(images, op, magnitudes, "nearest")
    different = (ours.int() - theirs.int()).abs()
    if op == "Hue":  # another order of the same arithmetic
        assert different.max() <= 1 and different.float().mean() < 1e-3
    else:
        assert different.max() == 0, f"{different.count_nonzero()} bytes differ"
    assert torch.equal(images, before), "the input was modified"


@pytest.mark.parametrize("kind, size", PICTURES)
@pytest.mark.parametrize("op", OPS[1:6])
def test_bilinear_rounds_what_torchvision_finds_in_float64(op, kind, size):
    """In float32 torchvision's own bytes differ by one between processors: the matrix product that
    places its pixels adds in another order on each. A position is exact to 1e-5 of a pixel, so a
    value is to 255e-5.
    """
    count = 200 if size == (32, 32) else 60
    images, magnitudes = pictures(kind, count, size), magnitudes_for(op, count)
    ours = apply_op(images, op, magnitudes, "bilinear")
    exact = applied(images.double(), op, magnitudes, "bilinear")
    assert (ours - exact).abs().max() <= 0.5 + 255e-5
    theirs = applied(images, op, magnitudes, "bilinear")
    assert (ours != theirs).double().mean() < 1e-3


@pytest.mark.parametrize("size", [1, 2, 3, 7, 17, 32, 63, 64, 127, 224])
def test_quarter_turns_are_exact(size):
    images = pictures("noise", 5, (size, size))
    turned = apply_op(images, "Rotate", torch.tensor([0.0, 90.0, 180.0, 270.0, -90.0]))
    for image, result, turns in zip(images, turned, (0, 1, 2, 3, 3), strict=True):
        assert torch.equal(result, torch.rot90(image, turns, (1, 2)))


def test_hue_turns_the_circle():
    """A third of a turn moves red to green, green to blue; no turn and greys stay; there and back
    is the same colour.
    """
    images = pictures("noise", 40, (16, 16))
    turned = apply_op(images, "Hue", torch.full((40,), 1 / 3, dtype=torch.float64))
    assert (turned.int() - images[:, [2, 0, 1]].int()).abs().max() <= 1
    assert torch.equal(apply_op(images, "Hue", torch.zeros(40)), images)
    grey = pictures("grey", 40, (16, 16))
    assert torch.equal(apply_op(grey, "Hue", torch.linspace(-0.5, 0.5, 40)), grey)
    half = apply_op(images, "Hue", torch.full((40,), 0.5))
    assert torch.equal(half, apply_op(images, "Hue", torch.full((40,), -0.5)))


@pytest.mark.parametrize(
    "op, magnitude, named",
    [
        ("Hue", 0.6, "0.6"),
        ("Posterize", 9.0, "9"),
        ("Solarize", 256.0, "256"),
        ("Brightness", -1.5, "-1.5"),
        ("Rotate", float("nan"), "nan"),
        ("Blur", 1.0, "Blur"),
    ],
)
def test_bad_magnitudes_are_named(op, magnitude, named):
    with pytest.raises(ValueError, match=named):
        apply_op(pictures("noise", 1, (32, 32)), op, torch.tensor([magnitude]))


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 3, 8, 8),
        torch.zeros(2, 8, 8, 3, dtype=torch.uint8),
        torch.zeros(3, 8, 8, dtype=torch.uint8),
    ],
)
def test_images_must_be_uint8_nchw(images):
    with pytest.raises(ValueError, match="uint8"):
        apply_op(images, "Invert", torch.zeros(2))
