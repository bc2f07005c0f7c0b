"""Any classifier as a teacher: what it is given, and whether it gives logits."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..basics.checks import require
from ..models import in_mode


def check_logits(logits: Tensor) -> None:
    """Raise ValueError for rows of probabilities: their softmax would be scored. (N, C) float."""
    rounding = 1e-2 if logits.element_size() < 4 else 1e-4
    rows = logits.double()
    distributions = (rows >= 0).all() & ((rows.sum(1) - 1).abs() < rounding).all()
    wanted = "the teacher must give logits, before its softmax"
    require(not distributions, f"{wanted}; it gives probabilities, such as {_few(logits[0])}")


def fitted(teacher: Any, images: Tensor) -> Tensor:
    """Images in the dtype and on the device of a teacher's weights, if it has any."""
    weight = _weight(teacher)
    if weight is None or not weight.is_floating_point():
        return images
    return images.to(weight.device, weight.dtype)


def device_of(teacher: Any) -> torch.device:
    """Where a teacher's weights are; the CPU if it has none."""
    weight = _weight(teacher)
    return torch.device("cpu") if weight is None else weight.device


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
