"""The losses as functions of tensors. Natural logarithms; every one returns a scalar of the inputs' dtype and device."""

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the batch of -sum_c t_c log softmax(logits)_c, in nats.

    logits   (N, C) float. targets  (N,) int64 labels, or (N, C) float soft labels whose rows sum to 1.
    Raises ValueError for labels out of range or soft labels that do not sum to 1, where the targets are on the CPU: on a
    GPU looking would wait for the device, and the targets come from a data set that was checked.

    >>> cross_entropy(torch.zeros(2, 4), torch.tensor([1, 3]))
    tensor(1.3863)
    """
    if targets.device.type == "cpu":
        _check_targets(targets, logits.shape[1])
    return F.cross_entropy(logits, targets)


def _check_targets(targets: Tensor, classes: int) -> None:
    if targets.is_floating_point():
        totals = targets.sum(1)
        if not ((totals - 1).abs() < 1e-3).all():
            raise ValueError(f"soft labels must sum to 1, found {totals[~((totals - 1).abs() < 1e-3)][0].item()}")
    elif not 0 <= int(targets.min()) <= int(targets.max()) < classes:
        wrong = targets[(targets < 0) | (targets >= classes)][0].item()
        raise ValueError(f"labels must lie in 0..{classes - 1}, found {wrong}")


def kd(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0) -> Tensor:
    """Knowledge distillation (Hinton et al., 2015, arXiv 1503.02531): T^2 mean_x KL(p_teacher || p_student).

    p = softmax(logits / T); the sum runs over classes, the mean over the batch, in nats; T^2 keeps the size of the
    gradient. SQAKD (Zhao & Zhao, AISTATS 2024) is this loss alone, at T = 4.

    student_logits, teacher_logits  (N, C) float. The teacher's receive no gradient if they require none.
    Raises ValueError for shapes that differ or a temperature that is not positive.

    >>> kd(torch.zeros(2, 3), torch.zeros(2, 3))
    tensor(0.)
    """
    if student_logits.shape != teacher_logits.shape or student_logits.ndim != 2:
        raise ValueError(f"logits must both be (N, C), got {tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}")
    if not temperature > 0:
        raise ValueError(f"the temperature must be positive, got {temperature}")
    student, teacher = (F.log_softmax(z / temperature, 1) for z in (student_logits, teacher_logits))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def attention(fs: Tensor, ft: Tensor) -> Tensor:
    """Attention transfer (Zagoruyko & Komodakis, ICLR 2017, arXiv 1612.03928, eq. 2 with squared activations).

    The map of a feature is the mean over channels of its squares, flattened and scaled to length 1; the loss is the
    mean over batch and positions of the squared difference. Channel counts may differ; sizes must not.

    fs, ft  (N, C, H, W) float. Raises ValueError for other shapes.

    >>> attention(torch.ones(1, 2, 4, 4), 3 * torch.ones(1, 5, 4, 4))
    tensor(0.)
    """
    if fs.ndim != 4 or ft.ndim != 4 or fs.shape[0] != ft.shape[0] or fs.shape[2:] != ft.shape[2:]:
        raise ValueError(f"maps of one size and batch expected, got {tuple(fs.shape)} and {tuple(ft.shape)}")
    maps = [F.normalize(f.square().mean(1).flatten(1)) for f in (fs, ft)]
    return (maps[0] - maps[1]).square().mean()
