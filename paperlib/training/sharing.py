"""Students of one teacher over the same batches, one after the other in one process.

They differ in quantizer or loss. Views are made once, and the teacher is asked once a batch. Each
has its own loss, optimisers and state, and ends as alone, digit by digit. That is for a CPU, which
one student fills.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .learners import Single, modes
from .looks import Look


class Asked:
    """A look that is asked once for images that several want to see, one after the other.

    look  at a network that stays as it is, in eval mode. Images are known by their tensor, which
          must not change.
    """

    def __init__(self, look: Look):
        self.look = look
        self.images: Tensor | None = None
        self.outputs: tuple = ()

    def __call__(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if images is not self.images:
            self.images, self.outputs = images, self.look(images)
        return self.outputs


def share_teacher(learners: Iterable[Single]) -> None:
    """Let these learners ask their teacher once for a batch that they take one after the other."""
    asked: dict[Look, Asked] = {}
    for one in learners:
        if (look := one.looks.teacher) is not None:
            one.looks = replace(one.looks, teacher=asked.setdefault(look, Asked(look)))


class Attempts:
    """Calls in the name of several. Of one whose call raised, nothing more is asked.

    failed  its number -> what it raised.
    """

    def __init__(self):
        self.failed: dict[int, Exception] = {}

    def __call__(self, number: int, act: Callable[..., Any], *arguments: Any) -> Any:
        """What act(*arguments) returns; None if this or an earlier call of this number raised."""
        if number in self.failed:
            return None
        try:
            return act(*arguments)
        except Exception as error:  # whatever one network makes torch raise: the others go on
            self.failed[number] = error
            return None


def epoch_in_turn(
    learners: Mapping[int, Single], epoch: int, attempt: Attempts
) -> dict[int, float]:
    """One pass over the training images, of which every learner takes each batch; returns the mean
    loss of each. All have the same batches and teacher.
    """
    first = next(iter(learners.values()))
    device = first.tasks[0].data.train_images.device
    total = {number: torch.zeros(1, device=device) for number in learners}
    with modes([one.models[0] for one in learners.values()], first.tasks[0].teacher):
        for done, inputs in enumerate(first.batches(epoch)):
            for number, one in learners.items():
                loss = attempt(number, one.take, epoch, done, inputs)
                if loss is not None:
                    total[number] += loss
    return {number: float(each / first.steps()) for number, each in total.items()}
