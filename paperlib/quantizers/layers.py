"""Quantized layers: a convolution or linear layer with a weight quantizer, an input quantizer and
an output scale.
"""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..basics.checks import number
from .functional import divisor


class Quantizer(nn.Module, ABC):
    """Maps a tensor to a low-bit grid. Parameters, if any, are set from the first tensor seen
    (`initialise`).

    A new method is one file with two subclasses and an entry in `METHODS`.

    bits   from `fewest_bits` to `most_bits`; kept as `bits`.
    shape  of the weight's parameters: (C, 1, ...) for one for each output channel (`per_channel`),
           () for one of the whole tensor.
    """

    fewest_bits, most_bits = 1, 8

    def __init__(self, bits: int | None = None, shape: tuple[int, ...] = ()):
        super().__init__()
        if bits is not None:
            number(f"[{self.fewest_bits}, {self.most_bits}]", whole=True)("bits", bits)
        self.bits, self.per_channel = bits, bool(shape)
        # Of an activation's grid from 0, if it has one: value = scale codes + offset.
        self.register_parameter("offset", None)

    def initialise(self, x: Tensor) -> None:
        """Set the parameters, if any, from the full-precision weight, or from the layer's input on
        the first batch.
        """

    @abstractmethod
    def codes(self, x: Tensor) -> tuple[Tensor, Tensor | float]:
        """x of any shape -> (integers of the same shape and dtype, scale): the quantized value is
        their product.

        The scale is a scalar or, for weights, (C, 1, ...), one for each output channel. The codes
        pass all gradients, also those of the scale's parameters; the scale passes none.
        """

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape -> quantized values of the same shape."""
        codes, scale = self.codes(x)
        values = codes * scale
        return values if self.offset is None else values + self.offset


class QuantizedLayer(nn.Module):
    """output = |output scale| (layer(quantized input, quantized weight) + bias): the mixin of the
    two layer types below.

    The layer's operation runs on the integer codes of input and weight, and its result is
    multiplied by their scales. In bfloat16 the codes are exact, where values such as 1/3 would be
    rounded to another grid. `output_scale` is learned for methods whose quantized values leave the
    scale out (EWGS), absent for the others; it is one number or, where the weights are quantized
    per channel, one for each output channel. A layer must be initialised from a first batch before
    it is used: see `paperlib.quantizers.initialise`.
    """

    channel_axis: int  # of the layer's output

    def adopt(
        self, weight: Quantizer, activation: Quantizer, scale_shape: tuple[int, ...] | None
    ) -> None:
        """Add the quantizers and, if its shape is given, () or (output channels,), the output
        scale.
        """
        self.weight_quantizer, self.activation_quantizer = weight, activation
        has_scale = scale_shape is not None
        self.output_scale = nn.Parameter(self.weight.new_ones(scale_shape)) if has_scale else None
        self.ready = self.initialising = False

    def operation(self, x: Tensor, weight: Tensor) -> Tensor:
        """The layer's linear map, without bias."""
        raise NotImplementedError

    def per_channel(self, values: Tensor) -> Tensor:
        """(C,) -> a shape that goes with the output; a scalar stays one."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        if self.initialising:
            self._initialise(x)
        if not self.ready:
            raise RuntimeError("a quantized layer has no bounds: call initialise(model, images)")
        codes, scale = self.activation_quantizer.codes(x)
        weight, weight_scale = self.weight_quantizer.codes(self.weight)
        weight = weight.to(codes.dtype)
        y, offset = self.operation(codes, weight), self.activation_quantizer.offset
        if isinstance(weight_scale, Tensor) and weight_scale.ndim:
            weight_scale = self.per_channel(weight_scale.flatten())
        scales = scale * weight_scale
        if self.output_scale is not None:
            scales = scales * self.per_channel(self.output_scale.abs())
        if not (isinstance(scales, float) and scales == 1.0):
            y = (y * scales).to(y.dtype)  # scales of channels must not widen bfloat16
        if offset is not None:
            # What the offset of every input adds, exactly, the zeros around the image left out: one
            # image's work.
            ones = torch.ones_like(codes[:1])
            y = y + self.operation(ones, weight) * (scales / scale * offset).to(y.dtype)
        if self.bias is None:
            return y
        bias = self.bias if self.output_scale is None else self.bias * self.output_scale.abs()
        return y + self.per_channel(bias).to(y.dtype)

    @torch.no_grad()
    def _initialise(self, x: Tensor) -> None:
        self.weight_quantizer.initialise(self.weight)
        self.activation_quantizer.initialise(x)
        self.ready = True
        if self.output_scale is None:
            return
        # The mean size of the quantized output becomes that of the exact one.
        bias = 0 if self.bias is None else self.per_channel(self.bias)
        exact = self.operation(x, self.weight) + bias
        low_bit = self.activation_quantizer(x), self.weight_quantizer(self.weight)
        quantized = self.operation(*low_bit) + bias
        self.output_scale.copy_(self._mean_size(exact) / divisor(self._mean_size(quantized)))

    def _mean_size(self, y: Tensor) -> Tensor:
        """mean|y|, over everything or over everything but the channels, as the output scale is
        shaped.
        """
        if self.output_scale.ndim == 0:
            return y.abs().mean()
        return y.abs().movedim(self.channel_axis, 0).flatten(1).mean(1)

    def get_extra_state(self) -> bool:
        return self.ready

    def set_extra_state(self, state: bool) -> None:
        self.ready = bool(state)


class QuantizedConv2d(QuantizedLayer, nn.Conv2d):
    """A convolution, grouped or not, with quantized weight and input."""

    channel_axis = 1

    def operation(self, x: Tensor, weight: Tensor) -> Tensor:
        return self._conv_forward(x, weight, None)

    def per_channel(self, values: Tensor) -> Tensor:
        return values.view(-1, 1, 1) if values.ndim else values


class QuantizedLinear(QuantizedLayer, nn.Linear):
    """A linear layer with quantized weight and input."""

    channel_axis = -1

    def operation(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight)

    def per_channel(self, values: Tensor) -> Tensor:
        return values


QUANTIZED_TYPES: dict[type[nn.Module], type[QuantizedLayer]] = {
    nn.Conv2d: QuantizedConv2d,
    nn.Linear: QuantizedLinear,
}
