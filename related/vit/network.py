"""A small vision transformer (Dosovitskiy et al., ICLR 2021, arXiv 2010.11929) for images of 32
pixels, in two sizes.

Norms come before attention and MLP, the mean over patches goes to the classifier, and there is no
class token. Dropout and stochastic depth, which networks of this size are usually trained with, are
left out.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlib.basics.checks import require
from paperlib.models import Classifier, Network
from paperlib.models.classifier import full_precision
from paperlib.models.precision import widen
from paperlib.quantizers import Product

SIDE, PATCH, MLP_RATIO = 32, 4, 2


class Attention(nn.Module):
    """Multi-head attention out of four layers and two products, which `quantize` takes one by
    one.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.scores, self.mix = Product(), Product()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, T, d) -> (N, T, d), and the scores (N, h, T, T), whose softmax is the map."""
        q, k, v = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        scores = self.scores(q, k.mT) / math.sqrt(q.shape[-1])
        mixed = self.mix(scores.softmax(-1), v)
        return self.out(mixed.transpose(1, 2).flatten(2)), scores


class Block(nn.Module):
    """Attention and a two-layer MLP, each behind a norm and beside a shortcut."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.wide = nn.Linear(width, MLP_RATIO * width)
        self.narrow = nn.Linear(MLP_RATIO * width, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, T, d) -> the block's output and that of its attention with the shortcut, both
        (N, T, d), and the scores (N, h, T, T).
        """
        mixed, scores = self.attention(self.norm1(x))
        attended = x + mixed
        return attended + self.narrow(F.gelu(self.wide(self.norm2(attended)))), attended, scores


class VisionTransformer(Classifier):
    """`depth` blocks over the 64 patches of an image.

    Features, of L blocks: f0, the embedded patches, and f1 .. fL, the blocks' outputs, all
    (N, T, d); score1 .. scoreL, the attention scores before the softmax, (N, h, T, T);
    out1 .. outL, attention's outputs with the shortcut, (N, T, d); and the pooled vector (N, d).
    """

    full_precision = ("patches", "head")

    def __init__(self, width: int, depth: int, heads: int, classes: int):
        super().__init__()
        self.patches = nn.Conv2d(3, width, PATCH, PATCH)
        self.positions = nn.Parameter(0.02 * torch.randn(1, (SIDE // PATCH) ** 2, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def features(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        size = tuple(images.shape[2:])
        require(size == (SIDE, SIDE), f"images must have {SIDE} x {SIDE} pixels, got {size}")
        x = self.patches(images).flatten(2).mT + self.positions
        features = {"f0": x}
        for number, block in enumerate(self.blocks, start=1):
            x, attended, scores = block(x)
            named = (("f", x), ("score", scores), ("out", attended))
            features |= {f"{kind}{number}": feature for kind, feature in named}
        pooled = features[f"f{len(self.blocks) + 1}"] = widen(self.norm(x)).mean(1)
        with full_precision(pooled):
            return self.head(pooled), features


_PROOF = "test_a_block_is_the_encoder_layer_of_torch"
_PAPER = "Dosovitskiy et al., ICLR 2021"
SMALL = Network(partial(VisionTransformer, 64, 4, 4), _PAPER, _PROOF)
LARGE = Network(partial(VisionTransformer, 192, 9, 12), _PAPER, _PROOF)
