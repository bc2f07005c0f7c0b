"""The set-ups of each profile: data, network, bits and recipes. A profile changes sizes, never the
method. No torch here.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ..basics.recipe import Recipe, require_known
from .config import Data, Run, ScoreRun, StudentRun, TeacherRun

POLICIES = (
    *("none", "erasing", "randaugment", "trivialaugment", "augmix"),
    *("autoaugment_cifar10", "autoaugment_imagenet", "autoaugment_svhn"),
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
    score_batch           images of one forward pass of the scoring, and of one CutMix box.
    method, and options   the quantizer.
    loss_options          loss -> what differs from its usual options here.
    regime                its name in docs/experiments.md, for set-ups that differ in their teacher
                          alone.
    views                 a score on few images takes at least so many views of them for the class
                          centroids.
    label_recipe          how full-precision networks of the students' kind are trained on labels,
                          on the students' images.
    released              what the released CIFAR-100 scripts train networks of this kind with
                          (PAPER 2), a fixed rival on every data set; "" for none.
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

    @cached_property
    def teacher(self) -> TeacherRun:
        return TeacherRun(
            self.teacher_data or self.data,
            self.model,
            self.teacher_recipe,
            self.teacher_augmentation,
            self.teacher_smoothing,
        )

    @cached_property
    def score(self) -> ScoreRun:
        data = self.score_data or self.data
        return ScoreRun(data, self.teacher, CANDIDATES, self.score_batch, self.stddev_group)

    @cached_property
    def students(self) -> tuple[StudentRun, ...]:
        return tuple(self.student(name, seed) for seed in self.seeds for name in CANDIDATES)

    @property
    def runs(self) -> tuple[Run, ...]:
        """The teacher, its score and all students."""
        return (self.teacher, self.score, *self.students)

    def student(
        self, augmentation: str, seed: int = 0, loss: str = "kd", bits: int = 0, **changes: Any
    ) -> StudentRun:
        """A student of this set-up.

        bits     of weights and activations; 0 for those of the set-up.
        changes  other fields of `StudentRun`.
        """
        settings = {
            "recipe": self.student_recipe,
            "weight_bits": bits or self.bits,
            "activation_bits": bits or self.bits,
            "method": self.method,
            "method_options": self.method_options,
            "loss": loss,
            "loss_options": self.loss_options.get(loss, {}),
        }
        return self._once(
            (augmentation, seed, loss, bits, repr(changes)),
            lambda: StudentRun(
                self.data, self.teacher, augmentation, seed=seed, **settings | changes
            ),
        )

    def shorter(self, train: int, epochs: int, test: int | None = None) -> "Setup":
        """The set-up with another schedule of its students, under the same teacher."""
        data = replace(self.data, train=train, test=test)
        recipe = replace(self.student_recipe, epochs=epochs)
        changes = {"data": data, "student_recipe": recipe, "teacher_data": self.teacher.data}
        return self._once((train, epochs, test), lambda: replace(self, **changes))

    @cached_property
    def _known(self) -> dict[tuple, Any]:
        return {}

    def _once(self, name: tuple, make: Callable[[], Any]) -> Any:
        """What `make` gave at first under this name. Tables ask for a run many times, and to make
        one and its key takes a tenth of a millisecond.
        """
        if name not in self._known:
            self._known[name] = make()
        return self._known[name]


# ------------------------------------------------------------------------ the paper's rows: PAPER 7

# Learning rate and weight decay of students, by data set.
RATES = {"digits": (1e-3, 1e-4), "cifar10": (1e-3, 1e-4), "cifar100": (5e-4, 5e-4)}


def _recipes(name: str, epochs: tuple[int, int], batch: int, **shared: Any) -> list[Recipe]:
    """Recipes of a teacher and its students on a data set of `RATES`. The teacher's learning rate
    is 100 times the students', and the quantizers' a hundredth of it.
    """
    lr, decay = RATES[name]
    return [
        Recipe(epochs[0], batch, 100 * lr, decay, "sgd", **shared),
        Recipe(epochs[1], batch, lr, decay, quantizer_lr=lr / 100, **shared),
    ]


# PAPER 7.7, but for MobileNet-V2 at 3 bits, which is in 7.6 too: network, quantizer, bits, (batch,
# learning rate, weight decay) and the weight of SQAKD's loss. All start from the teacher's
# weights. In the released script VGG-11-BN's 3-bit row with SQAKD does not.
SQAKD_ROWS = (
    ("resnet18", "pact_released", 8, (64, 5e-4, 5e-4), 1),
    ("resnet18", "pact_released", 4, (64, 5e-4, 5e-4), 1),
    ("resnet18", "pact_released", 3, (64, 0.004, 1e-4), 1),
    ("vgg11_bn", "pact_released", 8, (32, 5e-4, 5e-4), 100),
    ("vgg11_bn", "pact_released", 4, (32, 5e-4, 5e-4), 100),
    ("vgg11_bn", "pact_released", 3, (32, 0.004, 1e-4), 10),
    ("mobilenetv2", "pact_released", 4, (64, 5e-4, 5e-4), 100),
    ("shufflenetv2_x0_5", "pact_released", 4, (64, 5e-4, 5e-4), 100),
    ("shufflenetv2_x0_5", "dorefa_released", 8, (64, 5e-4, 5e-4), 800),
    ("squeezenet1_0", "dorefa_released", 8, (64, 5e-4, 5e-4), 50),
    ("squeezenet1_0", "lsq_released", 4, (64, 5e-4, 5e-4), 50),
)
# Teachers of PAPER 7.6 that differ from the others: batch, learning rate, weight decay.
TINY_TEACHERS = {
    "vgg11_bn": (32, 0.05, 5e-4),
    "mobilenetv2": (64, 0.004, 1e-4),
    "efficientnet_b0": (64, 0.004, 1e-4),
}


def _cifar(
    name: str, model: str, bits: int, epochs: tuple[int, int], batch: int, released: str
) -> Setup:
    """A row of PAPER 7.2. epochs  of the teacher and of the students."""
    options = {"fsp": {"init_epochs": 30}, "ft": {"init_epochs": 30}, "dkd": {"warmup": 20}}
    if released == OF_VGGS:
        options["ft"]["init_lr"] = None  # the recipe's
    recipes = _recipes(name, epochs, batch)
    settings = {"loss_options": options, "released": released}
    return Setup(Data(name), model, bits, *recipes, (0, 1, 2), **settings)


def _tiny(
    model: str,
    method: str,
    bits: int,
    recipe: tuple[int, float, float] = (64, 0.004, 1e-4),
    gamma: float = 1,
    alpha: float = 2,
    sqakd: float = 1,
) -> Setup:
    """A row of PAPER 7.6 or 7.7, with its plain teacher: Tiny-ImageNet at 224 pixels, SGD with
    warm-up, first and last layer at 8 bits.

    recipe  batch, learning rate and weight decay of the students.
    """
    teacher, students = (
        Recipe(100, *settings, "sgd_nesterov", schedule="step", warmup_steps=2500)
        for settings in (TINY_TEACHERS.get(model, (64, 0.05, 5e-4)), recipe)
    )
    return Setup(
        Data("tiny-imagenet", size=224),
        model,
        bits,
        teacher,
        students,
        (0, 1, 2),
        stddev_group=250,
        score_batch=50,
        teacher_augmentation="none",
        teacher_smoothing=0.1,
        method=method,
        method_options={"kept_bits": 8},
        loss_options={
            "ce": {"smoothing": 0.1},
            "kd": {"smoothing": 0.1, "gamma": gamma, "alpha": alpha},
            "sqakd": {"alpha": sqakd},
        },
    )


# The set-ups with all 16 augmentations: PAPER 7.2 and 7.6. EfficientNet's teacher has no recipe
# there: MobileNet's stands in.
_PAPER = (
    _cifar("cifar100", "resnet32", 4, (720, 200), 64, OF_RESNETS),
    _cifar("cifar100", "vgg13", 2, (720, 200), 64, OF_VGGS),
    _cifar("cifar10", "resnet20", 3, (1200, 1200), 256, OF_RESNETS),
    _cifar("cifar10", "vgg8", 2, (400, 400), 256, OF_VGGS),
    _tiny("resnet18", "lsq_released", 3),
    _tiny("mobilenetv2", "pact_released", 3, gamma=3, alpha=6, sqakd=10),
    _tiny("efficientnet_b0", "pact_released", 3, gamma=3, alpha=6),
)
_SQAKD = tuple(_tiny(*row, sqakd=weight) for *row, weight in SQAKD_ROWS)


def _tenth(setup: Setup) -> Setup:
    """A set-up with a tenth of its epochs and steps, and one seed."""

    def shorter(recipe: Recipe) -> Recipe:
        epochs, steps = round(recipe.epochs / 10), round(recipe.warmup_steps / 10)
        return replace(recipe, epochs=epochs, warmup_steps=steps)

    options = {
        loss: {
            name: round(value / 10) if name in ("init_epochs", "warmup") else value
            for name, value in given.items()
        }
        for loss, given in setup.loss_options.items()
    }
    recipes = {
        "teacher_recipe": shorter(setup.teacher_recipe),
        "student_recipe": shorter(setup.student_recipe),
    }
    return replace(setup, seeds=(0,), loss_options=options, **recipes)


# --------------------------------------------------------------------------------------- profiles

# The main stage comes after one of 30 epochs in FSP and FT, and a warm-up of 20 in DKD. Both would
# be longer than a short schedule.
SHORTENED = {"fsp": {"init_epochs": 1}, "ft": {"init_epochs": 1}, "dkd": {"warmup": 0}}


def _digits(model: str, released: str, **settings: Any) -> Setup:
    """Digits, on which one core can train the network."""
    return Setup(
        Data("digits"),
        model,
        2,
        *_recipes("digits", (12, 3), 32),
        stddev_group=50,
        loss_options=SHORTENED,
        released=released,
        counts=(150, 500),
        **settings,
    )


def _part(data: Data, epochs: tuple[int, int], **settings: Any) -> Setup:
    """ResNet-8 on a part of CIFAR, under a teacher that saw all of it."""
    return Setup(
        data,
        "resnet8",
        2,
        *_recipes(data.name, epochs, 128),
        (0, 1, 2),
        Data(data.name),
        loss_options=SHORTENED,
        released=OF_RESNETS,
        counts=(2_000, 5_000),
        **settings,
    )


# The sizes of `quick` and `cpu` are what fits their time.
_QUICK = _digits("resnet8", OF_RESNETS)
PROFILES: dict[str, tuple[Setup, ...]] = {
    "quick": (_QUICK,),
    "cpu": (
        _part(Data("cifar10", train=20_000), (16, 5)),
        # Fewer images, more often: the other end from CIFAR-10's above. CMI of 100 classes needs
        # more images than these students have: with N images it is too low by at most classes^2 /
        # (2 N) nats (paperlib.scoring).
        _part(
            Data("cifar100", train=5_000, test=5_000),
            (20, 10),
            score_data=Data("cifar100", train=20_000),
        ),
        # A network of another kind, for C5. It has fewer images than the short budget of the tables
        # of gains.
        _digits("vgg8", OF_VGGS, seeds=(0, 1, 2), in_gains=False),
    ),
    "lite": tuple(map(_tenth, _PAPER)),
    "paper": _PAPER,
}


def setups(profile: str) -> tuple[Setup, ...]:
    """The set-ups of a profile. Raises ValueError for an unknown one."""
    require_known("profile", profile, PROFILES)
    return PROFILES[profile]


# ------------------------------------------------------------------------------ docs/experiments.md


def _regime(
    regime: str, model: str, teacher: Data, epochs: int, images: int = 5_000, **settings: Any
) -> Setup:
    """A set-up of docs/experiments.md. Its students see 200,000 images in all.

    teacher, epochs  of the teacher's training. images  of the students'. settings  of `Setup`.
    """
    shared = {"precision": "bfloat16", "threads": 1, "evaluate_every": 5}
    name, schedules = teacher.name, (epochs, 200_000 // images)
    by_labels, recipe = _recipes(name, schedules, 128, **shared)
    usual = {
        "seeds": (0, 1, 2),
        "teacher_data": teacher,
        "score_data": Data(name, train=20_000) if teacher.train is None else teacher,
        "teacher_augmentation": "none",
        "loss_options": {"dkd": {"warmup": 3}},
        "views": 5_000,
        "label_recipe": replace(by_labels, epochs=600_000 // images),
        "released": OF_RESNETS,
        "regime": regime,
    }
    return Setup(Data(name, train=images), model, 2, by_labels, recipe, **usual | settings)


_FEW = Data("cifar10", train=5_000)
_A = _regime("A", "resnet20", Data("cifar10"), 16)
_B = _regime("B", "resnet20", _FEW, 120)
_C = _regime("C", "resnet20", Data("cifar100"), 20, images=10_000, views=20_000)
_D = _regime("D", "resnet20", Data("cifar10"), 16, teacher_augmentation="none+cutmix")
_F = _regime("F", "resnet8", Data("cifar10"), 16, seeds=(0, 1))
_I = _regime("I", "vgg8", _FEW, 120, seeds=(0, 1), released=OF_VGGS)
# Set-ups with a student for each of the sixteen augmentations.
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


# ------------------------------------------------------------------------- what else a profile has


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

    short      of the tables with many students. None: the set-ups' own schedules.
    precision  (training images, epochs) of the comparison of precisions. None: the set-up's.
    raced      whose candidates are raced. None: those of the first set-up.
    methods    the QAT and KD methods that there is time for; () for all.
    bits       other bits of EWGS on CIFAR. kd  which set-up the table of KD methods takes.
    sqakd      the Tiny-ImageNet set-ups of PAPER 7.7. pairs, budget  of the policy search.
    contended  candidates for the methods table of docs/experiments.md, which takes the one with the
               wider spread of accuracies.
    other      set-ups there with a student for some augmentations only.
    later      set-ups there with lower priority.
    capacity   set-ups there whose full-precision networks are trained.
    walkers    set-ups along whose teachers' training the score is taken.
    """

    short: Short | None = None
    precision: tuple[int, int] | None = None
    raced: Setup | None = None
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
        raced=_D,
        methods=("ewgs", "lsq", "pact", "dorefa", "sqakd", "at", "sp", "crd"),
        kd=0,
        budget=0.02,
        contended=(_A, _B),
        other=(_I,),
        later=(_F,),
        capacity=(_B, _C, _F),
        walkers=tuple(_walker(s, model) for s in (_B, _C) for model in ("resnet20", "vgg8")),
    ),
    "lite": Sizes(bits=(2,), sqakd=tuple(map(_tenth, _SQAKD))),
    "paper": Sizes(bits=(1, 2, 4), sqakd=_SQAKD),
}
