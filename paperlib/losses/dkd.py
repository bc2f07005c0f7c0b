"""Decoupled knowledge distillation: the label's class apart from the others."""

import torch
from torch import Tensor

from ..basics.checks import checked, require
from ..data.checks import labels_of
from .kd import logits
from .registry import OBJECTIVES, Entry


@checked(student_logits=logits, teacher_logits=logits, labels=labels_of(soft=True, door=False))
def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """Decoupled knowledge distillation (Zhao et al., CVPR 2022, arXiv 2203.08679, eq. 7): T^2
    mean_x (alpha TCKD + beta NCKD).

    TCKD is the KL between teacher and student of (p_y, 1 - p_y), y the label; NCKD the KL of what
    remains, the distribution over the other classes, scaled to sum to 1. With alpha = 1 and NCKD
    weighed by the teacher's 1 - p_y it would be `kd`. In nats, mean over the batch, T^2 as the
    authors' code has it.

    student_logits, teacher_logits  (N, C) float, C at least 2.
    labels  (N,) int64, or (N, C) float soft labels t: then it is sum_y t_y DKD(.; y), linear in the
            label as cross-entropy is. The paper leaves mixed images open. Takes memory for N C^2
            numbers; for int64 labels N C.
    The logarithms of 1 - p_y are sums over the other classes, not differences: exact also where p_y
    is 1 but for rounding. Raises ValueError for shapes that differ, fewer than 2 classes, a
    temperature that is not positive; labels as for `cross_entropy`.

    Most of the gradient is of the order among the other classes.

    >>> logits = torch.tensor([[0.0, 0.0, 0.0]], requires_grad=True)
    >>> loss = dkd(logits, torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([0]))
    >>> loss.backward()
    >>> loss.detach(), logits.grad
    (tensor(1.2484), tensor([[-0.3436, -1.8179,  2.1614]]))
    """
    images, classes = student_logits.shape
    require(classes > 1, f"without the label's class nothing is left of {classes} classes")
    every = torch.arange(classes, device=labels.device)
    if labels.is_floating_point():  # K = C cases an image, one for each label: (C, C), (N, C)
        own, weights = every[:, None] == every, labels
    else:  # K = 1: (N, 1, C), ()
        own, weights = (labels[:, None] == every)[:, None], student_logits.new_ones(())

    def decoupled(logits: Tensor) -> tuple[Tensor, Tensor]:
        z = logits[:, None] / temperature  # (N, 1, C)
        others = z.masked_fill(own, -torch.inf)  # (N, K, C)
        binary = torch.stack([z.masked_fill(~own, 0).sum(2), others.logsumexp(2)], 2)
        # 0 in the label's place, for both networks: it adds nothing to the divergence
        return binary.log_softmax(2), others.log_softmax(2).masked_fill(own, 0)

    pairs = zip(decoupled(student_logits), decoupled(teacher_logits), strict=True)
    target, other = ((t.exp() * (t - s)).sum(2) for s, t in pairs)  # (N, K)
    return temperature**2 / images * (weights * (alpha * target + beta * other)).sum()


def _dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor,
    temperature: float,
    tckd: float = 1.0,
    nckd: float = 8.0,
) -> Tensor:
    """`dkd`, its weights named after its terms: an objective's alpha and beta are the weights of
    whole losses.
    """
    return dkd(student_logits, teacher_logits, targets, tckd, nckd, temperature)


# mdistiller's defaults (megvii-research/mdistiller a08d46f).
OBJECTIVES["dkd"] = Entry(
    _dkd,
    "response",
    "Zhao, Cui, Song, Qiu & Liang, CVPR 2022",
    {"alpha": 1, "warmup": 20},
    cutmix="the loss for each class, averaged by the mixed label",
    proof="test_dkd_is_the_written_out_formula",
)
