"""DIST: the student's predictions correlate with the teacher's, image by image and class by
class.
"""

import torch
from torch import Tensor

from ..basics.checks import checked, number
from ..data.checks import floats
from .registry import OBJECTIVES, Entry

EPS = 1e-8  # of the released code, added to the product of two lengths
weight = number("[0, inf)")
several_images = floats("N C")


@checked(student_logits=several_images, teacher_logits=several_images, inter=weight, intra=weight)
def dist(
    student_logits: Tensor,
    teacher_logits: Tensor,
    inter: float = 1.0,
    intra: float = 1.0,
    temperature: float = 1.0,
) -> Tensor:
    """Distillation from a stronger teacher (Huang et al., NeurIPS 2022, arXiv 2205.10536): T^2
    (inter (1 - mean_x r(p_s(x), p_t(x))) + intra (1 - mean_c r(p_s[:, c], p_t[:, c]))).

    p = softmax(logits / T), r Pearson's correlation: first over the classes of an image, then over
    the batch's images of a class, which relates images. What only shifts and scales a row or a
    column costs nothing. Weights of 1 and T = 1 are those of the authors' class (hunto/DIST_KD
    2418f18). It adds 1e-8 to the product of the lengths, here too: a class that nobody predicts in
    a batch has correlation 0 and hardly a gradient.

    student_logits, teacher_logits  (N, C) float. Raises ValueError for shapes that differ, a
    temperature that is not positive, or a negative weight.

    The second image's prediction is to rise where the first's falls.

    >>> logits = torch.tensor([[0.0, 0.0], [1.0, 0.0]], requires_grad=True)
    >>> loss = dist(logits, torch.tensor([[2.0, 0.0], [0.0, 2.0]]))
    >>> loss.detach()
    tensor(3.5000)
    """
    student, teacher = ((z / temperature).softmax(1) for z in (student_logits, teacher_logits))
    terms = inter * (1 - _pearson(student, teacher).mean())
    return temperature**2 * (terms + intra * (1 - _pearson(student.T, teacher.T).mean()))


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    """(N, K), (N, K) -> (N,) correlation of the rows."""
    a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
    lengths = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    return (a * b).sum(1) / (lengths + EPS)


def _dist(
    student_logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor,
    temperature: float,
    inter: float = 1.0,
    intra: float = 1.0,
) -> Tensor:
    return dist(student_logits, teacher_logits, inter, intra, temperature)


OBJECTIVES["dist"] = Entry(
    _dist,
    "response",
    "Huang, You, Wang, Qian & Xu, NeurIPS 2022",
    {"alpha": 1, "temperature": 1.0},
    cutmix="the teacher predicts the mixed image; the CE takes the mixed label",
    proof="test_dist_is_the_written_out_formula",
)
