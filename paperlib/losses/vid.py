"""Variational information distillation: the teacher's features as a Gaussian of the student's."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..basics.checks import checked, number
from .distillers import Distiller, Sizes, as_maps
from .features import same_size, width
from .registry import OBJECTIVES, Entry

FLOOR = 1e-5  # of the variance


class VID(Distiller):
    """Variational information distillation (Ahn et al., CVPR 2019, arXiv 1904.05835, section 2).

    Of each layer mean over all elements of ((mu(s) - t)^2 / v + log v) / 2, the negative
    log-likelihood of the teacher's feature without its constant, in nats: it can be negative. mu is
    a regressor of three 1x1 convolutions without bias, ReLU between; v = softplus(a) + 1e-5, one
    learned a for each of the teacher's channels. Sizes that differ are pooled.

    variance  v before training, positive.

    With a regressor that changes nothing: half the mean of d^2 / 2 + log 2, d = 1, 2. The variance
    is to grow.

    >>> vid = VID([(2, 1)], [(2, 1)], variance=2.0)
    >>> for weight in vid.regressors.parameters():
    ...     _ = nn.init.ones_(weight)
    >>> fs = torch.tensor([[1.0], [2.0]], requires_grad=True)
    >>> loss = vid([fs], [torch.tensor([[2.0], [4.0]])])
    >>> loss.backward()
    >>> loss.detach(), fs.grad.flatten(), vid.scales[0].grad
    (tensor(0.9716), tensor([-0.2500, -0.5000]), tensor([-0.0540]))
    """

    @checked(variance=number(f"({FLOOR}, inf)"))
    def build(self, student: Sizes, teacher: Sizes, *, variance: float = 5.0) -> None:
        self.regressors = nn.ModuleList(
            _regressor(width(s), width(t)) for s, t in zip(student, teacher, strict=True)
        )
        raw = math.log(math.expm1(variance - FLOOR))
        self.scales = nn.ParameterList(torch.full((width(size),), raw) for size in teacher)

    def loss(self, fs: list[Tensor], ft: list[Tensor], indices: Tensor | None) -> Tensor:
        total = 0
        for regressor, scale, s, t in zip(self.regressors, self.scales, fs, ft, strict=True):
            s, t = same_size(*as_maps(s, t))
            variance = (F.softplus(scale) + FLOOR)[:, None, None]
            total = total + 0.5 * ((regressor(s) - t).square() / variance + variance.log()).mean()
        return total


def _regressor(channels_in: int, channels_out: int) -> nn.Sequential:
    first = nn.Conv2d(channels_in, channels_out, 1, bias=False)
    second, third = (nn.Conv2d(channels_out, channels_out, 1, bias=False) for _ in range(2))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)


OBJECTIVES["vid"] = Entry(
    VID,
    "feature",
    "Ahn, Hu, Damianou, Lawrence & Dai, CVPR 2019",
    {"beta": 1, "layers": ("maps",)},
    proof="test_vid_is_the_gaussian_likelihood_torch_computes",
)
