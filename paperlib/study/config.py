"""Configurations of runs: frozen dataclasses, and the key that is a hash of them. No torch here.

A configuration holds all that changes a run's result. The profile, the device and the number of
threads are in the record, not in the key. The configuration of the teacher is nested in that of a
student or a score: a change of the teacher's recipe changes their keys too.

Names of networks, data sets, methods and losses are in registries of the method, which need torch.
`paperlib.runs.names` looks them up, before any work.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cached_property
from typing import Any, ClassVar

from ..basics.checks import check_fields, choice
from ..basics.recipe import Recipe, require, require_known

# Part of every key. Raise it when the same configuration comes to mean another computation.
KEY_VERSION = 1
# Options that came later, with the value that all earlier runs had. At that value they are left out
# of the key, so earlier runs keep theirs.
ADDED_LATER = {
    "precision": "float32",
    "size": None,
    "schedule": "epoch",
    "warmup_steps": 0,
    "smoothing": 0.0,
    "evaluate_every": 1,
    "threads": None,
    "one_graph": False,
    "split": "train",
}


@dataclass(frozen=True)
class Data:
    """A data set by name, and class-balanced subsets of it. None keeps all images.

    size   None: views are crops of the padded images. A number: the side of the views that
           Tiny-ImageNet's base augmentation makes (RandomResizedCrop, ColorJitter), 224 in the
           paper.
    split  "train": the training images. "choosing": the choosing half of the test images
           (`paperlib.data.halves`) in their place, on which no network was trained.
    """

    name: str
    train: int | None = None
    test: int | None = None
    seed: int = 0
    size: int | None = None
    split: str = "train"

    def __post_init__(self):
        check_fields(self, split=choice(("train", "choosing")))

    @property
    def label(self) -> str:
        """Its name in a progress line."""
        return self.name if self.train is None else f"{self.train} of {self.name}"


# Kind, as keys and records have it -> class. A subclass of `Run` that names its kind is in it.
KINDS: dict[str, type["Run"]] = {}


@dataclass(frozen=True)
class Run:
    """Base of all runs.

    kind     names the class in keys and records. title  is the format of `label`.
    compute  "module:function" of (run, store, device) -> the result of the record. Where the study
             knows no torch, this is a name.
    """

    kind: ClassVar[str]
    title: ClassVar[str]
    compute: ClassVar[str]

    data: Data
    seed: int = field(default=0, kw_only=True)

    def __init_subclass__(cls):
        super().__init_subclass__()
        if "kind" in vars(cls):
            first = KINDS.setdefault(cls.kind, cls)
            same = (first.__module__, first.__qualname__) == (cls.__module__, cls.__qualname__)
            require(same, f"the kind {cls.kind!r} of {cls} is that of {first}")

    def __post_init__(self):
        check_fields(self)

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits, equal for equal configurations on every machine."""
        return key_of(self.kind, self)

    @property
    def needs(self) -> tuple["TeacherRun | StudentRun", ...]:
        """The runs whose weights this one needs."""
        return ()

    @property
    def label(self) -> str:
        """What the run is, in words. Runs that differ in an option may have the same."""
        return self.title.format(run=self)

    @property
    def name(self) -> str:
        """The label, and so much of the key that no other run has the same name."""
        return f"{self.label} [{self.key[:8]}]"


@dataclass(frozen=True)
class TeacherRun(Run):
    """A full-precision network trained on labels.

    smoothing  of hard labels, in [0, 1). Mixed labels stay as they are.
    """

    kind = "teacher"
    compute = "paperlib.runs.kinds:make_teacher"
    title = "teacher {run.model} on {run.data.label}, {run.augmentation}, seed {run.seed}"

    model: str
    recipe: Recipe
    augmentation: str = "none+cutmix"
    smoothing: float = 0.0


@dataclass(frozen=True)
class RunWithTeacher(Run):
    """Base of the runs that need a trained teacher."""

    teacher: TeacherRun

    @property
    def model(self) -> str:
        """The network, which a student has of its teacher."""
        return self.teacher.model

    @property
    def needs(self) -> tuple[TeacherRun, ...]:
        """The runs whose weights this one needs."""
        return (self.teacher,)


@dataclass(frozen=True)
class CandidatesRun(RunWithTeacher):
    """Base of the runs that look at many augmentations with one teacher."""

    augmentations: tuple[str, ...]


@dataclass(frozen=True)
class ScoreRun(CandidatesRun):
    """All candidates scored by one teacher with `paperlib.scoring.rank`, on the training images of
    `data`.
    """

    kind = "score"
    compute = "paperlib.runs.kinds:make_score"

    batch: int = 100
    stddev_group: int = 500
    replicates: int = 200
    precision: str = "float32"

    @property
    def label(self) -> str:
        """The name of the run in a progress line."""
        count = len(self.augmentations)
        label = f"score of {count} augmentations, {self.data.name}, seed {self.seed}"
        return label + _note(self.precision)


@dataclass(frozen=True)
class BudgetRun(CandidatesRun):
    """The best candidate found with a share of the forward passes, by
    `paperlib.scoring.racing.rank_within`.
    """

    kind = "budget"
    compute = "paperlib.runs.kinds:make_budget"

    budget: float = 0.1
    top: int = 1
    confidence: float = 0.95

    @property
    def label(self) -> str:
        """The name of the run in a progress line."""
        count = len(self.augmentations)
        return f"race of {count} augmentations, {self.data.name}, seed {self.seed}"


@dataclass(frozen=True)
class AblationRun(CandidatesRun):
    """Each candidate's score computed in other ways from two stored passes, by
    `paperlib.scoring.ablate`.
    """

    kind = "ablation"
    compute = "paperlib.runs.kinds:make_ablation"
    title = "score in other ways, {run.data.name}, seed {run.seed}"

    temperatures: tuple[float, ...] = (0.5, 2.0, 4.0)
    counts: tuple[int, ...] = ()
    batch: int = 100


@dataclass(frozen=True)
class StudentRun(RunWithTeacher):
    """A low-bit student of a teacher of the same architecture, started from its weights."""

    kind = "student"
    compute = "paperlib.runs.kinds:make_student"

    augmentation: str
    recipe: Recipe
    weight_bits: int
    activation_bits: int
    method: str = "ewgs"
    method_options: dict[str, Any] = field(default_factory=dict)
    loss: str = "kd"
    loss_options: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name of the run in a progress line."""
        teacher, bits = self.teacher, f"W{self.weight_bits}A{self.activation_bits}"
        label = (
            f"student {teacher.model} {bits} {self.method}+{self.loss}, {self.augmentation}, "
            f"seed {self.seed}, teacher {teacher.augmentation} on {teacher.data.label}"
        )
        return label + _note(self.recipe.precision)


@dataclass(frozen=True)
class TourRun(CandidatesRun):
    """What the tour shows of a teacher: for each candidate, its prediction for one training image
    and the class centroids.
    """

    kind = "tour"
    compute = "paperlib.runs.kinds:make_tour"
    title = "tour of {run.data.name}"

    image: int = 0
    batch: int = 100


@dataclass(frozen=True)
class HeldOutRun(CandidatesRun):
    """The rivals that look at held-out images. They are the temperature that calibrates the
    teacher, each candidate's score at that temperature, and each candidate's score on `held_out`.

    views  at least so many views of `held_out` are scored, in random passes.
    """

    kind = "held_out"
    compute = "paperlib.runs.kinds:make_held_out"
    title = "score by held-out images, {run.data.name}, {run.teacher.model}, seed {run.seed}"

    held_out: Data
    views: int = 1
    batch: int = 100


@dataclass(frozen=True)
class WalkRun(Run):
    """The scores of all candidates at several `epochs` of a teacher's training. The run repeats
    that training.

    data    what is scored. epochs  finished epochs, ascending.
    views   at least so many views are scored, in random passes: class centroids need them.
    """

    kind = "walk"
    compute = "paperlib.runs.kinds:make_walk"
    title = "walk of the {run.teacher.label}"

    teacher: TeacherRun
    augmentations: tuple[str, ...]
    epochs: tuple[int, ...]
    views: int = 1
    batch: int = 100

    @property
    def model(self) -> str:
        """The network that is trained."""
        return self.teacher.model

    def __post_init__(self):
        super().__post_init__()
        last = self.teacher.recipe.epochs
        known = tuple(epoch for epoch in range(1, last + 1) if epoch in self.epochs)
        require(
            len(known) > 0 and tuple(self.epochs) == known,
            f"epochs must ascend within 1..{last}, got {self.epochs}",
        )


@dataclass(frozen=True)
class NetworkRun(Run):
    """Base of the runs that look at one trained network. `data` has the images it is shown."""

    network: TeacherRun | StudentRun

    @property
    def model(self) -> str:
        """The network's architecture."""
        return self.network.model

    @property
    def needs(self) -> tuple[TeacherRun | StudentRun, ...]:
        """The runs whose weights this one needs."""
        return (self.network,)


@dataclass(frozen=True)
class PredictionRun(NetworkRun):
    """What a trained network says of each test image of `data`: class and confidence, kept beside
    the record. Students that were trained since they keep theirs need none.
    """

    kind = "prediction"
    compute = "paperlib.runs.kinds:make_prediction"
    title = "predictions of the {run.network.label}, {run.data.label}"


def _note(precision: str) -> str:
    return "" if precision == "float32" else f", {precision}"


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text. NaN is refused."""
    options = {"sort_keys": True, "separators": (",", ":"), "allow_nan": False}
    return json.dumps(value, default=asdict, **options)


def key_of(kind: str, config: Any) -> str:
    """The key of a run of this kind with this configuration. Raises ValueError for an unknown kind.

    config  the run itself, what `dataclasses.asdict` gives of it, or the JSON of a record.

    >>> key_of("teacher", {"seed": 0, "model": "vgg8"}) == key_of("teacher",
    ...     {"model": "vgg8", "seed": 0})
    True
    """
    require_known("kind of run", kind, KINDS)
    content = {"version": KEY_VERSION, "kind": kind, **_without_later_options(config)}
    return hashlib.sha256(canonical(content).encode()).hexdigest()[:16]


def fields_of(thing: Any) -> dict[str, Any]:
    """Name -> value of each field of a dataclass. Those that are dataclasses stay so.

    >>> fields_of(Data("digits", train=400))["train"]
    400
    """
    return {each.name: getattr(thing, each.name) for each in fields(thing)}


def _without_later_options(config: Any) -> Any:
    if is_dataclass(config):
        config = fields_of(config)
    elif not isinstance(config, dict):
        return config
    return {
        name: _without_later_options(value)
        for name, value in config.items()
        if name not in ADDED_LATER or value != ADDED_LATER[name]
    }


def check_parameters(values: dict[str, Any], cls: type) -> Any:
    """`cls(**values)` after a check of every name and type against the dataclass. For values from a
    notebook or a shell.

    Raises ValueError for an unknown name, TypeError for a value of another type.
    """
    known = {f.name: f.type for f in fields(cls)}
    for name, value in values.items():
        require_known("parameter", name, known)
        if type(value) is not known[name]:
            wanted, got = known[name].__name__, type(value).__name__
            raise TypeError(f"parameter {name} must be {wanted}, got {got} {value!r}")
    return cls(**values)
