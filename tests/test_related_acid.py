"""ACID: the scores and the choice against slow transcriptions, the learner against plain training,
and a run end to end.
"""

from collections import Counter
from dataclasses import replace
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch

from paperlib.augment import generator
from paperlib.basics.recipe import Recipe
from paperlib.data import load, subset
from paperlib.losses import objective
from paperlib.models import build
from paperlib.quantizers import initialise, quantize
from paperlib.runs.sweep import sweep
from paperlib.study.config import Data, TeacherRun
from paperlib.study.store import Store
from paperlib.training import Task, fit
from paperlib.training.learners import batches
from related.acid import report, study
from related.acid.method import Selecting, choose, scores, wrong_labels
from related.acid.study import MisledTeacherRun, SelectedRun, as_costly, passes, uniform

g = torch.Generator().manual_seed(0)
STUDENT, REFERENCE = torch.randn(7, 4, generator=g), torch.randn(7, 4, generator=g)
LABELS = torch.tensor([0, 1, 2, 3, 0, 1, 2])
SOFT = torch.rand(7, 4, generator=g)
SOFT /= SOFT.sum(1, keepdim=True)


@pytest.fixture(scope="module")
def data():
    return subset(load("digits"), 60, 20)


def task_of(data, teacher=None, loss="ce", augmentation="none", epochs=1):
    recipe = Recipe(epochs, 8, 0.01, 1e-4, "sgd", threads=1)
    return Task(data, augmentation, objective(loss), recipe, 0, teacher)


# ------------------------------------------------------------------------------ scores and choices


@pytest.mark.parametrize("targets", (LABELS, SOFT), ids=("hard", "soft"))
def test_scores_are_the_written_out_losses(targets):
    def loss(logits, n):
        p = np.exp(logits[n].double().numpy())
        logs = np.log(p / p.sum())
        t = np.eye(4)[targets[n]] if targets.ndim == 1 else targets[n].double().numpy()
        return -(t * logs).sum()

    own, its = ([loss(z, n) for n in range(7)] for z in (STUDENT, REFERENCE))
    soft = [np.exp(row / 4) / np.exp(row / 4).sum() for row in REFERENCE.double().numpy()]
    wanted = {
        "easy": [-each for each in its],
        "hard": own,
        "learnability": [a - b for a, b in zip(own, its, strict=True)],
        "cutmixpick": [-(p * np.log(p)).sum() for p in soft],
        "uniform": [0.0] * 7,
    }
    assert wanted.keys() == study.SELECTIONS.keys()
    for name, values in wanted.items():
        found = scores(name, STUDENT, REFERENCE, targets)
        assert found.double().numpy() == pytest.approx(np.array(values), abs=1e-5)
    assert scores("easy", None, REFERENCE, targets).shape == (7,)
    with pytest.raises(ValueError, match="reference"):
        scores("learnability", STUDENT, None, targets)
    with pytest.raises(ValueError, match="best"):
        scores("best", STUDENT, REFERENCE, targets)


def test_equal_networks_have_learnability_0_which_is_uniform_choice():
    values = scores("learnability", STUDENT, STUDENT, LABELS)
    assert values.equal(torch.zeros(7))
    draws = [choose(values, 2, 1.0, generator(0, k)) for k in range(4000)]
    counts = torch.bincount(torch.cat(draws), minlength=7)
    expected = 4000 * 2 / 7
    assert ((counts - expected) ** 2 / expected).sum() < 22.5  # chi-square, 6 degrees, p 0.001


def in_turn(values, count):
    """Set of places -> its probability, of drawing one after the other without replacement with
    weights exp(value).
    """
    weights, found = np.exp(values), Counter()
    for order in permutations(range(len(values)), count):
        left, p = weights.sum(), 1.0
        for place in order:
            p, left = p * weights[place] / left, left - weights[place]
        found[frozenset(order)] += p
    return found


def jointly(matrix, count, chunk, rng):
    """JEST's sampler, a chunk at a time. The score of image i, given those that are chosen, is
    matrix[i, i] + sum over chosen k of (matrix[i, k] + matrix[k, i]).
    """
    chosen = []
    while len(chosen) < count:
        given = matrix.diagonal().copy()
        for k in chosen:
            given += matrix[:, k] + matrix[k]
        weights = np.exp(given)
        weights[chosen] = 0
        more = rng.choice(
            len(matrix), min(chunk, count - len(chosen)), False, weights / weights.sum()
        )
        chosen += more.tolist()
    return frozenset(chosen)


def distance(draws, wanted):
    """Chi-square of sets that were drawn."""
    counts, total = Counter(draws), len(draws)
    return sum((counts[s] - total * p) ** 2 / (total * p) for s, p in wanted.items())


def test_the_choice_is_the_joint_sampler_of_losses_that_stand_alone():
    values = np.array([0.3, -1.0, 1.2, 0.0, 0.7])
    wanted = in_turn(values, 3)  # 10 sets, 9 degrees of freedom: 27.9 has p 0.001
    assert sum(wanted.values()) == pytest.approx(1)
    drawn = [
        frozenset(choose(torch.tensor(values), 3, 1.0, generator(1, k)).tolist())
        for k in range(4000)
    ]
    rng = np.random.default_rng(0)
    for chunk in (1, 2):
        joint = [jointly(np.diag(values), 3, chunk, rng) for _ in range(4000)]
        assert distance(joint, wanted) < 27.9
    assert distance(drawn, wanted) < 27.9
    tied = np.diag(values) + 0.5 * (1 - np.eye(5)) * np.outer([1, 1, 0, 0, 1], [1, 1, 0, 0, 1])
    assert distance([jointly(tied, 3, 1, rng) for _ in range(4000)], wanted) > 100


def test_a_choice_sharpens_as_its_temperature_falls():
    values = torch.tensor([0.0, 3.0, 1.0, 3.0])
    assert choose(values, 2, 0.0, generator(0)).tolist() == [1, 3]
    assert choose(torch.zeros(4), 2, 0.0, generator(0)).tolist() == [0, 1]
    shares = [
        np.mean([1 in choose(values, 1, t, generator(2, k)).tolist() for k in range(500)])
        for t in (0.1, 1.0, 100.0)
    ]
    assert shares[0] == pytest.approx(0.5, abs=0.08) and shares[0] > shares[1] > shares[2]
    for k in range(20):
        places = choose(values, 3, 1.0, generator(3, k))
        assert places.equal(places.unique()) and places.equal(
            choose(values, 3, 1.0, generator(3, k))
        )
    with pytest.raises(ValueError, match="5"):
        choose(values, 5, 1.0, generator(0))


@pytest.mark.parametrize("share", (0.0, 0.2, 0.4, 1.0))
def test_wrong_labels_are_so_many_and_all_wrong(share):
    labels = torch.arange(50) % 5
    found = wrong_labels(labels, 5, share, 3)
    assert (found != labels).sum() == round(50 * share) and labels.equal(torch.arange(50) % 5)
    assert found.min() >= 0 and found.max() < 5
    assert found.equal(wrong_labels(labels, 5, share, 3))
    most = wrong_labels(labels, 5, 1.0, 3)
    assert found[found != labels].equal(most[found != labels])  # those of a greater share
    if 0 < share < 1:
        assert not found.equal(wrong_labels(labels, 5, share, 4))


# ----------------------------------------------------------------------------------------- learner


def test_without_candidates_to_choose_from_it_is_plain_training(data):
    plain, chosen = build("resnet8", 10), build("resnet8", 10)
    fit(plain, task_of(data))
    fit(chosen, task_of(data), learner=Selecting)
    state = chosen.state_dict()
    assert all(value.equal(state[name]) for name, value in plain.state_dict().items())


def test_candidates_leave_no_trace_in_the_student(data):
    teacher = build("resnet8", 10)
    student = quantize(teacher, "ewgs", 2, 2)
    initialise(student, data.normalise(data.train_images[:8]))
    task = task_of(data, teacher, augmentation="none+cutmix")
    learner = Selecting(student.train(), task, selection="learnability", ratio=0.5)
    before = {name: torch.as_tensor(t).clone() for name, t in student.state_dict().items()}
    found = list(learner.batches(0))
    assert all(torch.as_tensor(t).equal(before[n]) for n, t in student.state_dict().items())
    assert student.training and all(module.training for module in student.modules())
    assert len(found) == learner.steps() == len(list(batches(task, 0)))
    assert sum(len(places) for _, _, places in found) == 60
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x, _, _ in found)
    again = list(learner.batches(0))
    assert all(a[0].equal(b[0]) for a, b in zip(found, again, strict=True))


def test_the_highest_scores_of_two_batches_are_kept(data):
    teacher = build("resnet8", 10, seed=1).eval()
    task = task_of(data, teacher)
    how = {"selection": "cutmixpick", "ratio": 0.5, "temperature": 0.0}
    wrong = torch.arange(60) < 30
    learner = Selecting(build("resnet8", 10), task, **how, wrong=wrong)
    every, counts = list(batches(task, 0)), torch.zeros(60)
    for number, (x, targets, places) in enumerate(learner.batches(0)):
        counts += torch.bincount(places, minlength=60)
        if number < 3:  # four passes' worth of whole batches
            pool = [
                torch.cat(part) for part in zip(*every[2 * number : 2 * number + 2], strict=True)
            ]
            entropy = scores("cutmixpick", None, teacher(pool[0]), pool[1])
            best = entropy.argsort(descending=True)[:8].sort().values
            assert places.equal(pool[2][best]) and x.equal(pool[0][best])
            assert targets.equal(pool[1][best])
    assert learner.share == pytest.approx(float(counts[:30].sum() / counts.sum()))


def test_a_reference_that_is_missing_is_named(data):
    with pytest.raises(ValueError, match="reference"):
        Selecting(build("resnet8", 10), task_of(data), selection="easy", ratio=0.5)


# -------------------------------------------------------------------------------------------- runs

FEW = Data("digits", train=80, test=40)
TEACHER = MisledTeacherRun(FEW, "resnet8", Recipe(2, 8, 0.1, 1e-4, "sgd", threads=1), "none")
RUN = SelectedRun(
    FEW,
    replace(TEACHER, wrong_labels=0.2),
    "none",
    Recipe(1, 8, 1e-3, 1e-4, quantizer_lr=1e-5, threads=1),
    2,
    2,
    loss="ce",
    selection="learnability",
    ratio=0.5,
    wrong_labels=0.4,
)


def test_runs_end_to_end_with_their_share_of_wrong_labels(tmp_path, monkeypatch):
    store = Store("quick", root=tmp_path)
    monkeypatch.setattr(report, "arms", lambda profile: [RUN])
    monkeypatch.setattr(report, "seeds", lambda run, profile: [run])
    assert report.acid_table(store).empty
    sweep([RUN, uniform(RUN), as_costly(RUN)], store, jobs=1)
    assert {r["kind"] for r in store.all()} == {"acid", "acid_teacher"}
    (row,) = store.load(uniform(RUN))["result"]["curve"]
    assert row["wrong_chosen"] == pytest.approx(0.4)  # every image once
    (row,) = store.load(RUN)["result"]["curve"]
    assert 0 <= row["wrong_chosen"] <= 1 and len(store.predictions(RUN)[0]) == 40
    table = report.acid_table(store)
    assert table["epochs"].tolist() == [1, 2, 1]
    assert table["selection"].tolist() == ["uniform", "uniform", "learnability"]
    assert table["compute"].tolist() == pytest.approx([1, 2, 7 / 3])
    plain, longer, chosen = table["accuracy_mean"]
    assert table["difference"].tolist() == pytest.approx([0, longer - plain, chosen - plain])
    assert table["difference_at_compute"].tolist() == pytest.approx([0, 0, chosen - longer])
    assert table["wrong_chosen"].iloc[2] == pytest.approx(row["wrong_chosen"])


def test_verdicts_follow_their_rules():
    facts = {"loss": "ce", "teacher": report.RIGHT, "augmentation": "none", "n": 3}
    rows = [
        facts | {"selection": name, "wrong": wrong, "wrong_least": low, "wrong_most": high}
        for name, (low, high) in {
            "easy": (0.0, 0.1),
            "hard": (0.5, 0.6),
            "learnability": (0.1, 0.3),
        }.items()
        for wrong in (0.0, 0.2, 0.4)
    ]
    table = pd.DataFrame(rows)
    wanted = {"easy": "avoids", "hard": "seeks", "learnability": "neither"}
    assert {name: report.leaning(table, name) for name in wanted} == wanted
    for change, said in ((3.0, "better"), (2.0, "cannot tell"), (-3.0, "worse")):
        row = pd.Series({"difference": change, "difference_se": 1.0, "n": 3})
        assert report.effect(row) == said  # the bound of three seeds is 2.92 standard errors


def test_passes_and_equal_compute():
    assert passes(uniform(RUN)) == 3 and passes(RUN) == 3 + 2 / 0.5
    assert passes(replace(RUN, loss="kd", selection="easy", ratio=0.2)) == 4 + 5
    longer = as_costly(replace(RUN, recipe=replace(RUN.recipe, epochs=30)))
    assert longer.recipe.epochs * passes(longer) == 30 * passes(RUN)
    plain = TeacherRun(FEW, "resnet8", TEACHER.recipe, "none")
    assert len({plain.key, replace(TEACHER, wrong_labels=0.1).key, RUN.teacher.key}) == 3
    for wrong in ({"ratio": 0.3}, {"ratio": 1.0}, {"selection": "best"}, {"wrong_labels": 1.5}):
        with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
            replace(RUN, **wrong)
