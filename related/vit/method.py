"""Losses on attention, a dynamic 8-bit activation, and how far a student's attention is from its
teacher's.

Kim et al., *Understanding and improving knowledge distillation for quantization-aware training of
large transformer encoders*, EMNLP 2022 (arXiv 2211.11014; released code MarsJacobs/kd-qat-large-enc
d037e2d). There the network is BERT, whose norms come after the shortcut; here it is a vision
transformer with norms before. Our choices:

- the attention's output is taken with its shortcut, x + attention(norm(x)), where the source has
  the output of the norm behind that;
- patches, positions and classifier stay in full precision, as first and last layers do everywhere
  here; the source quantizes its word embeddings;
- weights are not clipped at 2.5, which they do not reach;
- the map's divergence comes from the log-softmax of the scores, where the source clamps
  probabilities at 1e-8.
"""

import torch
from torch import Tensor

from paperlib.basics.checks import checked, choice, number
from paperlib.data.checks import floats
from paperlib.losses import Entry, hint
from paperlib.models import Classifier, in_mode
from paperlib.models.precision import widen
from paperlib.quantizers import Method, Quantizer, initialise, straight_through
from paperlib.quantizers.functional import any_shape, divisor
from paperlib.quantizers.ternary import TernaryWeight
from paperlib.runs.kinds import Result, load_network, start_student, trained_alone
from paperlib.study.store import Store

from .study import AttentiveRun

LOOKED_AT = 250  # test images on which student and teacher are compared
_scores = floats("N h T S")


# -------------------------------------------------------------------------------------- quantizer


@checked(x=any_shape, bits=number("[2, 8]", whole=True))
def dynamic_codes(x: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Integers round(x / s), and s = max|x| / (2^(b-1) - 1) of the tensor at hand: symmetric, from
    -(2^(b-1) - 1) on (TernaryBERT, Zhang et al., EMNLP 2020, arXiv 2009.12812, section 3.1).

    x  any shape; the whole of it has one scale, so that an image's codes depend on its batch. The
    gradient passes unchanged, s counts as a constant. Raises ValueError for other numbers of bits.

    >>> codes, scale = dynamic_codes(torch.tensor([-6.0, 0.9, 3.1]), bits=3)
    >>> codes, scale
    (tensor([-3.,  0.,  2.]), tensor(2.))
    """
    wide = widen(x.detach())
    scale = divisor(wide.abs().max() / (2 ** (bits - 1) - 1))
    return straight_through(x, (wide / scale).round().to(x.dtype), scale), scale


class DynamicActivation(Quantizer):
    """`dynamic_codes` of whatever comes. Nothing is learned or kept."""

    fewest_bits = 2

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return dynamic_codes(x, self.bits)


TERNARY = Method(
    TernaryWeight,
    DynamicActivation,
    "Zhang et al., EMNLP 2020, arXiv 2009.12812",
    "test_dynamic_codes_follow_the_tensor",
    signed=DynamicActivation,
)


# ----------------------------------------------------------------------------------------- losses


@checked(fs=_scores, ft=_scores)
def attention_map(fs: Tensor, ft: Tensor) -> Tensor:
    """KL(softmax(teacher's row) || softmax(student's row)) in nats, mean over images, heads and
    query rows: a scalar (arXiv 2211.11014, the attention-map loss of one layer).

    fs, ft  scores (N, h, T, T) before the softmax, student's and teacher's. Raises ValueError for
    shapes that differ.

    >>> attention_map(torch.zeros(1, 1, 1, 2), torch.tensor([[[[0.0, 100.0]]]]))
    tensor(0.6931)
    """
    student, teacher = (widen(f).log_softmax(-1) for f in (fs, ft))
    return (teacher.exp() * (teacher - student)).sum(-1).mean()


@checked(maps=choice(("map", "score")), weight=number("[0, inf)"))
def attentive(fs: Tensor, ft: Tensor, maps: str = "map", weight: float = 1.0) -> Tensor:
    """The loss between one feature of student and teacher, a scalar; `Objective` sums over layers.

    Of tokens (N, T, d), hidden states and attention's outputs: the mean squared difference. Of
    attention scores (N, h, T, T), times `weight`: `attention_map`, or with maps="score" the mean
    squared difference, as TernaryBERT has it. Raises ValueError for shapes that differ.

    >>> attentive(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 3.0), maps="score")
    tensor(9.)
    """
    if fs.ndim != 4:
        return hint(fs, ft)
    return weight * (attention_map if maps == "map" else hint)(fs, ft)


# No label loss. At T = 1 the KL of the logits has the gradient of their soft cross-entropy.
ATTENTIVE = Entry(
    attentive,
    "feature",
    "Kim et al., EMNLP 2022, arXiv 2211.11014",
    {"gamma": 0, "alpha": 1, "temperature": 1.0, "beta": 1},
    proof="test_losses_are_their_slow_transcriptions",
)


# ------------------------------------------------------------------------------------- the reports


@checked(fs=_scores, ft=_scores)
def cover_ratio(fs: Tensor, ft: Tensor, top: int = 5) -> Tensor:
    """How far down the student's order of tokens one has to go to cover the teacher's `top` tokens:
    the largest of their ranks, from 0, over the number of tokens. Mean over images, heads and
    query rows: a scalar. The teacher's own is (top - 1) / T (arXiv 2211.11014, the cover length).

    fs, ft  scores or maps (N, h, T, T). Raises ValueError for shapes that differ, or a `top` of
    more tokens than there are.

    >>> order = torch.tensor([[[[4.0, 3.0, 2.0, 1.0]]]])
    >>> cover_ratio(order, order, top=2), cover_ratio(-order, order, top=2)
    (tensor(0.2500), tensor(0.7500))
    """
    number(f"[1, {ft.shape[-1]}]", whole=True)("top", top)
    ranks = fs.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    return ranks.gather(-1, ft.topk(top).indices).amax(-1).float().mean() / ft.shape[-1]


@torch.no_grad()
def compared(student: Classifier, teacher: Classifier, images: Tensor) -> list[dict[str, float]]:
    """Each block's attention beside the teacher's, on normalised images (N, 3, H, W): `kl` as
    `attention_map`, `cover` as `cover_ratio`, and `output`, the mean squared difference of
    attention's outputs over the teacher's mean square.
    """
    with in_mode(student, training=False), in_mode(teacher, training=False):
        fs, ft = (network.features(images)[1] for network in (student, teacher))
    names = [name.removeprefix("out") for name in fs if name.startswith("out")]
    return [
        {
            "kl": float(attention_map(fs[f"score{n}"], ft[f"score{n}"])),
            "cover": float(cover_ratio(fs[f"score{n}"], ft[f"score{n}"])),
            "output": float(hint(fs[f"out{n}"], ft[f"out{n}"]) / ft[f"out{n}"].square().mean()),
        }
        for n in names
    ]


def make_attentive(run: AttentiveRun, store: Store, device: str) -> Result:
    """Train a student, and compare its attention with the teacher's before and after."""
    teacher = load_network(run.teacher, store, device)
    student, task = start_student(run, teacher, device)
    first, images = task.data.train_images[: run.recipe.batch], task.data.test_images[:LOOKED_AT]
    initialise(student, task.data.network_input(first))
    images = task.data.network_input(task.data.test_views(images))
    before = compared(student, teacher, images)
    result = trained_alone(run, student, task, store)
    return result | {"before": before, "after": compared(student, teacher, images)}
