"""What determines a run: frozen dataclasses, and the key that is a hash of them. No torch here.

A run holds everything that changes its result and nothing else; the profile it was made for, the
device and the number of threads are noted in its record, not in its key. A student's or a score's
teacher is nested in it, so a change of the teacher's recipe changes their keys too.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..basics.recipe import Recipe, check_precision, require

KEY_VERSION = (
    1  # part of every key: raise it when the same configuration comes to mean another computation
)
# Options that came later, with the value that all earlier runs had: left out of the key at that
# value, so those keep theirs.
ADDED_LATER = {
    "precision": "float32",
    "size": None,
    "schedule": "epoch",
    "warmup_steps": 0,
    "smoothing": 0.0,
    "evaluate_every": 1,
    "threads": None,
    "split": "train",
}
SPLITS = ("train", "choosing")


def _note(precision: str) -> str:
    return "" if precision == "float32" else f", {precision}"


@dataclass(frozen=True)
class Data:
    """A data set by name, and class-balanced subsets of it; None keeps all images.

    size   None: views are crops of the padded images. A number: the side of the views that
           Tiny-ImageNet's base augmentation makes (RandomResizedCrop, ColorJitter), 224 in the
           paper.
    split  "train", or "choosing": the choosing half of the test images (`paperlib.data.halves`)
           takes the place of the training images, for what is measured on images that no network
           was trained on.
    """

    name: str
    train: int | None = None
    test: int | None = None
    seed: int = 0
    size: int | None = None
    split: str = "train"

    def __post_init__(self):
        require(self.split in SPLITS, f"unknown split {self.split!r}; known: {', '.join(SPLITS)}")

    @property
    def label(self) -> str:
        """What a progress line calls it."""
        return self.name if self.train is None else f"{self.train} of {self.name}"


class Run:
    """Base of the runs below."""

    kind = ""

    @property
    def key(self) -> str:
        """16 hexadecimal digits, equal for equal configurations on every machine."""
        return key_of(self.kind, asdict(self))

    @property
    def teachers(self) -> tuple["TeacherRun", ...]:
        """The runs whose weights this one needs."""
        return (self.teacher,)

    @property
    def label(self) -> str:
        """What a progress line calls it."""
        raise NotImplementedError


@dataclass(frozen=True)
class TeacherRun(Run):
    """A full-precision network trained on labels. smoothing  of hard labels, in [0, 1); mixed
    labels stay as they are.
    """

    kind = "teacher"
    data: Data
    model: str
    recipe: Recipe
    augmentation: str = "none+cutmix"
    seed: int = 0
    smoothing: float = 0.0

    @property
    def teachers(self) -> tuple["TeacherRun", ...]:
        return ()

    @property
    def label(self) -> str:
        return f"teacher {self.model} on {self.data.label}, {self.augmentation}, seed {self.seed}"


@dataclass(frozen=True)
class ScoreRun(Run):
    """All candidates scored with one teacher: `paperlib.scoring.rank` on the training images of
    `data`.
    """

    kind = "score"
    data: Data
    teacher: TeacherRun
    augmentations: tuple[str, ...]
    batch: int = 100
    stddev_group: int = 500
    replicates: int = 200
    seed: int = 0
    precision: str = "float32"

    def __post_init__(self):
        check_precision(self.precision)

    @property
    def label(self) -> str:
        return (
            f"score of {len(self.augmentations)} augmentations, {self.data.name}, seed "
            f"{self.seed}{_note(self.precision)}"
        )


@dataclass(frozen=True)
class BudgetRun(Run):
    """The best candidate found with a share of the forward passes:
    `paperlib.scoring.racing.rank_within`.
    """

    kind = "budget"
    data: Data
    teacher: TeacherRun
    augmentations: tuple[str, ...]
    budget: float = 0.1
    top: int = 1
    confidence: float = 0.95
    seed: int = 0

    @property
    def label(self) -> str:
        return (
            f"race of {len(self.augmentations)} augmentations, {self.data.name}, seed {self.seed}"
        )


@dataclass(frozen=True)
class AblationRun(Run):
    """Each candidate's score computed in other ways from two stored passes:
    `paperlib.scoring.ablate`.
    """

    kind = "ablation"
    data: Data
    teacher: TeacherRun
    augmentations: tuple[str, ...]
    temperatures: tuple[float, ...] = (0.5, 2.0, 4.0)
    counts: tuple[int, ...] = ()
    batch: int = 100
    seed: int = 0

    @property
    def label(self) -> str:
        return f"score in other ways, {self.data.name}, seed {self.seed}"


@dataclass(frozen=True)
class StudentRun(Run):
    """A low-bit student of a teacher of the same architecture, started from its weights."""

    kind = "student"
    data: Data
    teacher: TeacherRun
    augmentation: str
    recipe: Recipe
    weight_bits: int
    activation_bits: int
    method: str = "ewgs"
    method_options: dict[str, Any] = field(default_factory=dict)
    loss: str = "kd"
    loss_options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    @property
    def label(self) -> str:
        bits = f"W{self.weight_bits}A{self.activation_bits}"
        named = (
            f"student {self.teacher.model} {bits} {self.method}+{self.loss}, "
            f"{self.augmentation}, seed {self.seed}"
        )
        named += f", teacher {self.teacher.augmentation} on {self.teacher.data.label}"
        return named + _note(self.recipe.precision)


@dataclass(frozen=True)
class TourRun(Run):
    """What the tour shows of a teacher: its prediction for one training image, and the class
    centroids, per candidate.
    """

    kind = "tour"
    data: Data
    teacher: TeacherRun
    augmentations: tuple[str, ...]
    image: int = 0
    batch: int = 100
    seed: int = 0

    @property
    def label(self) -> str:
        return f"tour of {self.data.name}"


@dataclass(frozen=True)
class HeldOutRun(Run):
    """The rivals that look at held-out images: the temperature that calibrates the teacher, each
    candidate's score at it, and its score on `held_out`, in so many random passes that there are
    `views` of them.
    """

    kind = "held_out"
    data: Data
    held_out: Data
    teacher: TeacherRun
    augmentations: tuple[str, ...]
    views: int = 1
    batch: int = 100
    seed: int = 0

    @property
    def label(self) -> str:
        return f"score by held-out images, {self.data.name}, {self.teacher.model}, seed {self.seed}"


@dataclass(frozen=True)
class WalkRun(Run):
    """The scores of all candidates at several `epochs` of a teacher's training, which this run
    repeats.

    data  what is scored, in so many random passes that there are `views`: class centroids need
    them. epochs  finished epochs, ascending.
    """

    kind = "walk"
    data: Data
    teacher: TeacherRun
    augmentations: tuple[str, ...]
    epochs: tuple[int, ...]
    views: int = 1
    batch: int = 100
    seed: int = 0

    def __post_init__(self):
        known = range(1, self.teacher.recipe.epochs + 1)
        require(
            list(self.epochs) == sorted(set(self.epochs))
            and all(e in known for e in self.epochs)
            and len(self.epochs) > 0,
            f"epochs must ascend within 1..{self.teacher.recipe.epochs}, got {self.epochs}",
        )

    @property
    def teachers(self) -> tuple["TeacherRun", ...]:
        return ()

    @property
    def label(self) -> str:
        return f"walk of the {self.teacher.label}"


RUN_TYPES: dict[str, type[Run]] = {
    cls.kind: cls
    for cls in (
        TeacherRun,
        ScoreRun,
        BudgetRun,
        AblationRun,
        StudentRun,
        TourRun,
        HeldOutRun,
        WalkRun,
    )
}


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text. NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def key_of(kind: str, config: dict[str, Any]) -> str:
    """The key of a run of this kind with this configuration (as `dataclasses.asdict` or a record's
    JSON gives it).

    >>> key_of("teacher", {"seed": 0, "model": "vgg8"}) == key_of("teacher",
    ...     {"model": "vgg8", "seed": 0})
    True
    """
    if kind not in RUN_TYPES:
        raise ValueError(f"unknown kind of run {kind!r}; known: {', '.join(RUN_TYPES)}")
    content = {"version": KEY_VERSION, "kind": kind, **_without_later_options(config)}
    return hashlib.sha256(canonical(content).encode()).hexdigest()[:16]


def _without_later_options(config: Any) -> Any:
    if not isinstance(config, dict):
        return config
    kept = {
        name: value
        for name, value in config.items()
        if name not in ADDED_LATER or value != ADDED_LATER[name]
    }
    return {name: _without_later_options(value) for name, value in kept.items()}


def check_parameters(values: dict[str, Any], cls: type) -> Any:
    """`cls(**values)` after checking every name and type against the dataclass; for values from a
    notebook or a shell.

    Raises ValueError for an unknown name, TypeError for a value of another type (an int may stand
    for a float).
    """
    known = {f.name: f.type for f in fields(cls)}
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"unknown parameter {name!r}; known: {', '.join(known)}")
        wanted = known[name]
        if (
            isinstance(wanted, type)
            and not isinstance(value, wanted)
            and not (wanted is float and type(value) is int)
        ):
            raise TypeError(
                f"parameter {name} must be {wanted.__name__}, got {type(value).__name__} {value!r}"
            )
        if wanted in (int, float) and isinstance(value, bool):
            raise TypeError(f"parameter {name} must be {wanted.__name__}, got bool {value!r}")
    return cls(**values)
