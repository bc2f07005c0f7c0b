"""PACT in paper form (Choi et al., 2018): activations with a learned clip alpha; weights as
DoReFa's.
"""

import torch
from torch import Tensor, nn

from ..basics.checks import checked, positive
from .dorefa import DorefaWeight
from .functional import pact_codes
from .layers import Quantizer
from .registry import METHODS, Method


class PactActivation(Quantizer):
    """alpha starts at `alpha`, 6.0 as in the released configuration, and is learned."""

    unsigned = True

    @checked(alpha=positive)
    def __init__(self, bits: int, alpha: float = 6.0):
        super().__init__(bits)
        self.alpha = nn.Parameter(torch.tensor(float(alpha)))

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return pact_codes(x, self.alpha, self.bits)


METHODS["pact"] = Method(
    DorefaWeight, PactActivation, "Choi et al., 2018, arXiv 1805.06085", "test_pact_gradients"
)
