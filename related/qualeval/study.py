"""Runs of QualEval. No torch here.

Question. On which images does a student lose by quantization, and on which does an augmentation
help it, more than elsewhere?

The attributes of the test images are measured, no language model names them. A sparse linear
program gives each image the two that fit it best, all attributes about equally many images. The
networks are the plain part of ShiftKD: the teacher, students of four augmentations. Their stored
predictions are all that is needed of them.

Rule of the sentences, fixed before the runs. The change of an image is the mean over seeds of right
(1) or wrong (0), after less before: teacher -> student without augmentation ("2 bits"), and that
student -> each augmentation's. An attribute's z is its images' mean change less that of all, over
the standard deviation which a random choice of as many images would have. A sentence is written
only where |z| is beyond the bound of Bonferroni at 5 % for all attributes and changes together.
These test images describe the networks. They choose nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from paperlib.study import plan
from paperlib.study.config import NetworkRun, Run, StudentRun
from paperlib.study.store import Store

from ..setups import tried
from ..shift.study import AUGMENTATIONS, SEEDS


@dataclass(frozen=True)
class AttributesRun(NetworkRun):
    """The attributes of the test images of `data`, some of them by the predictions of `network`,
    and which each image is given.

    slots  attributes an image. slack  share by which an attribute may have more or fewer images.
    """

    kind = "attributes"
    compute = "related.qualeval.method:make_attributes"
    title = "attributes of {run.data.label}"

    slots: int = 2
    slack: float = 0.1


def attributes(profile: str) -> AttributesRun | None:
    """The look at a profile's test images; None where there is none."""
    setup = tried(profile)
    return setup and AttributesRun(setup.data, setup.teacher)


def students(profile: str) -> dict[str, list[StudentRun]]:
    """Augmentation -> students, a seed each."""
    setup = tried(profile)
    return {name: [setup.student(name, seed) for seed in SEEDS[profile]] for name in AUGMENTATIONS}


def _runs(profile: str, store: Store | None) -> Iterable[Run]:
    look = attributes(profile)
    if look is None:
        return ()
    return (look.network, look, *(run for runs in students(profile).values() for run in runs))


plan.TABLES["qualeval"] = plan.Table(_runs, "21_qualeval.ipynb", plan.RELATED)
