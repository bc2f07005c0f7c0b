"""The runs of ACID. No torch here.

Question. A batch is chosen from a larger one by a frozen reference, the full-precision teacher.
Does that help a low-bit student, where a share of the training labels is wrong and where none is?

What is compared. Students differ in what chooses their batches. `uniform` draws them as everywhere
else. A selection is compared with `uniform` at equal updates, and at equal compute: choosing needs
forward passes of its own, for which `uniform` gets more epochs (`as_costly`).

Rules of the verdict, written before the runs:
- A selection avoids wrong labels if, in every seed and at every share of wrong labels above 0, the
  share among the chosen is below that of the data; it seeks them if it is above.
- It helps at equal updates, or pays at equal compute, if its accuracy is above that of `uniform` by
  more than the bound of a one-sided t test at 5 % on the differences within seeds. Before the runs
  this said two standard errors; on three seeds the bound is stricter.

The teacher learned the right labels of these very images. That makes it a better reference than one
usually has. The arms `misled` take a teacher that learned the same wrong labels instead, and start
from it. Their `easy` was added once the other runs of `quick` were known.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from paperlib.basics.checks import check_fields, choice, number
from paperlib.basics.recipe import require
from paperlib.study import plan
from paperlib.study.config import Run, StudentRun, TeacherRun, fields_of
from paperlib.study.profiles import CUTMIX, Setup
from paperlib.study.store import Store

from ..setups import small

# Selection -> whether it looks at the student, and at the reference.
SELECTIONS = {
    "uniform": (False, False),
    "easy": (False, True),
    "learnability": (True, True),
    "hard": (True, False),
    "cutmixpick": (False, True),
}
_share = number("[0, 1]")


@dataclass(frozen=True)
class MisledTeacherRun(TeacherRun):
    """A teacher that learns some wrong labels. wrong_labels  their share."""

    kind = "acid_teacher"
    compute = "related.acid.method:make_teacher"
    title = TeacherRun.title + ", {run.wrong_labels} of the labels wrong"

    wrong_labels: float = 0.0

    def __post_init__(self):
        check_fields(self, wrong_labels=_share)


@dataclass(frozen=True)
class SelectedRun(StudentRun):
    """A student whose batches are chosen from larger ones.

    selection     a key of `SELECTIONS`. ratio  chosen images over candidates, one over a whole
                  number: 0.2 is the paper's default.
    temperature   of the choice: 1 draws with weights exp(score), as the paper; 0 takes the highest
                  scores.
    wrong_labels  share of the training labels that are wrong, the same images for all seeds.
    """

    kind = "acid"
    compute = "related.acid.method:make_student"

    selection: str = "uniform"
    ratio: float = 1.0
    temperature: float = 1.0
    wrong_labels: float = 0.0

    def __post_init__(self):
        known = {"selection": choice(tuple(SELECTIONS)), "temperature": number("[0, inf)")}
        check_fields(self, wrong_labels=_share, ratio=number("(0, 1]"), **known)
        whole = round(1 / self.ratio)
        require(abs(1 / self.ratio - whole) < 1e-6, f"1 / ratio must be whole, got {self.ratio}")
        plain = self.selection == "uniform"
        require(plain == (whole == 1), f"{self.selection} with the ratio {self.ratio}")

    @property
    def label(self) -> str:
        """The name of the run in a progress line."""
        chosen = f"{self.selection} {self.ratio:g}, {self.wrong_labels:g} wrong labels"
        return f"{super().label}, {chosen}"


def passes(run: SelectedRun) -> float:
    """What an update costs, in forward passes for each chosen image. A backward pass counts as two,
    the teacher's pass as much as the student's.

    >>> setup = small("quick")
    >>> passes(selected(setup, "uniform", 1.0)), passes(selected(setup, "learnability", 0.2))
    (3.0, 13.0)
    """
    learning = 3 + (run.loss != "ce")
    return learning + sum(SELECTIONS[run.selection]) / run.ratio


def selected(
    setup: Setup,
    selection: str,
    ratio: float,
    loss: str = "ce",
    wrong: float = 0.0,
    augmentation: str = "none",
    **changes,
) -> SelectedRun:
    """A student of a set-up. changes  other fields of `SelectedRun`."""
    own = {"selection": selection, "ratio": ratio, "wrong_labels": wrong}
    return SelectedRun(**fields_of(setup.student(augmentation, loss=loss)) | own | changes)


def uniform(run: SelectedRun) -> SelectedRun:
    """The run that draws its batches uniformly, with as many updates."""
    return replace(run, selection="uniform", ratio=1.0, temperature=1.0)


def as_costly(run: SelectedRun) -> SelectedRun:
    """The run that draws its batches uniformly, with as much compute to half an epoch.

    >>> as_costly(selected(small("quick"), "learnability", 0.5)).recipe.epochs
    7
    """
    plain = uniform(run)
    epochs = round(run.recipe.epochs * passes(run) / passes(plain))
    return replace(plain, recipe=replace(run.recipe, epochs=epochs))


def misled(setup: Setup, wrong: float) -> MisledTeacherRun:
    """The teacher of a set-up, trained on wrong labels."""
    return MisledTeacherRun(**fields_of(setup.teacher), wrong_labels=wrong)


def arms(profile: str) -> list[SelectedRun]:
    """The selections of a profile, of seed 0. With all that they are compared with, `quick` (400
    digits, half of the candidates are chosen) takes 4 minutes of a core, `cpu` (set-up B, a fifth
    is chosen) 9 hours.
    """
    setup, ratio, shares = small(profile), 0.2, (0.0, 0.4)
    if setup is None:
        return []
    if profile == "quick":
        ratio, shares = 0.5, (0.0, 0.2, 0.4)
    most, kinds = max(shares), ("easy", "learnability", "hard")
    teacher = misled(setup, most)
    found = [selected(setup, kind, ratio, wrong=share) for share in shares for kind in kinds]
    return [
        *found,
        *(selected(setup, kind, ratio, wrong=most, teacher=teacher) for kind in kinds[:2]),
        selected(setup, "learnability", ratio, "kd", most),
        selected(setup, "cutmixpick", 0.5, "kd", augmentation="none" + CUTMIX, temperature=0.0),
    ]


def seeds(run: SelectedRun, profile: str) -> list[SelectedRun]:
    """A run once a seed of its profile: three in `quick`, two in `cpu`."""
    return [replace(run, seed=seed) for seed in range(3 if profile == "quick" else 2)]


def _runs(profile: str, store: Store | None) -> Iterable[Run]:
    every = [run for arm in arms(profile) for run in (uniform(arm), as_costly(arm), arm)]
    students = [run for each in every for run in seeds(each, profile)]
    return (*{run.teacher.key: run.teacher for run in students}.values(), *students)


plan.TABLES["acid"] = plan.Table(_runs, "22_acid.ipynb", plan.RELATED)
