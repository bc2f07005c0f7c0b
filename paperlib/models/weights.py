"""Weights as safetensors."""

from collections.abc import Mapping

import safetensors.torch
import torch
from torch import nn


def as_safetensors(model: nn.Module, metadata: Mapping[str, str] | None = None) -> bytes:
    """The content of a file with all state of a network, and texts by name. Whether a quantized
    layer is ready is a number there; weights that are shared are there twice.
    """
    state = model.state_dict().items()
    tensors = {n: torch.as_tensor(t).cpu().contiguous().clone() for n, t in state}
    return safetensors.torch.save(tensors, dict(metadata) if metadata else None)
