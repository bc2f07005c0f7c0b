"""The corruptions of CIFAR-10-C (Hendrycks & Dietterich, ICLR 2019), batched.

From hendrycks/robustness, make_cifar_c.py (commit ca36008, Apache-2.0), in words of our own. Each
function takes images x (N, 3, H, W) float64 in 0 .. 1, a generator and the constants of one
severity, and returns images as they are before the cut to 0 .. 1.

Frost is left out: it needs five photographs. Motion blur is as in ImageMagick, not equal to it: a
one-sided Gaussian of 2 r + 1 taps along the angle; so is the streak of snow. Linear interpolation
is exact, where OpenCV's has steps of 1/32. These images are like those of the benchmark, not the
same: what is drawn at random differs.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from paperlib.augment import generator, to_device
from paperlib.basics.checks import checked, choice
from paperlib.data.checks import uint8_images

Rng = np.random.Generator
BLOCK = 1000  # images that are worked on, and drawn for, at a time
GREY = (0.299, 0.587, 0.114)  # weights of the channels in a grey image


def _gaussian_noise(x: Tensor, rng: Rng, scale: float) -> Tensor:
    return x + to_device(rng.normal(0, scale, x.shape), x.device)


def _shot_noise(x: Tensor, rng: Rng, photons: int) -> Tensor:
    return to_device(rng.poisson(x.cpu().numpy() * photons) / photons, x.device)


def _impulse_noise(x: Tensor, rng: Rng, share: float) -> Tensor:
    hit, white = (to_device(rng.random(x.shape), x.device) < part for part in (share, 0.5))
    return torch.where(hit, white.to(x), x)


def _disk(radius: float, sigma: float) -> np.ndarray:
    """A disk of pixels, smoothed by three taps: (7, 7), sum 1. radius  at most 2."""
    taps = np.exp([-0.5 / sigma**2, 0.0, -0.5 / sigma**2])
    y, x = np.mgrid[-3:4, -3:4]
    disk = (x**2 + y**2 <= radius**2).astype(float)
    for axis in (0, 1):
        disk = sum(w * np.roll(disk, k, axis) for w, k in zip(taps, (-1, 0, 1), strict=True))
    return disk / disk.sum()


def _defocus_blur(x: Tensor, rng: Rng, radius: float, sigma: float) -> Tensor:
    kernel = to_device(_disk(radius, sigma), x.device)[None, None]
    padded = F.pad(x, (3,) * 4, mode="reflect")
    return F.conv2d(padded.flatten(0, 1).unsqueeze(1), kernel).view_as(x)


def _blurred(x: Tensor, sigma: float, border: str, truncate: float) -> Tensor:
    """scipy's Gaussian filter along both axes, each as a matrix."""
    rows, columns = (
        to_device(gaussian_filter1d(np.eye(n), sigma, 0, mode=border, truncate=truncate), x.device)
        for n in x.shape[-2:]
    )
    return rows @ x @ columns.T


def _glass_blur(x: Tensor, rng: Rng, sigma: float, reach: int, passes: int) -> Tensor:
    """The authors' exchange of two pixels copies: both get the neighbour's value. Offsets are
    -reach .. reach - 1.
    """
    count, _, height, width = x.shape
    rows, columns = (range(n - reach, reach, -1) for n in (height, width))
    offsets = rng.integers(-reach, reach, (passes, len(rows), len(columns), 2, count))
    places = np.tile(np.arange(height * width).reshape(height, width), (count, 1, 1))
    every = np.arange(count)
    for of_pass in offsets:
        for h, of_row in zip(rows, of_pass, strict=True):
            for w, (right, down) in zip(columns, of_row, strict=True):
                places[:, h, w] = places[every, h + down, w + right]
    index = to_device(places, x.device).view(count, 1, -1).expand(-1, 3, -1)
    shades = (_blurred(x, sigma, "nearest", 4) * 255).floor() / 255
    return _blurred(shades.flatten(2).gather(2, index).view_as(x), sigma, "nearest", 4)


def _streaked(x: Tensor, degrees: np.ndarray, radius: int, sigma: float) -> Tensor:
    """Images (N, C, H, W) blurred along an angle each, with 2 r + 1 taps of a one-sided Gaussian;
    beyond the border is the border's pixel.
    """
    count, channels, height, width = x.shape
    steps = np.arange(2 * radius + 1)
    weights, angles = np.exp(-0.5 * (steps / sigma) ** 2), np.deg2rad(degrees)[:, None]
    down, right = (np.ceil(steps * part(angles) - 0.5).astype(int) for part in (np.sin, np.cos))
    y = np.clip(np.arange(height)[:, None] + down[:, :, None, None], 0, height - 1)
    x_ = np.clip(np.arange(width) + right[:, :, None, None], 0, width - 1)
    index = to_device((y * width + x_).reshape(count, len(steps), 1, -1), x.device)
    flat, total = x.flatten(2), torch.zeros_like(x).flatten(2)
    for k, weight in enumerate(weights / weights.sum()):
        total += weight * flat.gather(2, index[:, k].expand(-1, channels, -1))
    return total.view_as(x)


def _motion_blur(x: Tensor, rng: Rng, radius: int, sigma: float) -> Tensor:
    return _streaked(x, rng.uniform(-45, 45, len(x)), radius, sigma)


def _zoomed(x: Tensor, factor: float) -> Tensor:
    """The centre of images, enlarged to their size."""
    sides = x.shape[-2:]
    cut = [math.ceil(side / factor) for side in sides]
    part = x[
        (..., *(slice((n - c) // 2, (n - c) // 2 + c) for n, c in zip(sides, cut, strict=True)))
    ]
    large = [round(c * factor) for c in cut]
    zoomed = F.interpolate(part, large, mode="bilinear", align_corners=True)
    trim = ((a - n) // 2 for a, n in zip(large, sides, strict=True))
    return zoomed[(..., *(slice(t, t + n) for t, n in zip(trim, sides, strict=True)))]


def _zoom_blur(x: Tensor, rng: Rng, zooms: int) -> Tensor:
    return (x + sum(_zoomed(x, 1 + 0.01 * k) for k in range(zooms))) / (zooms + 1)


def _snow(
    x: Tensor,
    rng: Rng,
    mean: float,
    deviation: float,
    zoom: float,
    threshold: float,
    radius: int,
    sigma: float,
    kept: float,
) -> Tensor:
    noise = rng.normal(mean, deviation, (len(x), 1, *x.shape[-2:]))
    flakes = _zoomed(to_device(noise, x.device), zoom)
    flakes = (torch.where(flakes < threshold, 0, flakes).clamp(0, 1) * 255).floor() / 255
    flakes = _streaked(flakes, rng.uniform(-135, -45, len(x)), radius, sigma)
    grey = (x * x.new_tensor(GREY).view(3, 1, 1)).sum(1, keepdim=True)
    pale = kept * x + (1 - kept) * torch.maximum(x, 1.5 * grey + 0.5)
    return pale + flakes + flakes.flip(2, 3)


def _plasma(rng: Rng, count: int, size: int, decay: float) -> np.ndarray:
    """Clouds by the diamond-square algorithm on a torus: (count, size, size) in 0 .. 1. size  a
    power of two.

    The noise is uniform in -w^2 .. w^2, with w = 100 at first, divided by `decay` at each halving.
    """
    field, step, w = np.zeros((count, size, size)), size, 100.0

    def middle(*neighbours: np.ndarray) -> np.ndarray:
        return sum(neighbours) / 4 + w * rng.uniform(-w, w, neighbours[0].shape)

    while step >= 2:
        half = step // 2
        corners = field[:, ::step, ::step]
        below, right = np.roll(corners, -1, 1), np.roll(corners, -1, 2)
        centres = middle(corners, below, right, np.roll(below, -1, 2))
        field[:, half::step, half::step] = centres
        field[:, ::step, half::step] = middle(centres, np.roll(centres, 1, 1), corners, right)
        field[:, half::step, ::step] = middle(centres, np.roll(centres, 1, 2), corners, below)
        step, w = half, w / decay
    field -= field.min((1, 2), keepdims=True)
    return field / field.max((1, 2), keepdims=True)


def _fog(x: Tensor, rng: Rng, amount: float, decay: float) -> Tensor:
    height, width = x.shape[-2:]
    clouds = _plasma(rng, len(x), 1 << (max(height, width) - 1).bit_length(), decay)
    clouds = to_device(clouds[:, None, :height, :width], x.device)
    top = x.amax((1, 2, 3), keepdim=True)
    return (x + amount * clouds) * top / (top + amount)


def _brightness(x: Tensor, rng: Rng, amount: float) -> Tensor:
    """The value of HSV plus an amount: hue and saturation stay if all channels are scaled alike."""
    value = x.amax(1, keepdim=True)
    lighter = (value + amount).clamp(max=1)
    return torch.where(value > 0, x * lighter / value, lighter)


def _contrast(x: Tensor, rng: Rng, factor: float) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * factor + mean


def _sampled(x: Tensor, points: np.ndarray, corners: bool) -> Tensor:
    """Images at points (N, H, W, 2), x and y in pixels, linear. Outside, the image is mirrored at
    the centres of its last pixels (`corners`), or at their edges.
    """
    sides = np.array(x.shape[:-3:-1])
    grid = 2 * points / (sides - 1) - 1 if corners else (2 * points + 1) / sides - 1
    how = {"padding_mode": "reflection", "align_corners": corners}
    return F.grid_sample(x, to_device(grid, x.device), **how)


def _elastic_transform(x: Tensor, rng: Rng, push: float, sigma: float, shift: float) -> Tensor:
    """An affine map that moves three points by up to `shift` of the side, then displacements by
    smooth noise of size `push`.
    """
    count, _, height, width = x.shape
    (a, b), third = (height // 2, width // 2), min(height, width) // 3
    points = np.array([(a + third, b + third), (a + third, b - third), (a - third, b - third)])
    moved = points + rng.uniform(-shift * width, shift * width, (count, 3, 2))
    back = np.linalg.solve(np.concatenate([moved, np.ones((count, 3, 1))], 2), points[None])
    here = np.stack(np.meshgrid(np.arange(width), np.arange(height)), 2).astype(float)
    one = np.concatenate([here, np.ones((height, width, 1))], 2)
    x = _sampled(x, one @ back[:, None], corners=True)
    if not push:
        return x
    noise = torch.from_numpy(rng.uniform(-1, 1, (count, 2, height, width)))
    pushed = _blurred(noise, sigma * width, "reflect", 3) * push * width
    return _sampled(x, here + pushed.permute(0, 2, 3, 1).numpy(), corners=False)


def _through_pil(x: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    pictures = (x * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    changed = np.stack([np.asarray(change(Image.fromarray(picture))) for picture in pictures])
    return to_device(changed, x.device).permute(0, 3, 1, 2).to(x) / 255


def _pixelate(x: Tensor, rng: Rng, share: float) -> Tensor:
    height, width = x.shape[-2:]
    small = int(width * share), int(height * share)
    box = Image.Resampling.BOX
    return _through_pil(x, lambda p: p.resize(small, box).resize((width, height), box))


def _jpeg_compression(x: Tensor, rng: Rng, quality: int) -> Tensor:
    def compressed(picture: Image.Image) -> Image.Image:
        picture.save(file := io.BytesIO(), "JPEG", quality=quality)
        return Image.open(file)

    return _through_pil(x, compressed)


@dataclass(frozen=True)
class Corruption:
    """apply  (images, generator, constants) -> images. constants  of severities 1 .. 5."""

    apply: Callable[..., Tensor]
    constants: tuple[tuple[float, ...], ...]


def _of(apply: Callable[..., Tensor], *constants: float | tuple[float, ...]) -> Corruption:
    return Corruption(apply, tuple(c if isinstance(c, tuple) else (c,) for c in constants))


_SNOW = (
    (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
    (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
    (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
    (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
    (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
)
_ELASTIC = (0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)
_GLASS = (0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)
CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": _of(_gaussian_noise, 0.04, 0.06, 0.08, 0.09, 0.10),
    "shot_noise": _of(_shot_noise, 500, 250, 100, 75, 50),
    "impulse_noise": _of(_impulse_noise, 0.01, 0.02, 0.03, 0.05, 0.07),
    "defocus_blur": _of(_defocus_blur, (0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    "glass_blur": _of(_glass_blur, *_GLASS),
    "motion_blur": _of(_motion_blur, (6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "zoom_blur": _of(_zoom_blur, 7, 12, 16, 21, 26),
    "snow": _of(_snow, *_SNOW),
    "fog": _of(_fog, (0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    "brightness": _of(_brightness, 0.05, 0.1, 0.15, 0.2, 0.3),
    "contrast": _of(_contrast, 0.75, 0.5, 0.4, 0.3, 0.15),
    "elastic_transform": _of(_elastic_transform, *_ELASTIC),
    "pixelate": _of(_pixelate, 0.95, 0.9, 0.85, 0.75, 0.65),
    "jpeg_compression": _of(_jpeg_compression, 80, 65, 58, 50, 40),
}


@checked(images=uint8_images, corruption=choice(CORRUPTIONS), severity=choice((1, 2, 3, 4, 5)))
def corrupt(images: Tensor, corruption: str, severity: int, seed: int = 0) -> Tensor:
    """Images corrupted as those of CIFAR-10-C (Hendrycks & Dietterich, ICLR 2019; see above).

    images      (N, 3, H, W) uint8, on any device. Not modified. They are one batch: each image's
                random numbers depend on its place.
    corruption  a key of `CORRUPTIONS`. severity  1 .. 5.

    Returns (N, 3, H, W) uint8: the result cut to 0 .. 1, times 255, truncated, as there. Raises
    ValueError for another corruption or severity.

    >>> grey = torch.full((2, 3, 32, 32), 100, dtype=torch.uint8)
    >>> corrupt(grey, "brightness", 3)[0, 0, 0, 0], corrupt(grey, "contrast", 5).equal(grey)
    (tensor(138, dtype=torch.uint8), True)
    """
    what, number = CORRUPTIONS[corruption], list(CORRUPTIONS).index(corruption)
    done = []
    for block, part in enumerate(images.split(BLOCK)):
        rng = generator(seed, number, severity, block)
        x = what.apply(part.double() / 255, rng, *what.constants[severity - 1])
        done.append((x.clamp(0, 1) * 255).byte())
    return torch.cat(done)
