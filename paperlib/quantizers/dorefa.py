"""DoReFa-Net in paper form (Zhou et al., 2016): nothing is learned but the weights."""

from torch import Tensor

from .functional import _check_bits, dorefa_activation, dorefa_weight
from .layers import Quantizer


class DorefaWeight(Quantizer):
    def __init__(self, bits: int):
        super().__init__()
        _check_bits(bits)
        self.bits = bits

    def initialise(self, x: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        return dorefa_weight(x, self.bits)


class DorefaActivation(DorefaWeight):
    def forward(self, x: Tensor) -> Tensor:
        return dorefa_activation(x, self.bits)
