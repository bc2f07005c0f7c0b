"""Runs of KDExplainer. No torch here.

Part "student": low-bit students with and without virtual attention blocks after each stage, under
CE and KD, the entropy of the attention left alone or weighed by gamma. Part "experts": the
hierarchical mixture of experts, in full precision from scratch, under CE, smoothed CE and KD.

Questions, and the rule of each verdict, fixed before the runs. "higher" and "lower" mean that the
mean difference within seeds is beyond the bound of a one-sided t test at 5 %.
1. Do attention blocks raise the accuracy of the low-bit student, with and without the entropy
   term? Each arm beside its own loss without blocks.
2. The paper's finding: is the entropy of the connections lower under KD than under CE? Of the
   experts' routes after the last epoch, and of the attention that no term makes sparse.
3. Do classes that the teacher finds similar share a branch, and more so under KD? alike is
   Spearman's correlation, over pairs of classes, of the teacher's similarity with the part of the
   way that they share; it is above 0 by the same test over seeds.
4. Is the tree one of the data, or of chance? Agreement of the classes' grouping (adjusted Rand
   index) between seeds, with the tree of the initial routes, and with CE's tree of the same seed.
   This one is described, not tested.

Rates, sizes and the blocks' temperature were chosen after the rules, by a look at seed 0 on a
validation split of the training images. What was seen there: students' accuracies that no arm
stands out of, attention that stays near uniform, and in each of six settings a higher entropy of
the experts' routes under KD than under CE. The arm with a temperature of 0.02 was added after the
others were run: theirs had left the attention all but uniform.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from paperlib.basics.checks import check_fields, count, number, several
from paperlib.basics.recipe import Recipe
from paperlib.study import plan
from paperlib.study.config import Run, RunWithTeacher, StudentRun, fields_of
from paperlib.study.store import Store

from ..setups import tried

MANY = number("[2, inf)", whole=True)  # blocks or experts to choose from
STAGES = ("stages.0", "stages.1", "stages.2")  # of a CifarResNet: f1, f2, f3
SEEDS = {"quick": (0, 1, 2), "cpu": (0,)}
# Arm -> (loss of the student, None or options of its blocks).
STUDENTS: dict[str, tuple[str, dict | None]] = {
    "ce": ("ce", None),
    "kd": ("kd", None),
    "ce + blocks": ("ce", {}),
    "kd + blocks": ("kd", {}),
    "kd + blocks, gamma 0.1": ("kd", {"gamma": 0.1}),
    "kd + blocks, gamma 1": ("kd", {"gamma": 1.0}),
    "kd + blocks, t 0.02": ("kd", {"temperature": 0.02}),
}
# Arm -> loss of the experts; KD with the source's weights.
EXPERTS: dict[str, tuple[str, dict[str, float]]] = {
    "ce": ("ce", {}),
    "smoothed ce": ("ce", {"smoothing": 0.1}),
    "kd": ("kd", {"gamma": 0.1, "alpha": 0.9}),
}
# The learning rate is that of the connections in the code.
RECIPES = {
    "quick": Recipe(30, 32, 1e-2, 1e-4, threads=1),
    "cpu": Recipe(60, 128, 1e-2, 1e-4, threads=1, precision="bfloat16", evaluate_every=5),
}
# Width of an expert, and the side over which images are averaged first: digits have 8 pixels.
SIZES = {"quick": (8, 2), "cpu": (16, 1)}


@dataclass(frozen=True)
class AttendedRun(StudentRun):
    """A student with virtual attention blocks.

    after   paths of the modules whose output they weigh. blocks  of each. temperature  of their
            softmax. gamma  weight of their mean entropy.
    """

    kind = "attended"
    compute = "related.kdexplainer.method:make_attended"

    after: tuple[str, ...] = STAGES
    blocks: int = 8
    temperature: float = 0.1
    gamma: float = 0.0

    def __post_init__(self):
        check_fields(self, blocks=MANY)

    @property
    def label(self) -> str:
        """The name of the run in a progress line."""
        own = f"{self.blocks} attention blocks, t {self.temperature:g}, gamma {self.gamma:g}"
        return f"{super().label}, {own}"


@dataclass(frozen=True)
class ExpertsRun(RunWithTeacher):
    """A hierarchical mixture of experts, trained from scratch.

    experts  of each level. width  channels of each. shrink  divides the images' side first.
    """

    kind = "experts"
    compute = "related.kdexplainer.method:make_experts"
    title = "experts on {run.data.label} by {run.loss}, seed {run.seed}"

    recipe: Recipe
    loss: str
    loss_options: dict[str, Any] = field(default_factory=dict)
    experts: tuple[int, ...] = (2, 4, 8)
    width: int = 8
    shrink: int = 1

    def __post_init__(self):
        check_fields(self, experts=several(MANY), width=count, shrink=count)


def students(profile: str) -> dict[str, list[StudentRun]]:
    """Arm -> students, a seed each."""
    setup = tried(profile)
    found: dict[str, list[StudentRun]] = {}
    for arm, (loss, options) in STUDENTS.items() if setup else ():
        plain = [setup.student("none", seed, loss) for seed in SEEDS[profile]]
        attended = [AttendedRun(**fields_of(run), **options or {}) for run in plain]
        found[arm] = plain if options is None else attended
    return found


def experts(profile: str) -> dict[str, list[ExpertsRun]]:
    """Arm -> mixtures of experts, a seed each."""
    setup = tried(profile)
    if setup is None:
        return {}
    (width, shrink), recipe = SIZES[profile], RECIPES[profile]
    first = ExpertsRun(setup.data, setup.teacher, recipe, "ce", width=width, shrink=shrink)
    return {
        arm: [replace(first, loss=loss, loss_options=options, seed=seed) for seed in SEEDS[profile]]
        for arm, (loss, options) in EXPERTS.items()
    }


def _runs(profile: str, store: Store | None) -> Iterable[Run]:
    every = (*students(profile).values(), *experts(profile).values())
    setup = tried(profile)
    return [setup.teacher, *(run for runs in every for run in runs)] if setup else ()


plan.TABLES["kdexplainer"] = plan.Table(_runs, "29_kdexplainer.ipynb", plan.RELATED)
