"""Relational knowledge distillation: distances and angles between images."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..basics.checks import checked
from ..data.checks import features
from .registry import OBJECTIVES, Entry


@checked(fs=features, ft=features)
def rkd(
    fs: Tensor, ft: Tensor, distance_weight: float = 25.0, angle_weight: float = 50.0
) -> Tensor:
    """Relational knowledge distillation (Park et al., CVPR 2019, arXiv 1904.05068, section 3.2).

    distance_weight * mean over the N^2 pairs of the Huber loss (bend at 1) between distances, each
    divided by the mean of the positive ones, + angle_weight * the same over the N^3 cosines of the
    angles at i between j and k. Blind to shifts, rotations and a common factor. Pairs of an image
    with itself count with distance and cosine 0, as in the authors' code. Takes memory for 2 N^3
    numbers.

    The teacher sees the third image further off: the student is to move it and the first one away
    from the second.

    >>> fs = torch.tensor([[0.0], [1.0], [2.0]], requires_grad=True)
    >>> loss = rkd(fs, torch.tensor([[0.0], [1.0], [3.0]]))
    >>> loss.backward()
    >>> loss.detach(), fs.grad.flatten()
    (tensor(0.3472), tensor([-1.0417,  2.0833, -1.0417]))
    """
    (distances_s, units_s), (distances_t, units_t) = _relations(fs), _relations(ft)
    distance = F.smooth_l1_loss(distances_s, distances_t)
    angle = F.smooth_l1_loss(units_s @ units_s.mT, units_t @ units_t.mT)
    return distance_weight * distance + angle_weight * angle


def _relations(f: Tensor) -> tuple[Tensor, Tensor]:
    """(N, ...) -> distances over their positive mean (N, N); directions [i, j] from i to j, of
    length 1 or 0 (N, N, D).
    """
    f = f.flatten(1)
    steps = f[None] - f[:, None]
    distances = torch.linalg.vector_norm(steps, dim=2)
    positive = distances > 0
    mean = distances.sum() / positive.sum().clamp(min=1)
    lengths = distances.masked_fill(~positive, 1)[..., None]
    return distances / mean.masked_fill(mean == 0, 1), steps / lengths


OBJECTIVES["rkd"] = Entry(
    rkd,
    "relation",
    "Park, Kim, Lu & Cho, CVPR 2019",
    {"beta": 1, "layers": ("vector",)},
    proof="test_rkd_is_the_written_out_formula",
)
