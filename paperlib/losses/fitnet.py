"""FitNets: distillation of an intermediate layer."""

import torch.nn.functional as F
from torch import Tensor, nn

from ..basics.checks import checked
from ..data.checks import features
from .distillers import Distiller, Sizes, as_maps
from .features import check_pair, expected, same_size, width
from .registry import OBJECTIVES, Entry


@checked(fs=features, ft=features)
def hint(fs: Tensor, ft: Tensor) -> Tensor:
    """The hint of FitNets (Romero et al., ICLR 2015, arXiv 1412.6550, eq. 3): the mean squared
    difference.

    The student's feature comes through a regressor first: `FitNet`. Mean over all elements, as
    RepDistiller takes it.

    >>> fs = torch.tensor([[0.0, 0.0]], requires_grad=True)
    >>> loss = hint(fs, torch.tensor([[1.0, 2.0]]))
    >>> loss.backward()
    >>> loss.detach(), fs.grad
    (tensor(2.5000), tensor([[-1., -2.]]))
    """
    check_pair(fs, ft)
    expected(width(fs.shape) == width(ft.shape), "features of one width", fs.shape, ft.shape)
    return F.mse_loss(*((fs, ft) if fs.ndim == 2 else same_size(fs, ft)))


class FitNet(Distiller):
    """`hint` on student features that went through a 1x1 convolution, batch normalisation and ReLU
    (Romero et al., ICLR 2015).

    The regressor is always there, also where widths agree, as in RepDistiller; statistics are the
    batch's. RepDistiller meets different sizes by strides or transposed convolutions; here the
    larger map is pooled. Vectors are maps of one position.
    """

    def build(self, student: Sizes, teacher: Sizes) -> None:
        self.regressors = nn.ModuleList(
            _conv_bn_relu(width(s), width(t)) for s, t in zip(student, teacher, strict=True)
        )

    def loss(self, fs: list[Tensor], ft: list[Tensor], indices: Tensor | None) -> Tensor:
        pairs = map(as_maps, fs, ft)
        layers = zip(self.regressors, pairs, strict=True)
        return sum(hint(regressor(s), t) for regressor, (s, t) in layers)


def _conv_bn_relu(channels_in: int, channels_out: int) -> nn.Sequential:
    norm = nn.BatchNorm2d(channels_out, track_running_stats=False)
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1), norm, nn.ReLU())


OBJECTIVES["fitnet"] = Entry(
    FitNet,
    "feature",
    "Romero et al., ICLR 2015",
    {"beta": 100, "layers": ("f2",)},
    proof="test_fitnet_is_the_hint_after_its_regressor",
)
