"""Any classifier as a teacher: what it is given, and whether it gives logits."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..basics.checks import require
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


@contextmanager
def evaluating(*teachers: Any) -> Iterator[None]:
    """A block in which teachers are in eval mode, those that have modes."""
    with ExitStack() as stack:
        for teacher in teachers:
            if isinstance(teacher, nn.Module):
                stack.enter_context(in_mode(teacher, training=False))
        yield


def teacher_kind(name: str, value: Callable, seen: dict | None = None) -> None:
    """Anything that can be called, but no class."""
    if not callable(value) or isinstance(value, type):
        raise TypeError(f"{name} must be a network or a function, got {value!r:.80}")


def teachers_kind(name: str, value: Any, seen: dict | None = None) -> None:
    """A teacher, or one or more by name, on one device."""
    if not isinstance(value, Mapping):
        return teacher_kind(name, value)
    require(len(value) > 0, f"{name} must name one or more teachers, got {{}}")
    for key, each in value.items():
        teacher_kind(f"{name}[{key!r}]", each)
    places = {str(weight.device) for weight in map(_weight, value.values()) if weight is not None}
    require(len(places) < 2, f"{name} must be on one device, found {', '.join(sorted(places))}")


def _weight(teacher: Any) -> Tensor | None:
    return next(teacher.parameters(), None) if isinstance(teacher, nn.Module) else None
