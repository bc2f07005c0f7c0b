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
RELEASED_PICKS = OF_VGGS, OF_RESNETS = ("trivialaugment+cutmix", "autoaugment_imagenet+cutmix")
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
    released              what the released CIFAR-100 scripts train networks of this kind with
                          (PAPER 2), a fixed rival whatever the data set; "" for none.
    counts                numbers of images for the score on fewer images.
    in_gains              whether the tables of QAT and KD methods have it.
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
    released: str = ""
    counts: tuple[int, ...] = (2_000, 10_000)
    in_gains: bool = True

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


def _paper(
    name: str,
    model: str,
    bits: int,
    teacher: Recipe,
    student: Recipe,
    released: str,
    fraction: float,
    seeds: tuple[int, ...],
) -> Setup:
    """A row of PAPER 7.2, its epochs times `fraction`, teacher and student alike."""
    options = {
        "fsp": {"init_epochs": round(30 * fraction)},
        "ft": {"init_epochs": round(30 * fraction)},
        "dkd": {"warmup": round(20 * fraction)},
    }
    if released == OF_VGGS:
        options["ft"]["init_lr"] = None  # the recipe's
    teacher, student = (
        replace(recipe, epochs=round(recipe.epochs * fraction)) for recipe in (teacher, student)
    )
    return Setup(
        Data(name), model, bits, teacher, student, seeds, loss_options=options, released=released
    )


# Teachers of PAPER 7.6 that differ from the others: batch, learning rate, weight decay.
TINY_TEACHERS = {
    "vgg11_bn": (32, 0.05, 5e-4),
    "mobilenetv2": (64, 0.004, 1e-4),
    "efficientnet_b0": (64, 0.004, 1e-4),
}


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
    teacher_batch, teacher_lr, teacher_decay = TINY_TEACHERS.get(model, (64, 0.05, 5e-4))
    recipe = Recipe(
        round(100 * fraction),
        batch,
        lr,
        decay,
        "sgd_nesterov",
        schedule="step",
        warmup_steps=round(2500 * fraction),
    )
    teacher = replace(recipe, batch=teacher_batch, lr=teacher_lr, weight_decay=teacher_decay)
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


def _ten(epochs: int) -> tuple[Recipe, Recipe]:
    """The recipes of a CIFAR-10 row: teacher and student."""
    teacher = Recipe(epochs, 256, 0.1, 1e-4, "sgd")
    return teacher, Recipe(epochs, 256, 1e-3, 1e-4, quantizer_lr=1e-5)


_HUNDRED = (Recipe(720, 64, 0.05, 5e-4, "sgd"), Recipe(200, 64, 5e-4, 5e-4, quantizer_lr=5e-6))
PAPER_ROWS = (
    ("cifar100", "resnet32", 4, *_HUNDRED, OF_RESNETS),
    ("cifar100", "vgg13", 2, *_HUNDRED, OF_VGGS),
    ("cifar10", "resnet20", 3, *_ten(1200), OF_RESNETS),
    ("cifar10", "vgg8", 2, *_ten(400), OF_VGGS),
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
            released=OF_RESNETS,
            counts=(150, 500),
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
            released=OF_RESNETS,
            counts=(2_000, 5_000),
        ),
        # Fewer images, more often: the other end from CIFAR-10's above. CMI of 100 classes needs
        # more images than these students have: with N images it is too low by at most classes^2 /
        # (2 N) nats (paperlib.scoring).
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
            released=OF_RESNETS,
            counts=(2_000, 5_000),
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
            released=OF_VGGS,
            counts=(150, 500),
            in_gains=False,  # it has fewer images than the short budget of those tables
        ),
    ),
    "lite": _rows(0.1, (0,)),
    "paper": _rows(1, (0, 1, 2)),
}


def _regime(
    regime: str,
    model: str,
    teacher: Data,
    epochs: int,
    augmentation: str = "none",
    seeds: int = 3,
    images: int = 5_000,
    lr: float = 1e-3,
    decay: float = 1e-4,
    views: int = 5_000,
    released: str = OF_RESNETS,
) -> Setup:
    """A set-up of docs/experiments.md; its students see 200,000 images in all."""
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
        views=views,
        label_recipe=replace(by_labels, epochs=600_000 // images),
        released=released,
    )


_HUNDRED_CLASSES = {"images": 10_000, "lr": 5e-4, "decay": 5e-4, "views": 20_000}
_FEW = Data("cifar10", train=5_000)
_QUICK = PROFILES["quick"][0]
_A, _B, _C, _D, _F = (
    _regime("A", "resnet20", Data("cifar10"), 16),
    _regime("B", "resnet20", _FEW, 120),
    _regime("C", "resnet20", Data("cifar100"), 20, **_HUNDRED_CLASSES),
    _regime("D", "resnet20", Data("cifar10"), 16, "none+cutmix"),
    _regime("F", "resnet8", Data("cifar10"), 16, seeds=2),
)
_I = _regime("I", "vgg8", _FEW, 120, seeds=2, released=OF_VGGS)
# Set-ups with a student for each of the sixteen augmentations: docs/experiments.md.
REGIMES: dict[str, tuple[Setup, ...]] = {
    "quick": (
        replace(_QUICK, regime="A", teacher_augmentation="none"),
        replace(_QUICK, regime="D"),
    ),
    "cpu": (_A, _B, _C, _D, _F),
}


def _walker(setup: Setup, model: str) -> Setup:
    """The set-up with a teacher of this kind that was trained on the students' images."""
    return replace(setup, model=model, teacher_data=setup.data, teacher_recipe=setup.label_recipe)


@dataclass(frozen=True)
class Short:
    """A budget short enough for many students: images of the set-up's data set, epochs, seeds."""

    train: int
    test: int | None
    epochs: int
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Sizes:
    """What a profile holds beside its set-ups. The defaults are the paper's.

    short      of the tables with many students; None: the set-ups' own schedules.
    precision  (training images, epochs) of the comparison of precisions; None: the set-up's.
    methods    the QAT and KD methods that there is time for; () for all.
    bits       other bits of EWGS on CIFAR. kd  which set-up the table of KD methods takes.
    sqakd      the Tiny-ImageNet set-ups of PAPER 7.7. pairs, budget  of the policy search.
    contended  set-ups of the methods table of docs/experiments.md: of these the wider one is taken.
    other      set-ups there with a student for some augmentations only. later  those with lower
               priority, and capacity  the ones whose full-precision networks are trained.
    walkers    set-ups along whose teachers' training the score is taken.
    """

    short: Short | None = None
    precision: tuple[int, int] | None = None
    methods: tuple[str, ...] = ()
    bits: tuple[int, ...] = ()
    kd: int = 1
    sqakd: tuple[Setup, ...] = ()
    pairs: int = 256
    budget: float = 0.1
    contended: tuple[Setup, ...] = ()
    other: tuple[Setup, ...] = ()
    later: tuple[Setup, ...] = ()
    capacity: tuple[Setup, ...] = ()
    walkers: tuple[Setup, ...] = ()


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


def _sqakd(fraction: float, seeds: tuple[int, ...]) -> tuple[Setup, ...]:
    return tuple(
        _tiny(model, method, bits, fraction, seeds, lr, decay, batch, sqakd=weight)
        for model, method, bits, lr, decay, batch, weight in SQAKD_ROWS
    )


SIZES = {
    "quick": Sizes(
        short=Short(400, None, 3, (0,)),
        precision=(400, 3),
        methods=("ewgs", "lsq", "sqakd", "at", "crd"),
        kd=0,
        pairs=64,
        walkers=(_QUICK,),
    ),
    "cpu": Sizes(
        short=Short(4_000, 2_500, 5, (0, 1, 2)),
        precision=(5_000, 10),
        methods=("ewgs", "lsq", "pact", "dorefa", "sqakd", "at", "sp", "crd"),
        kd=0,
        budget=0.02,
        contended=(_A, _B),
        other=(_I,),
        later=(_F,),
        capacity=(_B, _C, _F),
        walkers=tuple(_walker(s, model) for s in (_B, _C) for model in ("resnet20", "vgg8")),
    ),
    "lite": Sizes(bits=(2,), sqakd=_sqakd(0.1, (0,))),
    "paper": Sizes(bits=(1, 2, 4), sqakd=_sqakd(1, (0, 1, 2))),
}
