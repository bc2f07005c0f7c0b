"""Neuron selectivity transfer: distillation of the channels' distribution."""

from torch import Tensor

from ..basics.checks import checked
from ..data.checks import maps
from .features import same_size, unit
from .registry import OBJECTIVES, Entry


@checked(fs=maps, ft=maps)
def nst(fs: Tensor, ft: Tensor) -> Tensor:
    """Neuron selectivity transfer (Huang & Wang, 2017, arXiv 1707.01219, section 4), polynomial
    kernel of degree 2, c = 0.

    The squared maximum mean discrepancy between the channels of student and teacher, each scaled to
    length 1 over space: mean k(t, t') + mean k(s, s') - 2 mean k(s, t), k(a, b) = (a . b)^2, means
    over batch and pairs of channels. Neither the order of the channels matters nor their number,
    nor the length of any.

    The teacher's channel selects the first position: there the student is to grow.

    >>> fs = torch.tensor([[[[1.0, 2.0]]]], requires_grad=True)
    >>> loss = nst(fs, torch.tensor([[[[1.0, 0.0]]]]))
    >>> loss.backward()
    >>> loss.detach(), fs.grad
    (tensor(1.6000), tensor([[[[-0.6400,  0.3200]]]]))
    """
    s, t = (unit(f.flatten(2), 2) for f in same_size(fs, ft))

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.mT).square().mean()

    return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)


OBJECTIVES["nst"] = Entry(
    nst,
    "feature",
    "Huang & Wang, 2017",
    {"beta": 50, "layers": ("maps",)},
    proof="test_nst_is_the_written_out_formula",
)
