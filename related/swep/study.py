"""Runs of SWEP. No torch here.

What is compared. Students with KD that differ in what multiplies their first feature map f0 in a
second pass of each batch: nothing (plain, no second pass), Gaussian dropout N(1, s^2), or a learned
N(mu, v), which a small network reads off the teacher's last vector of the same image and which
a KL keeps near that dropout. The KL weighs 1 as in the source, or 0.01.

Question 1. The perturbation is an augmentation, so the project's own metric scores it: CMI and D of
the teacher, its own f0 multiplied. Does learning raise CMI at constant D? Before learning the
perturbation is the dropout itself. Dropout of other variances gives a curve of CMI over D.
Rule, fixed before the runs: the gain of a learned perturbation is its CMI less the curve's at its
D, both with the noise and the views of the student's seed. "yes" if the gain, over seeds, is above
the bound of a one-sided t test at 5 %, "no" if it is below minus that, else "cannot tell".

Question 2. Is the student better for it, on clean test images and under CIFAR-10-C's corruptions at
their highest severity (the source is about other domains than the training's)? Same rule, for
accuracy beside plain KD within seeds.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from paperlib.basics.checks import check_fields, number
from paperlib.study import plan
from paperlib.study.config import Run, RunWithTeacher, StudentRun, fields_of
from paperlib.study.store import Store

from ..setups import short
from ..shift.study import PLAIN as UNTINTED
from ..shift.study import SHOWN, ShiftRun

VARIANCE = 1 / 9  # p / (1 - p) of Gaussian dropout with the source's p = 0.1
# Of the curve; 0 is no perturbation.
VARIANCES = (0.0, 1 / 81, 1 / 27, 1 / 18, 1 / 12, 1 / 9, 1 / 6, 2 / 9, 1 / 3, 1 / 2, 2 / 3, 1.0)
HIGHEST = 5  # severity of the corruptions
PLAIN, FIXED = "plain", "dropout"
ARMS: dict[str, dict] = {
    FIXED: {"learned": False},
    "learned": {},
    "learned, KL x 0.01": {"beta": 0.01},
}
# Two passes of a batch: a student of set-up B takes about twenty minutes of one core.
SEEDS = {"quick": (0, 1, 2), "cpu": (0,)}


@dataclass(frozen=True)
class SweptRun(StudentRun):
    """A student that sees each batch twice, the second time with its f0 multiplied.

    learned   whether the perturbation learns, or stays Gaussian dropout. beta  weight of its KL.
    variance  of that dropout.
    """

    kind = "swep"
    compute = "related.swep.method:make_swept"

    learned: bool = True
    beta: float = 1.0
    variance: float = VARIANCE

    def __post_init__(self):
        check_fields(self, variance=number("(0, inf)"))

    @property
    def label(self) -> str:
        """The name of the run in a progress line."""
        return f"{super().label}, f0 times {'learned noise' if self.learned else 'dropout'}"


@dataclass(frozen=True)
class DropoutScoresRun(RunWithTeacher):
    """The score of Gaussian dropout on the teacher's f0, for several variances."""

    kind = "swep_scores"
    compute = "related.swep.method:make_dropout_scores"
    title = "score of Gaussian dropout on f0, {run.data.name}, seed {run.seed}"

    variances: tuple[float, ...] = VARIANCES


def students(profile: str) -> dict[str, list[StudentRun]]:
    """Arm -> students, a seed each."""
    setup = short(profile)
    if setup is None:
        return {}
    plain = [setup.student("none", seed) for seed in SEEDS[profile]]
    return {PLAIN: plain} | {
        arm: [SweptRun(**fields_of(run) | options) for run in plain]
        for arm, options in ARMS.items()
    }


def curves(profile: str) -> list[DropoutScoresRun]:
    """The scores of Gaussian dropout, with the noise and the views of each seed."""
    teacher = short(profile).teacher
    return [DropoutScoresRun(teacher.data, teacher, seed=seed) for seed in SEEDS[profile]]


def looks(profile: str) -> dict[str, list[ShiftRun]]:
    """Arm -> the looks at its students under corruptions, a seed each."""
    shown = SHOWN.get(profile, {}).get(UNTINTED)
    return {
        arm: [ShiftRun(shown, run, (HIGHEST,)) for run in runs]
        for arm, runs in students(profile).items()
    }


def _runs(profile: str, store: Store | None) -> Iterable[Run]:
    found = students(profile)
    if not found:
        return ()
    arms = (*found.values(), *looks(profile).values())
    every = (run for runs in arms for run in runs)
    return (short(profile).teacher, *curves(profile), *every)


plan.TABLES["swep"] = plan.Table(_runs, "27_swep.ipynb", plan.RELATED)
