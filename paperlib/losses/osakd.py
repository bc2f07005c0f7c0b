"""Online self-acquired distillation: soft labels from the neighbours in the batch, no teacher."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..basics.checks import checked, require
from ..data.checks import floats, labels_of
from .registry import OBJECTIVES, Entry

_targets = labels_of(soft=True, door=False)


@checked(features=floats("N _"), targets=_targets)
@torch.no_grad()
def self_labels(features: Tensor, targets: Tensor, k: int, classes: int) -> Tensor:
    """Soft labels from the k nearest neighbours: (N, C) float. The k-NN estimate of the class
    densities p(x | c) and of p(x) gives the posterior K_c / K, the share of class c among the K
    neighbours of x.

    features  (N, D) float: neighbours are near in Euclidean distance. x is no neighbour of itself,
              and of equally near ones those that come first are taken.
    targets   (N,) int64, or (N, C) soft labels, whose mean over the neighbours is taken.
    k         neighbours; all others where there are fewer.
    Raises ValueError for a single row.

    >>> line = torch.tensor([[0.0], [1.0], [2.0], [9.0]])
    >>> self_labels(line, torch.tensor([0, 1, 1, 0]), k=2, classes=2)
    tensor([[0.0000, 1.0000],
            [0.5000, 0.5000],
            [0.5000, 0.5000],
            [0.0000, 1.0000]])
    """
    require(len(features) > 1, f"a neighbour is needed: got {len(features)} row of features")
    # Exact: by a matrix product, equal rows would not be equally near.
    how = "donot_use_mm_for_euclid_dist"
    distances = torch.cdist(features, features, compute_mode=how).fill_diagonal_(torch.inf)
    nearest = distances.sort(dim=1, stable=True).indices[:, : min(k, len(features) - 1)]
    soft = targets if targets.is_floating_point() else F.one_hot(targets, classes)
    return soft.to(features.dtype)[nearest].mean(1)


@checked(student_logits=floats("N C"), targets=_targets)
def osakd(student_logits: Tensor, targets: Tensor, k: int = 10, temperature: float = 1.0) -> Tensor:
    """Online self-acquired knowledge distillation (Tzelepi & Tefas, ICME 2021, arXiv 2108.11798):
    mean_x KL(q || p) in nats, where q are the `self_labels` of the logits in the batch, and p =
    softmax(logits / temperature).

    student_logits  (N, C) float. targets  as for `self_labels`. No gradient goes through q.
    Only the abstract was read: the space, the distance, the divergence and the batch as the place
    of the neighbours are ours.
    Raises ValueError for shapes that do not fit, or a single row.

    >>> osakd(torch.tensor([[4.0, 0.0], [4.0, 0.0]]), torch.tensor([0, 0]), k=1)
    tensor(0.0181)
    """
    q = self_labels(student_logits.detach(), targets, k, student_logits.shape[1])
    return F.kl_div(F.log_softmax(student_logits / temperature, 1), q, reduction="batchmean")


def _osakd(
    student_logits: Tensor,
    teacher_logits: Tensor | None,
    targets: Tensor,
    temperature: float,
    k: int = 10,
) -> Tensor:
    return osakd(student_logits, targets, k, temperature)


OBJECTIVES["osakd"] = Entry(
    _osakd,
    "response",
    "Tzelepi & Tefas, ICME 2021",
    {"alpha": 1, "temperature": 1.0},
    cutmix="neighbours in the logits of mixed images; the mean of their mixed labels",
    proof="test_self_labels_are_the_neighbours_shares",
    scheme="self",
)
