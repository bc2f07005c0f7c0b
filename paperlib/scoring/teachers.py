"""Any classifier as a teacher: what it is given, and whether it gives logits."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..models import in_mode
from ..models.outputs import check_logits


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
