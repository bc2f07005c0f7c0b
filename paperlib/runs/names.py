"""Names in a run's configuration, looked up before any work is done."""

from dataclasses import fields, is_dataclass
from typing import Any

from ..augment import parse
from ..data import DATASETS
from ..losses import objective
from ..models import MODELS
from ..quantizers import METHODS
from ..study.config import Run, StudentRun

LOOK_UP = {"model": MODELS.__getitem__, "method": METHODS.__getitem__, "augmentation": parse}


def check_names(thing: Any) -> None:
    """Raise ValueError for a data set, network, augmentation, method, loss or option that is not
    known, in a run or the runs that it needs.
    """
    for field in fields(thing):
        value = getattr(thing, field.name)
        if is_dataclass(value):
            check_names(value)
        elif field.name in LOOK_UP:
            LOOK_UP[field.name](value)
    if not isinstance(thing, Run):
        return
    DATASETS[thing.data.name]
    for name in getattr(thing, "augmentations", ()):
        parse(name)
    if isinstance(thing, StudentRun):
        objective(thing.loss, **thing.loss_options)
