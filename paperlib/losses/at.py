"""Attention transfer: distillation of spatial attention maps."""

import torch.nn.functional as F
from torch import Tensor

from ..basics.checks import checked
from ..data.checks import maps
from .features import same_size
from .registry import OBJECTIVES, Entry


@checked(fs=maps, ft=maps)
def attention(fs: Tensor, ft: Tensor) -> Tensor:
    """Attention transfer (Zagoruyko & Komodakis, ICLR 2017, arXiv 1612.03928, eq. 2 with squared
    activations).

    The map of a feature is the mean over channels of its squares, flattened and scaled to length 1;
    the loss is the mean over batch and positions of the squared difference. Channel counts may
    differ.

    The student's map is too steep: a step against the gradient raises its first value.

    >>> fs = torch.tensor([[[[1.0, 2.0]]]], requires_grad=True)
    >>> loss = attention(fs, torch.tensor([[[[3.0, 4.0]]]]))
    >>> loss.backward()
    >>> loss.detach(), fs.grad
    (tensor(0.0355), tensor([[[[-0.1243,  0.0622]]]]))
    """
    s, t = (F.normalize(f.square().mean(1).flatten(1)) for f in same_size(fs, ft))
    return (s - t).square().mean()


OBJECTIVES["at"] = Entry(
    attention,
    "feature",
    "Zagoruyko & Komodakis, ICLR 2017",
    {"beta": 1000, "layers": ("maps",)},
    proof="test_attention_is_the_written_out_formula",
)
