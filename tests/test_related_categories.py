"""The survey's grid, the class entropy, and their table. The losses are tested with all others."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import entropy

from paperlib.basics.recipe import Recipe
from paperlib.losses import OBJECTIVES
from paperlib.losses.registry import SCHEMES
from paperlib.runs.execution import execute
from paperlib.study.config import Data, TeacherRun
from paperlib.study.store import Store
from related.categories import report, study
from related.categories.method import class_entropy, grid, known


def test_class_entropy_is_that_of_the_histogram():
    logits = torch.randn(200, 7, generator=torch.Generator().manual_seed(0))
    counts = [sum(int(row.argmax()) == c for row in logits) for c in range(7)]
    assert class_entropy(logits) == pytest.approx(entropy(counts) / math.log(7))
    assert class_entropy(torch.eye(7).repeat(3, 1)) == pytest.approx(1)
    assert class_entropy(torch.zeros(5, 7)) == 0


@pytest.mark.parametrize(
    "logits", [torch.zeros(3, 1), torch.zeros(0, 4), torch.full((2, 3), float("nan")), [[1.0]]]
)
def test_what_has_no_class_entropy_is_refused(logits):
    with pytest.raises((ValueError, TypeError)):
        class_entropy(logits)


def test_every_loss_but_cross_entropy_is_in_one_cell_of_the_grid():
    table = grid(known())
    named = [name for cell in table.to_numpy().ravel() for name in cell.split(", ") if name]
    assert len(named) == len(set(named))
    assert {name for name, e in OBJECTIVES.items() if e.scheme != "none"} <= set(named)
    assert "ce" not in named and {"dist", "standardised"} <= set(
        table.loc["response", "offline"].split(", ")
    )
    assert set(table.columns) == set(SCHEMES) - {"none"}
    with pytest.raises(ValueError, match="sideways"):
        grid([("mine", "response", "sideways")])


def test_the_table_has_losses_and_augmentations_and_says_what_came_out(tmp_path, monkeypatch):
    """Two seeds of two losses and three augmentations, on a few digits."""
    data = Data("digits", train=60, test=30)
    recipe = Recipe(1, 20, 1e-2, 1e-4, "sgd", threads=1)
    student = replace(recipe, optimiser="adam", lr=1e-3, quantizer_lr=1e-5)
    names = ("none", "erasing", "none+cutmix")
    setup = replace(
        study.tried("quick"), data=data, teacher_recipe=recipe, student_recipe=student, seeds=(0,)
    )
    for module, name in ((study, "tried"), (study, "short"), (report, "tried")):
        monkeypatch.setattr(module, name, lambda profile: setup)
    monkeypatch.setattr(study, "CANDIDATES", names)
    monkeypatch.setattr(study, "POLICIES", names)
    monkeypatch.setattr(study, "SEEDS", (0, 1))
    monkeypatch.setitem(study.IN_TIME, "quick", ("kd", study.STANDARDISED_DKD))
    store = Store("quick", root=tmp_path)
    runs = [run for runs in study.students("quick").values() for run in runs]
    others = [run for runs in study.rated("quick").values() for run in runs]
    for run in (study.entropies("quick"), *runs, *others):
        assert isinstance(run.teacher, TeacherRun)
        execute(run, store)
    table = report.categories_table(store)
    assert table["kind"].value_counts().to_dict() == {"loss": 2, "augmentation": 3}
    losses = table[table["kind"] == "loss"].set_index("name")
    assert losses.loc["kd", "difference"] == 0 and (losses["n"] == 2).all()
    rows = table[table["kind"] == "augmentation"]
    assert rows["class_entropy"].between(0, 1).all() and rows["score"].notna().all()
    assert "standardised dkd" in report.headline(table) and "n = 3" in report.headline(table)


@pytest.mark.parametrize(
    "difference, error, n, expected",
    [
        (1.0, 0.2, 3, "above KD"),
        (-1.0, 0.2, 3, "below KD"),
        (1.0, 0.5, 3, "not told apart"),
        (9.0, float("nan"), 1, "not told apart"),
    ],
)
def test_a_loss_is_told_from_kd_by_a_one_sided_t_test(difference, error, n, expected):
    row = {"difference": difference, "difference_se": error, "n": n}
    assert report.verdict(row) == expected
