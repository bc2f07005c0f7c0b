"""Losses between features that learn something themselves: regressors, embeddings, translators."""

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.precision import widen
from .features import correlation, factor, fsp, hint, kdsvd, same_size

FeatureLoss = Callable[..., Tensor]  # (fs, ft, **options) -> scalar
Sizes = Sequence[Sequence[int]]  # shapes of features, batch axis first


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of this block come from `seed`; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _in_full_precision(features: Sequence[Tensor]) -> torch.autocast:
    return torch.autocast(features[0].device.type, enabled=False)


class Distiller(nn.Module):
    """The beta term of an objective: a loss between the chosen layers, with whatever it learns.

    A subclass implements `loss` and builds its modules in `__init__`, which takes the arguments
    below and options of its own with defaults; `seed` is of the initial weights. What it registers
    learns with the student's weights.

    student, teacher  shapes of the chosen layers' features, batch axis first, from the first layer
                      to the last.
    labels            (n,) int64 labels of the whole training set, classes  their number: for losses
                      that look at more than the batch.
    Raises ValueError for no layers, or for different numbers of them.

    pretrains   "" or what learns by `pretraining_loss` before the main stage: "own", the
                `pretrained` parameters, on the teacher's features, to stay as they are from then
                on; or "student", the student's feature layers together with the `pretrained`
                parameters.
    capturable  whether a step with this loss can be captured in a CUDA graph.
    """

    pretrains = ""
    capturable = True

    def __init__(
        self,
        student: Sizes,
        teacher: Sizes,
        labels: Tensor | None = None,
        classes: int | None = None,
    ):
        super().__init__()
        if not student or len(student) != len(teacher):
            raise ValueError(
                "as many layers of the student as of the teacher expected, got "
                f"{len(student)} and {len(teacher)}"
            )

    def forward(
        self, fs: Sequence[Tensor], ft: Sequence[Tensor], indices: Tensor | None = None
    ) -> Tensor:
        """The loss between features of one batch, a scalar of at least float32, whatever type they
        come in.

        indices  (N,) int64, the images' places in the training set; only contrastive losses look at
        them.
        """
        with _in_full_precision(fs):
            return self.loss([widen(f) for f in fs], [widen(f) for f in ft], indices)

    def loss(self, fs: list[Tensor], ft: list[Tensor], indices: Tensor | None) -> Tensor:
        """`forward` on features that are in float32 at least."""
        raise NotImplementedError

    def pretraining_loss(self, fs: Sequence[Tensor], ft: Sequence[Tensor]) -> Tensor:
        """The scalar that the stage before the main one minimises."""
        raise NotImplementedError(f"{type(self).__name__} has no stage before the main one")

    def pretrained(self) -> list[nn.Parameter]:
        """The parameters of this module that learn by `pretraining_loss`."""
        return []


class Layerwise(Distiller):
    """The sum over layers of a plain function (fs, ft, **options) -> scalar.

    >>> from paperlib.losses import hint
    >>> Layerwise(hint, [(2, 3)], [(2, 3)])([torch.zeros(2, 3)], [torch.ones(2, 3)])
    tensor(1.)
    """

    def __init__(
        self,
        function: FeatureLoss,
        student: Sizes,
        teacher: Sizes,
        labels: Tensor | None = None,
        classes: int | None = None,
        **options: float,
    ):
        super().__init__(student, teacher, labels, classes)
        self.function, self.options = function, options

    def loss(self, fs: list[Tensor], ft: list[Tensor], indices: Tensor | None) -> Tensor:
        return sum(self.function(s, t, **self.options) for s, t in zip(fs, ft, strict=True))


def as_map(f: Tensor) -> Tensor:
    """A vector (N, D) as a map (N, D, 1, 1); a map as it is."""
    return f if f.ndim == 4 else f[:, :, None, None]


class FitNet(Distiller):
    """`hint` on student features that went through a 1x1 convolution, batch normalisation and ReLU
    (Romero et al., ICLR 2015).

    The regressor is always there, also where widths agree, as in RepDistiller; statistics are the
    batch's. RepDistiller meets different sizes by strides or transposed convolutions; here the
    larger map is pooled. Vectors are maps of one position.
    """

    def __init__(
        self,
        student: Sizes,
        teacher: Sizes,
        labels: Tensor | None = None,
        classes: int | None = None,
        seed: int = 0,
    ):
        super().__init__(student, teacher, labels, classes)
        with seeded(seed):
            self.regressors = nn.ModuleList(
                _conv_bn_relu(s[1], t[1]) for s, t in zip(student, teacher, strict=True)
            )

    def loss(self, fs: list[Tensor], ft: list[Tensor], indices: Tensor | None) -> Tensor:
        layers = zip(self.regressors, fs, ft, strict=True)
        return sum(hint(regressor(as_map(s)), as_map(t)) for regressor, s, t in layers)


def _conv_bn_relu(channels_in: int, channels_out: int) -> nn.Sequential:
    norm = nn.BatchNorm2d(channels_out, track_running_stats=False)
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1), norm, nn.ReLU())


class Correlation(Distiller):
    """`correlation` of linear embeddings of both features, learned on both sides (Peng et al., ICCV
    2019).

    dim  width of the embeddings. Maps are flattened.
    """

    def __init__(
        self,
        student: Sizes,
        teacher: Sizes,
        labels: Tensor | None = None,
        classes: int | None = None,
        *,
        dim: int = 128,
        seed: int = 0,
    ):
        super().__init__(student, teacher, labels, classes)
        with seeded(seed):
            self.student_heads = nn.ModuleList(
                nn.Linear(math.prod(size[1:]), dim) for size in student
            )
            self.teacher_heads = nn.ModuleList(
                nn.Linear(math.prod(size[1:]), dim) for size in teacher
            )

    def loss(self, fs: list[Tensor], ft: list[Tensor], indices: Tensor | None) -> Tensor:
        layers = zip(self.student_heads, self.teacher_heads, fs, ft, strict=True)
        return sum(
            correlation(head_s(s.flatten(1)), head_t(t.flatten(1)))
            for head_s, head_t, s, t in layers
        )


class VID(Distiller):
    """Variational information distillation (Ahn et al., CVPR 2019, arXiv 1904.05835, section 2).

    Of each layer mean over all elements of ((mu(s) - t)^2 / v + log v) / 2, the negative
    log-likelihood of the teacher's feature without its constant, in nats: it can be negative. mu is
    a regressor of three 1x1 convolutions without bias, ReLU between; v = softplus(a) + 1e-5, one
    learned a for each of the teacher's channels. Sizes that differ are pooled.

    variance  v before training, positive.
    """

    floor = 1e-5

    def __init__(
        self,
        student: Sizes,
        teacher: Sizes,
        labels: Tensor | None = None,
        classes: int | None = None,
        *,
        variance: float = 5.0,
        seed: int = 0,
    ):
        super().__init__(student, teacher, labels, classes)
        if not variance > self.floor:
            raise ValueError(f"the variance must be more than {self.floor}, got {variance}")
        with seeded(seed):
            self.regressors = nn.ModuleList(
                _regressor(s[1], t[1]) for s, t in zip(student, teacher, strict=True)
            )
        raw = math.log(math.expm1(variance - self.floor))
        self.scales = nn.ParameterList(torch.full((size[1],), raw) for size in teacher)

    def loss(self, fs: list[Tensor], ft: list[Tensor], indices: Tensor | None) -> Tensor:
        total = 0
        for regressor, scale, s, t in zip(self.regressors, self.scales, fs, ft, strict=True):
            s, t = same_size(as_map(s), as_map(t))
            variance = (F.softplus(scale) + self.floor)[:, None, None]
            total = total + 0.5 * ((regressor(s) - t).square() / variance + variance.log()).mean()
        return total


def _regressor(channels_in: int, channels_out: int) -> nn.Sequential:
    widths = (channels_in, channels_out, channels_out, channels_out)
    layers = [nn.Conv2d(a, b, 1, bias=False) for a, b in zip(widths[:-1], widths[1:], strict=True)]
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])


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

    def __init__(
        self,
        student: Sizes,
        teacher: Sizes,
        labels: Tensor | None = None,
        classes: int | None = None,
        *,
        rate: float = 0.5,
        seed: int = 0,
    ):
        super().__init__(student, teacher, labels, classes)
        if not 0 < rate <= 1:
            raise ValueError(f"the rate must lie in (0, 1], got {rate}")
        widths = [max(1, int(rate * size[1])) for size in teacher]
        with seeded(seed):
            self.translators = nn.ModuleList(
                _encoder(s[1], f, norm=True) for s, f in zip(student, widths, strict=True)
            )
            self.encoders = nn.ModuleList(
                _encoder(t[1], f) for t, f in zip(teacher, widths, strict=True)
            )
            self.decoders = nn.ModuleList(
                _decoder(t[1], f) for t, f in zip(teacher, widths, strict=True)
            )

    def loss(self, fs: list[Tensor], ft: list[Tensor], indices: Tensor | None) -> Tensor:
        with torch.no_grad():  # frozen: an optimiser passes over parameters without a gradient
            wanted = [encoder(as_map(t)) for encoder, t in zip(self.encoders, ft, strict=True)]
        found = [translator(as_map(s)) for translator, s in zip(self.translators, fs, strict=True)]
        return sum(factor(s, t) for s, t in zip(found, wanted, strict=True))

    def pretraining_loss(self, fs: Sequence[Tensor], ft: Sequence[Tensor]) -> Tensor:
        """The paraphrasers' mean squared error of reconstruction, summed over layers; fs is not
        looked at.
        """
        with _in_full_precision(ft):
            maps = [as_map(widen(t)) for t in ft]
            again = [
                decode(encode(t))
                for encode, decode, t in zip(self.encoders, self.decoders, maps, strict=True)
            ]
            return sum(F.mse_loss(a, t) for a, t in zip(again, maps, strict=True))

    def pretrained(self) -> list[nn.Parameter]:
        return [*self.encoders.parameters(), *self.decoders.parameters()]


def _encoder(channels_in: int, channels_out: int, norm: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in (
        (channels_in, channels_in),
        (channels_in, channels_out),
        (channels_out, channels_out),
    ):
        layers.append(nn.Conv2d(a, b, 3, padding=1))
        if norm:
            layers.append(nn.BatchNorm2d(b, track_running_stats=False))
        layers.append(nn.LeakyReLU(0.1))
    return nn.Sequential(*layers)


def _decoder(channels_out: int, channels_in: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in (
        (channels_in, channels_in),
        (channels_in, channels_out),
        (channels_out, channels_out),
    ):
        layers += [nn.ConvTranspose2d(a, b, 3, padding=1), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


class Consecutive(Distiller):
    """Base of the losses that relate layers to their neighbours and need the teacher's widths.

    Where a student's layer has another width than the teacher's a learned 1x1 convolution without
    bias makes it equal: an extension, the methods' own code needs equal widths.
    """

    def __init__(
        self,
        student: Sizes,
        teacher: Sizes,
        labels: Tensor | None = None,
        classes: int | None = None,
        *,
        seed: int = 0,
    ):
        super().__init__(student, teacher, labels, classes)
        if len(student) < 2:
            raise ValueError(
                f"neighbouring layers are compared: at least 2 needed, got {len(student)}"
            )
        with seeded(seed):
            self.projectors = nn.ModuleList(
                nn.Identity() if s[1] == t[1] else nn.Conv2d(s[1], t[1], 1, bias=False)
                for s, t in zip(student, teacher, strict=True)
            )

    def project(self, fs: list[Tensor]) -> list[Tensor]:
        return [projector(s) for projector, s in zip(self.projectors, fs, strict=True)]


class FSP(Consecutive):
    """The sum of `fsp` over consecutive pairs of layers (Yim et al., CVPR 2017).

    In its own stage before the main one the student's feature layers minimise it alone; the
    released objective then has no use for it (`OBJECTIVES["fsp"]`), `OBJECTIVES["fsp_active"]` has.
    """

    pretrains = "student"

    def loss(self, fs: list[Tensor], ft: list[Tensor], indices: Tensor | None) -> Tensor:
        pairs = zip(*(zip(f[:-1], f[1:], strict=True) for f in (self.project(fs), ft)), strict=True)
        return sum(fsp(s, t) for s, t in pairs)

    def pretraining_loss(self, fs: Sequence[Tensor], ft: Sequence[Tensor]) -> Tensor:
        """The loss itself."""
        return self(fs, ft)

    def pretrained(self) -> list[nn.Parameter]:
        return list(self.projectors.parameters())


class KDSVD(Consecutive):
    """`kdsvd` of all layers (Lee et al., ECCV 2018). k  singular vectors of each map."""

    capturable = False  # a singular value decomposition waits for the device

    def __init__(
        self,
        student: Sizes,
        teacher: Sizes,
        labels: Tensor | None = None,
        classes: int | None = None,
        *,
        k: int = 1,
        seed: int = 0,
    ):
        super().__init__(student, teacher, labels, classes, seed=seed)
        self.k = k

    def loss(self, fs: list[Tensor], ft: list[Tensor], indices: Tensor | None) -> Tensor:
        return kdsvd(self.project(fs), ft, self.k)


def options_of(loss: Callable | type[Distiller], fixed: Sequence[str]) -> tuple[str, ...]:
    """Names of the arguments of a loss, function or class, other than the `fixed` ones.

    >>> from paperlib.losses import rkd
    >>> options_of(rkd, ("fs", "ft"))
    ('distance_weight', 'angle_weight')
    """
    return tuple(name for name in inspect.signature(loss).parameters if name not in fixed)
