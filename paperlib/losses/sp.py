"""Similarity-preserving distillation: pairwise similarities of the images of a batch."""

from torch import Tensor

from ..basics.checks import checked
from ..data.checks import features
from .features import unit
from .registry import OBJECTIVES, Entry


@checked(fs=features, ft=features)
def similarity(fs: Tensor, ft: Tensor) -> Tensor:
    """Similarity-preserving distillation (Tung & Mori, ICCV 2019, arXiv 1907.09682, eq. 4), of one
    layer.

    G = the N x N matrix of dot products of the flattened features, rows scaled to length 1; |G_s -
    G_t|^2 / N^2.

    To the teacher the two images have nothing in common; the student is to turn them apart.

    >>> fs = torch.tensor([[1.0, 0.0], [1.0, 1.0]], requires_grad=True)
    >>> loss = similarity(fs, torch.eye(2))
    >>> loss.backward()
    >>> loss.detach(), fs.grad
    (tensor(0.1992), tensor([[-0.0873,  0.2662],
            [ 0.1768, -0.0894]]))
    """
    s, t = (unit(f.flatten(1) @ f.flatten(1).T) for f in (fs, ft))
    return (s - t).square().mean()


OBJECTIVES["sp"] = Entry(
    similarity,
    "relation",
    "Tung & Mori, ICCV 2019",
    {"beta": 3000, "layers": ("last map",)},
    proof="test_similarity_is_the_written_out_formula",
)
