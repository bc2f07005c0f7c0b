"""The fifteen image operations, for a whole batch with a magnitude for every image.

Each operation gives, byte for byte, what torchvision.transforms.v2.functional gives for each image alone (uint8 tensors,
fill 0). Everything that rounds is written as element-wise tensor arithmetic in a fixed order, so that CPU and CUDA give
the same bytes too. Where torchvision adds with a factor, the CPU fuses multiplication and addition into one rounding;
`_blend` reproduces that in float64, where the product is exact.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data import check_images

OPS = (
    "Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast",
    "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize", "Invert",
)  # fmt: skip


def apply_op(images: Tensor, op: str, magnitudes: Tensor, interpolation: str = "nearest") -> Tensor:
    """One operation on every image, each with its own magnitude.

    images         (N, 3, H, W) uint8, on any device. Not modified.
    op             one of `OPS`.
    magnitudes     (N,) float, preferably on the CPU, where the transformation matrices are computed. ShearX, ShearY:
                   tangent of the angle. TranslateX, TranslateY: pixels, fractions cut off. Rotate: degrees,
                   counter-clockwise. Brightness, Color, Contrast, Sharpness: factor - 1, at least -1. Posterize: bits
                   kept, 0 .. 8, fractions cut off. Solarize: threshold 0 .. 255. Ignored by the others.
    interpolation  "nearest" or "bilinear", for the first five.

    Returns (N, 3, H, W) uint8 on the device of `images`.
    Raises ValueError for an unknown operation, images that are not uint8 NCHW, or a magnitude out of range.

    >>> apply_op(torch.tensor([[[[10, 200]]] * 3], dtype=torch.uint8).view(1, 3, 1, 2), "Solarize", torch.tensor([128.0]))[0, 0]
    tensor([[10, 55]], dtype=torch.uint8)
    """
    check_images(images)
    if op not in OPS:
        raise ValueError(f"unknown operation {op!r}; known: {', '.join(OPS)}")
    if interpolation not in ("nearest", "bilinear"):
        raise ValueError(f"interpolation must be 'nearest' or 'bilinear', got {interpolation!r}")
    if magnitudes.shape != (len(images),):
        raise ValueError(f"{len(images)} images need {len(images)} magnitudes, got shape {tuple(magnitudes.shape)}")
    m = magnitudes.detach().cpu().double().numpy()
    if not np.isfinite(m).all():
        raise ValueError(f"magnitudes must be finite, got {m[~np.isfinite(m)][0]}")
    if op == "Identity":
        return images.clone()
    if op in ("ShearX", "ShearY", "TranslateX", "TranslateY"):
        return _warp(images, _affine_matrices(op, m, *images.shape[-2:]), interpolation)
    if op == "Rotate":
        return _rotate(images, m, interpolation)
    return _COLOUR_OPS[op](images, m)


# ------------------------------------------------------------------------------------------------------- geometry


def _affine_matrices(op: str, m: np.ndarray, height: int, width: int) -> np.ndarray:
    """(N,) magnitudes -> (N, 2, 3) maps from output to input coordinates, both measured in pixels from the centre."""
    matrices = np.tile(np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), (len(m), 1, 1))
    if op == "TranslateX":
        matrices[:, 0, 2] = -np.trunc(m)
    elif op == "TranslateY":
        matrices[:, 1, 2] = -np.trunc(m)
    else:  # shears keep the upper left corner where it is
        row = 0 if op == "ShearX" else 1
        # The way over degrees is torchvision's, and decides some last bits.
        tangent = np.array([math.tan(math.radians(math.degrees(math.atan(x)))) for x in m])
        corner = -0.5 * (height if row == 0 else width)
        matrices[:, row, 1 - row] = tangent
        matrices[:, row, 2] = tangent * -corner
    return matrices


def _rotation_matrices(degrees: np.ndarray) -> np.ndarray:
    angles = np.radians(-(degrees % 360))
    cos, sin, zero = np.cos(angles), np.sin(angles), np.zeros_like(angles)
    return np.stack([np.stack([cos, sin, zero], -1), np.stack([-sin, cos, zero], -1)], 1)


def _rotate(images: Tensor, degrees: np.ndarray, interpolation: str) -> Tensor:
    output = _warp(images, _rotation_matrices(degrees), interpolation)
    height, width = images.shape[-2:]
    for quarter_turns in range(4):  # exact, as torchvision does them, where the shape allows
        exact = np.flatnonzero(degrees % 360 == 90 * quarter_turns)
        if len(exact) and (height == width or quarter_turns % 2 == 0):
            index = torch.from_numpy(exact).to(images.device)
            output[index] = torch.rot90(images[index], quarter_turns, (-2, -1))
    return output


def _warp(images: Tensor, matrices: np.ndarray, interpolation: str) -> Tensor:
    """Sample (N, 3, H, W) uint8 at the positions that (N, 2, 3) matrices give; black outside."""
    height, width = images.shape[-2:]
    theta = torch.from_numpy(matrices).float().to(images.device)  # rounded to float32 first, as torchvision's
    x = torch.linspace((1 - width) * 0.5, (width - 1) * 0.5, width, device=images.device).view(1, 1, width)
    y = torch.linspace((1 - height) * 0.5, (height - 1) * 0.5, height, device=images.device).view(1, height, 1)
    position = []
    for row, size in enumerate((width, height)):
        a, b, c = (theta / (0.5 * size))[:, row].view(-1, 3, 1, 1).unbind(1)
        normalised = (x * a + y * b) + c  # -1 .. 1 from edge to edge
        # In pixels, 0 being the centre of the first one; multiplied and shifted with one rounding.
        position.append(((normalised + 1).double() * (size / 2) - 0.5).float())
    if interpolation == "nearest":
        return _take(images, position[0].round(), position[1].round())
    return _bilinear(images, *position)


def _take(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """images[n, :, y[n], x[n]], 0 where that is outside; x, y (N, H, W) float with integer values."""
    n, channels, height, width = images.shape
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = (y * width + x).long().where(inside, 0).view(n, 1, -1).expand(-1, channels, -1)
    return images.flatten(2).gather(2, index).view(images.shape) * inside.unsqueeze(1)


def _bilinear(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    left, top = x.floor(), y.floor()
    east, south = x - left, y - top
    west, north = 1 - east, 1 - south
    total = torch.zeros(1, device=images.device)
    for dx, dy, weight in ((0, 0, west * north), (1, 0, east * north), (0, 1, west * south), (1, 1, east * south)):
        corner = _take(images, left + dx, top + dy).double()
        total = torch.addcmul(total.double(), corner, weight.unsqueeze(1).double()).float()  # one rounding a corner
    return total.round().to(torch.uint8)


# --------------------------------------------------------------------------------------------------------- colour


def _column(values: np.ndarray, like: Tensor, dtype: torch.dtype) -> Tensor:
    """(N,) numbers -> (N, 1, 1, 1) on the device of `like`."""
    return torch.from_numpy(values).to(dtype).to(like.device).view(-1, 1, 1, 1)


def _to_bytes(x: Tensor) -> Tensor:
    return x.clamp_(0, 255).to(torch.uint8)  # cuts fractions off, as torchvision


def _factors(m: np.ndarray) -> np.ndarray:
    if m.min() < -1:
        raise ValueError(f"a factor below 0 has no meaning: magnitude {m.min()} < -1")
    return 1.0 + m


def _blend(images: Tensor, other: Tensor, factors: np.ndarray) -> Tensor:
    """images * factor + other * (1 - factor), one rounding to float32 after the first product and one after the sum."""
    first = images.float() * _column(factors, images, torch.float32)
    weight = _column(1.0 - factors, images, torch.float32).double()
    return _to_bytes(torch.addcmul(first.double(), other.double(), weight).float())


def _grey(images: Tensor) -> Tensor:
    """(N, 3, H, W) uint8 -> (N, 1, H, W) float32 with integer values."""
    r, g, b = images.unbind(1)
    return r.mul(0.2989).add_(g, alpha=0.587).add_(b, alpha=0.114).floor_().unsqueeze(1)


def _brightness(images: Tensor, m: np.ndarray) -> Tensor:
    return _to_bytes(images.float() * _column(_factors(m), images, torch.float32))


def _color(images: Tensor, m: np.ndarray) -> Tensor:
    return _blend(images, _grey(images), _factors(m))


def _contrast(images: Tensor, m: np.ndarray) -> Tensor:
    return _blend(images, _grey(images).mean((1, 2, 3), keepdim=True), _factors(m))


def _sharpness(images: Tensor, m: np.ndarray) -> Tensor:
    factors = _factors(m)
    if min(images.shape[-2:]) <= 2:
        return images.clone()
    kernel = torch.tensor([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]], device=images.device).expand(3, 1, 3, 3)
    output = images.float()
    inner = output[..., 1:-1, 1:-1]
    # The sum is an integer below 2 ** 12 and exact; thirteenths are never halves, so rounding is safe.
    blurred = F.conv2d(output, kernel, groups=3).div_(13).round_()
    weight = _column(1.0 - factors, images, torch.float32).double()
    inner.copy_(torch.addcmul(inner.double(), (blurred - inner).double(), weight).float())
    return _to_bytes(output)


def _posterize(images: Tensor, m: np.ndarray) -> Tensor:
    bits = np.trunc(m).astype(np.int64)
    if bits.min() < 0 or bits.max() > 8:
        raise ValueError(f"Posterize keeps 0 to 8 bits, got {m[(bits < 0) | (bits > 8)][0]}")
    return images & _column((0xFF00 >> bits) & 0xFF, images, torch.uint8)


def _solarize(images: Tensor, m: np.ndarray) -> Tensor:
    if m.min() < 0 or m.max() > 255:
        raise ValueError(f"Solarize takes a threshold of 0 to 255, got {m[(m < 0) | (m > 255)][0]}")
    return torch.where(images.float() >= _column(m, images, torch.float32), ~images, images)


def _autocontrast(images: Tensor, m: np.ndarray) -> Tensor:
    x = images.float()
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    flat = low == high
    scale = torch.where(flat, 1.0, (high - low) * (1.0 / 255))
    return _to_bytes((x - torch.where(flat, 0.0, low)) / scale)


def _equalize(images: Tensor, m: np.ndarray) -> Tensor:
    """Histogram equalisation per channel by Pillow's table: lut[k] = (pixels below k + step // 2) // step."""
    pixels = images.flatten(2).long()  # (N, 3, H W)
    histogram = pixels.new_zeros(*images.shape[:2], 256).scatter_add_(2, pixels, torch.ones_like(pixels))
    below = histogram.cumsum(2) - histogram
    brightest = histogram.gather(2, pixels.amax(2, keepdim=True))  # how many pixels have the channel's largest value
    step = (pixels.shape[2] - brightest) // 255
    table = ((below + step // 2) // step.clamp(min=1)).clamp_(0, 255).to(torch.uint8)
    return torch.where(step.unsqueeze(3) == 0, images, table.gather(2, pixels).view(images.shape))


def _invert(images: Tensor, m: np.ndarray) -> Tensor:
    return ~images


_COLOUR_OPS = {
    "Brightness": _brightness,
    "Color": _color,
    "Contrast": _contrast,
    "Sharpness": _sharpness,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "AutoContrast": _autocontrast,
    "Equalize": _equalize,
    "Invert": _invert,
}
