"""Any classifier as a teacher: what it is given, and whether it gives logits."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..basics.checks import require
from ..models import in_mode


def check_logits(logits: Tensor) -> None:
    """Raise ValueError for rows of probabilities or percentages: their softmax would be scored.
    Warn if all values lie in 0 .. 1, as those of a sigmoid. (N, C) float.
    """
    rows = logits.double()
    sums, shares = rows.sum(1), bool((rows >= 0).all())
    whole = any(((sums / total - 1).abs() < 1e-2).all() for total in (1, 100))
    wanted = "the teacher must give logits, before its softmax"
    found = f"it gives probabilities, such as {_few(logits[0])}"
    require(not (shares and whole), f"{wanted}; {found}")
    if shares and (rows <= 1).all():
        warnings.warn(f"{wanted}, or its sigmoid; {found}?", stacklevel=6)


def check_steady(look: Callable[[Tensor], Tensor], views: Tensor) -> Tensor:
    """The logits of views, checked as logits. Warns of a teacher that gives an image other logits
    in other company, as with dropout, or a BatchNorm in train mode: a network is in eval mode here,
    but what a function calls may not be.
    """
    half = max(1, len(views) // 2)
    logits, again = look(views), look(views[torch.arange(len(views)) % half])
    check_logits(logits)
    change, scale = (logits - again)[:half].abs().max().item(), logits.abs().max().item()
    if change > 0.01 * scale:
        text = f"the teacher's logits for one image differ by {change:.3g} from call to call"
        warnings.warn(f"{text}: is what it calls in eval mode?", stacklevel=5)
    return logits


def fitted(teacher: Any, images: Tensor) -> Tensor:
    """Images in the dtype and on the device of a teacher's weights, if it has any."""
    weight = _weight(teacher)
    if weight is None or not weight.is_floating_point():
        return images
    return images.to(weight.device, weight.dtype)


def device_of(teacher: Any, images: Tensor) -> torch.device:
    """Where a teacher's weights are; where the images are if it has none."""
    weight = _weight(teacher)
    return images.device if weight is None else weight.device


def evaluating(teacher: Any) -> AbstractContextManager:
    """A block in which a teacher is in eval mode, if it has modes."""
    return in_mode(teacher, training=False) if isinstance(teacher, nn.Module) else nullcontext()


def teacher_kind(name: str, value: Callable, seen: dict | None = None) -> None:
    """Anything that can be called, but no class."""
    if not callable(value) or isinstance(value, type):
        raise TypeError(f"{name} must be a network or a function, got {value!r:.80}")


def _weight(teacher: Any) -> Tensor | None:
    return next(teacher.parameters(), None) if isinstance(teacher, nn.Module) else None


def _few(row: Tensor) -> list[float]:
    return [round(x, 3) for x in row[:4].tolist()]
