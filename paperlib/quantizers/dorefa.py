"""DoReFa-Net in paper form (Zhou et al., 2016): nothing is learned but the weights."""

from torch import Tensor

from .functional import _check_bits, dorefa_activation_codes, dorefa_weight_codes
from .layers import Quantizer
from .registry import METHODS, Method


class DorefaWeight(Quantizer):
    """shape  (C, 1, ...) for a maximum (at one bit, a mean) of each output channel, () for one of
    the whole weight.
    """

    def __init__(self, bits: int, shape: tuple[int, ...] = ()):
        super().__init__()
        _check_bits(bits)
        self.bits, self.per_channel = bits, bool(shape)

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor | float]:
        return dorefa_weight_codes(x, self.bits, self.per_channel)


class DorefaActivation(Quantizer):
    def __init__(self, bits: int):
        super().__init__()
        _check_bits(bits)
        self.bits = bits

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor | float]:
        return dorefa_activation_codes(x, self.bits)


METHODS["dorefa"] = Method(
    DorefaWeight, DorefaActivation, "Zhou et al., 2016, arXiv 1606.06160", "test_one_bit_weights"
)
