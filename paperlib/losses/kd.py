"""Knowledge distillation: the teacher's softened predictions."""

import torch.nn.functional as F
from torch import Tensor

from ..basics.checks import checked
from ..data.checks import floats
from .registry import OBJECTIVES, Entry

logits = floats("N C")


@checked(student_logits=logits, teacher_logits=logits)
def kd(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0) -> Tensor:
    """Knowledge distillation (Hinton et al., 2015, arXiv 1503.02531): T^2 mean_x KL(p_teacher ||
    p_student).

    p = softmax(logits / T); the sum runs over classes, the mean over the batch, in nats; T^2 keeps
    the size of the gradient. SQAKD (Zhao & Zhao, AISTATS 2024) is this loss alone, at T = 4.

    student_logits, teacher_logits  (N, C) float. The teacher's receive no gradient if they require
    none. Raises ValueError for shapes that differ or a temperature that is not positive.

    At T = 1 the gradient of an image is p_student - p_teacher, here 0.5 - 0.8808.

    >>> logits = torch.tensor([[0.0, 0.0]], requires_grad=True)
    >>> loss = kd(logits, torch.tensor([[2.0, 0.0]]), temperature=1.0)
    >>> loss.backward()
    >>> loss.detach(), logits.grad
    (tensor(0.3278), tensor([[-0.3808,  0.3808]]))
    """
    student, teacher = (F.log_softmax(z / temperature, 1) for z in (student_logits, teacher_logits))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def _kd(student_logits: Tensor, teacher_logits: Tensor, targets: Tensor, temperature: float):
    return kd(student_logits, teacher_logits, temperature)


OBJECTIVES["kd"] = Entry(
    _kd,
    "response",
    "Hinton, Vinyals & Dean, 2015",
    {"alpha": 2},  # as in the 16-augmentation runs
    cutmix="the teacher predicts the mixed image; the CE takes the mixed label",
    proof="test_kd_is_the_written_out_divergence",
)
OBJECTIVES["sqakd"] = Entry(
    _kd,
    "response",
    "Zhao & Zhao, AISTATS 2024",
    {"gamma": 0, "alpha": 1},
    cutmix="the teacher predicts the mixed image; labels are not used",
    proof="test_kd_is_the_written_out_divergence",
)
