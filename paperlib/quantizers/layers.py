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
    def codes(self, x: Tensor) -> tuple[Tensor, Tensor | float]:
        """x of any shape -> (integers of the same shape and dtype, scale): the quantized value is their product.

        The codes pass all gradients, also those of the scale's parameters; the scale passes none.
        """

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape -> quantized values of the same shape."""
        codes, scale = self.codes(x)
        return codes * scale


class QuantizedLayer(nn.Module):
    """output = |output scale| (layer(quantized input, quantized weight) + bias): the mixin of the two layer types below.

    The layer's operation runs on the integer codes of input and weight, and its result is multiplied by their scales. In
    bfloat16 the codes are exact, where values such as 1/3 would be rounded to another grid.
    `output_scale` is learned for methods whose quantized values leave the scale out (EWGS), absent for the others.
    A layer must be initialised from a first batch before it is used: see `paperlib.quantizers.initialise`.
    """

    def adopt(self, weight: Quantizer, activation: Quantizer, output_scale: bool) -> None:
        self.weight_quantizer, self.activation_quantizer = weight, activation
        self.output_scale = nn.Parameter(self.weight.new_ones(())) if output_scale else None
        self.ready = False
        self.initialising = False

    def operation(self, x: Tensor, weight: Tensor) -> Tensor:
        """The layer's linear map, without bias."""
        raise NotImplementedError

    def per_channel(self, bias: Tensor) -> Tensor:
        """(C,) -> a shape that adds to the output."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        if self.initialising:
            self._initialise(x)
        if not self.ready:
            raise RuntimeError("this quantized layer has no bounds yet: call paperlib.quantizers.initialise(model, images)")
        (codes, scale), (weight, weight_scale) = self.activation_quantizer.codes(x), self.weight_quantizer.codes(self.weight)
        y = self.operation(codes, weight.to(codes.dtype))
        scale = scale * weight_scale
        if self.output_scale is not None:
            scale = scale * self.output_scale.abs()
        if not (isinstance(scale, float) and scale == 1.0):
            y = y * scale
        if self.bias is None:
            return y
        bias = self.bias if self.output_scale is None else self.bias * self.output_scale.abs()
        return y + self.per_channel(bias).to(y.dtype)

    @torch.no_grad()
    def _initialise(self, x: Tensor) -> None:
        self.weight_quantizer.initialise(self.weight)
        self.activation_quantizer.initialise(x)
        self.ready = True
        if self.output_scale is not None:  # the mean size of the quantized output becomes that of the exact one
            bias = 0 if self.bias is None else self.per_channel(self.bias)
            exact = self.operation(x, self.weight) + bias
            quantized = self.operation(self.activation_quantizer(x), self.weight_quantizer(self.weight)) + bias
            self.output_scale.copy_(exact.abs().mean() / quantized.abs().mean())

    def get_extra_state(self) -> bool:
        return self.ready

    def set_extra_state(self, state: bool) -> None:
        self.ready = bool(state)


class QuantizedConv2d(QuantizedLayer, nn.Conv2d):
    """A convolution, grouped or not, with quantized weight and input."""

    def operation(self, x: Tensor, weight: Tensor) -> Tensor:
        return self._conv_forward(x, weight, None)

    def per_channel(self, bias: Tensor) -> Tensor:
        return bias.view(-1, 1, 1)


class QuantizedLinear(QuantizedLayer, nn.Linear):
    """A linear layer with quantized weight and input."""

    def operation(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight)

    def per_channel(self, bias: Tensor) -> Tensor:
        return bias


QUANTIZED_TYPES: dict[type[nn.Module], type[QuantizedLayer]] = {nn.Conv2d: QuantizedConv2d, nn.Linear: QuantizedLinear}
