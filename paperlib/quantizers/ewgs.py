"""EWGS: learned clipping interval, element-wise gradient scaling (Lee, Kim & Ham, CVPR 2021).

`delta` scales the gradient by the distance to the grid. It is a number (0: the straight-through
estimator, which is what the paper's released runs use), or "hessian": each layer's weight and
activation factors start at 0 and are set from the curvature of the loss by `update_deltas`, as
EWGS's authors do every ten epochs.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

from ..basics.checks import require, weight
from ..models import learning
from .functional import centred, divisor, interval_codes, over_channels, spread
from .fusion import fusing
from .layers import QuantizedLayer, Quantizer
from .registry import METHODS, Method


class EwgsQuantizer(Quantizer):
    """Interval [lower, upper], learned; q in [0, 1] for activations, 2 (q - 1/2) in [-1, 1] for
    weights.

    shape  of the two bounds: () for one interval, (C, 1, ...) for one for each output channel of a
    weight.
    """

    def __init__(
        self, bits: int, signed: bool, delta: float | str = 0.0, shape: tuple[int, ...] = ()
    ):
        super().__init__(bits, shape)
        self.levels, self.signed, self.by_hessian = 2**bits, signed, delta == "hessian"
        if not self.by_hessian:
            weight("delta, unless 'hessian',", delta)
        # A tensor, so that a new factor reaches a captured CUDA graph; none where the factor is 0
        # for good.
        value = None if delta == 0 else torch.tensor(0.0 if self.by_hessian else float(delta))
        self.register_buffer("delta", value)
        self.lower = nn.Parameter(torch.zeros(shape))
        self.upper = nn.Parameter(torch.ones(shape))
        self.recorded: Tensor | None = None  # the codes, kept while `recording` for `update_deltas`
        self.recording = False

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Weights: +-3 std. Activations: min and 3 std / sqrt(1 - 2 / pi), the std of a half-normal
        made normal.

        Activations that lie further from 0 than they spread, as in squeeze-and-excitation, would
        get an upper bound below the lower one: theirs is the maximum.
        """
        std = over_channels(spread, x, self.per_channel)
        if self.signed:
            self.upper.copy_(divisor(3 * std))
            self.lower.copy_(-self.upper)
        else:
            low, high = x.min(), 3 * std / math.sqrt(1 - 2 / math.pi)
            self.lower.copy_(low)
            least = 1e-6 * low.abs().clamp(min=1)
            self.upper.copy_(torch.where(high > low, high, torch.maximum(x.max(), low + least)))

    def codes(self, x: Tensor) -> tuple[Tensor, float]:
        delta = 0.0 if self.delta is None else self.delta
        codes = interval_codes(x, self.lower, self.upper, self.levels, delta)
        if self.recording:
            self.recorded = codes
        return (centred(codes, self.levels) if self.signed else codes), 1 / (self.levels - 1)


_ACTIVATION = partial(EwgsQuantizer, signed=False)
METHODS["ewgs"] = Method(
    partial(EwgsQuantizer, signed=True),
    _ACTIVATION,
    "Lee, Kim & Ham, CVPR 2021, arXiv 2104.00903",
    "test_ewgs_gradients_inside_at_and_beyond_the_bounds",
    signed=_ACTIVATION,
    output_scale=True,
)


def by_hessian(model: nn.Module) -> bool:
    """Whether a layer of this model has delta "hessian"."""
    return any(isinstance(q, EwgsQuantizer) and q.by_hessian for q in model.modules())


def hutchinson_trace(
    gradient: Tensor, values: Tensor, rng: torch.Generator, draws: int = 50, tolerance: float = 1e-3
) -> float:
    """Trace of the Hessian whose gradient with respect to `values` is `gradient` (with its graph),
    by +-1 vectors.

    Stops when the running mean changes by less than `tolerance` relative to itself, after `draws`
    at the most. (The released code of EWGS compares without absolute value, so there a negative
    running mean always stops at once.)
    """
    mean = 0.0
    for k in range(1, draws + 1):
        v = torch.randint(0, 2, values.shape, generator=rng).to(values).mul_(2).sub_(1)
        (product,) = torch.autograd.grad(gradient, values, v, retain_graph=True)
        estimate = float((product * v).sum())
        previous, mean = mean, mean + (estimate - mean) / k
        if k > 1 and abs(mean - previous) <= tolerance * abs(mean):
            break
    return mean


def _ratios(quantizers: list[EwgsQuantizer], loss: Tensor, rng: torch.Generator) -> list[float]:
    """Each quantizer's (Tr(H) / N) / (3 std(g)) of a loss whose forward pass it has recorded."""
    recorded = [q.recorded for q in quantizers]
    gradients = torch.autograd.grad(loss, recorded, create_graph=True)
    ratios = []
    for q, gradient, codes in zip(quantizers, gradients, recorded, strict=True):
        trace = hutchinson_trace(gradient, codes, rng)
        # g and H of the values codes / (levels - 1) are (levels - 1) and (levels - 1)^2 times those
        # of the codes.
        curvature = (q.levels - 1) * trace / codes.numel()
        ratios.append(curvature / (3 * float(gradient.detach().std()) + 1e-30))
    return ratios


def update_deltas(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Set every layer's two factors, and those of attention's products, to delta = max(0, mean over
    batches of (Tr(H) / N) / (3 std(g))).

    g and H are gradient and Hessian of the loss with respect to the quantized values in [0, 1], N
    their number, the batch included for activations; std unbiased (EWGS, eq. 10 and supplement).
    Costs up to 50 backward passes a layer and batch. The model runs in train mode, and its
    BatchNorm statistics are put back afterwards.

    batches  (images, labels) pairs, three in EWGS. loss  of (logits, labels).
    Returns {layer name: (weight factor, activation factor)}.
    Raises ValueError if the model has no layer with delta "hessian".
    """
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, QuantizedLayer) and by_hessian(layer)
    }
    require(layers, "no layer of this model has delta='hessian'")
    pairs = {n: (x.weight_quantizer, x.activation_quantizer) for n, x in layers.items()}
    quantizers = [q for q in model.modules() if isinstance(q, EwgsQuantizer) and q.by_hessian]
    ratios = []
    rng = torch.Generator().manual_seed(seed)
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    for q in quantizers:
        q.recording = True
    try:
        # Compiled functions have no second derivative.
        with learning(model), fusing(False):
            for images, labels in batches:
                ratios.append(_ratios(quantizers, loss(model(images), labels), rng))
    finally:
        for q in quantizers:
            q.recording, q.recorded = False, None
        for name, b in model.named_buffers():
            b.copy_(buffers[name])
    for q, *values in zip(quantizers, *ratios, strict=True):
        q.delta.fill_(max(0.0, sum(values) / len(values)))
    return {name: tuple(float(q.delta) for q in pair) for name, pair in pairs.items()}
