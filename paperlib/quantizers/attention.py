"""Multi-head attention out of layers and products that can be quantized one by one."""

import math
from collections.abc import Callable, Sequence

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
        self.sides = nn.ModuleList()

    def adopt(
        self,
        path: str,
        unsigned: Callable[[], Quantizer],
        signed: Callable[[], Quantizer],
        device: torch.device,
    ) -> None:
        """Quantize both sides; the functions make a quantizer each, see `LowBit.take`."""
        for number in range(2):
            side = Side()
            side.take(f"{path}.sides.{number}", unsigned(), signed, device)
            self.sides.append(side)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """(..., M, K) and (..., K, N) -> (..., M, N)."""
        if self.sides:
            a, b = (side(x) for side, x in zip(self.sides, (a, b), strict=True))
        return a @ b


class ExplicitAttention(nn.Module):
    """`nn.MultiheadAttention` as four linear layers and two products; the same output."""

    # What nn.TransformerEncoderLayer looks at: its fast path, which would go round the quantized
    # layers, asks for a packed bias.
    in_proj_bias = None

    def __init__(self, whole: nn.MultiheadAttention):
        super().__init__()
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
        vars(self).update({k: hooks for k, hooks in vars(whole).items() if "_hooks" in k})

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
        """As nn.MultiheadAttention's. Raises ValueError for `is_causal` without the mask."""
        require(attn_mask is not None or not is_causal, f"is_causal={is_causal} needs attn_mask")
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


def _plain(module: nn.Module) -> bool:
    """Whether it is attention without a forward, biases of keys and values or zeros of its own."""
    attention = nn.MultiheadAttention
    if not isinstance(module, attention) or type(module).forward is not attention.forward:
        return False
    return module.bias_k is None and not module.add_zero_attn


def explicit_attention(model: nn.Module, keep: Sequence[str] = ()) -> None:
    """Replace every `nn.MultiheadAttention` in the network, in place, but for those to keep, with
    all below them, and those that compute something else.
    """
    names = dict(model.named_modules(remove_duplicate=False))
    kept = {module for name in keep if name in names for module in names[name].modules()}
    made: dict[nn.Module, ExplicitAttention] = {}
    for name, module in names.items():
        if _plain(module) and module not in kept:
            parent, _, own = name.rpartition(".")
            require(own, "a single attention module is no network: put it into one")
            if module not in made:  # one in several places stays one
                made[module] = ExplicitAttention(module)
            setattr(names[parent], own, made[module])
