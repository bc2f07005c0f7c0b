"""Multi-head attention out of layers and products that can be quantized one by one."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..basics.checks import require
from .layers import LowBit, Quantizer


class Side(LowBit):
    """One side of a product, quantized."""

    def forward(self, x: Tensor) -> Tensor:
        """Quantized values of the same shape."""
        if self.phase == self.COUNT:
            return x
        if self.phase == self.INITIALISE:
            with torch.no_grad():
                self.see(x)
            self.ready = True
        self.require_ready()
        return self.activation_quantizer(x)


class Product(nn.Module):
    """A matrix product of two activations, in full precision until `adopt`."""

    def __init__(self):
        super().__init__()
        self.sides, self.macs = nn.ModuleList(), None

    def adopt(
        self, path: str, unsigned: Callable[[], Quantizer], signed: Callable[[], Quantizer]
    ) -> None:
        """Quantize both sides; the functions make a quantizer each, see `LowBit.take`."""
        device = next((p.device for p in self.parameters()), torch.device("cpu"))
        for number in range(2):
            side = Side()
            side.take(f"{path}.sides.{number}", unsigned(), signed, device)
            self.sides.append(side)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """(..., M, K) and (..., K, N) -> (..., M, N)."""
        if self.sides:
            a, b = (side(x) for side, x in zip(self.sides, (a, b), strict=True))
        y = a @ b
        self.macs = y.numel() * a.shape[-1] // len(y)
        return y


class ExplicitAttention(nn.Module):
    """`nn.MultiheadAttention` as four linear layers and two products; the same output.

    Raises ValueError for biases added to keys and values (`add_bias_kv`) and `add_zero_attn`.
    """

    # What nn.TransformerEncoderLayer looks at: its fast path, which would go round the quantized
    # layers, asks for a packed bias.
    in_proj_bias = None

    def __init__(self, whole: nn.MultiheadAttention):
        super().__init__()
        plain = whole.bias_k is None and whole.bias_v is None and not whole.add_zero_attn
        require(plain, "attention with add_bias_kv or add_zero_attn cannot be quantized: keep it")
        self.num_heads, self.batch_first = whole.num_heads, whole.batch_first
        self.dropout = whole.dropout
        weights = (whole.q_proj_weight, whole.k_proj_weight, whole.v_proj_weight)
        if whole.in_proj_weight is not None:
            weights = whole.in_proj_weight.chunk(3)
        biases = (None,) * 3 if whole.in_proj_bias is None else whole.in_proj_bias.chunk(3)
        self.q, self.k, self.v = map(_linear, weights, biases)
        self.out = _linear(whole.out_proj.weight, whole.out_proj.bias)
        self.scores, self.mix = Product(), Product()
        self.train(whole.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As nn.MultiheadAttention's."""
        batched = query.ndim == 3
        if batched and not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        if not batched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
        q, k, v = self._heads(self.q(query)), self._heads(self.k(key)), self._heads(self.v(value))
        scores = self.scores(q / math.sqrt(q.shape[-1]), k.transpose(-2, -1))
        if attn_mask is not None:
            mask = _additive(attn_mask, scores)
            if mask.ndim == 3:  # (N heads, L, S)
                mask = mask.unflatten(0, (-1, self.num_heads))
            scores = scores + mask
        if key_padding_mask is not None:
            scores = scores + _additive(key_padding_mask, scores)[..., None, None, :]
        attention = scores.softmax(-1)
        mixed = self.mix(nn.functional.dropout(attention, self.dropout, self.training), v)
        y = self.out(mixed.transpose(1, 2).flatten(2))
        if not batched:
            y, attention = y[0], attention[0]
        elif not self.batch_first:
            y = y.transpose(0, 1)
        if not need_weights:
            return y, None
        return y, attention.mean(-3) if average_attn_weights else attention

    def _heads(self, x: Tensor) -> Tensor:
        """(N, L, E) -> (N, heads, L, E / heads)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def _additive(mask: Tensor, scores: Tensor) -> Tensor:
    """A mask as what is added to the scores: -inf where a boolean one is true."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=scores.dtype).masked_fill(mask, -torch.inf)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone(), weight.requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), bias.requires_grad)
    return layer


def explicit_attention(model: nn.Module) -> None:
    """Replace every `nn.MultiheadAttention` in the network, in place."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.MultiheadAttention):
            parent, _, own = name.rpartition(".")
            require(own, "a single attention module is no network: put it into one")
            setattr(model.get_submodule(parent), own, ExplicitAttention(module))
