"""Cross-entropy on labels."""

import torch.nn.functional as F
from torch import Tensor

from ..basics.checks import checked
from ..data.checks import floats, labels_of
from .registry import OBJECTIVES, Entry


@checked(logits=floats("N C"), targets=labels_of(soft=True, door=False))
def cross_entropy(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean over the batch of -sum_c t_c log softmax(logits)_c, in nats.

    logits     (N, C) float. targets  (N,) int64 labels, or (N, C) float soft labels whose rows sum
               to 1.
    smoothing  in [0, 1): a label y becomes (1 - smoothing) onehot(y) + smoothing / C (Szegedy et
               al., CVPR 2016, section 7). Soft labels are taken as they are: CutMix has spread them
               already, and the paper's runs do not spread them twice.

    Raises ValueError for smoothing out of range; for labels out of range or soft labels that do not
    sum to 1, where the targets are on the CPU: on a GPU looking would wait for the device, and the
    targets come from a data set that was checked.

    The gradient of an image is (p - label) / N.

    >>> logits = torch.tensor([[0.0, 0.0, 0.0, 0.0]], requires_grad=True)
    >>> loss = cross_entropy(logits, torch.tensor([1]))
    >>> loss.backward()
    >>> loss.detach(), logits.grad
    (tensor(1.3863), tensor([[ 0.2500, -0.7500,  0.2500,  0.2500]]))
    """
    smoothing = 0.0 if targets.is_floating_point() else smoothing
    return F.cross_entropy(logits, targets, label_smoothing=smoothing)


OBJECTIVES["ce"] = Entry(
    cross_entropy,
    "none",
    "cross-entropy on labels",
    cutmix="the label is mixed by area",
    proof="test_cross_entropy_of_soft_labels_is_linear_in_them",
    scheme="none",
)
