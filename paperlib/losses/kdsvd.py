"""Distillation of singular vectors: the leading directions of maps, layer against layer."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..basics.checks import checked, require
from ..data.checks import several_maps
from .distillers import Consecutive, Sizes
from .features import expected, tokens_as_map, unit
from .registry import OBJECTIVES, Entry

# of 1 / (difference of eigenvalues), relative to the largest: bounds the gradient of singular
# vectors
BROADENING = 1e-4


@checked(fs=several_maps, ft=several_maps)
def kdsvd(fs: Sequence[Tensor], ft: Sequence[Tensor], k: int = 1) -> Tensor:
    """Distillation of singular vectors (Lee et al., ECCV 2018, arXiv 1807.06819, section 3), in
    RepDistiller's form.

    Of every map, taken as a matrix (positions, channels), the k leading right singular vectors. The
    student's are taken from its k + 3 leading ones: for each of the teacher's the closest, by the
    absolute cosine, and turned towards it. Vectors are weighed by the teacher's singular values
    over their length (1 if k = 1). For consecutive layers a, b the relation is exp(-(v_a[i] -
    v_b[j])^2 / 8) for all pairs of channels; the loss is the sum of squared differences of
    student's and teacher's relations over layers, pairs and vectors, divided by the number of
    images.

    A singular vector has no sign, but the value depends on the teacher's. Here its largest
    component is positive, so that it does not depend on the LAPACK build; released code takes what
    comes. The gradient of a singular vector grows with 1 / (s_i^2 - s_j^2): those are damped below
    a difference of 1e-4 of the largest, so it stays finite. On a GPU the decomposition itself waits
    for the device: a step with this loss cannot be captured in a graph.

    fs, ft  at least two maps each, from the first layer to the last, student's and teacher's of
            equal widths; k at least 1 and at most the smaller of channels and positions. The
            teacher's receive no gradient.

    Maps of one position have one direction: the student's first is to turn to the teacher's.

    >>> one = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    >>> fs = torch.tensor([0.6, 0.8]).view(1, 2, 1, 1).requires_grad_()
    >>> loss = kdsvd([fs, one], [one, one])
    >>> loss.backward()
    >>> loss.detach(), fs.grad.flatten()
    (tensor(0.0244), tensor([-0.0350,  0.0262]))
    """
    expected(len(fs) == len(ft), "as many layers of both networks", len(fs), len(ft))
    vectors = [_aligned_vectors(s, t, k) for s, t in zip(fs, ft, strict=True)]

    def relation(a: Tensor, b: Tensor) -> Tensor:
        return (-(b[:, :, None] - a[:, None]).square() / 8).exp()  # (N, C_b, C_a, k)

    differences = (relation(sa, sb) - relation(ta, tb) for (sa, ta), (sb, tb) in pairwise(vectors))
    return sum(difference.square().sum() for difference in differences) / len(fs[0])


def _aligned_vectors(fs: Tensor, ft: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k vectors of student and teacher, weighed, (N, C, k) each."""
    fs, ft = tokens_as_map(fs), tokens_as_map(ft)
    expected(fs.shape[1] == ft.shape[1], "maps of one width", fs.shape, ft.shape)
    most = min(ft.shape[1], ft[0, 0].numel())
    require(k <= most, f"k must be at most {most}, got {k}")
    values, teacher = right_singular_vectors(ft.detach(), k)
    largest = teacher.abs().argmax(1, keepdim=True)
    teacher = teacher * teacher.gather(1, largest).sign()
    _, candidates = right_singular_vectors(fs, k + 3)
    cosine = candidates.detach().mT @ teacher  # (N, k + 3, k)
    closest = cosine.abs().argmax(1, keepdim=True)
    student = candidates.gather(2, closest.expand(-1, fs.shape[1], -1))
    student = student * cosine.gather(1, closest).sign()
    weights = unit(values)[:, None]
    return student * weights, teacher * weights


def right_singular_vectors(maps: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The leading singular values (N, count) and right singular vectors (N, C, count) of maps as
    matrices (positions, C).

    The vectors carry a gradient by first-order perturbation of the eigenvectors of x^T x, with 1 /
    difference replaced by difference / (difference^2 + BROADENING^2), relative to the largest
    eigenvalue; the values carry none. Fewer come back where there are fewer channels or positions
    than count.
    """
    x = maps.flatten(2).mT  # (N, positions, C)
    with torch.no_grad():
        _, values, vh = torch.linalg.svd(x.detach(), full_matrices=False)
        largest = values[:, :1].square().clamp(min=torch.finfo(x.dtype).tiny)
        eigenvalues = values.square() / largest
        leading = vh[:, :count].mT
        own = eigenvalues[:, None, :count]
        gaps = own - eigenvalues[:, :, None]  # (N, rank, count), 0 where a vector meets itself
        within, outside = (d / (d.square() + BROADENING**2) for d in (gaps, own))
    moved = x.mT @ (x @ leading) / largest[..., None]
    moved = moved - moved.detach()  # 0 in value: only its gradient counts
    along = vh @ moved
    vectors = leading + vh.mT @ (within * along) + outside * (moved - vh.mT @ along)
    return values[:, :count], vectors


class KDSVD(Consecutive):
    """`kdsvd` of all layers (Lee et al., ECCV 2018). k  singular vectors of each map."""

    capturable = False  # a singular value decomposition waits for the device

    @checked()
    def build(self, student: Sizes, teacher: Sizes, *, k: int = 1) -> None:
        super().build(student, teacher)
        self.k = k

    def loss(self, fs: list[Tensor], ft: list[Tensor], indices: Tensor | None) -> Tensor:
        return kdsvd(self.project(fs), ft, self.k)


# The layers of RepDistiller's helper/loops.py. Its script has no line for KDSVD: the weight is ours
OBJECTIVES["kdsvd"] = Entry(
    KDSVD,
    "relation",
    "Lee, Kim & Song, ECCV 2018",
    {"beta": 1, "layers": ("maps",)},
    proof="test_kdsvd_is_the_written_out_formula",
)
