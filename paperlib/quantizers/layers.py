"""Quantized layers: a convolution or linear layer with a weight quantizer, an input quantizer and an output scale."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Quantizer(nn.Module, ABC):
    """Maps a tensor to a low-bit grid. Parameters, if any, are set from the first tensor seen (`initialise`).

    A new method is one file with two subclasses, registered in `METHODS`.
    """

    @abstractmethod
    def initialise(self, x: Tensor) -> None:
        """Set the parameters from the full-precision weight, or from the layer's input on the first batch."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """x of any shape -> quantized values of the same shape."""


class QuantizedLayer(nn.Module):
    """output = |scale| (layer(quantized input, quantized weight) + bias): the mixin of the two layer types below.

    `output_scale` is learned for methods whose quantized values leave the scale out (EWGS), absent for the others.
    A layer must be initialised from a first batch before it is used: see `paperlib.quantizers.initialise`.
    """

    def adopt(self, weight: Quantizer, activation: Quantizer, output_scale: bool) -> None:
        self.weight_quantizer, self.activation_quantizer = weight, activation
        self.output_scale = nn.Parameter(self.weight.new_ones(())) if output_scale else None
        self.ready = False
        self.initialising = False

    def operation(self, x: Tensor, weight: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        if self.initialising:
            self._initialise(x)
        if not self.ready:
            raise RuntimeError("this quantized layer has no bounds yet: call paperlib.quantizers.initialise(model, images)")
        y = self.operation(self.activation_quantizer(x), self.weight_quantizer(self.weight))
        return y if self.output_scale is None else y * self.output_scale.abs()

    @torch.no_grad()
    def _initialise(self, x: Tensor) -> None:
        self.weight_quantizer.initialise(self.weight)
        self.activation_quantizer.initialise(x)
        if self.output_scale is not None:
            exact = self.operation(x, self.weight)
            quantized = self.operation(self.activation_quantizer(x), self.weight_quantizer(self.weight))
            self.output_scale.copy_(exact.abs().mean() / quantized.abs().mean())
        self.ready = True

    def get_extra_state(self) -> bool:
        return self.ready

    def set_extra_state(self, state: bool) -> None:
        self.ready = bool(state)


class QuantizedConv2d(QuantizedLayer, nn.Conv2d):
    """A convolution, grouped or not, with quantized weight and input."""

    def operation(self, x: Tensor, weight: Tensor) -> Tensor:
        return self._conv_forward(x, weight, self.bias)


class QuantizedLinear(QuantizedLayer, nn.Linear):
    """A linear layer with quantized weight and input."""

    def operation(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight, self.bias)


QUANTIZED_TYPES: dict[type[nn.Module], type[QuantizedLayer]] = {nn.Conv2d: QuantizedConv2d, nn.Linear: QuantizedLinear}
