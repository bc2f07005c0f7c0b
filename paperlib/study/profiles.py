"""The set-ups of each profile: data, network, bits and recipes. A profile changes sizes, never the
method. No torch here.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ..basics.recipe import Recipe
from .config import Data, ScoreRun, StudentRun, TeacherRun

POLICIES = (
    "none",
    "erasing",
    "randaugment",
    "trivialaugment",
    "augmix",
    "autoaugment_cifar10",
    "autoaugment_imagenet",
    "autoaugment_svhn",
)
CUTMIX = "+cutmix"
CANDIDATES = (*POLICIES, *(name + CUTMIX for name in POLICIES))
CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100, "tiny-imagenet": 200}
# What the released CIFAR-100 scripts train with as their own pick: on VGG-13, and in one entry on
# ResNet-32 (PAPER 2).
RELEASED_PICKS = ("trivialaugment+cutmix", "autoaugment_imagenet+cutmix")
ALL_16, SEVEN = "all 16", "7 policies without CutMix"
# Name -> which of the sixteen are candidates. The seven are what the paper's figure most likely
# shows, an inference (PAPER 2).
POOLS: dict[str, Callable[[str], bool]] = {
    ALL_16: lambda name: True,
    "8 without CutMix": lambda name: not name.endswith(CUTMIX),
    SEVEN: lambda name: not name.endswith(CUTMIX) and name != "none",
    "8 with CutMix": lambda name: name.endswith(CUTMIX),
}


@dataclass(frozen=True)
class Setup:
    """One panel of the scatter: a teacher, its scores, and a student per augmentation and seed.

    teacher_data          where the teacher sees more images than the students; None for the same.
    score_data            what is scored, where it is not the students' images; None for those.
    score_batch           images a forward pass of the scoring, and a CutMix box.
    method, and options   the quantizer.
    loss_options          loss -> what differs from its usual options here.
    regime                its name in docs/experiments.md, for set-ups that differ in their teacher
                          alone.
    views                 at least so many of few images make the class centroids, where the score
                          is taken on those.
    label_recipe          how full-precision networks of the students' kind are trained on labels,
    on the students' images.
    """

    data: Data
    model: str
    bits: int
    teacher_recipe: Recipe
    student_recipe: Recipe
    seeds: tuple[int, ...] = (0,)
    teacher_data: Data | None = None
    score_data: Data | None = None
    stddev_group: int = 500
    score_batch: int = 100
    teacher_augmentation: str = "none+cutmix"
    teacher_smoothing: float = 0.0
    method: str = "ewgs"
    method_options: dict[str, Any] = field(default_factory=dict)
    loss_options: dict[str, dict[str, Any]] = field(default_factory=dict)
    regime: str = ""
    views: int = 1
    label_recipe: Recipe | None = None

    @property
    def name(self) -> str:
        regime = f"{self.regime}: " if self.regime else ""
        return f"{regime}{self.data.name} {self.model} W{self.bits}A{self.bits}"

    @property
    def teacher(self) -> TeacherRun:
        return TeacherRun(
            self.teacher_data or self.data,
            self.model,
            self.teacher_recipe,
            self.teacher_augmentation,
            smoothing=self.teacher_smoothing,
        )

    @property
    def score(self) -> ScoreRun:
        return ScoreRun(
            self.score_data or self.data,
            self.teacher,
            CANDIDATES,
            self.score_batch,
            self.stddev_group,
        )

    @property
    def students(self) -> tuple[StudentRun, ...]:
        return tuple(self.student(name, seed=seed) for seed in self.seeds for name in CANDIDATES)

    def student(
        self, augmentation: str, seed: int = 0, loss: str = "kd", **changes: Any
    ) -> StudentRun:
        """A student of this set-up; `changes` are fields of `StudentRun`."""
        settings = {
            "recipe": self.student_recipe,
            "weight_bits": self.bits,
            "activation_bits": self.bits,
            "method": self.method,
            "method_options": self.method_options,
            "loss": loss,
            "loss_options": self.loss_options.get(loss, {}),
        }
        return StudentRun(self.data, self.teacher, augmentation, seed=seed, **settings | changes)


# Stages of FSP and FT before the main one (30 epochs), and DKD's warm-up (20), would be longer than
# a short schedule.
SHORTENED = {"fsp": {"init_epochs": 1}, "ft": {"init_epochs": 1}, "dkd": {"warmup": 0}}


def _paper(name: str, model: str, bits: int, fraction: float, seeds: tuple[int, ...]) -> Setup:
    """A row of PAPER 7.2, its epochs times `fraction`, teacher and student alike."""
    ten = name == "cifar10"
    student_epochs = {"resnet20": 1200, "vgg8": 400, "resnet32": 200, "vgg13": 200}[model]
    teacher_epochs = {"resnet20": 1200, "vgg8": 400, "resnet32": 720, "vgg13": 720}[model]
    batch, decay = (256, 1e-4) if ten else (64, 5e-4)
    lr = 1e-3 if ten else 5e-4
    options = {loss: {"init_epochs": round(30 * fraction)} for loss in ("fsp", "ft")} | {
        "dkd": {"warmup": round(20 * fraction)}
    }
    if model.startswith("vgg"):
        options["ft"]["init_lr"] = None  # the recipe's
    return Setup(
        Data(name),
        model,
        bits,
        Recipe(round(teacher_epochs * fraction), batch, 0.1 if ten else 0.05, decay, "sgd"),
        Recipe(round(student_epochs * fraction), batch, lr, decay, quantizer_lr=lr / 100),
        seeds,
        loss_options=options,
    )


def _tiny(
    model: str,
    method: str,
    bits: int,
    fraction: float,
    seeds: tuple[int, ...],
    lr: float = 0.004,
    decay: float = 1e-4,
    batch: int = 64,
    gamma: float = 1,
    alpha: float = 2,
    sqakd: float = 1,
) -> Setup:
    """A row of PAPER 7.6 or 7.7, with its plain teacher: Tiny-ImageNet at 224 pixels, SGD with
    warm-up, first and last layer at 8 bits.
    """
    teacher_lr, teacher_decay = (
        (0.004, 1e-4) if model in ("mobilenetv2", "efficientnet_b0") else (0.05, 5e-4)
    )
    recipe = Recipe(
        round(100 * fraction),
        batch,
        lr,
        decay,
        "sgd_nesterov",
        schedule="step",
        warmup_steps=round(2500 * fraction),
    )
    teacher = replace(
        recipe, batch=32 if model == "vgg11_bn" else 64, lr=teacher_lr, weight_decay=teacher_decay
    )
    smoothed = {"smoothing": 0.1}
    return Setup(
        Data("tiny-imagenet", size=224),
        model,
        bits,
        teacher,
        recipe,
        seeds,
        stddev_group=250,
        score_batch=50,
        teacher_augmentation="none",
        teacher_smoothing=0.1,
        method=method,
        method_options={"kept_bits": 8},
        loss_options={
            "ce": smoothed,
            "kd": smoothed | {"gamma": gamma, "alpha": alpha},
            "sqakd": {"alpha": sqakd},
        },
    )


PAPER_ROWS = (
    ("cifar100", "resnet32", 4),
    ("cifar100", "vgg13", 2),
    ("cifar10", "resnet20", 3),
    ("cifar10", "vgg8", 2),
)


def _rows(fraction: float, seeds: tuple[int, ...]) -> tuple[Setup, ...]:
    """The set-ups with all 16 augmentations: PAPER 7.2 and 7.6. EfficientNet's teacher has no
    recipe there: MobileNet's stands in.
    """
    return (
        *(_paper(*row, fraction, seeds) for row in PAPER_ROWS),
        _tiny("resnet18", "lsq_released", 3, fraction, seeds),
        _tiny("mobilenetv2", "pact_released", 3, fraction, seeds, gamma=3, alpha=6, sqakd=10),
        _tiny("efficientnet_b0", "pact_released", 3, fraction, seeds, gamma=3, alpha=6),
    )


# The learning rates are the paper's for the data set. Sizes of the two small profiles are what fits
# their time.
PROFILES: dict[str, tuple[Setup, ...]] = {
    "quick": (
        Setup(
            Data("digits"),
            "resnet8",
            2,
            Recipe(12, 32, 0.1, 1e-4, "sgd"),
            Recipe(3, 32, 1e-3, 1e-4, quantizer_lr=1e-5),
            stddev_group=50,
            loss_options=SHORTENED,
        ),
    ),
    "cpu": (
        Setup(
            Data("cifar10", train=20_000),
            "resnet8",
            2,
            Recipe(16, 128, 0.1, 1e-4, "sgd"),
            Recipe(5, 128, 1e-3, 1e-4, quantizer_lr=1e-5),
            seeds=(0, 1, 2),
            teacher_data=Data("cifar10"),
            loss_options=SHORTENED,
        ),
        # Fewer images, more often: the other end from CIFAR-10's above. CMI of 100 classes needs
        # more images than these students have: with N images it is too low by at most classes^2 /
        # (2 N) nats (cmi.py).
        Setup(
            Data("cifar100", train=5_000, test=5_000),
            "resnet8",
            2,
            Recipe(20, 128, 0.05, 5e-4, "sgd"),
            Recipe(10, 128, 5e-4, 5e-4, quantizer_lr=5e-6),
            seeds=(0, 1, 2),
            teacher_data=Data("cifar100"),
            score_data=Data("cifar100", train=20_000),
            loss_options=SHORTENED,
        ),
        # A network of another kind, for C5, where a core can train it: the recipes of `quick`.
        Setup(
            Data("digits"),
            "vgg8",
            2,
            Recipe(12, 32, 0.1, 1e-4, "sgd"),
            Recipe(3, 32, 1e-3, 1e-4, quantizer_lr=1e-5),
            seeds=(0, 1, 2),
            stddev_group=50,
            loss_options=SHORTENED,
        ),
    ),
    "lite": _rows(0.1, (0,)),
    "paper": _rows(1, (0, 1, 2)),
}


def _regime(
    regime: str, model: str, teacher: Data, epochs: int, augmentation: str = "none", seeds: int = 3
) -> Setup:
    """A set-up of docs/experiments.md: students of 40 epochs on 5,000 images of CIFAR-10, 20 on
    10,000 of CIFAR-100.
    """
    ten = teacher.name == "cifar10"
    lr, decay, images = (1e-3, 1e-4, 5_000) if ten else (5e-4, 5e-4, 10_000)
    shared = {"precision": "bfloat16", "threads": 1, "evaluate_every": 5}
    by_labels = Recipe(epochs, 128, 100 * lr, decay, "sgd", **shared)
    students = Data(teacher.name, train=images)
    return Setup(
        students,
        model,
        2,
        by_labels,
        Recipe(200_000 // images, 128, lr, decay, quantizer_lr=lr / 100, **shared),
        tuple(range(seeds)),
        teacher,
        Data(teacher.name, train=20_000) if teacher.train is None else teacher,
        teacher_augmentation=augmentation,
        loss_options={"dkd": {"warmup": 3}},
        regime=regime,
        views=5_000 if ten else 20_000,
        label_recipe=replace(by_labels, epochs=600_000 // images),
    )


_FEW = Data("cifar10", train=5_000)
_QUICK = PROFILES["quick"][0]
# Teachers that differ in confidence, students that converge: docs/experiments.md. I has a student
# for some candidates only.
REGIMES: dict[str, tuple[Setup, ...]] = {
    "quick": (
        replace(_QUICK, regime="A", teacher_augmentation="none"),
        replace(_QUICK, regime="D"),
    ),
    "cpu": (
        _regime("A", "resnet20", Data("cifar10"), 16),
        _regime("B", "resnet20", _FEW, 120),
        _regime("C", "resnet20", Data("cifar100"), 20),
        _regime("D", "resnet20", Data("cifar10"), 16, "none+cutmix"),
    ),
}
MORE_REGIMES: dict[str, tuple[Setup, ...]] = {
    "cpu": (_regime("F", "resnet8", Data("cifar10"), 16, seeds=2),)
}
OTHER_KIND: dict[str, Setup] = {"cpu": _regime("I", "vgg8", _FEW, 120, seeds=2)}


def setups(profile: str) -> tuple[Setup, ...]:
    """The set-ups of a profile. Raises ValueError for an unknown one."""
    if profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}; known: {', '.join(PROFILES)}")
    return PROFILES[profile]


# PAPER 7.7, but for MobileNet-V2 at 3 bits, which is in 7.6 too: model, quantizer, bits, then
# learning rate, weight decay, batch and the weight of SQAKD's loss. All start from the teacher's
# weights; in the released script VGG-11-BN's 3-bit row with SQAKD does not.
SQAKD_ROWS = (
    ("resnet18", "pact_released", 8, 5e-4, 5e-4, 64, 1),
    ("resnet18", "pact_released", 4, 5e-4, 5e-4, 64, 1),
    ("resnet18", "pact_released", 3, 0.004, 1e-4, 64, 1),
    ("vgg11_bn", "pact_released", 8, 5e-4, 5e-4, 32, 100),
    ("vgg11_bn", "pact_released", 4, 5e-4, 5e-4, 32, 100),
    ("vgg11_bn", "pact_released", 3, 0.004, 1e-4, 32, 10),
    ("mobilenetv2", "pact_released", 4, 5e-4, 5e-4, 64, 100),
    ("shufflenetv2_x0_5", "pact_released", 4, 5e-4, 5e-4, 64, 100),
    ("shufflenetv2_x0_5", "dorefa_released", 8, 5e-4, 5e-4, 64, 800),
    ("squeezenet1_0", "dorefa_released", 8, 5e-4, 5e-4, 64, 50),
    ("squeezenet1_0", "lsq_released", 4, 5e-4, 5e-4, 64, 50),
)


def sqakd_rows(profile: str) -> tuple[Setup, ...]:
    """The Tiny-ImageNet set-ups of PAPER 7.7, for the QAT table; none in the small profiles."""
    if profile not in ("lite", "paper"):
        return ()
    fraction, seeds = (0.1, (0,)) if profile == "lite" else (1, (0, 1, 2))
    return tuple(
        _tiny(model, method, bits, fraction, seeds, lr, decay, batch, sqakd=weight)
        for model, method, bits, lr, decay, batch, weight in SQAKD_ROWS
    )
