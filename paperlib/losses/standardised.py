"""Logit standardisation: a loss of logits that compares their order and relations, not their
size.
"""

from torch import Tensor

from ..basics.checks import checked, require
from .kd import logits
from .registry import OBJECTIVES, Entry

EPS = 1e-7  # of the released code, added to the standard deviation


@checked(logits=logits)
def standardise(logits: Tensor) -> Tensor:
    """Logit standardisation (Sun et al., CVPR 2024, arXiv 2403.01427): (z - mean) / standard
    deviation of each image's logits.

    The deviation is the unbiased one, and the released code (sunshangquan/logit-standardization-KD
    f6e5aa5) adds 1e-7 to it. Equal logits become 0. So both networks have the same range, and a
    student's logits need not grow to the teacher's; a temperature of each image's own.

    logits  (N, C) float, C at least 2. Returns the same shape. Raises ValueError for another.

    >>> standardise(torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0], [5.0, 5.0, 5.0]]))
    tensor([[-1.0000,  0.0000,  1.0000],
            [-1.0000,  0.0000,  1.0000],
            [ 0.0000,  0.0000,  0.0000]])
    """
    classes = logits.shape[1]
    require(classes > 1, f"logits of {classes} classes have no standard deviation")
    centred = logits - logits.mean(1, keepdim=True)
    return centred / (logits.std(1, keepdim=True) + EPS)


def _standardised(
    student_logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor,
    temperature: float,
    under: str = "kd",
) -> Tensor:
    """The loss of logits `under` on standardised ones, with its usual options."""
    entry = OBJECTIVES[under]
    require(entry.knowledge == "response", f"under must be a loss of logits, got {under!r}")
    return entry.loss(
        standardise(student_logits), standardise(teacher_logits), targets, temperature
    )


# Weights and temperature of the authors' runs, over mdistiller's.
OBJECTIVES["standardised"] = Entry(
    _standardised,
    "response",
    "Sun, Ren, Li, Wang & Cao, CVPR 2024",
    {"gamma": 0.1, "alpha": 9, "temperature": 2.0},
    cutmix="as the loss that it is under; the CE takes the mixed label",
    proof="test_standardised_losses_are_those_of_the_written_out_scores",
)
