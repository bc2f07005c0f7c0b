"""Correlation congruence: differences of neighbours in the batch."""

import math

from torch import Tensor, nn

from ..basics.checks import checked
from ..data.checks import floats
from .distillers import Distiller, Sizes
from .features import expected
from .registry import OBJECTIVES, Entry

_SAME = floats("N D ...")


@checked(fs=_SAME, ft=_SAME)
def correlation(fs: Tensor, ft: Tensor) -> Tensor:
    """Correlation congruence (Peng et al., ICCV 2019, arXiv 1904.01802) in the form that
    RepDistiller and SQAKD run.

    The mean over neighbours i, i + 1 in the batch of sum_d |d_i| |d_{i+1}|, d = fs - ft: the order
    of the batch matters. The paper compares matrices of kernel correlations instead; its released
    form is the one that the benchmarks use.

    fs, ft  of one shape, at least 2 images.

    Each difference is weighed by its neighbour's: the 3 beside a 0 costs nothing.

    >>> fs = torch.tensor([[1.0, 0.0], [2.0, 3.0]], requires_grad=True)
    >>> loss = correlation(fs, torch.zeros(2, 2))
    >>> loss.backward()
    >>> loss.detach(), fs.grad
    (tensor(2.), tensor([[2., 0.],
            [1., 0.]]))
    """
    good = fs.shape == ft.shape and fs.ndim > 1 and len(fs) > 1
    expected(good, "features of one shape and at least 2 images", fs.shape, ft.shape)
    difference = (fs - ft).abs().flatten(1)
    return (difference[:-1] * difference[1:]).sum(1).mean()


class Correlation(Distiller):
    """`correlation` of linear embeddings of both features, learned on both sides (Peng et al., ICCV
    2019).

    dim  width of the embeddings. Maps are flattened.
    """

    @checked()
    def build(self, student: Sizes, teacher: Sizes, *, dim: int = 128) -> None:
        self.student_heads = nn.ModuleList(nn.Linear(math.prod(s[1:]), dim) for s in student)
        self.teacher_heads = nn.ModuleList(nn.Linear(math.prod(t[1:]), dim) for t in teacher)

    def loss(self, fs: list[Tensor], ft: list[Tensor], indices: Tensor | None) -> Tensor:
        student = [head(s.flatten(1)) for head, s in zip(self.student_heads, fs, strict=True)]
        teacher = [head(t.flatten(1)) for head, t in zip(self.teacher_heads, ft, strict=True)]
        return sum(map(correlation, student, teacher))


OBJECTIVES["cc"] = Entry(
    Correlation,
    "relation",
    "Peng et al., ICCV 2019",
    {"beta": 0.02, "layers": ("vector",)},
    proof="test_correlation_is_the_written_out_formula",
)
