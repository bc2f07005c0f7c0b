"""DoReFa-Net in paper form (Zhou et al., 2016): nothing is learned but the weights."""

from torch import Tensor

from .functional import _check_bits, dorefa_activation_codes, dorefa_weight_codes
from .layers import Quantizer


class DorefaWeight(Quantizer):
    def __init__(self, bits: int):
        super().__init__()
        _check_bits(bits)
        self.bits = bits

    def initialise(self, x: Tensor) -> None:
        pass

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor | float]:
        return dorefa_weight_codes(x, self.bits)


class DorefaActivation(DorefaWeight):
    def codes(self, x: Tensor) -> tuple[Tensor, Tensor | float]:
        return dorefa_activation_codes(x, self.bits)
