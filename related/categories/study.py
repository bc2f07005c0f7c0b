"""Runs for the newer losses of logits, and for the class entropy. No torch here.

Question 1. Does a loss of logits that came after KD give a better low-bit student? Students differ
in their loss alone, with its authors' weights, nothing tuned, and crop and mirror alone. They have
the short budget of `short`. Added after the first look: DIST without its term across the batch, to
see whether batches of 32 images are what spoils it.
Rule, fixed before the runs: a loss is above KD if the mean difference within seeds exceeds the
bound of a one-sided t test at 5 %, below it if the difference is below minus that, else "not told
apart".

Question 2. *What makes a good dataset for KD* says that a data set teaches if the teacher's
predicted classes are evenly spread over it. Does that rank the augmentations of one data set? In
`quick` students tell of the eight policies without CutMix, which is what fits the time. Rule: "yes"
if Spearman's correlation of -(class entropy) with the students' accuracy is negative with p below
5 %, "no" if it is positive with such p, else "cannot tell". The data set has balanced classes, so
the entropy can be far from 1 only where the teacher errs towards few classes.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from paperlib.study import plan
from paperlib.study.config import CandidatesRun, Run, StudentRun
from paperlib.study.profiles import CANDIDATES, POLICIES
from paperlib.study.store import Store

from ..setups import short, tried

STANDARDISED_DKD = "standardised dkd"
LOSSES: dict[str, tuple[str, dict]] = {
    **{name: (name, {}) for name in ("kd", "ce", "sqakd", "dkd", "standardised")},
    STANDARDISED_DKD: ("standardised", {"under": "dkd"}),
    "dist": ("dist", {}),
    "dist, no batch": ("dist", {"intra": 0.0}),
}
SEEDS = (0, 1, 2)
# On CIFAR-10 a student takes about ten minutes of one core: six new ones, beside those of the
# evidence runs with KD.
IN_TIME = {"cpu": ("kd", "standardised", "dist")}


@dataclass(frozen=True)
class ClassEntropyRun(CandidatesRun):
    """Each candidate's class entropy and score, from one pass of the teacher."""

    kind = "class_entropy"
    compute = "related.categories.method:make_class_entropy"
    title = "class entropy of augmentations, {run.data.name}, seed {run.seed}"

    batch: int = 100


def students(profile: str) -> dict[str, list[StudentRun]]:
    """Loss -> students, a seed each; the first is KD."""
    setup = short(profile)
    names = IN_TIME.get(profile, tuple(LOSSES)) if setup else ()
    found = {}
    for name in names:
        loss, options = LOSSES[name]
        own = {"loss_options": options} if options else {}
        found[name] = [setup.student("none", seed, loss, **own) for seed in SEEDS]
    return found


def entropies(profile: str) -> ClassEntropyRun | None:
    """The class entropy of the set-up's sixteen candidates."""
    setup = tried(profile)
    return setup and ClassEntropyRun(setup.data, setup.teacher, CANDIDATES)


def rated(profile: str) -> dict[str, list[StudentRun]]:
    """Augmentation -> students with KD and it, a seed each."""
    setup = tried(profile)
    names = POLICIES if profile == "quick" else CANDIDATES
    seeds = setup.seeds if setup else ()
    return {name: [setup.student(name, seed) for seed in seeds] for name in names}


def _runs(profile: str, store: Store | None) -> Iterable[Run]:
    setup = tried(profile)
    if setup is None:
        return ()
    every = (*rated(profile).values(), *students(profile).values())
    return (setup.teacher, entropies(profile), *(run for runs in every for run in runs))


plan.TABLES["categories"] = plan.Table(_runs, "28_categories.ipynb", plan.RELATED)
