"""Which runs each table and figure needs, per profile. A profile changes sizes, never the method. No torch here."""

from dataclasses import dataclass, replace

from .config import PRECISIONS, BudgetRun, Data, Recipe, Run, ScoreRun, StudentRun, TeacherRun, TourRun

POLICIES = (
    "none", "erasing", "randaugment", "trivialaugment", "augmix",
    "autoaugment_cifar10", "autoaugment_imagenet", "autoaugment_svhn",
)  # fmt: skip
CANDIDATES = (*POLICIES, *(f"{name}+cutmix" for name in POLICIES))


@dataclass(frozen=True)
class Setup:
    """One panel of the scatter: a teacher, its scores, and a student per augmentation and seed."""

    data: Data
    model: str
    bits: int
    teacher_recipe: Recipe
    student_recipe: Recipe
    seeds: tuple[int, ...] = (0,)
    teacher_data: Data | None = None  # where the teacher sees more images than the students
    stddev_group: int = 500

    @property
    def name(self) -> str:
        return f"{self.data.name} {self.model} W{self.bits}A{self.bits}"

    @property
    def teacher(self) -> TeacherRun:
        return TeacherRun(self.teacher_data or self.data, self.model, self.teacher_recipe)

    @property
    def score(self) -> ScoreRun:
        return ScoreRun(self.data, self.teacher, CANDIDATES, stddev_group=self.stddev_group)

    @property
    def students(self) -> tuple[StudentRun, ...]:
        return tuple(
            StudentRun(self.data, self.teacher, name, self.student_recipe, self.bits, self.bits, seed=seed)
            for seed in self.seeds
            for name in CANDIDATES
        )


def _paper(name: str, model: str, bits: int, fraction: float, seeds: tuple[int, ...]) -> Setup:
    """A row of PAPER 7.2, its epochs times `fraction`, teacher and student alike."""
    ten = name == "cifar10"
    student_epochs = {"resnet20": 1200, "vgg8": 400, "resnet32": 200, "vgg13": 200}[model]
    teacher_epochs = {"resnet20": 1200, "vgg8": 400, "resnet32": 720, "vgg13": 720}[model]
    batch, decay = (256, 1e-4) if ten else (64, 5e-4)
    lr = 1e-3 if ten else 5e-4
    return Setup(
        Data(name), model, bits,
        Recipe(round(teacher_epochs * fraction), batch, 0.1 if ten else 0.05, decay, "sgd"),
        Recipe(round(student_epochs * fraction), batch, lr, decay, quantizer_lr=lr / 100),
        seeds,
    )  # fmt: skip


PAPER_ROWS = (("cifar100", "resnet32", 4), ("cifar100", "vgg13", 2), ("cifar10", "resnet20", 3), ("cifar10", "vgg8", 2))

# The learning rates are the paper's for CIFAR-10. Sizes of the two small profiles are what fits their time.
PROFILES: dict[str, tuple[Setup, ...]] = {
    "quick": (
        Setup(
            Data("digits"), "resnet8", 2,
            Recipe(12, 32, 0.1, 1e-4, "sgd"), Recipe(5, 32, 1e-3, 1e-4, quantizer_lr=1e-5), stddev_group=50,
        ),
    ),
    "cpu": (
        Setup(
            Data("cifar10", train=20_000), "resnet8", 2,
            Recipe(16, 128, 0.1, 1e-4, "sgd"), Recipe(5, 128, 1e-3, 1e-4, quantizer_lr=1e-5),
            teacher_data=Data("cifar10"),
        ),
    ),
    "lite": tuple(_paper(*row, fraction=0.1, seeds=(0,)) for row in PAPER_ROWS),
    "paper": tuple(_paper(*row, fraction=1, seeds=(0, 1, 2)) for row in PAPER_ROWS),
}  # fmt: skip


def setups(profile: str) -> tuple[Setup, ...]:
    """The set-ups of a profile. Raises ValueError for an unknown one."""
    if profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}; known: {', '.join(PROFILES)}")
    return PROFILES[profile]


def _tour(profile: str) -> tuple[Run, ...]:
    first = setups(profile)[0]
    return (first.teacher, tour(profile), first.score)


def tour(profile: str) -> TourRun:
    """What notebook 00 shows, for the first set-up of a profile."""
    first = setups(profile)[0]
    return TourRun(first.data, first.teacher, CANDIDATES, image=20, seed=29)  # a draw in which every policy shows


def _ranking(profile: str) -> tuple[Run, ...]:
    return tuple(run for setup in setups(profile) for run in (setup.teacher, setup.score, *setup.students))


@dataclass(frozen=True)
class Comparison:
    """Students that differ in seed and precision only, for each of two augmentations."""

    setup: Setup
    augmentations: tuple[str, ...] = ("none", "randaugment+cutmix")
    seeds: tuple[int, ...] = (0, 1, 2)

    def students(self, precision: str, augmentation: str) -> list[StudentRun]:
        s = self.setup
        recipe = replace(s.student_recipe, precision=precision)
        return [StudentRun(s.data, s.teacher, augmentation, recipe, s.bits, s.bits, seed=seed) for seed in self.seeds]


def precision_comparison(profile: str) -> Comparison:
    """The first set-up of a profile; on CIFAR-10 at CPU scale with fewer images and more epochs."""
    first = setups(profile)[0]
    if profile == "cpu":
        first = replace(first, data=Data("cifar10", train=5_000), student_recipe=replace(first.student_recipe, epochs=10))
    return Comparison(first)


def races(profile: str) -> list[BudgetRun]:
    """The ranking of the first set-up's candidates within a tenth of the forward passes, from three random orders."""
    first = setups(profile)[0]
    return [BudgetRun(first.data, first.teacher, CANDIDATES, seed=seed) for seed in range(3)]


def short_score(profile: str) -> ScoreRun:
    """The first set-up's score with the teacher in bfloat16."""
    return replace(setups(profile)[0].score, precision="bfloat16")


def _speed(profile: str) -> tuple[Run, ...]:
    first, pairs = setups(profile)[0], precision_comparison(profile)
    students = [run for p in PRECISIONS for name in pairs.augmentations for run in pairs.students(p, name)]
    return (first.teacher, first.score, short_score(profile), *races(profile), *students)


QUANTIZERS = (
    "ewgs", "lsq", "lsq+", "pact", "dorefa", "ternary", "lsq_released", "pact_released", "dorefa_released",
)  # fmt: skip
LOSSES = (
    "kd", "ce", "sqakd", "dkd", "fitnet", "at", "nst", "sp", "rkd", "cc", "vid", "fsp", "fsp_active", "ft", "pkt", "kdsvd",
    "crd", "cktf",
)  # fmt: skip
# A stage before the main one of 30 epochs, or a warm-up of 20, would be longer than the short budget of this comparison.
SHORTENED = {"fsp": {"init_epochs": 1}, "ft": {"init_epochs": 1}, "dkd": {"warmup": 0}}


@dataclass(frozen=True)
class Methods:
    """Students that differ in quantizer, or in loss, and in seed; crop and mirror alone. Both lists hold EWGS + KD."""

    setup: Setup
    seeds: tuple[int, ...]

    def _students(self, method: str, loss: str) -> list[StudentRun]:
        s, options = self.setup, SHORTENED.get(loss, {})
        return [
            StudentRun(
                s.data, s.teacher, "none", s.student_recipe, s.bits, s.bits, method, loss=loss, loss_options=options, seed=seed
            )
            for seed in self.seeds
        ]

    @property
    def quantizers(self) -> dict[str, list[StudentRun]]:
        """Each quantizer with plain KD."""
        return {name: self._students(name, "kd") for name in QUANTIZERS}

    @property
    def losses(self) -> dict[str, list[StudentRun]]:
        """Each loss with EWGS."""
        return {name: self._students("ewgs", name) for name in LOSSES}


def methods(profile: str) -> Methods:
    """The first set-up of a profile; on a CPU with a short budget, which is the same for all."""
    first = setups(profile)[0]
    if profile == "quick":
        small = replace(first, data=Data("digits", train=400), student_recipe=replace(first.student_recipe, epochs=4))
        return Methods(small, (0,))
    if profile == "cpu":
        small = replace(first, data=Data("cifar10", train=4_000, test=2_500))
        return Methods(small, (0, 1, 2))
    return Methods(first, first.seeds)


def _methods(profile: str) -> tuple[Run, ...]:
    comparison = methods(profile)
    lists = (*comparison.quantizers.values(), *comparison.losses.values())
    return (comparison.setup.teacher, *(run for runs in lists for run in runs))


# What `TABLE=` accepts: name -> (the runs it needs, its notebook).
TABLES = {
    "tour": (_tour, "00_tour.ipynb"),
    "ranking": (_ranking, "01_metric_vs_accuracy.ipynb"),
    "speed": (_speed, "02_speed.ipynb"),
    "methods": (_methods, "03_methods.ipynb"),
    "own": (lambda profile: (), "04_your_own.ipynb"),
    "definitions": (_ranking, "05_definitions.ipynb"),
    "cost": (_ranking, "06_cost.ipynb"),
}


def tables(table: str) -> tuple[str, ...]:
    """("all" or one name) -> names. Raises ValueError for an unknown one."""
    if table != "all" and table not in TABLES:
        raise ValueError(f"unknown table {table!r}; known: all, {', '.join(TABLES)}")
    return tuple(TABLES) if table == "all" else (table,)


def runs_of(profile: str, table: str = "all") -> list[Run]:
    """Every run that a table of a profile needs, teachers first, none twice.

    >>> len(runs_of("quick", "ranking"))
    18
    """
    found = {run.key: run for name in tables(table) for run in TABLES[name][0](profile)}
    return sorted(found.values(), key=lambda run: len(run.teachers))
