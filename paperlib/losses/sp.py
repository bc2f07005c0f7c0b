"""Similarity-preserving distillation: which images of a batch look alike."""

from torch import Tensor

from .features import check_pair, unit
from .registry import OBJECTIVES, Entry


def similarity(fs: Tensor, ft: Tensor) -> Tensor:
    """Similarity-preserving distillation (Tung & Mori, ICCV 2019, arXiv 1907.09682, eq. 4), of one
    layer.

    G = the N x N matrix of dot products of the flattened features, rows scaled to length 1; |G_s -
    G_t|^2 / N^2.

    >>> similarity(torch.eye(2), torch.eye(2).flip(1))
    tensor(0.)
    """
    check_pair(fs, ft)
    s, t = (unit(f.flatten(1) @ f.flatten(1).T) for f in (fs, ft))
    return (s - t).square().mean()


OBJECTIVES["sp"] = Entry(
    similarity,
    "relation",
    "Tung & Mori, ICCV 2019",
    {"beta": 3000, "layers": ("last map",)},
    proof="test_similarity_is_the_written_out_formula",
)
