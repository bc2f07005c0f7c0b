"""Quantized layers: a convolution or linear layer of any kind with a weight quantizer, an input
quantizer and an output scale.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

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
    unsigned = False  # whether the grid, of an activation, has no negative value
    top: float | None = None  # the largest value of a grid that is not fitted to its input

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


class Shifted(Quantizer):
    """A quantizer of inputs from 0 on, for inputs that are negative too: what it gets is x minus
    the least x of the first batch and, if its grid ends at a fixed value, divided by their range.
    """

    def __init__(self, inner: Quantizer):
        super().__init__(inner.bits)
        self.inner = inner
        del self.offset  # a parameter elsewhere; here nothing learns it
        self.register_buffer("offset", torch.zeros(()))
        self.register_buffer("range", torch.ones(()))

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        self.offset.copy_(x.min())
        if self.inner.top is not None:
            self.range.copy_(divisor((x.max() - x.min()) / self.inner.top))
        self.inner.initialise(self._shifted(x))

    def _shifted(self, x: Tensor) -> Tensor:
        return ((x - self.offset) / self.range).to(x.dtype)

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor | float]:
        codes, scale = self.inner.codes(self._shifted(x))
        return codes, scale * self.range


@dataclass
class Operation:
    """A convolution or product with its settings, as a function of input and weight.

    call        (x, weight) -> the output without bias.
    spatial     axes behind the channels: 2 for a Conv2d, 0 for a linear layer.
    transposed  whether the weight is (inputs, outputs / groups, ...), not (outputs, ...).
    """

    call: Callable[[Tensor, Tensor], Tensor]
    spatial: int = 0
    transposed: bool = False

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.call(x, weight)

    def channels_first(self, weight: Tensor) -> Tensor:
        """The weight with its output channels first; the same again gives it back."""
        return weight.transpose(0, 1) if self.transposed else weight

    def per_channel(self, values: Tensor) -> Tensor:
        """(C,) -> a shape that goes with the output; a scalar stays one."""
        if not values.ndim:
            return values
        return values.view(-1, *[1] * self.spatial)

    def mean_size(self, y: Tensor, per_channel: bool) -> Tensor:
        """mean|y|, over everything or over everything but the channels."""
        if not per_channel:
            return y.abs().mean()
        return y.abs().movedim(-1 - self.spatial, 0).flatten(1).mean(1)


class LowBit(nn.Module):
    """What a quantized input has to know, alone or as part of a layer: its quantizer, another one
    if the first batch is negative too, and whether they have their parameters.
    """

    # What a forward pass does: quantize; or first set the parameters from the inputs it sees; or
    # compute exactly, while multiply-adds are counted.
    RUN, INITIALISE, COUNT = "run", "initialise", "count"

    def take(
        self,
        path: str,
        activation: Quantizer,
        signed: Callable[[], Quantizer],
        device: torch.device,
    ) -> None:
        """Add the quantizer of the input.

        path    the module's name in the network, for messages.
        signed  makes the quantizer that takes over if the first batch is negative too.
        """
        self.path, self.activation_quantizer, self._signed = path, activation.to(device), signed
        # The name under which files hold it since it was not a tensor. A number: averages of models
        # subtract buffers.
        self.register_buffer("_extra_state", torch.tensor(0, dtype=torch.uint8, device=device))
        self._ready = False  # the same on the host: no forward pass waits for the device
        self.phase, self._seen = self.RUN, []

    @property
    def ready(self) -> bool:
        """Whether the quantizers have their parameters."""
        return self._ready

    @ready.setter
    def ready(self, value: bool) -> None:
        self._ready = bool(value)
        self._extra_state.fill_(self._ready)

    def set_extra_state(self, state: Tensor) -> None:
        self._ready = bool(state)

    def require_ready(self) -> None:
        """Raise RuntimeError before the first batch."""
        if not self._ready:  # an average of models writes the buffers alone
            self.set_extra_state(self._extra_state)
        if not self._ready:
            raise RuntimeError(f"{self.path} has no bounds: call initialise(model, images)")

    def call_grid(self, method: str) -> None:
        """Write method and bits into the state, so that another grid's is not loaded."""
        both = getattr(self, "weight_quantizer", None), self.activation_quantizer
        self._grid = " ".join([method, *(str(each.bits) for each in both if each is not None)])
        name = torch.tensor(list(self._grid.encode()), dtype=torch.uint8)
        self.register_buffer("grid", name.to(self._extra_state.device))

    def take_signed_inputs(self) -> None:
        """Exchange the quantizer for one whose grid has negative values."""
        device = self._extra_state.device
        self.activation_quantizer = self._signed().to(device)
        self.register_buffer("signed_input", torch.tensor(1, dtype=torch.uint8, device=device))

    def _load_from_state_dict(self, state_dict, prefix, *arguments) -> None:
        theirs = state_dict.setdefault(f"{prefix}grid", self.grid)  # older files have none
        if theirs is not self.grid and (name := bytes(theirs.tolist()).decode()) != self._grid:
            arguments[-1].append(f"{self.path} is quantized as {self._grid}, its state as {name}")
            state_dict[f"{prefix}grid"] = self.grid  # instead of an error about its length
        if f"{prefix}signed_input" in state_dict and not hasattr(self, "signed_input"):
            self.take_signed_inputs()
        self._ready = False  # a weight may be assigned (assign=True) that comes with its bounds
        if f"{prefix}_extra_state" not in state_dict and f"{prefix}weight" in state_dict:
            self._extra_state.zero_()  # other weights without their bounds, as a teacher's
        super()._load_from_state_dict(state_dict, prefix, *arguments)
        self.set_extra_state(self._extra_state)

    def see(self, x: Tensor) -> None:
        """Set the quantizer's parameters from this input, and from those before it in the pass: a
        module that is used several times gets bounds for all of them.
        """
        self._seen.append(x)
        if self.activation_quantizer.unsigned and any(bool((s < 0).any()) for s in self._seen):
            self.take_signed_inputs()
        once = len(self._seen) == 1
        self.activation_quantizer.initialise(
            x if once else torch.cat([s.flatten() for s in self._seen])
        )


class QuantizedLayer(LowBit):
    """output = |output scale| (layer(quantized input, quantized weight) + bias): the mixin of every
    quantized layer.

    The layer's operation runs on the integer codes of input and weight, and its result is
    multiplied by their scales. In bfloat16 the codes are exact, where values such as 1/3 would be
    rounded to another grid. `output_scale` is learned for methods whose quantized values leave the
    scale out (EWGS), absent for the others; it is one number or, where the weights are quantized
    per channel, one for each output channel. A layer must be initialised from a first batch before
    it is used: see `paperlib.quantizers.initialise`.
    """

    def adopt(
        self,
        path: str,
        weight: Quantizer,
        activation: Quantizer,
        signed: Callable[[], Quantizer],
        scale_shape: tuple[int, ...] | None,
    ) -> None:
        """Add the quantizers and, if its shape is given, () or (output channels,), the output
        scale. The others as for `take`.
        """
        self.weight_quantizer = weight.to(self.weight.device)
        self.take(path, activation, signed, self.weight.device)
        has_scale = scale_shape is not None
        self.output_scale = nn.Parameter(self.weight.new_ones(scale_shape)) if has_scale else None

    def __setattr__(self, name: str, value: Any) -> None:
        # Hooks, as of `weight_norm`, set what is no parameter.
        other = name == "weight" and isinstance(value, nn.Parameter)
        if other and getattr(self, "_ready", False):
            raise ValueError(
                "a quantized layer's bounds belong to its weight: another weight, as one that a "
                "BatchNorm was folded into, needs a quantized layer of its own"
            )
        super().__setattr__(name, value)

    def low_bit(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, operation: Operation
    ) -> Tensor:
        """The layer's output. weight, bias  as they enter the operation, whatever they were made
        of.
        """
        if self.phase == self.COUNT:
            y = operation(x, weight)
            return y if bias is None else y + operation.per_channel(bias)
        if self.phase == self.INITIALISE:
            self._initialise(x, weight, bias, operation)
        self.require_ready()
        codes, scale = self.activation_quantizer.codes(x)
        w_codes, weight_scale = self.weight_quantizer.codes(operation.channels_first(weight))
        if _computes_in(codes) == torch.float16:  # it ends at 65504: sums of values, not of codes
            codes, scale, w_codes, weight_scale = codes * scale, 1.0, w_codes * weight_scale, 1.0
        w_codes = operation.channels_first(w_codes).to(codes.dtype)
        y, offset = operation(codes, w_codes), self.activation_quantizer.offset
        if isinstance(weight_scale, Tensor) and weight_scale.ndim:
            weight_scale = operation.per_channel(weight_scale.flatten())
        scales = scale * weight_scale
        if self.output_scale is not None:
            scales = scales * operation.per_channel(self.output_scale.abs())
        if not (isinstance(scales, float) and scales == 1.0):
            y = (y * scales).to(y.dtype)  # scales of channels must not widen bfloat16
        if offset is not None:
            # What the offset of every input adds, exactly, the zeros around the image left out: one
            # image's work.
            ones = torch.ones_like(codes[:1])
            y = y + operation(ones, w_codes) * (scales / scale * offset).to(y.dtype)
        if bias is None:
            return y
        bias = bias if self.output_scale is None else bias * self.output_scale.abs()
        return y + operation.per_channel(bias).to(y.dtype)

    @torch.no_grad()
    def _initialise(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, operation: Operation
    ) -> None:
        """Set all parameters from what enters the layer."""
        self.weight_quantizer.initialise(operation.channels_first(weight))
        self.see(x)
        self.ready = True
        if self.output_scale is None:
            return
        # The mean size of the quantized output becomes that of the exact one.
        bias = 0 if bias is None else operation.per_channel(bias)
        w_values = operation.channels_first(self.weight_quantizer(operation.channels_first(weight)))
        own = self.output_scale.ndim > 0
        exact, quantized = (
            sum(operation.mean_size(operation(of(x), w) + bias, own) for x in self._seen)
            for of, w in ((lambda x: x, weight), (self.activation_quantizer, w_values))
        )
        self.output_scale.copy_(exact / divisor(quantized))


def _computes_in(x: Tensor) -> torch.dtype:
    """The type in which a convolution or product of x is computed."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class QuantizedConv2d(QuantizedLayer, nn.Conv2d):
    """A convolution, grouped or not, with quantized weight and input."""

    def forward(self, x: Tensor) -> Tensor:
        def call(x: Tensor, weight: Tensor) -> Tensor:
            return self._conv_forward(x, weight, None)

        return self.low_bit(x, self.weight, self.bias, Operation(call, 2))


class QuantizedLinear(QuantizedLayer, nn.Linear):
    """A linear layer with quantized weight and input."""

    def forward(self, x: Tensor) -> Tensor:
        return self.low_bit(x, self.weight, self.bias, Operation(F.linear))


class InterceptedLayer(QuantizedLayer):
    """A layer of another kind: a subclass with a forward of its own, a parametrised weight.

    That forward runs. The one convolution or product in it is done on codes, with the weight that
    enters it, after padding and standardising.
    """

    def forward(self, *arguments: Any, **named: Any) -> Tensor:
        found = _Interception(self)
        with found:
            y = super(QuantizedLayer, self).forward(*arguments, **named)
        if found.count != 1:
            kind = type(self).__name__
            raise RuntimeError(
                f"{self.path}, a {kind}, computes {found.count} convolutions or products that are "
                f"known here, not one: keep={self.path!r}"
            )
        return y


# Function -> spatial axes, whether it is transposed.
_CALLS = {
    F.linear: (0, False),
    torch.conv1d: (1, False),
    torch.conv2d: (2, False),
    torch.conv3d: (3, False),
    torch.conv_transpose1d: (1, True),
    torch.conv_transpose2d: (2, True),
    torch.conv_transpose3d: (3, True),
}


class _Interception(TorchFunctionMode):
    """A block in which a layer's convolution or product goes to its `low_bit`."""

    def __init__(self, layer: InterceptedLayer):
        super().__init__()
        self.layer, self.count = layer, 0

    def __torch_function__(self, function, types, arguments=(), named=None) -> Any:
        named = named or {}
        if function not in _CALLS:
            return function(*arguments, **named)
        self.count += 1
        x, weight, bias = _operands(arguments, dict(named))
        settings = {k: v for k, v in named.items() if k not in ("input", "weight", "bias")}

        def call(x: Tensor, weight: Tensor) -> Tensor:
            return function(x, weight, None, *arguments[3:], **settings)

        return self.layer.low_bit(x, weight, bias, Operation(call, *_CALLS[function]))


def _operands(arguments: tuple, named: dict[str, Any]) -> tuple:
    given = dict(zip(("input", "weight", "bias"), arguments, strict=False)) | named
    return given["input"], given["weight"], given.get("bias")


LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_EXACT = {nn.Conv2d: QuantizedConv2d, nn.Linear: QuantizedLinear}


@cache
def quantized_type(kind: type[nn.Module]) -> type[QuantizedLayer]:
    """The class that a layer of this class becomes.

    >>> quantized_type(nn.Conv2d).__name__, quantized_type(nn.Conv1d).__name__
    ('QuantizedConv2d', 'QuantizedConv1d')
    """
    if kind in _EXACT:
        return _EXACT[kind]
    return type(f"Quantized{kind.__name__}", (InterceptedLayer, kind), {})
