"""LSQ in paper form (Esser et al., ICLR 2020) and LSQ+ (Bhalgat et al., CVPR Workshops 2020):
learned steps.

LSQ has signed weights and unsigned activations; LSQ+ gives the activations' grid a learned offset,
for activations that are negative too. A signed grid of 1 bit has no positive level, so weights need
2 bits or more.
"""

import math
from functools import partial

import torch
from torch import Tensor, nn

from ..models.precision import widen
from .functional import divisor, lsq_codes, lsq_plus, over_channels, spread
from .layers import Quantizer
from .registry import METHODS, Method


class LsqQuantizer(Quantizer):
    """Integers -2^(b-1) .. 2^(b-1) - 1 if signed, else 0 .. 2^b - 1, times a learned step.

    of_weights  whether x is a weight: the gradient of the step is scaled by the number of weights,
                else by the number of features of one image, as in the paper: the batch is left out.
    shape       of the step: () for one, (C, 1, ...) for one for each output channel of a weight.
    """

    def __init__(self, bits: int, signed: bool, of_weights: bool, shape: tuple[int, ...] = ()):
        self.fewest_bits = 2 if signed else 1
        super().__init__(bits, shape)
        self.of_weights, self.unsigned = of_weights, not signed
        self.qmin = -(2 ** (bits - 1)) if signed else 0
        self.qmax = self.qmin + 2**bits - 1
        self.step = nn.Parameter(torch.ones(shape))

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        size = over_channels(torch.mean, x.abs(), self.per_channel)
        self.step.copy_(divisor(2 * size / math.sqrt(self.qmax)))

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return lsq_codes(x, self.step, self.qmin, self.qmax, self._grad_scale(x))

    def _grad_scale(self, x: Tensor) -> float:
        """1 / sqrt(N qmax), N the elements that share a step."""
        if torch.compiler.is_exporting():  # no gradient, but a batch of any size
            return 1.0
        elements = math.prod(x.shape if self.of_weights else x.shape[1:])
        count = elements // self.step.numel() if self.of_weights else elements
        return 1 / math.sqrt(count * self.qmax)


class LsqPlusWeight(LsqQuantizer):
    """LSQ's, started at max(|mean - 3 std|, |mean + 3 std|) / 2^(b-1) (LSQ+, eq. 7)."""

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        mean, std = (over_channels(f, x, self.per_channel) for f in (torch.mean, spread))
        widest = torch.maximum((mean - 3 * std).abs(), (mean + 3 * std).abs())
        self.step.copy_(divisor(widest / -self.qmin))


class LsqPlusActivation(LsqQuantizer):
    """Integers 0 .. 2^b - 1 times a learned step, plus a learned offset.

    Both start where the squared error on the first batch is least (LSQ+, section 3.3). The paper
    minimises by gradient descent; here by a search over intervals: 40 lengths of each of the two
    sides, in turns. The gradient of the offset is not scaled, for which the paper gives no rule.
    """

    def __init__(self, bits: int):
        super().__init__(bits, signed=False, of_weights=False)
        self.unsigned = False  # the offset may be negative
        self.offset = nn.Parameter(torch.zeros(()))

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        sample = widen(x).flatten()
        sample = sample[:: max(1, len(sample) // 100_000)]
        low, high = least, most = sample.min(), sample.max()
        for _ in range(2):
            upper = [(low, low + (most - low) * k / 40) for k in range(1, 41)]
            high = self._best(sample, upper)[1]
            lower = [(high - (high - least) * k / 40, high) for k in range(1, 41)]
            low = self._best(sample, lower)[0]
        self.step.copy_(((high - low) / self.qmax).clamp(min=1e-8))
        self.offset.copy_(low)

    def _best(self, x: Tensor, intervals: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        def error(interval: tuple[Tensor, Tensor]) -> float:
            low, high = interval
            step = ((high - low) / self.qmax).clamp(min=1e-8)
            return float((lsq_plus(x, step, low, 0, self.qmax) - x).square().sum())

        return min(intervals, key=error)

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        wide, grad_scale = widen(x) - self.offset, self._grad_scale(x)
        codes, scale = lsq_codes(wide, self.step, 0, self.qmax, grad_scale)
        return codes.to(x.dtype), scale


METHODS["lsq"] = Method(
    partial(LsqQuantizer, signed=True, of_weights=True),
    partial(LsqQuantizer, signed=False, of_weights=False),
    "Esser et al., ICLR 2020, arXiv 1902.08153",
    "test_lsq_gradients_decide_by_the_unrounded_value",
    signed=partial(LsqQuantizer, signed=True, of_weights=False),  # on the integers of a weight
)
METHODS["lsq+"] = Method(
    partial(LsqPlusWeight, signed=True, of_weights=True),
    LsqPlusActivation,
    "Bhalgat et al., CVPR Workshops 2020, arXiv 2004.09576",
    "test_lsq_plus_moves_the_grid_and_its_offset_learns_from_what_is_outside",
    signed=LsqPlusActivation,
)
