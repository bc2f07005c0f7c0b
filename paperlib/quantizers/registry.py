"""Registry entries of quantizers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..basics.registry import Registry, options_of
from .layers import Quantizer, Shifted


@dataclass(frozen=True)
class Method:
    """How to make the quantizers of a layer: functions of (bits, **options).

    weight        also takes `shape`, (C, 1, ...), if the weights are to be quantized per channel.
    activation    of a layer's input.
    paper         authors, venue, arXiv number.
    proof         the test that proves the formula, beside those that every quantizer goes through.
    signed        of an input that is negative too, as the network's own; None if there is no such
                  grid: then the first batch shifts that of `activation`.
    output_scale  whether the layer learns to scale its output, because the quantized values do not.

    An entry in `METHODS` is all that a quantizer of one's own needs:

    >>> from paperlib.quantizers import initialise, quantize
    >>> class Sign(Quantizer):
    ...     def __init__(self, bits, shape=()):
    ...         super().__init__()
    ...     def codes(self, x):
    ...         return x + (x.detach().sign() - x.detach()), 1.0
    >>> METHODS["sign"] = Method(Sign, Sign, "mine", output_scale=True)
    >>> network = torch.nn.Sequential(*(torch.nn.Conv2d(3, 3, 1) for _ in range(3)))
    >>> student = quantize(network, "sign", 1, 1)
    >>> initialise(student, torch.rand(2, 3, 4, 4))
    >>> student(torch.rand(2, 3, 4, 4)).shape
    torch.Size([2, 3, 4, 4])
    >>> del METHODS["sign"]
    """

    weight: Callable[..., Quantizer]
    activation: Callable[..., Quantizer]
    paper: str
    proof: str = ""
    signed: Callable[..., Quantizer] | None = None
    output_scale: bool = False

    def signed_activation(self, bits: int, **options: Any) -> Quantizer:
        """The quantizer of a layer's input that is negative too: the method's own `signed`, else
        `activation` on a grid that the first batch shifts.
        """
        if self.signed:
            return self.signed(bits, **options)
        return Shifted(self.activation(bits, **options))

    @property
    def weight_options(self) -> dict[str, Any]:
        """The options of the weights' quantizer, with their usual values."""
        return options_of(self.weight, ("bits", "shape"))

    @property
    def activation_options(self) -> dict[str, Any]:
        """Those of the inputs'."""
        return options_of(self.activation, ("bits", "shape"))


METHODS: Registry[Method] = Registry("quantization method")
