"""The set-ups on which the related systems are tried, by profile. No torch here."""

from dataclasses import replace

from paperlib.study.profiles import REGIMES, Setup, setups

# Full precision: in the place of a run's number of low bits, and in the column `bits` of a table.
FULL, FULL_BITS = 0, 32


def precision(bits: int) -> str:
    """Of a column `bits`, in words.

    >>> precision(2), precision(FULL_BITS)
    ('W2A2', 'full precision')
    """
    return "full precision" if bits == FULL_BITS else f"W{bits}A{bits}"


def tried(profile: str) -> Setup | None:
    """The set-up of a profile: digits in `quick`, set-up B of docs/experiments.md in `cpu`; None
    where there is none.

    Both have a confident teacher, trained without CutMix, which saw no more images than its
    students. One thread makes their results independent of the number of cores.
    """
    if profile == "quick":
        digits = setups("quick")[0]
        teacher, student = (
            replace(recipe, threads=1) for recipe in (digits.teacher_recipe, digits.student_recipe)
        )
        return replace(
            digits, teacher_recipe=teacher, student_recipe=student, teacher_augmentation="none"
        )
    found = {setup.regime: setup for setup in REGIMES.get(profile, ())}
    return found.get("B")


def short(profile: str) -> Setup | None:
    """The set-up of `tried` for a table of many students: in `quick` they see 400 images an epoch,
    under the same teacher.
    """
    setup = tried(profile)
    if profile != "quick":
        return setup
    return replace(setup, data=replace(setup.data, train=400), teacher_data=setup.teacher.data)


def small(profile: str) -> Setup | None:
    """The set-up of `tried` for many students: in `quick` of 400 images, and a teacher of the same
    images with as many updates.
    """
    setup = tried(profile)
    if setup is None or profile != "quick":
        return setup
    teacher = replace(setup.teacher_recipe, epochs=3 * setup.teacher_recipe.epochs)
    return replace(setup, data=replace(setup.data, train=400), teacher_recipe=teacher)
