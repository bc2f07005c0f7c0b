"""The quantization functions, each with its gradient written down rather than inherited.

Every quantizer maps x to *codes*, small integers in a floating dtype, and a positive scale: value =
scale * codes. The layers convolve the codes, which bfloat16 holds exactly up to 8 bits, and
multiply by the scale afterwards. Arithmetic is in float32 where x is in a shorter type. All
gradients of the learned scalars (bounds, steps, alpha) are those of the value and come from the
codes' backward pass, summed over all elements; the scale passes none.

Rounding is half to even. `torch.clamp` passes a gradient of 1 at x exactly on a bound in some
versions of torch and 0 in others, and after a ReLU many values are exactly 0; so every function
here states which side its bounds are on.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ..basics.checks import above, checked, integer
from ..data.checks import floats, scalars
from ..models.precision import widen
from .fusion import fusible

TINY = torch.finfo(torch.float32).tiny
any_shape, step_size = floats("..."), scalars("(0, inf)")
grid = {"qmin": integer, "qmax": above("qmin", integer)}
interval = {"lower": scalars(), "upper": scalars(above="lower")}


def _summed(x: Tensor, like: Tensor) -> Tensor:
    """The gradient of a parameter that was broadcast: one for the tensor, or (C, 1, ...) one for
    each output channel.
    """
    return x.sum().reshape(like.shape) if like.numel() == 1 else x.sum_to_size(like.shape)


def _scalar(value: Tensor | float, like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value
    dtype = widen(like.new_empty(0)).dtype
    return torch.full((), value, dtype=dtype, device=like.device)  # a fill, no copy from the host


def divisor(size: Tensor) -> Tensor:
    """A size to divide by: 1 in the place of 0, as of a weight of zeros.

    >>> divisor(torch.tensor([0.0, 0.5]))
    tensor([1.0000, 0.5000])
    """
    return size.masked_fill(size < TINY, 1)


def with_gradient(forward: Callable[..., Tensor], backward: Callable[..., tuple]) -> Callable:
    """A differentiable function of (x, tensors ..., numbers ...) whose gradient is given.

    forward   (x, tensors ..., numbers ...) -> a new tensor.
    backward  (gradient, x, tensors ..., numbers ...) -> a tuple of the gradients of x and of the
              first tensors. The others get none.

    >>> double = with_gradient(lambda x, factor: 2 * x, lambda g, x, factor: (g * factor,))
    >>> x = torch.ones(1, requires_grad=True)
    >>> double(x, 7.0).backward()
    >>> x.grad
    tensor([7.])
    """

    class WithGradient(Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*inputs: Any) -> Tensor:
            return forward(*inputs)

        @staticmethod
        def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
            tensors = [x for x in inputs if isinstance(x, Tensor)]
            ctx.save_for_backward(*tensors)
            ctx.numbers = inputs[len(tensors) :]

        @staticmethod
        def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
            inputs = (*ctx.saved_tensors, *ctx.numbers)
            by_x, *by_others = backward(g, *inputs)
            shaped = [by.reshape(x.shape) for by, x in zip(by_others, inputs[1:], strict=False)]
            return by_x, *shaped, *[None] * (len(inputs) - 1 - len(shaped))

    return WithGradient.apply


# ------------------------------------------------------------------------------------- EWGS, DoReFa


@fusible
def _interval_forward(x: Tensor, lower: Tensor, upper: Tensor, top: int) -> Tensor:
    n = (widen(x) - lower).div_(upper - lower).clamp(0, 1)
    return n.mul_(top).round_().to(x.dtype)


@fusible
def _interval_backward(
    g: Tensor, x: Tensor, lower: Tensor, upper: Tensor, delta: Tensor | None, top: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, lower and upper. g is the gradient of the codes, g top that of q = codes /
    top.
    """
    width = upper - lower
    n = (widen(x) - lower) / width
    inside = (n >= 0) & (n <= 1)
    g = torch.where(inside, widen(g) * top, 0.0)
    if delta is not None:
        error = (n - (n * top).round() / top).detach()  # constant in second derivatives
        g = g + delta * g.abs() * error
    # d n / d upper = -n / width, d n / d lower = (n - 1) / width
    by_upper = -_summed(g * n, upper) / width
    return (g / width).to(x.dtype), -_summed(g, lower) / width - by_upper, by_upper


_interval = with_gradient(
    lambda x, lower, upper, delta, top: _interval_forward(x, lower, upper, top), _interval_backward
)


def interval_codes(
    x: Tensor,
    lower: Tensor | float,
    upper: Tensor | float,
    levels: int,
    delta: Tensor | float = 0.0,
) -> Tensor:
    """Integers 0 .. L - 1: round((L - 1) clip((x - lower) / (upper - lower), 0, 1)), in the dtype
    of x.

    With q = codes / (L - 1) and n the clipped ratio, the gradient of n is dq (1 + delta sign(dq) (n
    - q)); x, lower and upper receive it where lower <= x <= upper, bounds included.
    What is allowed is checked where a value comes in, by `ewgs_activation` and the quantizers.

    >>> x = torch.tensor([-1.0, 0.0, 1.9, 5.0], requires_grad=True)
    >>> q = interval_codes(x, 0.0, 4.0, levels=4)
    >>> q.sum().backward()
    >>> q.detach(), x.grad
    (tensor([0., 0., 1., 3.]), tensor([0.0000, 0.7500, 0.7500, 0.0000]))
    """
    if not isinstance(delta, Tensor):
        delta = _scalar(delta, x) if delta else None
    return _interval(x, _scalar(lower, x), _scalar(upper, x), delta, levels - 1)


def ewgs_round(x: Tensor, levels: int, delta: float = 0.0) -> Tensor:
    """Round x onto `levels` evenly spaced points of [0, 1], with element-wise gradient scaling.

    Forward   q = round((L - 1) x) / (L - 1).
    Backward  dx = dq (1 + delta sign(dq) (x - q)); delta = 0 is the straight-through estimator.
    Lee, Kim & Ham, "Network Quantization with Element-wise Gradient Scaling", CVPR 2021.

    x       any shape, floating dtype, values in [0, 1]. Not modified.
    levels  L = 2 ** bits, 2 to 256. delta  at least 0.
    Returns the shape, dtype and device of x. Raises ValueError for levels or delta out of range.

    >>> x = torch.tensor([0.0, 0.4, 0.6, 1.0], requires_grad=True)
    >>> q = ewgs_round(x, levels=2, delta=0.5)
    >>> q.sum().backward()
    >>> q.detach(), x.grad
    (tensor([0., 0., 1., 1.]), tensor([1.0000, 1.2000, 0.8000, 1.0000]))
    """
    return ewgs_activation(x, 0.0, 1.0, levels, delta)


@checked(x=any_shape, **interval)
def ewgs_activation(
    x: Tensor, lower: Tensor | float, upper: Tensor | float, levels: int, delta: float = 0.0
) -> Tensor:
    """EWGS for activations: x of any shape -> the same shape, on `levels` points of [0, 1].

    q = round((L - 1) n) / (L - 1) with n = clip((x - lower) / (upper - lower), 0, 1). There is no
    scaling back by upper - lower: the layer multiplies its output by a learned scalar. Gradients as
    in `interval_codes`; lower and upper are numbers or one-element tensors and receive theirs.

    >>> x = torch.tensor([-1.0, 0.0, 1.9, 5.0], requires_grad=True)
    >>> lower, upper = (torch.tensor(bound, requires_grad=True) for bound in (0.0, 4.0))
    >>> q = ewgs_activation(x, lower, upper, levels=4)
    >>> q.sum().backward()
    >>> q.detach(), x.grad
    (tensor([0.0000, 0.0000, 0.3333, 1.0000]), tensor([0.0000, 0.2500, 0.2500, 0.0000]))
    >>> lower.grad, upper.grad
    (tensor(-0.3812), tensor(-0.1187))
    """
    return interval_codes(x, lower, upper, levels, delta) / (levels - 1)


@checked(w=any_shape, **interval)
def ewgs_weight(
    w: Tensor, lower: Tensor | float, upper: Tensor | float, levels: int, delta: float = 0.0
) -> Tensor:
    """EWGS for weights: as `ewgs_activation`, then 2 (q - 1/2), which lies in [-1, 1].

    >>> x = torch.tensor([-3.0, -0.1, 0.1, 3.0], requires_grad=True)
    >>> q = ewgs_weight(x, -1.0, 1.0, levels=2)
    >>> q.sum().backward()
    >>> q.detach(), x.grad
    (tensor([-1., -1.,  1.,  1.]), tensor([0., 1., 1., 0.]))
    """
    return centred(interval_codes(w, lower, upper, levels, delta), levels) / (levels - 1)


def centred(codes: Tensor, levels: int) -> Tensor:
    """Integers 0 .. L - 1 -> the odd or even integers -(L - 1) .. L - 1 in steps of two.

    >>> centred(torch.arange(4.0), 4)
    tensor([-3., -1.,  1.,  3.])
    """
    return 2 * codes - (levels - 1)


def spread(x: Tensor, dim: tuple[int, ...], keepdim: bool = False) -> Tensor:
    """The unbiased standard deviation; of a single value 0.

    >>> spread(torch.tensor([[2.0]]), (1,))
    tensor([0.])
    """
    alone = all(x.shape[axis] == 1 for axis in dim)
    return torch.amax(x - x, dim, keepdim) if alone else torch.std(x, dim, keepdim=keepdim)


def over_channels(function: Callable[..., Tensor], x: Tensor, per_channel: bool) -> Tensor:
    """A reduction of x: scalar, or over each x[c], of shape (C, 1, ...).

    >>> over_channels(torch.mean, torch.tensor([[1.0, 3.0], [4.0, 6.0]]), True)
    tensor([[2.],
            [5.]])
    """
    if per_channel:
        return function(x, dim=tuple(range(1, x.ndim)), keepdim=True)
    return function(x, dim=tuple(range(x.ndim)))


# value = scale codes: the gradient of the value from that of the codes
_given = with_gradient(
    lambda x, codes, scale: codes.clone(), lambda g, x, codes, scale: ((g / scale).to(g.dtype),)
)


def straight_through(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """codes, integers of the shape and dtype of x; x gets the gradient of scale codes, unchanged.

    >>> x = torch.tensor([0.3, -2.0], requires_grad=True)
    >>> (straight_through(x, x.detach().sign(), torch.tensor(5.0)) * 5.0).sum().backward()
    >>> x.grad
    tensor([1., 1.])
    """
    return _given(x, codes, scale)


def dorefa_weight_codes(
    w: Tensor, bits: int, per_channel: bool = False
) -> tuple[Tensor, Tensor | float]:
    """The codes and the scale of `dorefa_weight`: odd integers and 1 / (2^b - 1), or at one bit +-1
    and mean|w|.

    per_channel  mean and maximum over each w[c] instead of all of w; the scale at one bit is then
    (C, 1, ...).
    """
    if bits == 1:
        size = over_channels(torch.mean, widen(w.detach()).abs(), per_channel)
        signs, scale = torch.where(w.detach() >= 0, 1.0, -1.0) * (size >= TINY), divisor(size)
        return straight_through(w, signs.to(w.dtype), scale), scale
    t = torch.tanh(widen(w))
    largest = divisor(over_channels(torch.amax, t.detach().abs(), per_channel))
    codes = interval_codes(t / (2 * largest) + 0.5, 0.0, 1.0, 2**bits)
    return centred(codes, 2**bits).to(w.dtype), 1 / (2**bits - 1)


@checked(w=any_shape)
def dorefa_weight(w: Tensor, bits: int) -> Tensor:
    """DoReFa-Net for weights (Zhou et al., 2016, arXiv 1606.06160, eqs. 8 and 9), any shape, per
    tensor.

    bits > 1  2 round((2^b - 1) (tanh(w) / (2 max|tanh(w)|) + 1/2)) / (2^b - 1) - 1, in [-1, 1]; the
              maximum counts as a constant in the gradient.
    bits = 1  mean|w| sign(w), straight-through; the mean counts as a constant.
    Where all weights are 0 the maximum counts as 1, and the one-bit value is 0.
    Raises ValueError unless bits is 1 to 8.

    >>> x = torch.tensor([-1.0, 0.1, 0.5], requires_grad=True)
    >>> q = dorefa_weight(x, bits=2)
    >>> q.sum().backward()
    >>> q.detach(), x.grad
    (tensor([-1.0000,  0.3333,  0.3333]), tensor([0.5514, 1.3000, 1.0326]))
    """
    codes, scale = dorefa_weight_codes(w, bits)
    return codes * scale


def dorefa_activation_codes(x: Tensor, bits: int) -> tuple[Tensor, float]:
    """The codes 0 .. 2^b - 1 and the scale of `dorefa_activation`."""
    if bits == 1:
        return _ceil(x), 1.0
    return interval_codes(x, 0.0, 1.0, 2**bits), 1 / (2**bits - 1)


# 1 where x > 0, else 0; the gradient passes where 0 <= x <= 1
_ceil = with_gradient(lambda x: (x > 0).to(x), lambda g, x: (g * ((x >= 0) & (x <= 1)),))


@checked(x=any_shape)
def dorefa_activation(x: Tensor, bits: int) -> Tensor:
    """DoReFa-Net for activations (arXiv 1606.06160, eq. 11): round((2^b - 1) clip(x, 0, 1)) / (2^b
    - 1).

    At one bit, the sign of the clipped value, as the public paper-form code
    (zzzxxxttt/pytorch_DoReFaNet) has it: what is positive becomes 1. The gradient passes where 0 <=
    x <= 1. Raises ValueError unless bits is 1 to 8.

    >>> x = torch.tensor([-1.0, 0.4, 0.6, 2.0], requires_grad=True)
    >>> q = dorefa_activation(x, bits=2)
    >>> q.sum().backward()
    >>> q.detach(), x.grad
    (tensor([0.0000, 0.3333, 0.6667, 1.0000]), tensor([0., 1., 1., 0.]))
    """
    codes, scale = dorefa_activation_codes(x, bits)
    return codes * scale


# --------------------------------------------------------------------------------------------- PACT


@fusible
def _pact_forward(x: Tensor, alpha: Tensor, top: int) -> Tensor:
    return (widen(x).clamp(min=0).minimum(alpha) * (top / alpha)).round_().to(x.dtype)


@fusible
def _pact_backward(g: Tensor, x: Tensor, alpha: Tensor, top: int) -> tuple[Tensor, Tensor]:
    g, wide = widen(g) * (top / alpha), widen(x)  # the gradient of the value from that of the codes
    above = wide >= alpha
    return torch.where((wide >= 0) & ~above, g, 0.0).to(x.dtype), torch.where(above, g, 0.0).sum()


_pact = with_gradient(_pact_forward, _pact_backward)


def pact_codes(x: Tensor, alpha: Tensor | float, bits: int) -> tuple[Tensor, Tensor]:
    """The codes 0 .. 2^b - 1 and the scale alpha / (2^b - 1) of `pact_activation`."""
    alpha = _scalar(alpha, x)
    return _pact(x, alpha, 2**bits - 1), alpha.detach() / (2**bits - 1)


@checked(x=any_shape, alpha=step_size)
def pact_activation(x: Tensor, alpha: Tensor | float, bits: int) -> Tensor:
    """PACT for activations (Choi et al., 2018, arXiv 1805.06085, eqs. 1 to 3), any shape, unsigned.

    Forward   round(clip(x, 0, alpha) (2^b - 1) / alpha) alpha / (2^b - 1).
    Backward  to x: g where 0 <= x < alpha; to alpha: the sum of g where x >= alpha.
    Raises ValueError unless bits is 1 to 8; for an alpha that is not positive and finite, where it
    is a number or on the CPU.

    >>> x = torch.tensor([-1.0, 1.1, 9.0], requires_grad=True)
    >>> alpha = torch.tensor(3.0, requires_grad=True)
    >>> q = pact_activation(x, alpha, bits=2)
    >>> q.sum().backward()
    >>> q.detach(), x.grad, alpha.grad
    (tensor([0., 1., 3.]), tensor([0., 1., 0.]), tensor(1.))
    """
    codes, scale = pact_codes(x, alpha, bits)
    return codes * scale.to(codes)


# ---------------------------------------------------------------------------------------------- LSQ


@fusible
def _lsq_forward(x: Tensor, step: Tensor, qmin: int, qmax: int) -> Tensor:
    return (widen(x) / step).clamp(qmin, qmax).round_().to(x.dtype)


@fusible
def _lsq_backward(
    g: Tensor, x: Tensor, step: Tensor, qmin: int, qmax: int
) -> tuple[Tensor, Tensor]:
    g, v = widen(g) / step, widen(x) / step  # the gradient of the value from that of the codes
    inside = (v > qmin) & (v < qmax)
    slope = torch.where(inside, v.round() - v, v.clamp(qmin, qmax))
    return torch.where(inside, g, 0.0).to(x.dtype), _summed(g * slope, step)


def _lsq_gradients(
    g: Tensor, x: Tensor, step: Tensor, qmin: int, qmax: int, grad_scale: float
) -> tuple[Tensor, Tensor]:
    by_x, by_step = _lsq_backward(g, x, step, qmin, qmax)
    return by_x, by_step * grad_scale


_lsq = with_gradient(
    lambda x, step, qmin, qmax, grad_scale: _lsq_forward(x, step, qmin, qmax), _lsq_gradients
)


def lsq_codes(
    x: Tensor, step: Tensor | float, qmin: int, qmax: int, grad_scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The codes qmin .. qmax and the scale, the step, of `lsq`."""
    step = _scalar(step, x)
    return _lsq(x, step, qmin, qmax, float(grad_scale)), step.detach()


@checked(x=any_shape, step=step_size, **grid)
def lsq(x: Tensor, step: Tensor | float, qmin: int, qmax: int, grad_scale: float = 1.0) -> Tensor:
    """Learned Step Size Quantization (Esser et al., ICLR 2020, arXiv 1902.08153, eqs. 1 to 5), any
    shape, per tensor.

    Forward   round(clip(x / s, qmin, qmax)) s.
    Backward  with v = x / s: to x, g where qmin < v < qmax; to s, grad_scale times the sum of g
              (round(v) - v) inside, g qmin where v <= qmin, g qmax where v >= qmax. Inside is
              decided by v, before rounding.
    grad_scale  the paper's 1 / sqrt(N qmax), N the number of weights or of features.
    Raises ValueError unless qmin < qmax are integers and the step is positive and finite, where it
    is a number or on the CPU.

    >>> x = torch.tensor([-3.0, 0.4, 1.4, 9.0], requires_grad=True)
    >>> step = torch.tensor(1.0, requires_grad=True)
    >>> q = lsq(x, step, qmin=-2, qmax=1)
    >>> q.sum().backward()
    >>> q.detach(), x.grad, step.grad
    (tensor([-2.,  0.,  1.,  1.]), tensor([0., 1., 0., 0.]), tensor(-0.4000))
    """
    codes, scale = lsq_codes(x, step, qmin, qmax, grad_scale)
    return codes * scale.to(codes)


# The rounded integer decides what is inside of the grid, as in torch's fake quantization.


def _fake_forward(x: Tensor, scale: Tensor, qmin: int, qmax: int, grad_scale: float) -> Tensor:
    return (widen(x) * (1 / scale)).round_().clamp_(qmin, qmax).to(x.dtype)


def _fake_backward(
    g: Tensor, x: Tensor, scale: Tensor, qmin: int, qmax: int, grad_scale: float
) -> tuple[Tensor, Tensor]:
    g, v = widen(g) / scale, widen(x) * (1 / scale)  # the gradient of the value, from the codes'
    rounded = v.round()
    inside = (rounded >= qmin) & (rounded <= qmax)
    slope = torch.where(inside, rounded - v, rounded.clamp(qmin, qmax))
    return torch.where(inside, g, 0.0).to(x.dtype), _summed(g * slope, scale) * grad_scale


_fake = with_gradient(_fake_forward, _fake_backward)


def fake_quantize_codes(
    x: Tensor, scale: Tensor | float, qmin: int, qmax: int, grad_scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The codes qmin .. qmax and the scale of `fake_quantize`."""
    scale = _scalar(scale, x)
    return _fake(x, scale, qmin, qmax, float(grad_scale)), scale.detach()


@checked(x=any_shape, scale=step_size, **grid)
def fake_quantize(
    x: Tensor, scale: Tensor | float, qmin: int, qmax: int, grad_scale: float = 1.0
) -> Tensor:
    """Uniform fake quantization as torch's kernels and the released code have it, any shape (PAPER
    5.2 to 5.4).

    Forward   clip(round(x / scale), qmin, qmax) scale.
    Backward  with r = round(x / scale): to x, g where qmin <= r <= qmax; to the scale, grad_scale
              times the sum of g (r - x / scale) there, g qmin below, g qmax above. `lsq` differs by
              deciding before it rounds.
    Raises ValueError as `lsq`.

    >>> x = torch.tensor([-3.0, 0.4, 1.4, 9.0], requires_grad=True)
    >>> scale = torch.tensor(1.0, requires_grad=True)
    >>> q = fake_quantize(x, scale, qmin=-2, qmax=1)
    >>> q.sum().backward()
    >>> q.detach(), x.grad, scale.grad
    (tensor([-2.,  0.,  1.,  1.]), tensor([0., 1., 1., 0.]), tensor(-1.8000))
    """
    codes, scale = fake_quantize_codes(x, scale, qmin, qmax, grad_scale)
    return codes * scale.to(codes)


@checked(x=any_shape, step=step_size, offset=scalars(), **grid)
def lsq_plus(
    x: Tensor,
    step: Tensor | float,
    offset: Tensor | float,
    qmin: int,
    qmax: int,
    grad_scale: float = 1.0,
) -> Tensor:
    """LSQ+ (Bhalgat et al., CVPR Workshops 2020, arXiv 2004.09576, eqs. 3 to 6): LSQ on a grid that
    a learned offset moves.

    Forward   round(clip((x - offset) / s, qmin, qmax)) s + offset.
    Backward  to x and s as `lsq` of x - offset; to the offset 0 inside the grid, the sum of g
    outside. Any shape, per tensor. The offset need not be a multiple of the step: 0 need not lie on
    the grid.

    >>> x = torch.tensor([-3.0, 0.1, 0.6, 9.0], requires_grad=True)
    >>> step, offset = (torch.tensor(value, requires_grad=True) for value in (1.0, -0.5))
    >>> q = lsq_plus(x, step, offset, qmin=0, qmax=3)
    >>> q.sum().backward()
    >>> q.detach(), x.grad
    (tensor([-0.5000,  0.5000,  0.5000,  2.5000]), tensor([0., 1., 1., 0.]))
    >>> step.grad, offset.grad
    (tensor(3.3000), tensor(2.))
    """
    codes, scale = lsq_codes(widen(x) - offset, step, qmin, qmax, grad_scale)
    return (codes * scale + offset).to(x.dtype)
