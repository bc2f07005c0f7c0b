"""Teaching between trained networks: formulas against slow transcriptions, learners, a tiny run."""

import copy
import math
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest
import torch
from torch import nn

from paperlib.basics.recipe import Recipe
from paperlib.data import load, subset
from paperlib.losses import objective
from paperlib.runs.sweep import sweep
from paperlib.study import plan, profiles
from paperlib.study.config import Data
from paperlib.study.store import Store
from paperlib.training import Task, fit
from related.insights import report, study
from related.insights.method import (
    Mutual,
    Partition,
    dp_kd,
    flips,
    mutual_losses,
    only,
    places,
    shares,
    surer,
)

g = torch.Generator().manual_seed(0)
STUDENT, TEACHER, ANCHOR = (3 * torch.randn(7, 4, generator=g).double() for _ in range(3))
LABELS = torch.arange(7) % 4
DATA = subset(load("digits"), train=40, test=20)
RECIPE = Recipe(2, 20, 1e-2, 0.0, "sgd", threads=1)


def slow_softmax(z: list[float], temperature: float = 1.0) -> list[float]:
    e = [math.exp(v / temperature) for v in z]
    return [v / sum(e) for v in e]


def slow_kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("kind", ["labels", "soft", None])
def test_dp_kd_is_the_written_out_formula(kind):
    soft = torch.rand(7, 4, generator=g).double().softmax(1)
    targets = {"labels": LABELS, "soft": soft, None: None}[kind]
    total, taught = 0.0, 0
    for n, (s, t, a) in enumerate(
        zip(STUDENT.tolist(), TEACHER.tolist(), ANCHOR.tolist(), strict=True)
    ):
        p, q = slow_softmax(t), slow_softmax(a)
        if kind == "labels":
            sure = p[LABELS[n]], q[LABELS[n]]
        elif kind == "soft":
            sure = tuple((soft[n] * torch.tensor(r)).sum().item() for r in (p, q))
        else:
            sure = max(p), max(q)
        taught += sure[0] > sure[1]
        target = t if sure[0] > sure[1] else a
        total += 9 * slow_kl(slow_softmax(target, 3), slow_softmax(s, 3)) / 7
    assert 0 < taught < 7  # both kinds of images are there
    assert dp_kd(STUDENT, TEACHER, ANCHOR, targets, 3.0).item() == pytest.approx(total)


def test_a_tie_is_the_anchors():
    assert not surer(TEACHER, TEACHER, LABELS).any() and not surer(TEACHER, TEACHER).any()


def test_mutual_losses_are_each_networks_own():
    """Of K networks: the written-out formula, and the gradient of the sum is, for each network,
    that of its own loss with its peers held fixed.
    """
    every = [z.clone().requires_grad_() for z in (STUDENT, TEACHER, ANCHOR)]
    losses = mutual_losses(every, LABELS)
    sum(losses).backward()
    for k, own in enumerate(every):
        p = [[slow_softmax(row) for row in z.tolist()] for z in every]
        expected = sum(-math.log(p[k][n][y]) / 7 for n, y in enumerate(LABELS.tolist()))
        peers = [j for j in range(3) if j != k]
        expected += sum(slow_kl(p[j][n], p[k][n]) / 7 / 2 for j in peers for n in range(7))
        assert losses[k].item() == pytest.approx(expected)
        fixed = [z.detach() for z in every]
        fixed[k].requires_grad_()
        (alone,) = torch.autograd.grad(mutual_losses(fixed, LABELS)[k], fixed[k])
        torch.testing.assert_close(own.grad, alone)


def networks(count: int) -> list[torch.nn.Module]:
    found = []
    for seed in range(count):
        torch.manual_seed(seed)
        first = nn.Conv2d(3, 4, 8, 8), nn.BatchNorm2d(4), nn.ReLU()
        found.append(nn.Sequential(*first, nn.Flatten(), nn.Linear(64, 10)))
    return found


def test_two_networks_learn_as_if_each_had_an_optimiser_of_its_own(tmp_path):
    """The released code: both pass, then each steps. Also when interrupted after an epoch."""
    task = Task(DATA, "none", objective("ce"), RECIPE, 0)
    first, second = networks(2)
    ours = copy.deepcopy([first, second])
    fit(ours[0], task, learner=partial(Mutual, peers=[ours[1]]))

    from paperlib.training.learners import batches, rate_factor

    both = (first, second)
    steppers = [torch.optim.SGD(net.parameters(), 1e-2, momentum=0.9) for net in both]
    for epoch in range(2):
        for x, y, _ in batches(task, epoch):
            logits = [net.train()(x) for net in both]
            for k in (0, 1):
                loss = mutual_losses([logits[k], logits[1 - k].detach()], y)[0]
                loss.backward()
            for stepper in steppers:
                stepper.param_groups[0]["lr"] = 1e-2 * rate_factor(RECIPE, epoch, 0, 2)
                stepper.step()
                stepper.zero_grad()
    for net, own in zip(both, ours, strict=True):
        for a, b in zip(net.parameters(), own.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    again = networks(2)

    def stop(row):
        raise KeyboardInterrupt

    file = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        fit(again[0], task, file, stop, learner=partial(Mutual, peers=[again[1]]))
    fresh = networks(2)
    fit(fresh[0], task, file, learner=partial(Mutual, peers=[fresh[1]]))
    for a, b in zip(ours, fresh, strict=True):
        assert all(torch.equal(a.state_dict()[n], t) for n, t in b.state_dict().items())


def test_partition_between_two_equal_networks_is_kd_and_leaves_both_as_they_were():
    student, teacher = networks(2)
    anchor, before = copy.deepcopy(teacher), copy.deepcopy(teacher.state_dict())
    other = copy.deepcopy(student)
    task = Task(DATA, "none", objective("sqakd"), RECIPE, 0, teacher)
    how = {"anchor": anchor, "supervised": True, "temperature": 4.0}
    fit(student, task, learner=partial(Partition, **how))
    fit(other, task)
    assert all(torch.equal(other.state_dict()[n], t) for n, t in student.state_dict().items())
    for network in (anchor, teacher):
        assert all(torch.equal(before[n], t) for n, t in network.state_dict().items())


@pytest.mark.parametrize("kind", study.SHARINGS)
def test_shares_hold_every_image_once(kind):
    labels = load("digits").train_labels
    for count in (2, 3):
        found = shares(labels, kind, count, seed=1)
        assert torch.cat(found).sort().values.tolist() == list(range(len(labels)))
        assert all(torch.equal(s, s.sort().values) for s in found)
        again, other = shares(labels, kind, count, seed=1), shares(labels, kind, count, seed=2)
        assert all(map(torch.equal, found, again))
        assert kind == "disjoint" or not all(map(torch.equal, found, other))
    counts = torch.stack([labels[s].bincount(minlength=10) for s in shares(labels, kind)])
    portions = (counts / counts.sum(0)).max(0).values
    if kind == "disjoint":
        assert (portions == 1).all()
    assert (portions.mean() > 0.7) == (kind != "iid")  # Beta(1/2, 1/2): 0.82 on average


def test_the_public_part_is_in_no_share():
    data = load("digits")
    run = study.exchanges("quick")[0].share(0, 0)
    for sharing in study.SHARINGS:
        both = [replace(run, sharing=sharing, part=part) for part in (0, 1)]
        (public, a), (same, b) = (places(each, data) for each in both)
        assert torch.equal(public, same) and len(public) == run.public
        every = torch.cat([public, a, b]).sort().values
        assert every.tolist() == list(range(len(data.train_labels)))
        assert torch.equal(only(data, a).train_labels, data.train_labels[a])


def test_flips_add_up_to_the_change():
    before, after, teacher, labels = torch.randint(0, 3, (4, 50), generator=g)
    found = flips(before, after, teacher, labels)
    change = 100 * ((after == labels).double().mean() - (before == labels).double().mean())
    assert found["positive"] - found["negative"] == pytest.approx(change.item())
    assert flips(labels, labels, labels, labels)["transferred"] == 0


def test_a_tiny_exchange_ends_in_the_table(tmp_path, monkeypatch):
    """Tuned KD is known once its grid is done; the grid never sees a test image."""
    setup = profiles.setups("quick")[0]
    one = replace(RECIPE, epochs=1)
    data = Data("digits", train=60, test=20)
    setup = replace(setup, data=data, teacher_recipe=one, student_recipe=one)
    exchange = study.Exchange(setup, "iid", 2, 20, (0,), (1.0,))
    monkeypatch.setattr(study, "exchanges", lambda profile: [exchange])
    monkeypatch.setattr(report, "exchanges", study.exchanges)
    store = Store("quick", root=tmp_path)
    for runs in plan.stages("quick", "insights", store):
        sweep(runs, store, jobs=1)
    table = report.insights_table(store)
    assert set(table["way"]) == {*study.WAYS, study.TUNED}
    change = table["positive"] - table["negative"]
    pd.testing.assert_series_equal(change, table["difference"], check_names=False)
    grid = store.load(exchange.grid)["result"]
    best = max(row["validation_accuracy"] for row in grid["rows"])
    assert grid["chosen"].items() <= next(
        row.items() for row in grid["rows"] if row["validation_accuracy"] == best
    )
    assert "is not shown" in report.headline(table)  # of one seed nothing is
    assert report.insights_figure(table).axes


def test_the_verdict_follows_its_rule():
    ways = {"kd": -2.0, "ce": -1.0, study.TUNED: 0.0}
    rows = [
        {"bits": 2, "sharing": s, "way": w, "n": 3, "to_tuned": d, "to_tuned_se": 0.1}
        | {"accuracy_mean": 50 + d, "difference": d, "difference_se": 0.1}
        for s in study.SHARINGS
        for w, d in ways.items()
    ]
    table = pd.DataFrame(rows)
    assert "the claim holds" in report.headline(table)
    table.loc[table["way"] == "ce", "to_tuned_se"] = 1.0  # 2.9 standard errors are needed
    assert "is not shown" in report.headline(table)
