"""The quantization functions, each with its gradient written down rather than inherited.

Rounding is half to even. `torch.clamp` passes a gradient of 1 at x exactly on a bound in some versions of torch and 0
in others, and after a ReLU many values are exactly 0; so every function here states which side its bounds are on.
Gradients of learned scalars (bounds, steps, alpha) are summed over all elements.
"""

import torch
from torch import Tensor
from torch.autograd import Function


def _check_bits(bits: int, least: int = 1) -> None:
    if not isinstance(bits, int) or isinstance(bits, bool) or not least <= bits <= 8:
        raise ValueError(f"bits must be an integer from {least} to 8, got {bits!r}")


def _check_levels(levels: int) -> None:
    if not isinstance(levels, int) or isinstance(levels, bool) or not 2 <= levels <= 256:
        raise ValueError(f"levels must be an integer from 2 to 256, got {levels!r}")


def _check_delta(delta: float) -> None:
    if not delta >= 0:
        raise ValueError(f"delta must be at least 0, got {delta}")


class _RoundToLevels(Function):
    """round(x (L - 1)) / (L - 1); backward g (1 + delta sign(g) (x - q))."""

    @staticmethod
    def forward(ctx, x: Tensor, levels: int, delta: float) -> Tensor:
        q = (x * (levels - 1)).round_().div_(levels - 1)
        ctx.delta = delta
        if delta:
            ctx.save_for_backward(x - q)
        return q

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.delta:
            (error,) = ctx.saved_tensors
            g = g + ctx.delta * g.abs() * error
        return g, None, None


class _NormaliseAndClip(Function):
    """n = clip((x - lower) / (upper - lower), 0, 1). Gradients pass where 0 <= n <= 1, bounds included."""

    @staticmethod
    def forward(ctx, x: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        n = (x - lower).div_(upper - lower)
        clipped = n.clamp(0, 1)
        ctx.save_for_backward(clipped, clipped == n, lower, upper)
        return clipped

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        clipped, inside, lower, upper = ctx.saved_tensors
        width = upper - lower
        g = g * inside
        grad_lower = grad_upper = None
        if any(ctx.needs_input_grad[1:]):  # d n / d upper = -n / width, d n / d lower = (n - 1) / width
            by_upper = -(g * clipped).sum() / width
            grad_upper = by_upper.reshape(upper.shape)
            grad_lower = (-g.sum() / width - by_upper).reshape(lower.shape)
        return g / width if ctx.needs_input_grad[0] else None, grad_lower, grad_upper


def ewgs_round(x: Tensor, levels: int, delta: float = 0.0) -> Tensor:
    """Round x onto `levels` evenly spaced points of [0, 1], with element-wise gradient scaling.

    Forward   q = round((L - 1) x) / (L - 1).
    Backward  dx = dq (1 + delta sign(dq) (x - q)); delta = 0 is the straight-through estimator.
    Lee, Kim & Ham, "Network Quantization with Element-wise Gradient Scaling", CVPR 2021.

    x       any shape, floating dtype, values in [0, 1]. Not modified.
    levels  L = 2 ** bits, 2 to 256. delta  at least 0.
    Returns the shape, dtype and device of x. Raises ValueError for levels or delta out of range.

    >>> ewgs_round(torch.tensor([0.0, 0.4, 0.6, 1.0]), levels=2)
    tensor([0., 0., 1., 1.])
    """
    _check_levels(levels)
    _check_delta(delta)
    return _RoundToLevels.apply(x, levels, delta)


def normalise_and_clip(x: Tensor, lower: Tensor | float, upper: Tensor | float) -> Tensor:
    """clip((x - lower) / (upper - lower), 0, 1): gradients to x, lower and upper on lower <= x <= upper, bounds included.

    Raises ValueError for numbers with lower >= upper; tensors are not looked at, which would wait for the device.
    """
    if not isinstance(lower, Tensor) and not isinstance(upper, Tensor) and not lower < upper:
        raise ValueError(f"the lower bound must be below the upper one, got {lower} and {upper}")
    return _NormaliseAndClip.apply(x, torch.as_tensor(lower).to(x), torch.as_tensor(upper).to(x))


def ewgs_activation(
    x: Tensor, lower: Tensor | float, upper: Tensor | float, levels: int, delta: float = 0.0
) -> Tensor:
    """EWGS for activations: x of any shape -> the same shape, on `levels` points of [0, 1].

    q = round((L - 1) n) / (L - 1) with n = clip((x - lower) / (upper - lower), 0, 1). There is no scaling back by
    upper - lower: the layer multiplies its output by a learned scalar. Gradients as in `ewgs_round` and
    `normalise_and_clip`; lower and upper are numbers or one-element tensors and receive theirs.

    >>> ewgs_activation(torch.tensor([-1.0, 0.0, 1.9, 5.0]), 0.0, 4.0, levels=4)
    tensor([0.0000, 0.0000, 0.3333, 1.0000])
    """
    return ewgs_round(normalise_and_clip(x, lower, upper), levels, delta)


def ewgs_weight(w: Tensor, lower: Tensor | float, upper: Tensor | float, levels: int, delta: float = 0.0) -> Tensor:
    """EWGS for weights: as `ewgs_activation`, then 2 (q - 1/2), which lies in [-1, 1].

    >>> ewgs_weight(torch.tensor([-3.0, -0.1, 0.1, 3.0]), -1.0, 1.0, levels=2)
    tensor([-1., -1.,  1.,  1.])
    """
    return 2 * (ewgs_activation(w, lower, upper, levels, delta) - 0.5)


class _BinaryWeight(Function):
    """mean|w| sign(w), sign(0) = 1; the gradient passes unchanged, the mean counts as a constant."""

    @staticmethod
    def forward(ctx, w: Tensor) -> Tensor:
        return torch.where(w >= 0, 1.0, -1.0).to(w) * w.abs().mean()

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        return g


def dorefa_weight(w: Tensor, bits: int) -> Tensor:
    """DoReFa-Net for weights (Zhou et al., 2016, arXiv 1606.06160, eqs. 8 and 9), any shape, per tensor.

    bits > 1  2 round((2^b - 1) (tanh(w) / (2 max|tanh(w)|) + 1/2)) / (2^b - 1) - 1, in [-1, 1]; the maximum counts as
              a constant in the gradient.
    bits = 1  mean|w| sign(w), straight-through.
    Raises ValueError unless bits is 1 to 8.

    >>> dorefa_weight(torch.tensor([-1.0, 0.0, 1.0]), bits=8)[[0, 2]]
    tensor([-1.,  1.])
    """
    _check_bits(bits)
    if bits == 1:
        return _BinaryWeight.apply(w)
    t = torch.tanh(w)
    return 2 * ewgs_round(t / (2 * t.detach().abs().max()) + 0.5, 2**bits) - 1


class _StraightThroughSign(Function):
    """sign(x), with the gradient passed unchanged."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        return g


def dorefa_activation(x: Tensor, bits: int) -> Tensor:
    """DoReFa-Net for activations (arXiv 1606.06160, eq. 11): round((2^b - 1) clip(x, 0, 1)) / (2^b - 1).

    At one bit, the sign of the clipped value, as the public paper-form code (zzzxxxttt/pytorch_DoReFaNet) has it: what is
    positive becomes 1. The gradient passes where 0 <= x <= 1. Raises ValueError unless bits is 1 to 8.

    >>> dorefa_activation(torch.tensor([-1.0, 0.4, 0.6, 2.0]), bits=1)
    tensor([0., 1., 1., 1.])
    """
    _check_bits(bits)
    if bits == 1:
        return _StraightThroughSign.apply(normalise_and_clip(x, 0.0, 1.0))
    return ewgs_activation(x, 0.0, 1.0, 2**bits)


class _Pact(Function):
    @staticmethod
    def forward(ctx, x: Tensor, alpha: Tensor, bits: int) -> Tensor:
        ctx.save_for_backward(x, alpha)
        scale = (2**bits - 1) / alpha
        return (x.clamp(min=0).minimum(alpha) * scale).round_().div_(scale)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        x, alpha = ctx.saved_tensors
        above = x >= alpha
        grad_alpha = (g * above).sum().reshape(alpha.shape) if ctx.needs_input_grad[1] else None
        return g * ((x >= 0) & ~above), grad_alpha, None


def pact_activation(x: Tensor, alpha: Tensor | float, bits: int) -> Tensor:
    """PACT for activations (Choi et al., 2018, arXiv 1805.06085, eqs. 1 to 3), any shape, unsigned.

    Forward   round(clip(x, 0, alpha) (2^b - 1) / alpha) alpha / (2^b - 1).
    Backward  to x: g where 0 <= x < alpha; to alpha: the sum of g where x >= alpha.
    Raises ValueError unless bits is 1 to 8, or for a number alpha that is not positive.

    >>> pact_activation(torch.tensor([-1.0, 1.1, 9.0]), alpha=3.0, bits=2)
    tensor([0., 1., 3.])
    """
    _check_bits(bits)
    if not isinstance(alpha, Tensor) and not alpha > 0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    return _Pact.apply(x, torch.as_tensor(alpha).to(x), bits)


class _Lsq(Function):
    @staticmethod
    def forward(ctx, x: Tensor, step: Tensor, qmin: int, qmax: int, grad_scale: float) -> Tensor:
        ctx.save_for_backward(x, step)
        ctx.qmin, ctx.qmax, ctx.grad_scale = qmin, qmax, grad_scale
        return (x / step).clamp_(qmin, qmax).round_().mul_(step)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        x, step = ctx.saved_tensors
        v = x / step
        inside = (v > ctx.qmin) & (v < ctx.qmax)
        grad_step = None
        if ctx.needs_input_grad[1]:
            slope = torch.where(inside, v.round() - v, v.clamp(ctx.qmin, ctx.qmax))
            grad_step = ((g * slope).sum() * ctx.grad_scale).reshape(step.shape)
        return g * inside, grad_step, None, None, None


def lsq(x: Tensor, step: Tensor | float, qmin: int, qmax: int, grad_scale: float = 1.0) -> Tensor:
    """Learned Step Size Quantization (Esser et al., ICLR 2020, arXiv 1902.08153, eqs. 1 to 5), any shape, per tensor.

    Forward   round(clip(x / s, qmin, qmax)) s.
    Backward  with v = x / s: to x, g where qmin < v < qmax; to s, grad_scale times the sum of g (round(v) - v) inside,
              g qmin where v <= qmin, g qmax where v >= qmax. Inside is decided by v, before rounding.
    grad_scale  the paper's 1 / sqrt(N qmax), N the number of weights or of features.
    Raises ValueError unless qmin < qmax are integers and the step is positive (when it is a number).

    >>> lsq(torch.tensor([-3.0, 0.4, 0.6, 9.0]), step=1.0, qmin=-2, qmax=1)
    tensor([-2.,  0.,  1.,  1.])
    """
    if int(qmin) != qmin or int(qmax) != qmax or not qmin < qmax:
        raise ValueError(f"qmin and qmax must be integers with qmin < qmax, got {qmin} and {qmax}")
    if not isinstance(step, Tensor) and not step > 0:
        raise ValueError(f"the step must be positive, got {step}")
    return _Lsq.apply(x, torch.as_tensor(step).to(x), int(qmin), int(qmax), float(grad_scale))
