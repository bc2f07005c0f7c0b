"""The sixteen image operations, for a whole batch in which every image has its own operations and
magnitudes.

Each operation gives, byte for byte, what torchvision.transforms.v2.functional gives for each image
alone (uint8 tensors, fill 0); Hue, which the base augmentation draws and no policy does, to within
one level, and bilinear interpolation, which AugMix asks for, to the rounding of float32: there
torchvision's own bytes depend on the processor, because a matrix product places its pixels.
Everything that rounds is written as element-wise tensor arithmetic in a fixed order, so
that CPU and CUDA give the same bytes too. Where torchvision adds with a factor, the CPU fuses
multiplication and addition into one rounding; `_fused` reproduces that in float64, where the
product is exact.

What depends on the magnitudes is worked out on the host: up to six parameters an image (a matrix, a
factor, a threshold), and the order in which images of the same kind lie side by side. Both go to
the images' device in one copy each, and nothing ever comes back: a GPU is never waited for.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..basics.checks import arrays, checked, choice
from ..data.checks import floats, uint8_images

CPU_BLOCK = 64 * 32 * 32  # pixels that a kernel works on at a time on the CPU


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A host array as a tensor: shared on the CPU; on CUDA copied through pinned memory, without
    waiting for the device.

    >>> to_device(np.arange(3), torch.device("cpu"))
    tensor([0, 1, 2])
    """
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda":  # torch does not reuse the pinned memory before the copy is done
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@checked(
    images=uint8_images, op=lambda *given: choice(OPS)(*given), magnitudes=floats("N", door=True)
)
def apply_op(images: Tensor, op: str, magnitudes: Tensor, interpolation: str = "nearest") -> Tensor:
    """One operation on every image, each with its own magnitude.

    images         (N, 3, H, W) uint8, on any device. Not modified.
    op             one of `OPS`.
    magnitudes     (N,) float, preferably on the CPU, where the transformation matrices are
                   computed. ShearX, ShearY: tangent of the angle. TranslateX, TranslateY: pixels,
                   fractions cut off. Rotate: degrees, counter-clockwise. Brightness, Color,
                   Contrast, Sharpness: factor - 1, at least -1. Posterize: bits kept, 0 .. 8,
                   fractions cut off. Solarize: threshold 0 .. 255. Hue: turns of the colour circle,
                   -0.5 .. 0.5. Ignored by the others.
    interpolation  "nearest" or "bilinear", for the first five.

    Returns (N, 3, H, W) uint8 on the device of `images`.
    Raises ValueError for an unknown operation, images that are not uint8 NCHW, or a magnitude out
    of range.

    >>> apply_op(torch.tensor([[[[10, 200]]] * 3], dtype=torch.uint8).view(1, 3, 1, 2), "Solarize",
    ...     torch.tensor([128.0]))[0, 0]
    tensor([[10, 55]], dtype=torch.uint8)
    """
    m = magnitudes.detach().cpu().double().numpy()[:, None]
    return apply_chains(images, np.full(m.shape, OPS.index(op)), m, interpolation)


@checked(
    images=uint8_images,
    ops=lambda *given: arrays("i", "N links", 0, len(OPS) - 1)(*given),
    magnitudes=arrays("f", "N links"),
    interpolation=choice(("nearest", "bilinear")),
)
def apply_chains(
    images: Tensor, ops: np.ndarray, magnitudes: np.ndarray, interpolation: str = "nearest"
) -> Tensor:
    """Image n through operations ops[n, 0], ops[n, 1], ..., in one call per kind of operation and
    link of the chains.

    images         (N, 3, H, W) uint8, on any device. Not modified.
    ops            (N, links) int, indices into `OPS`. magnitudes  (N, links) float, as those of
                   `apply_op`.
    interpolation  "nearest" or "bilinear", of the geometric operations.

    Returns (N, 3, H, W) uint8 on the device of `images`. Raises ValueError for a magnitude out of
    range.

    >>> image = torch.tensor([10, 100, 200], dtype=torch.uint8).view(1, 3, 1, 1)
    >>> apply_chains(image, np.array([[OPS.index("Invert"), OPS.index("Posterize")]]),
    ...     np.array([[0.0, 2.0]])).flatten()
    tensor([192, 128,   0], dtype=torch.uint8)
    """
    kinds = _KINDS[ops]
    order = kinds.argsort(axis=0, kind="stable").T  # the images of every link, kind by kind
    places = order.argsort(axis=1)  # of every image in that order
    parameters = _parameters(ops, magnitudes, places, *images.shape[-2:])
    # The image at moves[k, p] after link k - 1 goes to place p, and at last back to its own.
    moves = np.stack([order[0], *map(np.take, places[:-1], order[1:]), places[-1]])
    moves_, parameters_ = to_device(moves, images.device), to_device(parameters, images.device)
    kernels = [
        partial(kernel, interpolation=interpolation) if kernel is _warp else kernel
        for kernel in _KERNELS
    ]
    # On the CPU float64 copies of many images would leave the cache, and be new memory from the
    # system every time.
    on_cpu = images.device.type == "cpu"
    block = max(1, CPU_BLOCK // images[0, 0].numel()) if on_cpu else len(images)
    for k, link in enumerate(kinds.T):
        sizes = np.bincount(link, minlength=len(_KERNELS)).tolist()
        parts = images.index_select(0, moves_[k]).split(sizes), parameters_[k].split(sizes)
        done = [
            kernel(*pair)
            for kernel, *part in zip(kernels, *parts, strict=True)
            if len(part[0])
            for pair in zip(*(x.split(block) for x in part), strict=True)
        ]
        images = torch.cat(done)
    return images.index_select(0, moves_[-1])


def _parameters(
    ops: np.ndarray, magnitudes: np.ndarray, places: np.ndarray, height: int, width: int
) -> np.ndarray:
    """(links, N, 6) float32: what the kernels need of every image, at the image's place."""
    count, links = ops.shape
    # Rounded to float32 before anything else, as torchvision's.
    parameters = np.zeros((links, count, 6), np.float32)
    for op in np.unique(ops):
        image, link = np.nonzero(ops == op)
        values = _OPERATIONS[OPS[op]][0](magnitudes[image, link], height, width)
        parameters[link, places[link, image], : values.shape[1]] = values
    return parameters


# ------------------------------------------------------- parameters: (n,) magnitudes -> (n, 0 .. 6)


def _no_parameters(m: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.empty((len(m), 0))


def _affine(m: np.ndarray, height: int, width: int, op: str) -> np.ndarray:
    """The first two rows of the map from output to input coordinates, both measured in pixels from
    the centre.
    """
    matrices = np.tile(np.array([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]), (len(m), 1))
    across = op.endswith("X")
    if op.startswith("Translate"):
        matrices[:, 2 if across else 5] = -np.trunc(m)
    else:  # shears keep the upper left corner where it is
        # The way over degrees is torchvision's, and decides some last bits.
        tangent = np.array([math.tan(math.radians(math.degrees(math.atan(x)))) for x in m])
        matrices[:, 1 if across else 3] = tangent
        matrices[:, 2 if across else 5] = tangent * 0.5 * (height if across else width)
    return matrices


def _rotation(degrees: np.ndarray, height: int, width: int) -> np.ndarray:
    angles = np.radians(-(degrees % 360))
    cos, sin, zero = np.cos(angles), np.sin(angles), np.zeros_like(angles)
    return np.column_stack([cos, sin, zero, -sin, cos, zero])


def _allowed(op: str, m: np.ndarray, low: float, high: float) -> np.ndarray:
    """The magnitudes. Raises ValueError for one out of range."""
    wrong = (m < low) | (m > high)
    if wrong.any():
        raise ValueError(f"{op} takes magnitudes of {low} to {high}, got {m[wrong][0]}")
    return m


def _factors(m: np.ndarray, height: int, width: int) -> np.ndarray:
    """The factor, and what is missing to 1."""
    factors = 1.0 + _allowed("an enhancement", m, -1, math.inf)
    return np.column_stack([factors, 1.0 - factors])


def _bit_masks(m: np.ndarray, height: int, width: int) -> np.ndarray:
    bits = _allowed("Posterize", np.trunc(m), 0, 8).astype(np.int64)
    return ((0xFF00 >> bits) & 0xFF)[:, None]


def _thresholds(m: np.ndarray, height: int, width: int) -> np.ndarray:
    """The least byte that is inverted."""
    return np.ceil(_allowed("Solarize", m, 0, 255).astype(np.float32))[:, None]


def _turns(m: np.ndarray, height: int, width: int) -> np.ndarray:
    """In sixths of the colour circle."""
    return 6 * _allowed("Hue", m, -0.5, 0.5)[:, None]


def _zeros(m: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.zeros((len(m), 1))


# ------------------------ kernels: (n, 3, H, W) uint8 and (n, 6) float32 parameters -> (n, 3, H, W)


def _column(parameters: Tensor, k: int) -> Tensor:
    return parameters[:, k].view(-1, 1, 1, 1)


def _to_bytes(x: Tensor) -> Tensor:
    """float -> uint8, fractions cut off as torchvision does; by way of int32, which the CPU does
    several times faster.
    """
    return x.clamp_(0, 255).int().to(torch.uint8)


def choose(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """torch.where for bytes: a where `condition` is true, else b; exact, and on the CPU twenty
    times as fast.

    >>> choose(torch.tensor([True, False]), torch.tensor([1, 2], dtype=torch.uint8),
    ...     torch.tensor([3, 4], dtype=torch.uint8))
    tensor([1, 4], dtype=torch.uint8)
    """
    return (a ^ b).mul_(condition).bitwise_xor_(b)


def _fused(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """x + a * b in float32 with one rounding, where a product of a and b has at most 53 significant
    bits.
    """
    return x.double().addcmul_(a.double(), b.double()).float()


def _identity(images: Tensor, parameters: Tensor) -> Tensor:
    return images


def packed(images: Tensor, padding: int) -> Tensor:
    """(N, 3, H, W) uint8 -> (N, (H + 2 padding)(W + 2 padding)) int32: the three bytes of a pixel
    as one number, black around.

    Moving pixels this way takes one index and one look-up a pixel instead of three.
    """
    red, green, blue = F.pad(images, (padding,) * 4).int().unbind(1)
    return red.add_(green, alpha=1 << 8).add_(blue, alpha=1 << 16).flatten(1)


def unpacked(pixels: Tensor) -> Tensor:
    """(N, H, W) int32 of `packed` -> (N, 3, H, W) uint8.

    >>> image = torch.tensor([10, 100, 200], dtype=torch.uint8).view(1, 3, 1, 1)
    >>> unpacked(packed(image, 0).view(1, 1, 1)).equal(image)
    True
    """
    shifts = torch.arange(0, 24, 8, dtype=torch.int32, device=pixels.device).view(3, 1, 1)
    return (pixels.unsqueeze(1) >> shifts).to(torch.uint8)  # the low byte


def _warp(images: Tensor, parameters: Tensor, interpolation: str) -> Tensor:
    """Sample the images at the positions that the (2, 3) matrices give; black outside."""
    height, width = images.shape[-2:]
    theta = parameters.view(-1, 2, 3)
    x, y = (
        torch.linspace((1 - size) * 0.5, (size - 1) * 0.5, size, device=images.device)
        for size in (width, height)
    )
    x, y = x.view(1, 1, width), y.view(1, height, 1)
    position = []
    for row, size in enumerate((width, height)):
        a, b, c = (theta[:, row] / (0.5 * size)).view(-1, 3, 1, 1).unbind(1)
        normalised = (x * a).add(y * b).add_(c)  # -1 .. 1 from edge to edge
        # In pixels, 0 being the centre of the first one; multiplied and shifted with one rounding.
        position.append(normalised.add_(1).double().mul_(size / 2).sub_(0.5).float())
    return (_nearest if interpolation == "nearest" else _bilinear)(images, *position)


def _nearest(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """images[n, :, y[n], x[n]], rounded to whole pixels; x, y (N, H, W) float32, overwritten."""
    height, width = images.shape[-2:]
    x.round_().clamp_(-1, width)  # a border of one black pixel stands for all that is outside
    y.round_().clamp_(-1, height)
    index = y.add_(1).mul_(width + 2).add_(x).add_(1).long()
    return unpacked(packed(images, 1).gather(1, index.flatten(1)).view(x.shape))


def _bilinear(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The weighted mean of the four pixels around (x, y); (N, H, W) float32, overwritten."""
    height, width = images.shape[-2:]
    left, top = x.floor(), y.floor()
    east, south = x.sub_(left), y.sub_(top)
    west, north = 1 - east, 1 - south
    row = width + 4
    # Where this changes a position, all four pixels are in the black border of two.
    left.clamp_(-2, width)
    top.clamp_(-2, height)
    index = top.add_(2).mul_(row).add_(left).add_(2).long().flatten(1)
    pixels = packed(images, 2)
    corner = lambda step: unpacked(pixels[:, step:].gather(1, index).view(x.shape))  # noqa: E731
    total = corner(0) * (west * north).unsqueeze(1)
    for step, weight in ((1, east * north), (row, west * south), (row + 1, east * south)):
        total = _fused(total, corner(step), weight.unsqueeze(1))  # one rounding a corner
    return total.round_().int().to(torch.uint8)


def _blend(x: Tensor, other: Tensor, parameters: Tensor) -> Tensor:
    """x * factor + other * (1 - factor), one rounding to float32 after the first product and one
    after the sum.
    """
    return _to_bytes(_fused(x * _column(parameters, 0), other, _column(parameters, 1)))


def _grey(x: Tensor) -> Tensor:
    """(N, 3, H, W) float32 -> (N, 1, H, W) float32 with integer values."""
    r, g, b = x.unbind(1)
    return r.mul(0.2989).add_(g, alpha=0.587).add_(b, alpha=0.114).floor_().unsqueeze(1)


def _brightness(images: Tensor, parameters: Tensor) -> Tensor:
    return _to_bytes(images.float().mul_(_column(parameters, 0)))


def _color(images: Tensor, parameters: Tensor) -> Tensor:
    x = images.float()
    return _blend(x, _grey(x), parameters)


def _contrast(images: Tensor, parameters: Tensor) -> Tensor:
    x = images.float()
    return _blend(x, _grey(x).mean((1, 2, 3), keepdim=True), parameters)


def _hue(images: Tensor, parameters: Tensor) -> Tensor:
    """Turn each colour on the circle of HSV (Smith, SIGGRAPH 1978), value and saturation kept.

    With the hue in sixths from red, and d its distance on the circle from a channel's complement
    (cyan 3, magenta 5, yellow 1), that channel is max - (max - min) clamp(2 - d, 0, 1).
    """
    x = images.float()
    r, g, b = x.unbind(1)
    low, high = torch.minimum(torch.minimum(r, g), b), torch.maximum(torch.maximum(r, g), b)
    chroma = high - low
    divisor = chroma.clamp(min=1)  # where the chroma is 0, the hue does not matter
    hue = torch.where(g == high, (b - r) / divisor + 2, (r - g) / divisor + 4)
    hue = torch.where(r == high, (g - b) / divisor, hue)
    turned = hue.unsqueeze(1) + _column(parameters, 0)
    beyond = turned + torch.arange(3, -2, -2, device=x.device).view(3, 1, 1)  # the complements
    distance = beyond.sub_((beyond / 6).round_().mul_(6)).abs_()
    part = distance.neg_().add_(2).clamp_(0, 1).mul_(chroma.unsqueeze(1))
    # torchvision goes by way of 0 .. 1 and back with this factor, fractions cut off.
    return _to_bytes((high.unsqueeze(1) - part).mul_(255.999 / 255))


def _sharpness(images: Tensor, parameters: Tensor) -> Tensor:
    if min(images.shape[-2:]) <= 2:
        return images
    output = images.float()
    inner = output[..., 1:-1, 1:-1]
    columns = output[..., :-2, :] + output[..., 1:-1, :] + output[..., 2:, :]
    # The sum is an integer below 2 ** 12 and exact in any order; thirteenths are never halves, so
    # rounding is safe.
    blurred = (columns[..., :-2] + columns[..., 1:-1]).add_(columns[..., 2:]).add_(inner, alpha=4)
    blurred = blurred.div_(13).round_()
    inner.copy_(_fused(inner, blurred.sub_(inner), _column(parameters, 1)))
    return _to_bytes(output)


def _posterize(images: Tensor, parameters: Tensor) -> Tensor:
    return images & _column(parameters, 0).to(torch.uint8)


def _solarize(images: Tensor, parameters: Tensor) -> Tensor:
    return choose(images >= _column(parameters, 0).to(torch.uint8), ~images, images)


def _autocontrast(images: Tensor, parameters: Tensor) -> Tensor:
    x = images.float()
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    flat = low == high
    scale = torch.where(flat, 1.0, (high - low) * (1.0 / 255))
    return _to_bytes(x.sub_(torch.where(flat, 0.0, low)).div_(scale))


def _equalize(images: Tensor, parameters: Tensor) -> Tensor:
    """Histogram equalisation per channel by Pillow's table: lut[k] = (pixels below k + step // 2)
    // step.
    """
    pixels = images.flatten(2).long()  # (N, 3, H W)
    zeros, ones = pixels.new_zeros(*images.shape[:2], 256), torch.ones_like(pixels)
    histogram = zeros.scatter_add_(2, pixels, ones)
    below = histogram.cumsum(2) - histogram
    # How many pixels have the channel's largest value.
    brightest = histogram.gather(2, pixels.amax(2, keepdim=True))
    step = (pixels.shape[2] - brightest) // 255
    table = ((below + step // 2) // step.clamp(min=1)).clamp_(0, 255).to(torch.uint8)
    return choose(step.unsqueeze(3) == 0, images, table.gather(2, pixels).view(images.shape))


# An operation's parameters, and its kernel.
_OPERATIONS: dict[str, tuple[Callable[..., np.ndarray], Callable[..., Tensor]]] = {
    "Identity": (_no_parameters, _identity),
    "ShearX": (partial(_affine, op="ShearX"), _warp),
    "ShearY": (partial(_affine, op="ShearY"), _warp),
    "TranslateX": (partial(_affine, op="TranslateX"), _warp),
    "TranslateY": (partial(_affine, op="TranslateY"), _warp),
    "Rotate": (_rotation, _warp),
    "Brightness": (_factors, _brightness),
    "Color": (_factors, _color),
    "Contrast": (_factors, _contrast),
    "Sharpness": (_factors, _sharpness),
    "Posterize": (_bit_masks, _posterize),
    "Solarize": (_thresholds, _solarize),
    "AutoContrast": (_no_parameters, _autocontrast),
    "Equalize": (_no_parameters, _equalize),
    "Invert": (_zeros, _solarize),  # all bytes from 0 on
    "Hue": (_turns, _hue),
}
OPS = tuple(_OPERATIONS)
_KERNELS = tuple(dict.fromkeys(kernel for _, kernel in _OPERATIONS.values()))
_KINDS = np.array([_KERNELS.index(kernel) for _, kernel in _OPERATIONS.values()])  # of each of OPS
