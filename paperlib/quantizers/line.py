"""A convolution, and what is behind it up to the next layer's codes, as one line for each channel.
No torch here.

Between a convolution's integer sums and the next layer's codes stand scales, a bias, BatchNorm, a
ReLU, max pooling and the quantizer: all monotone, most of them straight lines. QLinearConv computes
round(scale (sum + bias)), with an integer bias, and clips. Sums are integers, so a line that passes
between the same two sums at each change of a code gives the same codes, everywhere. Weights of few
bits leave room in int8: they are multiplied by `step`, and the bias is that much finer. At 2 bits a
line was found for every layer; with more bits a few sums may get the next code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# What may stand between a convolution and the next layer's quantizer. Each is monotone in its first
# input, and so is all of it.
CHAIN = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Min": np.minimum,
    "Max": np.maximum,
    "Clip": lambda x, low=-np.inf, high=np.inf: np.clip(x, low, high),
    "Relu": lambda x: np.maximum(x, 0),
    "Round": np.rint,
    "BatchNormalization": lambda x, gain, shift, mean, variance, epsilon=1e-5: (
        (x - mean) / np.sqrt(variance + np.float32(epsilon)) * gain + shift
    ),
    "MaxPool": lambda x: x,
}
BENDS = ("Min", "Max", "Clip", "Relu", "Round", "MaxPool")  # the others are straight lines
INT8_TOP = 127
OFF = 3e-4  # of the range of codes is their mean error at most


@dataclass
class Stored:
    """The weight of a layer: its codes are `table[index]`.

    index   of the weight's shape. table  (L,) float32, ascending, L at most 256.
    inputs  the least and the largest code of the layer's input; None where they are no integers.
    kernel, why  what computes the product, and why nothing better does; `Rewriting` sets them.
    """

    path: str
    index: np.ndarray
    table: np.ndarray
    inputs: tuple[int, int] | None
    kernel: str = ""
    why: str = "not called"

    @property
    def bits(self) -> int:
        """Of one weight in the file: 2, 4 or 8."""
        return next(bits for bits in (2, 4, 8) if len(self.table) <= 2**bits)

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return -(-self.index.size * self.bits // 8)

    def problem(self) -> str:
        """Why no kernel takes the weights as int8 and the inputs as uint8; "" if one does.

        Without VNNI processors add two of their products in 16 bits, and saturate: these must fit.
        """
        if self.inputs is None or (self.table != np.rint(self.table)).any():
            return "codes that are no integers"
        width, largest = self.inputs[1] - self.inputs[0], int(np.abs(self.table).max())
        if largest > INT8_TOP or width > 255:
            return f"no fit into 8 bits: weights to {largest}, inputs over {width}"
        fits = 2 * width * largest < 2**15
        return "" if fits else f"{width} x {largest} would saturate without VNNI"

    def reach(self) -> tuple[np.ndarray, np.ndarray]:
        """The least and the largest sum of each output channel of a convolution, (C,) each."""
        low, high = min(self.inputs[0], 0), max(self.inputs[1], 0)  # 0: around the image
        w = self.table[self.index].reshape(len(self.index), -1).astype(np.int64)
        ends = np.stack([w * low, w * high])
        return ends.min(0).sum(1), ends.max(0).sum(1)


@dataclass
class Line:
    """The arithmetic of a QLinearConv: round(scale (sign step sums + bias)) within bottom .. top.

    sign, scale, bias  (C, 1). step  an integer. The codes count from 0. off  the share of the sums
    that get the next code instead of their own.
    """

    sign: np.ndarray
    step: int
    scale: np.ndarray
    bias: np.ndarray
    bottom: int
    top: int
    off: float = 0.0

    def __call__(self, sums: np.ndarray) -> np.ndarray:
        """Codes of (C, P) sums."""
        inside = self.sign * self.step * sums + self.bias
        return np.clip(np.rint(inside.astype(np.float32) * self.scale), self.bottom, self.top)


def line_of(operations: Sequence[tuple], layer: Stored, codes: tuple[int, int]) -> Line | None:
    """The arithmetic that gives the codes of these operations for the sums that a convolution can
    have, or but for a few the code beside; None if there is none.

    operations  (kind, constants of (1, 1) or (C, 1), settings) each, kinds of CHAIN. codes  the
    least and the largest.
    """
    low, high = (sums[:, None].astype(np.float64) for sums in layer.reach())
    pools = [k for k, (kind, *_) in enumerate(operations) if kind == "MaxPool"]
    behind = _straight(operations[pools[0] :], low)[1] if pools else 1
    at0, slope = _straight(operations, low)
    sign = np.where(slope < 0, -1, 1)
    low, high = np.minimum(low * sign, high * sign), np.maximum(low * sign, high * sign)

    def rising(sums: np.ndarray) -> np.ndarray:
        """The codes, from 0 on, of (C, P) sums times their sign."""
        return _applied(operations, (sums * sign).astype(np.float32)) - codes[0]

    least, most = rising(low), rising(high)
    same = least == most  # a channel that is always the same
    slope, at0 = np.where(same, 1, np.abs(slope)), at0 - codes[0]
    good = np.isfinite(at0) & np.isfinite(slope) & (slope > 0) & (np.asarray(behind) > 0)
    if not good.all():
        return None
    far = np.full_like(low, 1e9)
    bottom, top = int(rising(-far).min()), int(rising(far).max())
    edges = (np.arange(bottom, max(top, bottom + 1)) + 0.5 - at0) / slope  # where codes change
    windows = np.floor(np.clip(edges, low - 9, high + 9))[..., None] + np.arange(-2, 4)
    codes_below = np.arange(bottom, max(top, bottom + 1))
    below = rising(windows.reshape(len(low), -1)).reshape(windows.shape) <= codes_below[:, None]
    middles = windows[..., 0] + below.sum(-1) - 0.5  # between the last sum below and the next
    inside = (edges > low - 1) & (edges < high + 1)
    length, start = _fitted(codes_below, middles, inside, (1 / slope, (0.5 - at0) / slope))
    largest, width = int(np.abs(layer.table).max()) or 1, layer.inputs[1] - layer.inputs[0] or 1
    step = min(INT8_TOP // largest, (2**15 - 1) // (2 * width * largest))
    scale = np.where(same, 1, 1 / (length * step)).astype(np.float32)
    bias = np.where(same, least, np.rint((length / 2 - start) * step))
    line = Line(np.where(same, 0, sign), step, scale, bias, bottom, top)
    if not (step * np.maximum(-low, high) + np.abs(bias)).max() < 2**24:
        return None  # float32 would round
    points = np.hstack([low, high, np.clip(windows.reshape(len(low), -1), low, high)])
    points.sort(axis=1)
    ours, gaps = line(points * sign), np.diff(points) > 1
    off = np.abs(ours - rising(points))
    line.off = float(off.sum() / max(1, (most - least).sum()) / np.median(length))
    missed = off.max() > 1 or (gaps & (np.diff(ours) != 0)).any()
    return None if missed or line.off > OFF * (top - bottom) else line


def grid_of(operations: Sequence[tuple]) -> tuple[float, float, int, int] | None:
    """Operations of scalars as clip(round((x + shift) / scale)): shift, scale, bottom, top. None if
    they are something else.
    """
    at0, slope = (float(x[0, 0]) for x in _straight(operations, np.zeros((1, 1))))
    ends = _applied(operations, np.array([[-1e30, 1e30]], np.float32))[0]
    if not (0 < slope < np.inf and np.isfinite(ends).all()) or np.ptp(ends) > 255:
        return None
    edges = (np.arange(*ends) + 0.5 - at0) / slope
    points = np.stack([edges - 0.01 / slope, edges + 0.01 / slope])
    codes = np.clip(np.rint(points * slope + at0), *ends)
    same = (_applied(operations, points.astype(np.float32)) == codes).all()
    return (at0 / slope, 1 / slope, *map(int, ends)) if same else None


def _applied(operations: Sequence[tuple], sums: np.ndarray, straight: bool = False) -> np.ndarray:
    for kind, constants, settings in operations:
        if not (straight and kind in BENDS):
            sums = CHAIN[kind](sums, *constants, **settings)
    return sums


def _straight(operations: Sequence[tuple], like: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What they make of 0, and by how much more of 1, without their bends; (C, 1) both."""
    at0, at1 = (_applied(operations, np.full_like(like, x), straight=True) for x in (0, 1))
    return at0, at1 - at0


def _fitted(codes: np.ndarray, middles: np.ndarray, inside: np.ndarray, exact: tuple) -> tuple:
    """A line for each channel that passes as near as can be to the middles between the sums below
    and above each change of a code: sums for a code, and the sum of code 0, (C, 1) both.

    middles, inside  (C, codes): the latter says which can be reached. exact  such a line. It passes
    between the same sums; but it may pass one of them closer than integers tell.
    """
    found = [exact]
    weights = np.where(inside.any(1, keepdims=True), inside, 1.0)
    for _ in range(20):  # Lawson's algorithm goes towards the least largest distance
        weights = weights / weights.sum(1, keepdims=True)
        mean = (weights * codes).sum(1, keepdims=True)
        shift = weights * (codes - mean)
        spread = (shift * codes).sum(1, keepdims=True)
        length = np.where(spread > 1e-6, (shift * middles).sum(1, keepdims=True), exact[0] * spread)
        length = length / np.where(spread > 0, spread, 1)
        length = np.where(length > 0, length, exact[0])
        found.append((length, (weights * middles).sum(1, keepdims=True) - length * mean))
        away = np.abs(length * codes + found[-1][1] - middles)
        weights = weights * away.clip(1e-3)
    away = [(np.abs(n * codes + s - middles) * inside).max(1, keepdims=True) for n, s in found]
    best = np.argmin(away, axis=0)
    return tuple(np.choose(best, [own[k] for own in found]) for k in (0, 1))
