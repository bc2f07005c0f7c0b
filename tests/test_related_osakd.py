"""Self-acquired labels and calibration: formulas against slow transcriptions, and a tiny run."""

import copy
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from paperlib.basics.recipe import Recipe
from paperlib.data import load, subset
from paperlib.losses import objective, osakd, self_labels
from paperlib.models import build
from paperlib.runs.sweep import sweep
from paperlib.study import plan, profiles
from paperlib.study.config import Data
from paperlib.study.store import Store
from related.osakd import report, study
from related.osakd.method import calibration_error, entropy, own_labels

g = torch.Generator().manual_seed(0)
LOGITS = torch.randn(12, 4, generator=g).double()
LABELS = torch.arange(12) % 4


@pytest.mark.parametrize("k", [1, 3, 11, 50])
def test_self_labels_are_the_neighbours_shares(k):
    rows = LOGITS.tolist()
    for n, (row, found) in enumerate(zip(rows, self_labels(LOGITS, LABELS, k, 4), strict=True)):
        others = sorted((math.dist(row, rows[m]), m) for m in range(12) if m != n)[:k]
        counts = Counter(int(LABELS[m]) for _, m in others)
        assert found.tolist() == pytest.approx([counts[c] / len(others) for c in range(4)])


def test_soft_labels_are_averaged_and_equal_ones_come_in_order():
    soft = F.one_hot(LABELS, 4).double()
    torch.testing.assert_close(self_labels(LOGITS, soft, 3, 4), self_labels(LOGITS, LABELS, 3, 4))
    same = torch.ones(5, 2)  # two-bit networks give such logits
    first = self_labels(same, torch.tensor([0, 1, 1, 1, 1]), 1, 2)
    assert first.argmax(1).tolist() == [1, 0, 0, 0, 0]


def test_osakd_is_the_written_out_divergence_and_q_is_fixed():
    z = LOGITS.clone().requires_grad_()
    loss = osakd(z, LABELS, k=3)
    q, p = self_labels(LOGITS, LABELS, 3, 4).tolist(), LOGITS.softmax(1).tolist()
    pairs = [pair for rows in zip(q, p, strict=True) for pair in zip(*rows, strict=True)]
    assert loss.item() == pytest.approx(sum(a * math.log(a / b) for a, b in pairs if a) / 12)
    loss.backward()
    torch.testing.assert_close(z.grad, (torch.tensor(p) - torch.tensor(q)).double() / 12)


def test_the_objective_needs_no_teacher_and_has_the_weight_of_the_loss():
    own = objective("osakd", k=3, alpha=0.5)
    assert not own.needs_teacher and not own.needs_teacher_each_step and own.packable
    loss = own.attach({}, None, LABELS, 4)((LOGITS, {}), None, LABELS)
    expected = F.cross_entropy(LOGITS, LABELS) + 0.5 * osakd(LOGITS, LABELS, k=3)
    assert loss.item() == pytest.approx(expected.item())
    assert objective("at", alpha=1, logit_loss="osakd").needs_teacher_each_step  # for `at`


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_the_calibration_error_is_the_written_out_formula(bins):
    confidence, right = torch.rand(200, generator=g), torch.rand(200, generator=g) < 0.6
    confidence[0], confidence[1] = 1.0, 1 / bins  # on the edges
    total = 0.0
    for m in range(bins):
        part = [n for n, c in enumerate(confidence.tolist()) if m / bins < c <= (m + 1) / bins]
        if part:
            accuracy = sum(bool(right[n]) for n in part) / len(part)
            sure = sum(confidence[n].item() for n in part) / len(part)
            total += len(part) / 200 * abs(accuracy - sure)
    assert calibration_error(confidence, right, bins) == pytest.approx(total)


def test_entropy_of_sure_and_of_even_labels():
    assert entropy(torch.eye(3)) == 0
    assert entropy(torch.full((2, 8), 1 / 8)) == pytest.approx(math.log(8))


def test_own_labels_are_those_of_the_training_batches_and_leave_the_network(monkeypatch):
    data, network = subset(load("digits"), train=50, test=20), build("resnet8", 10).train()
    before = copy.deepcopy(network.state_dict())
    found = own_labels(network, data, 5, 25)
    assert found.shape == (50, 10) and network.training
    assert all(torch.equal(before[n], t) for n, t in network.state_dict().items())
    with torch.no_grad():
        logits = network.eval()(data.network_input(data.train_images[:25]))
    torch.testing.assert_close(found[:25], self_labels(logits, data.train_labels[:25], 5, 10))


def test_a_tiny_comparison_ends_in_the_table(tmp_path, monkeypatch):
    """k is chosen on images that are neither trained on nor tested."""
    one = Recipe(1, 20, 1e-2, 0.0, "sgd", threads=1)
    data = Data("digits", train=60, test=20)
    setup = profiles.setups("quick")[0]
    setup = replace(setup, data=data, teacher_recipe=one, student_recipe=one)
    comparisons = [study.Comparison(setup, bits, (0,), 20, 1, 20) for bits in (study.FULL, 2)]
    monkeypatch.setattr(study, "comparisons", lambda profile: comparisons)
    monkeypatch.setattr(report, "comparisons", study.comparisons)
    store = Store("quick", root=tmp_path)
    for runs in plan.stages("quick", "osakd", store):
        sweep(runs, store, jobs=1)
    table = report.osakd_table(store)
    assert list(table["arm"]) == 2 * list(study.ARMS)
    assert (table["error"].between(0, 100) & table["k"].isin((1, 2, 3))).all()
    for comparison in comparisons:
        accuracies = [store.load(run)["result"]["accuracy"] for run in comparison.choices]
        assert comparison.ks == (1, 2, 3)
        assert comparison.chosen(store) == comparison.ks[accuracies.index(max(accuracies))]
        assert len(store.predictions(comparison.choices[0])[0]) == comparison.held_out
    assert "not told apart" in report.headline(table)
    assert report.osakd_figure(store, table).axes
