"""Probabilistic knowledge transfer: the affinities between images as probabilities."""

from torch import Tensor

from ..basics.checks import checked
from ..data.checks import features
from .features import unit
from .registry import OBJECTIVES, Entry


@checked(fs=features, ft=features)
def pkt(fs: Tensor, ft: Tensor) -> Tensor:
    """Probabilistic knowledge transfer (Passalis & Tefas, ECCV 2018, arXiv 1803.10837, section 3).

    Row i of P: cosine similarities of image i with all images, moved to [0, 1], divided by their
    sum. The loss is the mean over the N^2 entries of P_t log((P_t + 1e-7) / (P_s + 1e-7)), in nats.
    Blind to rotations and to each image's length.

    >>> fs = torch.tensor([[1.0, 0.0], [1.0, 1.0]], requires_grad=True)
    >>> loss = pkt(fs, torch.eye(2))
    >>> loss.backward()
    >>> loss.detach(), fs.grad
    (tensor(0.0167), tensor([[ 0.0000,  0.0263],
            [ 0.0132, -0.0132]]))
    """
    s, t = (_affinities(f.flatten(1)) for f in (fs, ft))
    return (t * ((t + 1e-7) / (s + 1e-7)).log()).mean()


def _affinities(f: Tensor) -> Tensor:
    f = unit(f)
    cosine = (f @ f.T + 1) / 2
    return cosine / cosine.sum(1, keepdim=True)


# The weight of RepDistiller's scripts/run_cifar_distill.sh.
OBJECTIVES["pkt"] = Entry(
    pkt,
    "relation",
    "Passalis & Tefas, ECCV 2018",
    {"beta": 30000, "layers": ("vector",)},
    proof="test_pkt_is_the_written_out_formula",
)
