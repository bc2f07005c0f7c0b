"""The flow of solution procedure: distillation of Gram matrices between layers."""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from ..basics.checks import checked, require
from ..data.checks import several_maps
from .distillers import Consecutive
from .features import expected, same_size
from .registry import OBJECTIVES, Entry


@checked(fs_pair=several_maps, ft_pair=several_maps)
def fsp(fs_pair: Sequence[Tensor], ft_pair: Sequence[Tensor]) -> Tensor:
    """The flow of solution procedure (Yim et al., CVPR 2017, eqs. 1 and 2), of one pair of layers.

    G[n, i, j] = mean over positions of f_i f'_j, f and f' the maps of two layers; the larger is
    pooled to the size of the smaller. The loss is the mean squared difference of student's and
    teacher's G.

    fs_pair, ft_pair  two maps each; the student's widths are the teacher's.

    The teacher's flow from two channels to one is (3, 3), the student's (1, 2).

    >>> fs = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1).requires_grad_()
    >>> one = torch.ones(1, 1, 1, 1)
    >>> loss = fsp([fs, one], [torch.ones(1, 2, 1, 1), 3 * one])
    >>> loss.backward()
    >>> loss.detach(), fs.grad.flatten()
    (tensor(2.5000), tensor([-2., -1.]))
    """
    two = f"two maps each, got {len(fs_pair)} and {len(ft_pair)}"
    require(len(fs_pair) == len(ft_pair) == 2, two)
    s, t = _flow(*fs_pair), _flow(*ft_pair)
    expected(s.shape == t.shape, "flows between layers of the same widths", s.shape, t.shape)
    return F.mse_loss(s, t)


def _flow(first: Tensor, second: Tensor) -> Tensor:
    first, second = same_size(first, second)
    return first.flatten(2) @ second.flatten(2).mT / first[0, 0].numel()


class FSP(Consecutive):
    """The sum of `fsp` over consecutive pairs of layers (Yim et al., CVPR 2017).

    In its own stage before the main one the student's feature layers minimise it alone; the
    released objective, "fsp", then has no use for it; "fsp_active" has.
    """

    pretrains = "student"

    def loss(self, fs: list[Tensor], ft: list[Tensor], indices: Tensor | None) -> Tensor:
        return sum(map(fsp, pairwise(self.project(fs)), pairwise(ft)))

    def pretraining_loss(self, fs: Sequence[Tensor], ft: Sequence[Tensor]) -> Tensor:
        """The loss itself."""
        return self(fs, ft)

    def pretrained(self) -> list[nn.Parameter]:
        return list(self.projectors.parameters())


# As released: the term of the main stage is 0, so after 30 epochs of FSP on the feature layers it
# is plain CE.
OBJECTIVES["fsp"] = Entry(
    FSP,
    "relation",
    "Yim, Joo, Bae & Kim, CVPR 2017",
    {"layers": ("maps+f0",), "init_epochs": 30},
    cutmix="the first stage sees mixed images; the rest is CE on mixed labels",
    proof="test_fsp_is_the_written_out_formula",
)
OBJECTIVES["fsp_active"] = Entry(
    FSP,
    "relation",
    "Yim, Joo, Bae & Kim, CVPR 2017",
    {"beta": 50, "layers": ("maps+f0",)},
    proof="test_fsp_is_the_written_out_formula",
)
