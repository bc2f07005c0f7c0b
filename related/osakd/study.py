"""Soft labels from the neighbours in the batch, beside labels alone and a teacher's.

Question: do self-acquired soft labels raise accuracy, and what do they do to the calibration, in
full precision and at the set-up's bits? Do their entropies fall, so that the method tends to plain
cross-entropy?

Rule, written before the runs: an arm is above (below) labels alone, in accuracy or calibration
error, if a one-sided t test of the differences within seeds says so at 5 %. The entropy falls if it
is lower in the last epoch than in the first for every seed.

k is chosen by the accuracy on a validation split of the training images, with seed 0, for each
comparison, and never on test images. The candidates are 5, 10 and 20 in batches of 128 of ten
classes, and in that proportion in others. Batches of 32 came first, and self-acquired labels were
far below there: such a batch has two neighbours of an image's class. Batches of 64 were added then.
What was seen by then, with k from 5, 10 and 20 in batches of 32: test accuracies 11.1 points below
labels alone in full precision, and 11.9 at the set-up's bits. k was put into proportion after that.
The second number has no record any more: those of arms that the plan no longer has were deleted.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from paperlib.basics.checks import check_fields, natural
from paperlib.basics.recipe import Recipe
from paperlib.study import plan
from paperlib.study.config import Data, Run, RunWithTeacher, TeacherRun
from paperlib.study.gains import result_of
from paperlib.study.profiles import CLASSES, Setup
from paperlib.study.store import Store
from related.setups import FULL, tried

ARMS = ("ce", "osakd", "kd")
PORTIONS = (0.4, 0.8, 1.6)  # candidates for k, over the images that a batch has of a class


@dataclass(frozen=True)
class SelfTaughtRun(RunWithTeacher):
    """A network trained with a loss of `OBJECTIVES`, its calibration, and the labels that it would
    give itself after each epoch.

    low_bits  of its weights and activations, which then start from the teacher's; 0 for full
              precision, from scratch.
    k         of the neighbours whose labels are looked at, and of the loss "osakd".
    held_out  0; or so many training images, which it does not train on, take the place of the test
              images: to choose k by.
    """

    kind = "self_taught"
    compute = "related.osakd.method:make_self_taught"
    title = "{run.model} on {run.data.label} by {run.loss}, bits {run.low_bits}, seed {run.seed}"

    recipe: Recipe
    loss: str
    k: int
    low_bits: int = FULL
    held_out: int = field(default=0, kw_only=True)

    def __post_init__(self):
        check_fields(self, low_bits=natural, held_out=natural)


@dataclass(frozen=True)
class Comparison:
    """All runs of one precision and batch. held_out  images to choose by."""

    setup: Setup
    low_bits: int
    seeds: tuple[int, ...]
    batch: int
    epochs: int
    held_out: int = 100

    @property
    def teacher(self) -> TeacherRun:
        return self.setup.teacher

    @property
    def recipe(self) -> Recipe:
        """Of all arms."""
        recipe = self.setup.student_recipe if self.low_bits else self.setup.teacher_recipe
        return replace(recipe, batch=self.batch, epochs=self.epochs)

    @property
    def ks(self) -> tuple[int, ...]:
        """The candidates for k."""
        of_class = self.batch / CLASSES[self.setup.data.name]
        return tuple(max(1, round(portion * of_class)) for portion in PORTIONS)

    def _run(self, loss: str, k: int, seed: int, **more: Any) -> SelfTaughtRun:
        where = {"low_bits": self.low_bits, "seed": seed} | more
        return SelfTaughtRun(self.setup.data, self.teacher, self.recipe, loss, k, **where)

    @property
    def choices(self) -> list[SelfTaughtRun]:
        """What chooses k: a run each."""
        return [self._run("osakd", k, self.seeds[0], held_out=self.held_out) for k in self.ks]

    def chosen(self, store: Store | None) -> int | None:
        """The k with the highest accuracy on the validation split, of equal ones the smallest; None
        before all are tried.
        """
        results = [result_of(run, store) for run in self.choices]
        if None in results:
            return None
        accuracies = [result["accuracy"] for result in results]
        return self.ks[accuracies.index(max(accuracies))]

    def arms(self, store: Store | None) -> dict[str, list[SelfTaughtRun]]:
        """Arm -> networks, a seed each; none before k is chosen."""
        k = self.chosen(store)
        if k is None:
            return {}
        return {arm: [self._run(arm, k, seed) for seed in self.seeds] for arm in ARMS}


def comparisons(profile: str) -> list[Comparison]:
    """Those of a profile: full precision and low bits in `quick`, low bits in `cpu`."""
    setup = tried(profile)
    if setup is None:
        return []
    if profile != "quick":
        recipe = setup.student_recipe
        return [Comparison(setup, setup.bits, (0,), recipe.batch, recipe.epochs, held_out=1_000)]
    recipe = replace(setup.teacher_recipe, epochs=10)
    setup = replace(setup, data=Data("digits", train=400), teacher_recipe=recipe)
    sizes = ((FULL, 32, 10), (FULL, 64, 12), (setup.bits, 32, 3), (setup.bits, 64, 5))
    return [Comparison(setup, bits, (0, 1, 2), *size) for bits, *size in sizes]


def _runs(profile: str, store: Store | None) -> Iterable[Run]:
    found: list[Run] = []
    for comparison in comparisons(profile):
        arms = (run for runs in comparison.arms(store).values() for run in runs)
        found += [comparison.teacher, *comparison.choices, *arms]
    return found


plan.TABLES["osakd"] = plan.Table(_runs, "25_osakd.ipynb", plan.RELATED)
