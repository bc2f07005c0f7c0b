"""The state of an unfinished training, in a file that is trusted only if it is whole and belongs to
this training.
"""

import hashlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..basics.files import set_aside, write_atomically


@dataclass(frozen=True)
class Checkpoint:
    """A file with the state of the training that `identity` names, in any words.

    It begins with a digest of the identity and the content. So a damaged file, and one of another
    training, is told from the right one; it is set aside with a warning, never used.
    """

    path: Path
    identity: str

    def save(self, state: dict[str, Any]) -> None:
        """Replace the file. state  tensors, numbers and texts, nested in dicts and lists."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        write_atomically(self.path, self._digest(content) + content)

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The state; None if there is no file, or one that had to be set aside."""
        if not self.path.exists():
            return None
        try:
            content = self.path.read_bytes()
            digest, content = content[:32], content[32:]
            if digest != self._digest(content):
                raise ValueError("it is damaged, or of another training")
            # Nothing is unpickled but tensors and plain values.
            return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
        except Exception as error:  # whatever the file makes the system or torch raise
            self.reject(error)
            return None

    def reject(self, why: Exception) -> None:
        """Set the file aside, with a warning: the training starts over."""
        aside = set_aside(self.path)
        text = f"checkpoint {self.path} cannot be used: {why}; set aside as {aside.name}"
        warnings.warn(text, stacklevel=2)

    def _digest(self, content: bytes) -> bytes:
        return hashlib.sha256(self.identity.encode() + b"\0" + content).digest()


def not_finite(state: Any, name: str = "") -> Iterator[str]:
    """The names of the tensors in a nested state that have a value which is not finite."""
    if isinstance(state, Tensor):
        if state.is_floating_point() and not bool(state.isfinite().all()):
            yield name.lstrip(".")
    elif isinstance(state, dict | list | tuple):
        parts = state.items() if isinstance(state, dict) else enumerate(state)
        for key, value in parts:
            yield from not_finite(value, f"{name}.{key}")
