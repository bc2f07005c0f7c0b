"""Contrastive distillation with a memory of embeddings.

Nothing here waits for the device or draws random numbers on the host: a training step stays one
CUDA graph.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..basics.checks import checked, number, require
from ..data.checks import labels_of
from .distillers import Distiller, Sizes, seeded
from .features import unit
from .registry import OBJECTIVES, Entry

EPSILON = 1e-7


def contrast(scores: Tensor, images: int) -> Tensor:
    """Noise-contrastive estimation as in CRD (Tian et al., ICLR 2020, arXiv 1910.10699, section 3),
    of one side.

    -(1/N) [sum log P / (P + m/n + eps) + sum log (m/n) / (P' + m/n + eps)], eps = 1e-7, in nats.

    scores  (N, 1 + m) positive: P of the image's own entry in column 0, P' of m others.
    images  n, of the training set. Returns a scalar.

    Scores equal to m/n give log 2 for each of the three; the own one is to grow.

    >>> scores = torch.full((1, 3), 0.2, requires_grad=True)
    >>> loss = contrast(scores, images=10)
    >>> loss.backward()
    >>> loss.detach(), scores.grad
    (tensor(2.0794), tensor([[-2.5000,  2.5000,  2.5000]]))
    """
    noise = (scores.shape[1] - 1) / images
    own, others = scores[:, 0], scores[:, 1:]
    positive = (own / (own + noise + EPSILON)).log().sum()
    negative = (noise / (others + noise + EPSILON)).log().sum()
    return -(positive + negative) / len(scores)


# The constants of splitmix64, as signed numbers.
_STEP, _FIRST, _SECOND = (
    x - 2**64 for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def _shift(x: Tensor, bits: int) -> Tensor:
    """x >> bits of int64 as if unsigned."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """splitmix64's finaliser (Steele, Lea & Flood, OOPSLA 2014) on int64, modulo 2^64: the same
    bits on every device.

    # splitmix64's first output for seed 0
    >>> mix(torch.tensor([_STEP])).item() == 0xE220A8397B1DCDAF - 2**64
    True
    """
    x = (x ^ _shift(x, 30)) * _FIRST
    x = (x ^ _shift(x, 27)) * _SECOND
    return x ^ _shift(x, 31)


class Negatives(nn.Module):
    """Draws images of other classes, on the device, by a hash of (seed, call, row, column).

    labels   (n,) int64, of the training set. classes  their number. count  draws an image, at least
             1.

    Every image of another class is equally likely, to 1 in 10^4 for 10^5 images; draws are
    independent, with replacement. CRD's code draws without replacement where a class has enough
    others: the loss has the same expectation, its noise is a little smaller there.
    Raises ValueError for labels out of range, for a class that holds all images, or a count below
    1.
    """

    @checked(classes=number("[2, inf)", whole=True, binds="C"), labels=labels_of())
    def __init__(self, labels: Tensor, classes: int, count: int, seed: int = 0):
        super().__init__()
        sizes = torch.bincount(labels, minlength=classes)
        only = f"all {len(labels)} are of class {int(labels[0])}"
        require(int(sizes.max()) < len(labels), f"no image of another class: {only}")
        self.count, self.seed = count, seed
        self.register_buffer("labels", labels.clone())
        self.register_buffer("order", labels.argsort(stable=True))  # images sorted by class
        self.register_buffer("sizes", sizes)
        self.register_buffer("starts", sizes.cumsum(0) - sizes)  # of the classes, in `order`
        self.register_buffer("call", torch.zeros((), dtype=torch.int64, device=labels.device))

    @torch.no_grad()
    def forward(self, indices: Tensor) -> Tensor:
        """indices (N,) int64 -> (N, count) int64 images of other classes; in train mode the next
        call draws others.
        """
        rows = torch.arange(1, len(indices) + 1, device=indices.device)
        columns = torch.arange(1, self.count + 1, device=indices.device)
        key = mix(self.call * _STEP + self.seed)
        bits = mix(mix(key + rows[:, None] * _STEP) + columns * _STEP)
        label = self.labels[indices][:, None]
        size, start = self.sizes[label], self.starts[label]
        others = (_shift(bits, 33) * (len(self.labels) - size)) >> 31  # 0 .. others - 1
        if self.training:
            self.call += 1
        return self.order[others + (others >= start) * size]


class Memory(nn.Module):
    """Embeddings of two features, remembered for every image, and the contrast between them: CRD of
    one layer.

    student, teacher  shapes of the features, batch axis first; they are flattened. images  n, of
                      the training set.
    memory_student, memory_teacher  (n, dim): what was seen last, mixed with what was before. At
                      first uniform in +-sqrt(3 / dim), so of length about 1.
    scale_student, scale_teacher    the constants Z, scores' mean over the first batch times n; 0
    until then.
    """

    def __init__(
        self,
        student: Sequence[int],
        teacher: Sequence[int],
        images: int,
        dim: int,
        temperature: float,
        momentum: float,
        seed: int,
    ):
        super().__init__()
        self.images, self.temperature, self.momentum = images, temperature, momentum
        bound = math.sqrt(3 / dim)
        with seeded(seed):
            self.student_head = nn.Linear(math.prod(student[1:]), dim)
            self.teacher_head = nn.Linear(math.prod(teacher[1:]), dim)
            for side in ("student", "teacher"):
                memory = torch.empty(images, dim).uniform_(-bound, bound)
                self.register_buffer(f"memory_{side}", memory)
                self.register_buffer(f"scale_{side}", torch.zeros(()))

    def forward(self, fs: Tensor, ft: Tensor, indices: Tensor, negatives: Tensor) -> Tensor:
        """Student against the teacher's memory plus teacher against the student's; in train mode
        the memories then learn.

        indices (N,), each once; negatives (N, m), both int64.
        """
        student = unit(self.student_head(fs.flatten(1)))
        teacher = unit(self.teacher_head(ft.flatten(1)))
        chosen = torch.cat([indices[:, None], negatives], 1)  # (N, 1 + m)
        loss = self._side(student, self.memory_teacher, self.scale_student, chosen)
        loss = loss + self._side(teacher, self.memory_student, self.scale_teacher, chosen)
        if self.training:
            self._remember(self.memory_student, indices, student)
            self._remember(self.memory_teacher, indices, teacher)
        return loss

    def _side(self, embedding: Tensor, memory: Tensor, scale: Tensor, chosen: Tensor) -> Tensor:
        # The whole memory at once and then a choice: the chosen entries themselves would be N (1 +
        # m) dim numbers. A copy, because the backward pass needs the memory as it was before this
        # batch was remembered.
        scores = ((embedding @ memory.clone().T).gather(1, chosen) / self.temperature).exp()
        with torch.no_grad():
            z = torch.where(scale > 0, scale, scores.mean() * self.images)
            if self.training:
                scale.copy_(z)
        return contrast(scores / z, self.images)

    @torch.no_grad()
    def _remember(self, memory: Tensor, indices: Tensor, embedding: Tensor) -> None:
        mixed = self.momentum * memory[indices] + (1 - self.momentum) * embedding
        memory.index_copy_(0, indices, unit(mixed))


class CRD(Distiller):
    """Contrastive representation distillation (Tian et al., ICLR 2020, arXiv 1910.10699), summed
    over the layers.

    Linear heads on both sides, learned, to embeddings of length 1; score = exp(memory . embedding /
    temperature) / Z, Z the mean score of the first batch times n, kept from then on; `contrast` of
    the student against the teacher's memory plus of the teacher against the student's. After
    scoring the batch's rows of both memories become normalise(momentum old + (1 - momentum) new).
    Needs the images' indices, each once in a batch, and only remembers in train mode. With CutMix
    index and negatives stay those of the unmixed image.

    negatives    images of other classes that each image is compared with, drawn anew each step,
                 with replacement.
    temperature  positive; 0.1 in SQAKD, 0.07 in RepDistiller. momentum  of the memories, in [0, 1).
                 dim  of the embeddings.

    With heads that change nothing: image 0, remembered as (1, 0), the others as (0, 1). The student
    is to turn to the first, and is then remembered half way between.

    >>> crd = CRD([(1, 2)], [(1, 2)], torch.tensor([0, 1, 1]), classes=2, negatives=2, dim=2)
    >>> (one,) = crd.memories
    >>> for head in (one.student_head, one.teacher_head):
    ...     _ = nn.init.eye_(head.weight), nn.init.zeros_(head.bias)
    >>> for memory in (one.memory_student, one.memory_teacher):
    ...     _ = memory.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]))
    >>> fs = torch.tensor([[3.0, 4.0]], requires_grad=True)
    >>> loss = crd([fs], [torch.tensor([[4.0, 3.0]])], torch.tensor([0]))
    >>> loss.backward()
    >>> loss.detach(), fs.grad, one.memory_student[0]
    (tensor(4.4182), tensor([[-1.9611,  1.4708]]), tensor([0.8944, 0.4472]))
    """

    @checked()
    def build(
        self,
        student: Sizes,
        teacher: Sizes,
        *,
        negatives: int = 16384,
        temperature: float = 0.1,
        momentum: float = 0.5,
        dim: int = 128,
    ) -> None:
        require(self.labels is not None, "CRD draws other classes: labels are needed, got None")
        self.negatives = Negatives(self.labels, self.classes, negatives, self.seed)
        self.memories = nn.ModuleList(
            Memory(s, t, len(self.labels), dim, temperature, momentum, self.seed + number)
            for number, (s, t) in enumerate(zip(student, teacher, strict=True))
        )

    def loss(self, fs: list[Tensor], ft: list[Tensor], indices: Tensor | None) -> Tensor:
        return sum(self.contrasts(fs, ft, indices))

    def contrasts(self, fs: list[Tensor], ft: list[Tensor], indices: Tensor | None) -> list[Tensor]:
        """The loss of every layer; all share the negatives."""
        require(indices is not None, "CRD remembers images: their indices are needed, got None")
        negatives = self.negatives(indices)
        return [m(s, t, indices, negatives) for m, s, t in zip(self.memories, fs, ft, strict=True)]


OWN_PLACE = (
    "features are of the mixed image; its place in the memory and its negatives are those of the "
    "unmixed image"
)
OBJECTIVES["crd"] = Entry(
    CRD,
    "relation",
    "Tian, Krishnan & Isola, ICLR 2020",
    {"beta": 0.8, "layers": ("vector",)},
    cutmix=OWN_PLACE,
    proof="test_crd_is_the_written_out_formula",
)
