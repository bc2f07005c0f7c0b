"""The runs of "KD thrives on data augmentation". No torch here.

Two questions.

Schedule. The paper says that distillation, unlike training on labels, gains from longer schedules
and from stronger augmentation: the teacher labels every new view. Students with CE and with KD,
with and without CutMix, after 1, 2 and 4 times the epochs.

Mixing. What is the mixed image's target? The usual `mixed` takes the mixed label and the teacher's
output. `tl` takes the teacher's output alone, and the label of the image that is not mixed; as
released, it also takes the teacher's output on that. Both for CutMix and for mixup, at twice the
epochs. A step of `tl` costs 7/4 of one of `mixed`: so it is also compared with `mixed` at 4 times
the epochs, which has 8/7 of its compute.

Rules of the verdict, written before the runs. Differences are within seeds, and count if they are
beyond the bound of a one-sided t test at 5 %.
- KD thrives on length, if the gain of KD from 1 to 4 times the epochs exceeds that of CE; with and
  without CutMix apart.
- KD thrives on CutMix, if the gain of KD by CutMix at 4 times the epochs exceeds that of CE.
- The teacher's output is the better target, if `tl` is more accurate than `mixed`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from paperlib.basics.checks import check_fields, choice
from paperlib.basics.recipe import require
from paperlib.study import plan
from paperlib.study.config import Run, StudentRun, fields_of
from paperlib.study.profiles import CUTMIX, Setup
from paperlib.study.store import Store

from ..setups import small

LENGTHS = (1, 2, 4)  # times the epochs of the set-up
MIXING = ("cutmix", "mixup")
# Form -> which terms the loss has: CE on the plain image, KL on it, CE on the mixed one, KL on it.
FORMS = {
    "mixed": (False, False, True, True),
    "tl": (True, False, False, True),
    "tl_released": (True, True, False, True),
}


# Forms and mixings, beside CutMix as everywhere else.
OTHERS = (("tl", "cutmix"), ("tl_released", "cutmix"), ("mixed", "mixup"), ("tl", "mixup"))


@dataclass(frozen=True)
class MixedRun(StudentRun):
    """A student that learns from mixed images, on top of its augmentation, which mixes none.

    mixing  one of `MIXING`. form  a key of `FORMS`.
    """

    kind = "kdda"
    compute = "related.kdda.method:make_student"

    mixing: str = "cutmix"
    form: str = "tl"

    def __post_init__(self):
        check_fields(self, mixing=choice(MIXING), form=choice(tuple(FORMS)))
        mixes = self.augmentation.endswith(CUTMIX)
        require(not mixes, f"{self.mixing} on top of the augmentation {self.augmentation}")

    @property
    def label(self) -> str:
        """The name of the run in a progress line."""
        return f"{super().label}, {self.form} {self.mixing}"


def setup_of(profile: str) -> tuple[Setup, tuple[int, ...]] | None:
    """The set-up of a profile and its seeds. `quick`: 400 digits for teacher and students, 3
    minutes of a core. `cpu`: set-up B, 8 hours of a core.
    """
    setup = small(profile)
    if setup is None:
        return None
    if profile == "quick":
        shorter = replace(setup.student_recipe, epochs=2)
        return replace(setup, student_recipe=shorter), (0, 1, 2)
    return setup, (0, 1)


def _longer(run: StudentRun, times: int) -> StudentRun:
    """A run with so many times the epochs."""
    return replace(run, recipe=replace(run.recipe, epochs=times * run.recipe.epochs))


def schedules(profile: str) -> dict[tuple[str, str, int], list[StudentRun]]:
    """(loss, augmentation, times the epochs) -> students, one a seed."""
    found = setup_of(profile)
    if found is None:
        return {}
    setup, seeds = found
    return {
        (loss, name, times): [_longer(setup.student(name, seed, loss), times) for seed in seeds]
        for loss in ("ce", "kd")
        for name in ("none", "none" + CUTMIX)
        for times in LENGTHS
    }


def mixes(profile: str) -> dict[tuple[str, str], list[StudentRun]]:
    """(form, mixing) -> students with KD at twice the epochs, one a seed. `mixed` CutMix is that of
    `schedules`.
    """
    plain = schedules(profile)
    if not plain:
        return {}
    runs, found = plain["kd", "none", 2], {("mixed", "cutmix"): plain["kd", "none" + CUTMIX, 2]}
    for form, mixing in OTHERS:
        found[form, mixing] = [MixedRun(**fields_of(run), mixing=mixing, form=form) for run in runs]
    return found


def _runs(profile: str, store: Store | None) -> Iterable[Run]:
    found = [*schedules(profile).values(), *mixes(profile).values()]
    students = [run for runs in found for run in runs]
    return (*(run.teacher for run in students[:1]), *students)


plan.TABLES["kdda"] = plan.Table(_runs, "23_kdda.ipynb", plan.RELATED)
