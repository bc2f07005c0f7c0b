"""Ternary weight networks (Li, Zhang & Liu, 2016, arXiv 1605.04711): weights -a, 0, a; nothing is
learned but the weights.
"""

import torch
from torch import Tensor

from ..basics.checks import checked
from ..models.precision import widen
from .dorefa import DorefaActivation
from .functional import any_shape, divisor, over_channels, straight_through
from .layers import Quantizer
from .registry import METHODS, Method

THRESHOLD = 0.7  # of mean|w|: what is smaller becomes 0


def ternary_codes(w: Tensor, per_channel: bool = False) -> tuple[Tensor, Tensor]:
    """The codes -1, 0, 1 and the scale of `ternary_weight`, (C, 1, ...) if per_channel."""
    size = widen(w.detach()).abs()
    kept = size > THRESHOLD * over_channels(torch.mean, size, per_channel)
    total, count = (over_channels(torch.sum, x, per_channel) for x in (size * kept, kept))
    scale = divisor(total / count.clamp(min=1))  # where all are 0, so are the codes
    return straight_through(w, torch.where(kept, w.detach().sign(), 0.0).to(w.dtype), scale), scale


@checked(w=any_shape)
def ternary_weight(w: Tensor, per_channel: bool = False) -> Tensor:
    """a sign(w) where |w| > 0.7 mean|w|, else 0; a is the mean of the |w| above the threshold (eqs.
    3 to 6).

    w  any shape; per_channel takes threshold and a from each w[c] instead of all of w. The gradient
    passes unchanged; threshold and a count as constants.

    >>> x = torch.tensor([-2.0, -0.1, 0.3, 1.0], requires_grad=True)
    >>> q = ternary_weight(x)
    >>> q.sum().backward()
    >>> q.detach(), x.grad
    (tensor([-1.5000,  0.0000,  0.0000,  1.5000]), tensor([1., 1., 1., 1.]))
    """
    codes, scale = ternary_codes(w, per_channel)
    return codes * scale


class TernaryWeight(Quantizer):
    """Weights on -a, 0, a. Three values take 2 bits."""

    fewest_bits = most_bits = 2

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return ternary_codes(x, self.per_channel)


_PAPER = "Li, Zhang & Liu, 2016, arXiv 1605.04711"
METHODS["ternary"] = Method(TernaryWeight, DorefaActivation, _PAPER, "test_ternary_weights")
