"""The losses on logits, as functions. Natural logarithms; every one returns a scalar of the inputs'
dtype and device.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


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

    >>> cross_entropy(torch.zeros(2, 4), torch.tensor([1, 3]))
    tensor(1.3863)
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must lie in [0, 1), got {smoothing}")
    if targets.device.type == "cpu":
        _check_targets(targets, logits.shape[1])
    return F.cross_entropy(
        logits, targets, label_smoothing=0.0 if targets.is_floating_point() else smoothing
    )


def _check_targets(targets: Tensor, classes: int) -> None:
    if targets.is_floating_point():
        totals = targets.sum(1)
        if not ((totals - 1).abs() < 1e-3).all():
            raise ValueError(
                f"soft labels must sum to 1, found {totals[~((totals - 1).abs() < 1e-3)][0].item()}"
            )
    elif not 0 <= int(targets.min()) <= int(targets.max()) < classes:
        wrong = targets[(targets < 0) | (targets >= classes)][0].item()
        raise ValueError(f"labels must lie in 0..{classes - 1}, found {wrong}")


def _check_logits(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> None:
    if student_logits.shape != teacher_logits.shape or student_logits.ndim != 2:
        raise ValueError(
            f"logits must both be (N, C), got {tuple(student_logits.shape)} and "
            f"{tuple(teacher_logits.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"the temperature must be positive, got {temperature}")


def kd(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0) -> Tensor:
    """Knowledge distillation (Hinton et al., 2015, arXiv 1503.02531): T^2 mean_x KL(p_teacher ||
    p_student).

    p = softmax(logits / T); the sum runs over classes, the mean over the batch, in nats; T^2 keeps
    the size of the gradient. SQAKD (Zhao & Zhao, AISTATS 2024) is this loss alone, at T = 4.

    student_logits, teacher_logits  (N, C) float. The teacher's receive no gradient if they require
    none. Raises ValueError for shapes that differ or a temperature that is not positive.

    >>> kd(torch.zeros(2, 3), torch.zeros(2, 3))
    tensor(0.)
    """
    _check_logits(student_logits, teacher_logits, temperature)
    student, teacher = (F.log_softmax(z / temperature, 1) for z in (student_logits, teacher_logits))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


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

    >>> dkd(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0, 2]))
    tensor(0.)
    """
    _check_logits(student_logits, teacher_logits, temperature)
    images, classes = student_logits.shape
    if classes < 2:
        raise ValueError(f"without the label's class nothing is left of {classes} classes")
    if labels.device.type == "cpu":
        _check_targets(labels, classes)
    every = torch.arange(classes, device=labels.device)
    if labels.is_floating_point():
        own, weights = (
            every[:, None] == every,
            labels,
        )  # K = C cases an image, one for each label: (C, C), (N, C)
    else:
        own, weights = (
            (labels[:, None] == every)[:, None],
            student_logits.new_ones(()),
        )  # K = 1: (N, 1, C)

    def decoupled(logits: Tensor) -> tuple[Tensor, Tensor]:
        z = logits[:, None] / temperature  # (N, 1, C)
        others = z.masked_fill(own, -torch.inf)  # (N, K, C)
        binary = torch.stack([z.masked_fill(~own, 0).sum(2), others.logsumexp(2)], 2)
        # 0 in the label's place, for both networks: it adds nothing to the divergence
        return binary.log_softmax(2), others.log_softmax(2).masked_fill(own, 0)

    pairs = zip(decoupled(student_logits), decoupled(teacher_logits), strict=True)
    target, other = (
        (teacher.exp() * (teacher - student)).sum(2) for student, teacher in pairs
    )  # (N, K)
    return temperature**2 / images * (weights * (alpha * target + beta * other)).sum()
