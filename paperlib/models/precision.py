"""Mixed-precision helpers."""

import contextlib

import torch

from ..basics.checks import one_of
from ..basics.recipe import PRECISIONS


def autocast(device: torch.device | str, precision: str) -> contextlib.AbstractContextManager:
    """Convolutions and linear layers in `precision` within this block; weights and statistics stay
    in float32.

    Raises ValueError for an unknown precision.

    >>> with autocast("cpu", "bfloat16"):
    ...     torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype
    torch.bfloat16
    """
    one_of("precision", precision, PRECISIONS)
    if precision == "float32":
        return contextlib.nullcontext()
    # Without the cache of cast weights: every weight is used once a pass, and a cache cannot be
    # captured in a CUDA graph.
    return torch.autocast(torch.device(device).type, torch.bfloat16, cache_enabled=False)


def widen(x: torch.Tensor) -> torch.Tensor:
    """x itself, or in float32 if it is in a shorter type: for what is not to be computed with three
    digits.

    >>> widen(torch.ones(1, dtype=torch.bfloat16)).dtype, widen(torch.ones(1,
    ...     dtype=torch.float64)).dtype
    (torch.float32, torch.float64)
    """
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
