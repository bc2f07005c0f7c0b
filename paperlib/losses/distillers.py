"""The base of losses between features that learn or remember something, or relate layers."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from ..basics.checks import checked, count, number, require, several
from ..data.checks import labels_of
from ..models.precision import widen
from .features import expected, same_size, tokens_as_map, width

FeatureLoss = Callable[..., Tensor]  # (fs, ft, **options) -> scalar
Sizes = Sequence[Sequence[int]]  # shapes of features, batch axis first


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of this block come from `seed`; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def in_full_precision(features: Sequence[Tensor]) -> torch.autocast:
    """A block in which autocast is off on the features' device: what learns here is float32."""
    return torch.autocast(features[0].device.type, enabled=False)


class Distiller(nn.Module):
    """The beta term of an objective: a loss between the chosen layers, with whatever it learns.

    A subclass implements `loss`, and `build` for what it learns, whose keyword arguments are its
    options. What it registers learns with the student's weights.

    student, teacher  shapes of the chosen layers' features, batch axis first, from the first layer
                      to the last.
    labels            (n,) int64 labels of the whole training set, classes  their number: for losses
                      that look at more than the batch. seed  of the initial weights.
    Raises ValueError for no layers, or for different numbers of them.

    pretrains   "" or what learns by `pretraining_loss` before the main stage: "own", the
                `pretrained` parameters, on the teacher's features, to stay as they are from then
                on; or "student", the student's feature layers together with the `pretrained`
                parameters.
    capturable  whether a step with this loss can be captured in a CUDA graph.
    """

    pretrains = ""
    capturable = True

    @checked(
        student=several(several(count, 2)),
        teacher=several(several(count, 2)),
        classes=number("[1, inf)", whole=True, binds="C"),
        labels=labels_of(),
    )
    def __init__(
        self,
        student: Sizes,
        teacher: Sizes,
        labels: Tensor | None = None,
        classes: int | None = None,
        seed: int = 0,
        **options: float,
    ):
        super().__init__()
        good = 0 < len(student) == len(teacher)
        expected(good, "as many layers of both networks", len(student), len(teacher))
        self.labels, self.classes, self.seed = labels, classes, seed
        with seeded(seed):
            self.build(student, teacher, **options)

    def build(self, student: Sizes, teacher: Sizes) -> None:
        """Make what is learned or remembered, for features of these sizes."""

    def forward(
        self, fs: Sequence[Tensor], ft: Sequence[Tensor], indices: Tensor | None = None
    ) -> Tensor:
        """The loss between features of one batch, a scalar of at least float32, whatever type they
        come in.

        indices  (N,) int64, the images' places in the training set; only contrastive losses look at
        them.
        """
        with in_full_precision(fs):
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

    def __init__(self, function: FeatureLoss, student: Sizes, teacher: Sizes, **options: float):
        super().__init__(student, teacher)
        self.function, self.options = function, options

    def loss(self, fs: list[Tensor], ft: list[Tensor], indices: Tensor | None) -> Tensor:
        return sum(self.function(s, t, **self.options) for s, t in zip(fs, ft, strict=True))


def as_map(f: Tensor) -> Tensor:
    """A vector (N, D) as a map (N, D, 1, 1); a map as it is."""
    return f[:, :, None, None] if f.ndim == 2 else f


def as_maps(fs: Tensor, ft: Tensor) -> tuple[Tensor, Tensor]:
    """Two features as maps: tokens, which must be those of both, and as many, or maps and vectors.

    Raises ValueError for tokens beside anything else.
    """
    if 3 in (fs.ndim, ft.ndim):
        expected(fs.ndim == ft.ndim, "tokens (N, T, D) of both networks", fs.shape, ft.shape)
        return same_size(fs, ft)
    return as_map(fs), as_map(ft)


class Consecutive(Distiller):
    """Base of the losses that relate layers to their neighbours and need the teacher's widths.

    Where a student's layer has another width than the teacher's a learned 1x1 convolution without
    bias makes it equal: an extension, the methods' own code needs equal widths.
    """

    def build(self, student: Sizes, teacher: Sizes) -> None:
        text = f"neighbouring layers are compared: at least 2 needed, got {len(student)}"
        require(len(student) > 1, text)
        self.projectors = nn.ModuleList(
            nn.Identity() if s == t else nn.Conv2d(s, t, 1, bias=False)
            for s, t in zip(map(width, student), map(width, teacher), strict=True)
        )

    def project(self, fs: list[Tensor]) -> list[Tensor]:
        """The student's features at the teacher's widths; tokens stay tokens."""
        maps = [p(tokens_as_map(s)) for p, s in zip(self.projectors, fs, strict=True)]
        return [m[..., 0].mT if s.ndim == 3 else m for m, s in zip(maps, fs, strict=True)]
