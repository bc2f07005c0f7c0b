"""A training step with each distillation loss, beside one with plain KD: the same student, teacher
and images.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from paperlib.losses import OBJECTIVES, objective
from paperlib.training.learners import Single

from . import training
from .machine import Setting, images
from .measure import Contender, Row

PLAIN = "kd"
SMALL = ("kd", "at", "crd")  # what a test runs


def stepper(setting: Setting, learner: Single, steps: int) -> Callable[[], None]:
    """Each call is the first `steps` steps of another epoch."""
    numbers = itertools.count()

    def run() -> None:
        for inputs in itertools.islice(learner.batches(next(numbers)), steps):
            learner.step(*inputs)
        setting.synchronise()

    return run


def run(setting: Setting, report: Callable[[str], Any]) -> dict[str, Any]:
    """The rows of the suite and its settings. Memories hold all of CIFAR-10, so that they cost what
    they cost.
    """
    data = images(setting, setting.pick(64, 50_000, 50_000))
    steps, rung = setting.pick(1, 2, 40), training.LADDER[0]
    names = SMALL if setting.small else tuple(OBJECTIVES)
    contenders = []
    for name in names:
        task = replace(
            training.task(setting, data, rung), augmentation="none", objective=objective(name)
        )
        learner = Single(training.low_bit(task), task)
        contenders.append(
            Contender(name, stepper(setting, learner, steps), steps * training.batch_size(setting))
        )
    rates = setting.rates(contenders, report)
    rows = [
        Row(name, "baseline", rates[name])
        if name == PLAIN
        else Row(name, "ours", rates[name], baseline=PLAIN)
        for name in names
    ]
    settings = {
        "data": data.name,
        "model": setting.model,
        "batch": training.batch_size(setting),
        "steps": steps,
        "images": len(data.train_images),
        "bits": training.BITS,
        "precision": rung.precision,
    }
    return {"rows": [row.to_json() for row in rows], "settings": settings}
