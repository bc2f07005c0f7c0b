"""Which epoch's weights `fit` leaves: the last, or the best on validation images, by name."""

import copy

import pytest
import torch
from torch import nn

from paperlib import data
from paperlib.basics.recipe import Recipe
from paperlib.losses import objective
from paperlib.training import Task, fit

DIGITS = data.subset(data.load("digits"), train=120, test=40)
# Labels that are wrong on purpose: the more is learned, the fewer are met.
HELD_OUT = DIGITS.train_images[:40], (DIGITS.train_labels[:40] + 1) % 10
TASK = Task(DIGITS, "none", objective("ce"), Recipe(5, 40, 0.1, 0.0, "sgd"), seed=0)


def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(8 * 64, 10))


def each_epoch(**options):
    """The curve of a training and its weights after each epoch."""
    model, states = network(), []

    def look(epochs):
        states.append(copy.deepcopy(model.state_dict()))
        return {}

    return fit(model, TASK, inspect=look, **options), states, model.state_dict()


def same(a, b):
    return all(a[name].equal(b[name]) for name in a)


def test_the_last_weights_stay_unless_the_best_are_asked_for():
    plain, states, last = each_epoch()
    curve, _, watched = each_epoch(validation=HELD_OUT)
    assert same(last, states[-1]) and same(watched, last)
    assert [row["loss"] for row in curve] == [row["loss"] for row in plain]
    assert not any("validation_accuracy" in row or "kept" in row for row in plain)
    accuracies = [row["validation_accuracy"] for row in curve]
    assert len(set(accuracies)) > 1
    assert not any("kept" in row for row in curve)
    model = network()
    for state, found in zip(states, accuracies, strict=True):
        model.load_state_dict(state)
        right = model.eval()(DIGITS.network_input(HELD_OUT[0])).argmax(1) == HELD_OUT[1]
        assert found == pytest.approx(100 * right.double().mean().item())


def test_the_best_are_those_of_the_highest_validation_accuracy_even_after_a_kill(tmp_path):
    curve, states, kept = each_epoch(validation=HELD_OUT, keep="best")
    accuracies = [row["validation_accuracy"] for row in curve]
    best = accuracies.index(max(accuracies))
    assert same(kept, states[best]) and best < len(curve) - 1
    assert [row.get("kept", False) for row in curve] == [k == best for k in range(len(curve))]

    def kill(row):
        raise InterruptedError

    path, resumed = tmp_path / "run.pt", network()
    for _ in curve[:-1]:
        with pytest.raises(InterruptedError):
            fit(network(), TASK, path, kill, validation=HELD_OUT, keep="best")
    again = fit(resumed, TASK, path, validation=HELD_OUT, keep="best")
    assert same(resumed.state_dict(), kept)
    assert [row.get("kept") for row in again] == [row.get("kept") for row in curve]


def test_nothing_is_chosen_on_test_images():
    with pytest.raises(ValueError, match="validation"):
        fit(network(), TASK, keep="best")
    with pytest.raises(ValueError, match="first"):
        fit(network(), TASK, validation=HELD_OUT, keep="first")
    for wrong in ((HELD_OUT[0].float(), HELD_OUT[1]), (HELD_OUT[0], HELD_OUT[1] + 10)):
        with pytest.raises(ValueError):
            fit(network(), TASK, validation=wrong)
