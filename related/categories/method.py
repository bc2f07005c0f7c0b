"""The survey's grid of distillation methods, and the class entropy of a data set."""

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from paperlib.basics.checks import checked, require
from paperlib.basics.recipe import require_known
from paperlib.data.checks import floats
from paperlib.losses import OBJECTIVES
from paperlib.losses.registry import KNOWLEDGE, SCHEMES
from paperlib.runs.kinds import load_data, load_network
from paperlib.scoring import predict, score
from paperlib.study.store import Store

from .. import SYSTEMS
from .study import ClassEntropyRun

NONE = "none"  # neither a kind of knowledge nor a scheme: cross-entropy alone


def known() -> list[tuple[str, str, str]]:
    """(name, knowledge, scheme) of everything that distils: the registered losses, and the systems
    of this package that say what they are.

    >>> ("dist", "response", "offline") in known()
    True
    """
    losses = [(name, entry.knowledge, entry.scheme) for name, entry in OBJECTIVES.items()]
    learners = [(name, *system.category) for name, system in SYSTEMS.items() if system.category]
    return [each for each in (*losses, *learners) if each[2] != NONE]


def grid(methods: Iterable[tuple[str, str, str]]) -> pd.DataFrame:
    """The survey's grid (arXiv 2306.10687; Gou et al., IJCV 2021, sections 2 and 3): what is
    compared, down, and who the teacher is, across. A cell names its methods.

    methods  (name, knowledge, scheme). Raises ValueError for a knowledge or scheme that is none.

    >>> grid([("kd", "response", "offline"), ("dkd", "response", "offline")]).loc["response"].values
    array(['kd, dkd', '', ''], dtype=object)
    """
    rows, columns = ([each for each in known if each != NONE] for known in (KNOWLEDGE, SCHEMES))
    cells: dict[tuple[str, str], list[str]] = {(r, c): [] for r in rows for c in columns}
    for name, knowledge, scheme in methods:
        require_known("knowledge", knowledge, rows)
        require_known("scheme", scheme, columns)
        cells[knowledge, scheme].append(name)
    table = [[", ".join(cells[r, c]) for c in columns] for r in rows]
    return pd.DataFrame(table, rows, columns, dtype=object)


@checked(logits=floats("N C", door=True))
def class_entropy(logits: Tensor) -> float:
    """Entropy of the histogram of predicted classes, over log C: 1 if each class is predicted as
    often as any other, 0 if one always is (Frank & Davis, *What makes a good dataset for knowledge
    distillation?*, CVPR 2025, arXiv 2411.12817).

    logits  (N, C) float of the teacher, C at least 2; of equal ones the first class counts. Raises
    ValueError for others, or what is not finite.

    >>> class_entropy(torch.eye(4)), class_entropy(torch.eye(4)[[0, 0, 1, 1]])
    (1.0, 0.5)
    """
    classes = logits.shape[1]
    require(classes > 1, f"logits of {classes} classes have no class entropy")
    shares = torch.bincount(logits.argmax(1), minlength=classes).double() / len(logits)
    return float(torch.special.entr(shares).sum()) / math.log(classes)


def make_class_entropy(run: ClassEntropyRun, store: Store, device: str) -> dict[str, Any]:
    """A row an augmentation: its class entropy, and its score, in nats."""
    teacher, data = load_network(run.teacher, store, device), load_data(run.data, device)
    rows = []
    for name in run.augmentations:
        logits, targets = predict(teacher, data, name, run.seed, run.batch)
        found = {"augmentation": name, "class_entropy": class_entropy(logits)}
        rows.append(found | {"score": score(logits, targets).score})
    return {"rows": rows}
