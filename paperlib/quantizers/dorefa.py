"""DoReFa-Net in paper form (Zhou et al., 2016): nothing is learned but the weights."""

from torch import Tensor

from .functional import dorefa_activation_codes, dorefa_weight_codes
from .layers import Quantizer
from .registry import METHODS, Method


class DorefaWeight(Quantizer):
    """Per channel, each output channel has its own maximum (at one bit, its own mean)."""

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor | float]:
        return dorefa_weight_codes(x, self.bits, self.per_channel)


class DorefaActivation(Quantizer):
    """`dorefa_activation` of a layer's input."""

    unsigned, top = True, 1.0

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor | float]:
        return dorefa_activation_codes(x, self.bits)


METHODS["dorefa"] = Method(
    DorefaWeight, DorefaActivation, "Zhou et al., 2016, arXiv 1606.06160", "test_one_bit_weights"
)
