"""LSQ in paper form (Esser et al., ICLR 2020): learned step; signed weights, unsigned activations.

The paper's grid at 1 bit has no positive level for weights, so weights need 2 bits or more.
"""

import math

import torch
from torch import Tensor, nn

from .functional import _check_bits, lsq_codes
from .layers import Quantizer


class LsqQuantizer(Quantizer):
    def __init__(self, bits: int, signed: bool):
        super().__init__()
        _check_bits(bits, least=2 if signed else 1)
        self.signed = signed
        self.qmin, self.qmax = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        self.step = nn.Parameter(torch.ones(()))

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        self.step.copy_(2 * x.abs().mean() / math.sqrt(self.qmax))

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # The paper counts the weights of the layer, or the features of one image: the batch is left out.
        count = x.numel() if self.signed else x.numel() // len(x)
        return lsq_codes(x, self.step, self.qmin, self.qmax, 1 / math.sqrt(count * self.qmax))


def weight(bits: int) -> LsqQuantizer:
    """The weight quantizer of a layer, on integers -2^(b-1) .. 2^(b-1) - 1."""
    return LsqQuantizer(bits, signed=True)


def activation(bits: int) -> LsqQuantizer:
    """The activation quantizer of a layer, on integers 0 .. 2^b - 1."""
    return LsqQuantizer(bits, signed=False)
