"""DoReFa, PACT and LSQ as the paper's released Tiny-ImageNet runs have them (PAPER 5.2 to 5.4,
7.5), beside the papers' forms.

All three put weights and activations on the signed integers -2^(b-1) .. 2^(b-1) - 1, of which
activations after a ReLU use half. DoReFa's scale is frozen after the first batch; PACT's alpha gets
no gradient and stays where it starts; LSQ decides by the rounded integer what is out of range and
counts the batch in the scale of its step's gradient. At one bit such a grid has no positive level,
so 2 bits or more are needed.
"""

import torch
from torch import Tensor

from ..basics.checks import checked, positive
from ..models.precision import widen
from .functional import divisor, fake_quantize_codes, over_channels
from .layers import Quantizer
from .learned_step import LsqQuantizer
from .registry import METHODS, Method


def squash(x: Tensor, per_channel: bool = False) -> Tensor:
    """tanh(x) / (max|tanh(x)| + 1e-5), in (-1, 1); the gradient passes through the maximum too.

    >>> squash(torch.tensor([0.0, 50.0]))
    tensor([0.0000, 1.0000])
    """
    t = torch.tanh(widen(x))
    return t / (over_channels(torch.amax, t.abs(), per_channel) + 1e-5)


class SignedQuantizer(Quantizer):
    """The grid that the three share. shape  of its scale: (), or (C, 1, ...) for a weight's
    channels.
    """

    fewest_bits = 2

    def __init__(self, bits: int, shape: tuple[int, ...] = ()):
        super().__init__(bits, shape)
        self.qmin, self.qmax = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        self.half = (2**bits - 1) / 2  # steps from 0 to the largest value


class ReleasedDorefa(SignedQuantizer):
    """Of weights and of activations: `squash`, then a scale that the first tensor sets for good.

    >>> x = torch.tensor([-1.0, 0.2, 0.5], requires_grad=True)
    >>> quantizer = ReleasedDorefa(bits=2)
    >>> quantizer.initialise(x)
    >>> q = quantizer(x)
    >>> q.sum().backward()
    >>> q.detach(), x.grad
    (tensor([-1.3333,  0.0000,  0.6667]), tensor([0.4775, 1.2619, 1.0326]))
    """

    def __init__(self, bits: int, shape: tuple[int, ...] = ()):
        super().__init__(bits, shape)
        self.register_buffer("scale", torch.ones(shape))

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        size = squash(x, self.per_channel).abs()
        largest = over_channels(torch.amax, size, self.per_channel)
        self.scale.copy_(divisor(largest / self.half))

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        squashed = squash(x, self.per_channel)
        codes, scale = fake_quantize_codes(squashed, self.scale, self.qmin, self.qmax)
        return codes.to(x.dtype), scale


class ReleasedPact(SignedQuantizer):
    """Activations on a grid of alpha / ((2^b - 1) / 2), alpha fixed.

    >>> x = torch.tensor([-9.0, 1.0, 3.0, 9.0], requires_grad=True)
    >>> q = ReleasedPact(bits=2)(x)
    >>> q.sum().backward()
    >>> q.detach(), x.grad
    (tensor([-8.,  0.,  4.,  4.]), tensor([1., 1., 1., 0.]))
    """

    @checked(alpha=positive)
    def __init__(self, bits: int, alpha: float = 6.0):
        super().__init__(bits)
        self.register_buffer("scale", torch.tensor(alpha / self.half))

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return fake_quantize_codes(x, self.scale, self.qmin, self.qmax)


class ReleasedLsq(LsqQuantizer):
    """Of weights and of activations: a learned step, started at 2 mean|x| / sqrt(qmax).

    >>> quantizer = ReleasedLsq(bits=2)
    >>> quantizer.initialise(torch.tensor([-1.0, 0.5]))  # a step of 1.5
    >>> x = torch.tensor([-2.0, 0.4, 1.4, 9.0], requires_grad=True)
    >>> q = quantizer(x)
    >>> q.sum().backward()
    >>> q.detach(), x.grad, quantizer.step.grad
    (tensor([-1.5000,  0.0000,  1.5000,  1.5000]), tensor([1., 1., 1., 0.]), tensor(0.5667))
    """

    def __init__(self, bits: int, shape: tuple[int, ...] = ()):
        super().__init__(bits, signed=True, of_weights=True, shape=shape)

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return fake_quantize_codes(x, self.step, self.qmin, self.qmax, self._grad_scale(x))


METHODS["dorefa_released"] = Method(
    ReleasedDorefa,
    ReleasedDorefa,
    "Zhou et al., 2016, arXiv 1606.06160, as released",
    "test_released_dorefa_keeps_its_first_scale_and_its_maximums_gradient",
    signed=ReleasedDorefa,
)
METHODS["pact_released"] = Method(
    ReleasedDorefa,
    ReleasedPact,
    "Choi et al., 2018, arXiv 1805.06085, as released",
    "test_released_pact_has_half_a_grid_and_an_alpha_that_stays",
    signed=ReleasedPact,
)
METHODS["lsq_released"] = Method(
    ReleasedLsq,
    ReleasedLsq,
    "Esser et al., ICLR 2020, arXiv 1902.08153, as released",
    "test_released_lsq_differs_from_the_paper_between_the_last_level_and_the_next",
    signed=ReleasedLsq,
)
