"""Factor transfer: distillation of the factors that a paraphraser extracts."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..basics.checks import checked, require
from ..data.checks import maps
from ..models.precision import widen
from .distillers import Distiller, Sizes, as_map, in_full_precision
from .features import same_size
from .registry import BOTH, OBJECTIVES, Entry


@checked(factor_s=maps, factor_t=maps)
def factor(factor_s: Tensor, factor_t: Tensor, p1: int = 2, p2: int = 1) -> Tensor:
    """Factor transfer (Kim et al., NeurIPS 2018, arXiv 1802.04977, section 3) in the form that
    RepDistiller and SQAKD run.

    A factor is reduced to the mean over channels of its p1-th power, flattened, and scaled to
    length 1; the loss is the mean over batch and positions of |difference|^p2. The paper scales the
    whole factor instead and takes no mean over channels.

    factor_s, factor_t  maps of any widths: the translator's and the paraphraser's, see
                        `FactorTransfer`.

    >>> fs = torch.tensor([[[[1.0, 2.0]]]], requires_grad=True)
    >>> loss = factor(fs, torch.tensor([[[[4.0, 3.0]]]]))
    >>> loss.backward()
    >>> loss.detach(), fs.grad
    (tensor(0.5545), tensor([[[[-0.2853,  0.1427]]]]))
    """
    s, t = (F.normalize(f.pow(p1).mean(1).flatten(1)) for f in same_size(factor_s, factor_t))
    return (s - t).abs().pow(p2).mean()


class FactorTransfer(Distiller):
    """`factor` between a translation of the student's map and a paraphrase of the teacher's (Kim et
    al., NeurIPS 2018).

    The paraphraser is an autoencoder of 3x3 convolutions, LeakyReLU(0.1) after each: C -> C -> F ->
    F, F = rate * C, and the same mirrored by transposed convolutions. It learns first, alone, to
    reconstruct the teacher's map (mean squared error); then its encoder gives the teacher's factor
    and gets no gradient any more. The translator has the encoder's shape, from the student's C to
    F, with batch normalisation (the batch's statistics), and learns with the student. Of both
    networks' layers the widths may differ; sizes that differ are pooled.

    rate  channels of the factor over channels of the teacher's map, in (0, 1].
    """

    pretrains = "own"

    @checked()
    def build(self, student: Sizes, teacher: Sizes, *, rate: float = 0.5) -> None:
        for size in (*student, *teacher):
            no_image = f"FT's 3x3 convolutions need maps, not tokens (N, T, D): {tuple(size)}"
            require(len(size) != 3, no_image)
        widths = [max(1, int(rate * size[1])) for size in teacher]
        self.translators = nn.ModuleList(
            _stack(nn.Conv2d, s[1], f, norm=True) for s, f in zip(student, widths, strict=True)
        )
        pairs = [(t[1], f) for t, f in zip(teacher, widths, strict=True)]
        self.encoders = nn.ModuleList(_stack(nn.Conv2d, c, f) for c, f in pairs)
        self.decoders = nn.ModuleList(_stack(nn.ConvTranspose2d, f, c) for c, f in pairs)

    def loss(self, fs: list[Tensor], ft: list[Tensor], indices: Tensor | None) -> Tensor:
        with torch.no_grad():  # frozen: an optimiser passes over parameters without a gradient
            wanted = [encoder(as_map(t)) for encoder, t in zip(self.encoders, ft, strict=True)]
        found = [translator(as_map(s)) for translator, s in zip(self.translators, fs, strict=True)]
        return sum(map(factor, found, wanted))

    def pretraining_loss(self, fs: Sequence[Tensor], ft: Sequence[Tensor]) -> Tensor:
        """The paraphrasers' mean squared error of reconstruction, summed over layers; fs is not
        looked at.
        """
        with in_full_precision(ft):
            layers = zip(self.encoders, self.decoders, [as_map(widen(t)) for t in ft], strict=True)
            return sum(F.mse_loss(decode(encode(t)), t) for encode, decode, t in layers)

    def pretrained(self) -> list[nn.Parameter]:
        return [*self.encoders.parameters(), *self.decoders.parameters()]


def _stack(convolution: type[nn.Module], c: int, f: int, norm: bool = False) -> nn.Sequential:
    """Three 3x3 convolutions, c -> c -> f -> f channels."""
    layers: list[nn.Module] = []
    for a, b in ((c, c), (c, f), (f, f)):
        norms = [nn.BatchNorm2d(b, track_running_stats=False)] if norm else []
        layers += [convolution(a, b, 3, padding=1), *norms, nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


# init_lr as released for ResNets; for a VGG it is the recipe's: objective("ft", init_lr=None).
OBJECTIVES["ft"] = Entry(
    FactorTransfer,
    "feature",
    "Kim, Park & Kwak, NeurIPS 2018",
    {"beta": 200, "layers": ("last map",), "init_epochs": 30, "init_lr": 0.01},
    cutmix=BOTH + "; the paraphraser learns on mixed images too",
    proof="test_factor_is_the_written_out_formula",
)
