"""Where the logits are in what a network gives, and whether they are logits."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..basics.checks import require

Output = int | str | None


def logits_in(output: Any, which: Output = None) -> Tensor:
    """The logits in what a network gives: a tensor, or one within a tuple, a dictionary, or an
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
        has = f"output={which!r} is not in what the network gives, {_described(output)}"
        require(which in parts, has)
        found = parts[which]
    elif isinstance(output, Tensor):
        found = output
    else:
        parts = _parts(output)
        fitting = [x for k, x in parts.items() if isinstance(k, int) or isinstance(output, Mapping)]
        fitting = [x for x in fitting if isinstance(x, Tensor) and x.ndim == 2]
        only = fitting[0] if len(fitting) == 1 else None
        found = parts.get("logits", getattr(output, "logits", only))
        which_one = "name with output= which part are the logits, or give a network of them alone"
        require(found is not None, f"{which_one}, {_described(output)}")
    if not isinstance(found, Tensor):
        raise TypeError(f"a network must give logits as a tensor, got {_described(found)}")
    return found


def check_logits(logits: Tensor, role: str = "teacher") -> None:
    """Raise ValueError for rows of probabilities or percentages: their softmax would be taken. Warn
    of a teacher whose values all lie in 0 .. 1, as those of a sigmoid. (N, C) float.
    """
    rows = logits.detach().double()
    sums, shares = rows.sum(1), bool((rows >= 0).all())
    whole = any(((sums / total - 1).abs() < 1e-2).all() for total in (1, 100))
    wanted = f"the {role} must give logits, before its softmax"
    found = f"it gives probabilities, such as {[round(x, 3) for x in rows[0, :4].tolist()]}"
    require(not (shares and whole), f"{wanted}; {found}")
    if role == "teacher" and shares and (rows <= 1).all():
        warnings.warn(f"{wanted}, or its sigmoid; {found}?", stacklevel=6)


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


class SomeOutputs(nn.Module):
    """A network with those of its outputs that a data set has classes for, in that order."""

    def __init__(self, network: Callable, outputs: Sequence[int]):
        super().__init__()
        self.network = network
        self.last = max(outputs)
        self.register_buffer("outputs", torch.tensor(outputs), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, outputs) logits."""
        logits = logits_in(self.network(images))
        has = f"the network has {logits.shape[1]} outputs, there is a class for output {self.last}"
        require(self.last < logits.shape[1], has)
        return logits[:, self.outputs]
