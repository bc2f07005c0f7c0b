"""The losses on features, as functions of the student's and the teacher's. Every one returns a
scalar.

fs and ft are features of the same N images: maps (N, C, H, W), vectors (N, D) or the tokens of a
transformer (N, T, D), floating point. Tokens are a map of T positions and D channels, see
`tokens_as_map`.
`hint`, `correlation` and `kdsvd` need equal widths (channels), `fsp` two equal pairs of widths; the
others compare what does not depend on the width. Where maps differ in size the larger is averaged
down to the smaller (adaptive average pooling), as RepDistiller (HobbitLong/RepDistiller b84f547)
does; functions that flatten need none of it. Batch sizes must agree. All raise ValueError for
shapes they cannot compare.

Lengths are guarded where they are 0, as after a ReLU they can be: the gradient there is finite.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Size, Tensor


def check_pair(fs: Tensor, ft: Tensor, ndim: int | None = None) -> None:
    """Raise ValueError unless both are features of as many images, with `ndim` axes if given."""
    wanted = "maps (N, C, H, W)" if ndim == 4 else "features"
    alike = fs.ndim == ft.ndim == (ndim or fs.ndim) and fs.ndim > 1 and len(fs) == len(ft)
    expected(alike, f"{wanted} of one batch", fs.shape, ft.shape)


def expected(condition: bool, what: str, found_s: Any, found_t: Any) -> None:
    """Raise ValueError, with what was found of student and teacher, unless the condition holds."""
    if not condition:
        found_s, found_t = (tuple(x) if isinstance(x, Size) else x for x in (found_s, found_t))
        raise ValueError(f"{what} expected, got {found_s} and {found_t}")


def tokens_as_map(f: Tensor) -> Tensor:
    """Tokens (N, T, D) as a map (N, D, T, 1); everything else as it is.

    >>> tokens_as_map(torch.ones(2, 5, 3)).shape
    torch.Size([2, 3, 5, 1])
    """
    return f.mT[..., None] if f.ndim == 3 else f


def width(size: Sequence[int]) -> int:
    """Channels of a feature of this shape: axis 1, of tokens the last.

    >>> width((2, 3, 4, 4)), width((2, 5, 3))
    (3, 3)
    """
    return size[2] if len(size) == 3 else size[1]


def same_size(fs: Tensor, ft: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps at the smaller height and width, by adaptive average pooling; maps of one size come
    back as they are. Tokens become maps; there must be as many of both, for their order is no place
    in the image, over which one could pool.

    >>> [tuple(f.shape) for f in same_size(torch.ones(1, 2, 8, 8), torch.ones(1, 3, 4, 4))]
    [(1, 2, 4, 4), (1, 3, 4, 4)]
    """
    if fs.ndim == ft.ndim == 3:
        same = len(fs) == len(ft) and fs.shape[1] == ft.shape[1]
        expected(same, "as many tokens (N, T, D) of both networks", fs.shape, ft.shape)
        return tokens_as_map(fs), tokens_as_map(ft)
    check_pair(fs, ft, 4)
    size = tuple(min(pair) for pair in zip(fs.shape[2:], ft.shape[2:], strict=True))
    fs, ft = (f if f.shape[2:] == size else F.adaptive_avg_pool2d(f, size) for f in (fs, ft))
    return fs, ft


def unit(x: Tensor, dim: int = 1) -> Tensor:
    """x scaled to length 1 along `dim`; a vector of zeros stays one, with a gradient of the size of
    what arrives.

    >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    length = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / length.masked_fill(length == 0, 1)
