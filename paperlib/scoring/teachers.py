"""Any classifier as a teacher: what it is given, and where its logits are in what it gives."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..basics.checks import require
from ..models import in_mode

Output = int | str | None


def logits_in(output: Any, which: Output = None) -> Tensor:
    """The logits in what a teacher gives: a tensor, or one within a tuple, a dictionary, or an
    object with attributes such as the ModelOutput of Hugging Face.

    which  the place, key or attribute. None: the one named "logits", else the only (N, C) float
           tensor. Raises ValueError if none or several could be meant, TypeError for other things.

    >>> logits_in({"logits": torch.ones(2, 3), "hidden": torch.ones(2, 5)}).shape
    torch.Size([2, 3])
    >>> logits_in((torch.ones(2, 3), torch.ones(2, 5)), which=0).shape
    torch.Size([2, 3])
    """
    if which is not None:
        parts = _parts(output)
        has = f"output={which!r} is not in what the teacher gives, {_described(output)}"
        require(which in parts, has)
        found = parts[which]
    elif isinstance(output, Tensor):
        found = output
    else:
        parts = _parts(output)
        fitting = [x for k, x in parts.items() if isinstance(k, int) or isinstance(output, Mapping)]
        fitting = [x for x in fitting if isinstance(x, Tensor) and x.ndim == 2]
        found = parts.get("logits", fitting[0] if len(fitting) == 1 else None)
        which_one = "say with output= which part of what the teacher gives are its logits"
        require(found is not None, f"{which_one}, {_described(output)}")
    if not isinstance(found, Tensor):
        raise TypeError(f"the teacher must give logits as a tensor, got {_described(found)}")
    return found


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


def _parts(output: Any) -> dict[Any, Any]:
    """Parts by place, key and attribute."""
    if isinstance(output, Mapping):
        return dict(output)
    parts = dict(enumerate(output)) if isinstance(output, tuple | list) else {}
    named = getattr(output, "_fields", None) or getattr(output, "__dict__", ())
    return parts | {name: getattr(output, name) for name in named}


def _described(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"{output.dtype} {tuple(output.shape)}"
    inner = {k: _described(v) for k, v in _parts(output).items() if isinstance(v, Tensor)}
    return f"{type(output).__name__} {inner or repr(output)[:80]}"


def _few(row: Tensor) -> list[float]:
    return [round(x, 3) for x in row[:4].tolist()]
