"""Contrastive knowledge transfer: CRD on maps and on the last layer."""

from torch import Tensor

from ..basics.checks import checked
from .crd import CRD, OWN_PLACE
from .distillers import Sizes
from .features import tokens_as_map, unit, width
from .registry import OBJECTIVES, Entry


class CKTF(CRD):
    """Contrastive knowledge transfer (Zhao, Chen & Zhao, ICASSP 2023, arXiv 2303.07599) as SQAKD
    runs it.

    CRD on the last layer, a vector, plus theta times the sum of CRD on the others, maps: those are
    scaled to length 1 over the batch, element by element, then averaged over space.

    The example of `CRD` as both layers, the first weighed by theta.

    >>> from torch import nn
    >>> size, labels = [(1, 2), (1, 2)], torch.tensor([0, 1, 1])
    >>> cktf = CKTF(size, size, labels, classes=2, theta=0.5, negatives=2, dim=2)
    >>> for one in cktf.memories:
    ...     for head in (one.student_head, one.teacher_head):
    ...         _ = nn.init.eye_(head.weight), nn.init.zeros_(head.bias)
    ...     for memory in (one.memory_student, one.memory_teacher):
    ...         _ = memory.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]))
    >>> fs = [torch.tensor([[3.0, 4.0]], requires_grad=True) for _ in range(2)]
    >>> loss = cktf(fs, [torch.tensor([[4.0, 3.0]])] * 2, torch.tensor([0]))
    >>> loss.backward()
    >>> loss.detach(), fs[0].grad, fs[1].grad
    (tensor(6.6273), tensor([[-0.9806,  0.7354]]), tensor([[-1.9611,  1.4708]]))
    """

    @checked()
    def build(
        self,
        student: Sizes,
        teacher: Sizes,
        *,
        theta: float = 0.8,
        negatives: int = 4096,
        temperature: float = 0.1,
        momentum: float = 0.5,
        dim: int = 128,
    ) -> None:
        self.theta = theta
        pooled = ([(size[0], width(size)) for size in sizes] for sizes in (student, teacher))
        options = {"temperature": temperature, "momentum": momentum, "dim": dim}
        super().build(*pooled, negatives=negatives, **options)

    def loss(self, fs: list[Tensor], ft: list[Tensor], indices: Tensor | None) -> Tensor:
        *maps, last = self.contrasts([_pooled(s) for s in fs], [_pooled(t) for t in ft], indices)
        return last + self.theta * sum(maps)


def _pooled(f: Tensor) -> Tensor:
    return f if f.ndim == 2 else unit(tokens_as_map(f), 0).mean((2, 3))


OBJECTIVES["cktf"] = Entry(
    CKTF,
    "relation",
    "Zhao, Chen & Zhao, ICASSP 2023",
    {"beta": 1, "layers": ("maps+f0", "vector")},
    cutmix=OWN_PLACE,
    proof="test_cktf_is_crd_on_the_vector_and_theta_times_crd_on_the_maps",
)
