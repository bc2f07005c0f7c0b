"""KDExplainer: attention blocks, the mixture of experts against a slow one, and the runs."""

import math
from dataclasses import replace
from functools import partial
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from paperlib.basics.recipe import Recipe
from paperlib.data import load, subset
from paperlib.losses import objective
from paperlib.models import build
from paperlib.quantizers import describe, initialise, quantize
from paperlib.runs.execution import execute
from paperlib.study.config import Data
from paperlib.study.store import Store
from paperlib.training import Task, fit
from related.kdexplainer import report, study
from related.kdexplainer.method import (
    Annealed,
    BlockAttention,
    Experts,
    Sparse,
    annealed,
    attention_facts,
    attentions,
    entropy,
    routes,
    similarity,
    weighted,
    with_attention,
)

G = torch.Generator().manual_seed(0)
DIGITS = subset(load("digits"), train=40, test=20)
RECIPE = Recipe(2, 20, 1e-3, 1e-4, quantizer_lr=1e-5, threads=1)
IMAGES = torch.randn(4, 3, 32, 32, generator=G)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def teacher():
    return build("resnet8", 10).eval()


def moved(network: nn.Module) -> nn.Module:
    """With attention that is not uniform."""
    g = torch.Generator().manual_seed(1)
    for part in network.modules():
        if isinstance(part, BlockAttention):
            part.gate.weight.data.normal_(generator=g)
    return network


@pytest.mark.parametrize("blocks", [2, 4, 16])
def test_fresh_blocks_are_the_identity(teacher, blocks):
    """Uniform attention is the identity: in full precision and in a low-bit student."""
    student = quantize(teacher, "ewgs", 2, 2)
    initialise(student, IMAGES)
    for network in (teacher, student.eval()):
        carrier = with_attention(network, study.STAGES, blocks)
        assert torch.equal(carrier(IMAGES), network(IMAGES))
        facts = attention_facts(carrier, IMAGES)
        assert facts == pytest.approx({"entropy": 1.0, "between": 0.0}, abs=1e-6)
    assert not any(isinstance(m, BlockAttention) for m in teacher.modules()), "it is a copy"


def test_attention_weighs_blocks_of_consecutive_channels():
    x, a = torch.randn(3, 6, 2, 5, generator=G), torch.rand(3, 2, generator=G)
    found = weighted(x, a)
    for n in range(3):
        for c in range(6):
            assert torch.allclose(found[n, c], x[n, c] * 2 * a[n, c // 3])
    module = moved(nn.Sequential(BlockAttention(2, 0.5)))[0]
    means = torch.stack([x[:, :3].mean((1, 2, 3)), x[:, 3:].mean((1, 2, 3))], 1)
    z = means @ module.gate.weight.T / 0.5
    torch.testing.assert_close(module(x), weighted(x, z.exp() / z.exp().sum(1, keepdim=True)))


def test_any_network_carries_blocks_and_what_it_has_not_is_refused(teacher):
    plain = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 900, 10))
    carrier = moved(with_attention(plain, ("1",), 3))
    assert attentions(carrier) == ["1.1.softmax"]
    assert not torch.equal(carrier(IMAGES), plain(IMAGES))
    low = quantize(plain, "lsq", 2, 2, keep=("0",))
    kinds = describe(with_attention(low, ("1",), 3)).set_index("layer")["weight_bits"]
    assert kinds.to_dict() == {"0": 32, "1.1.gate": 32, "3": 2}
    first = quantize(build("resnet8", 10), "lsq", 2, 2)
    assert (
        describe(quantize(with_attention(build("resnet8", 10), study.STAGES), "lsq", 2, 2))[
            "weight_bits"
        ].value_counts()[2]
        == (describe(first)["weight_bits"] == 2).sum()
    )
    with pytest.raises(ValueError, match="'7'"):
        with_attention(plain, ("7",), 3)
    with pytest.raises(ValueError, match="'1', '1'"):
        with_attention(plain, ("1", "1"), 3)
    with pytest.raises(TypeError, match="tuple"):
        with_attention(nn.Sequential(nn.LSTM(6, 6)), ("0",), 3)(torch.rand(2, 5, 6))
    with pytest.raises(ValueError, match="6 channels.*4 blocks"):
        with_attention(plain, ("1",), 4)(IMAGES)
    with pytest.raises(ValueError, match="1"):
        with_attention(plain, ("1",), 1)
    with pytest.raises(ValueError, match="-1"):
        with_attention(plain, ("1",), 3, temperature=-1)


def test_the_entropy_is_the_written_out_one_and_has_a_gradient_at_zero():
    a = torch.rand(5, 3, generator=G).softmax(1)
    rows = [-sum(p * math.log(p) for p in row) for row in a.tolist()]
    assert entropy(a).item() == pytest.approx(sum(rows) / 5)
    z = torch.tensor([[200.0, 0.0]], requires_grad=True)
    entropy(z.softmax(1)).backward()
    assert torch.isfinite(z.grad).all()


def test_the_loss_is_the_objective_and_gamma_times_the_entropy(teacher):
    task = Task(DIGITS, "none", objective("kd"), RECIPE, 0, teacher)
    student = moved(with_attention(quantize(teacher, "ewgs", 2, 2), study.STAGES))
    initialise(student, DIGITS.network_input(DIGITS.train_images[:20]))
    plain, sparse = (Sparse(student, task, gamma=gamma) for gamma in (0.0, 0.5))
    x, *others = next(plain.batches(0))
    first, second = plain.losses(x, *others), sparse.losses(x, *others)
    shares = []
    for part in student.modules():
        if isinstance(part, BlockAttention):
            part.softmax.register_forward_hook(lambda m, i, output: shares.append(output))
    student(x)
    expected = 0.5 * sum(map(entropy, shares)) / 3
    assert (second - first).item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_network_without_blocks_has_nothing_to_make_sparse(teacher):
    with pytest.raises(ValueError, match="attention"):
        Sparse(teacher, Task(DIGITS, "none", objective("ce"), RECIPE, 0), gamma=0.1)


def test_a_large_gamma_makes_attention_sparse(teacher):
    found = []
    for gamma in (0.0, 10.0):
        student = moved(with_attention(quantize(teacher, "ewgs", 2, 2), study.STAGES))
        task = Task(DIGITS, "none", objective("kd"), replace(RECIPE, lr=0.01), 0, teacher)
        fit(student, task, learner=partial(Sparse, gamma=gamma))
        found.append(attention_facts(student, DIGITS.network_input(DIGITS.train_images)))
    assert found[1]["entropy"] < found[0]["entropy"] < 1
    assert all(0 <= each["between"] <= 1 for each in found)


# ----------------------------------------------------------------------------------------- experts


@pytest.mark.parametrize("t", [10.0, 1.0, 1 / 30])
def test_routes_are_those_of_the_released_code(t):
    """softmax(log softmax(w / 0.5) / t), a row a node."""
    w = torch.rand(5, 4, generator=G, dtype=torch.float64)
    torch.testing.assert_close(routes(w, t), ((w / 0.5).softmax(1).log() / t).softmax(1))


def test_the_temperature_falls_as_in_the_released_code():
    assert [annealed(e, 300) for e in range(300)] == pytest.approx(
        [10 / epoch for epoch in range(1, 301)]
    )
    assert annealed(0, 1) == 10 and annealed(6, 7) == pytest.approx(1 / 30)


def test_a_level_of_one_expert_is_refused():
    with pytest.raises(ValueError, match="1"):
        Experts(10, (1, 2))


def test_the_mixture_is_the_slow_sum_over_parents():
    """Each expert and each head as a network of its own."""
    network = Experts(3, (2, 3), width=4, shrink=2, seed=5)
    network(IMAGES)  # statistics
    network.eval().temperature.fill_(0.7)
    x = nn.functional.avg_pool2d(IMAGES, 2)
    reads = [x, x]
    for level, shares in zip(network.levels, network.shares(), strict=True):
        maps = []
        for e, read in enumerate(reads):
            for k in (0, 3):
                conv, norm = level[k], level[k + 1]
                part = slice(4 * e, 4 * e + 4)
                read = nn.functional.conv2d(read, conv.weight[part], padding=1)
                values = norm.running_mean, norm.running_var, norm.weight, norm.bias
                read = nn.functional.batch_norm(read, *(v[part] for v in values)).relu()
            maps.append(nn.functional.max_pool2d(read, 2))
        reads = [sum(share * m for share, m in zip(row, maps, strict=True)) for row in shares]
    for c, read in enumerate(reads):
        hidden, last = network.heads[0], network.heads[2]
        part = slice(16 * c, 16 * c + 16)
        h = (read.mean((2, 3)) @ hidden.weight[part, :, 0].T + hidden.bias[part]).relu()
        logit = h @ last.weight[c, :, 0] + last.bias[c]
        torch.testing.assert_close(network(IMAGES)[:, c], logit, rtol=1e-4, atol=1e-5)


def test_an_interrupted_mixture_ends_the_same_and_its_routes_harden(tmp_path):
    def trained(checkpoint=None, stop=False):
        network, seen = Experts(10, (2, 4), width=4, shrink=4), []

        def inspect(epochs):
            seen.append(network.temperature.item())
            if stop and epochs == 2:
                raise KeyboardInterrupt
            return {}

        task = Task(DIGITS, "none", objective("ce"), replace(RECIPE, epochs=3), 0)
        fit(network, task, checkpoint, inspect=inspect, learner=Annealed)
        return network.routes[1], seen

    whole, seen = trained()
    assert seen == pytest.approx([annealed(e, 3) for e in range(3)])
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "epoch.pt", stop=True)
    assert torch.equal(trained(tmp_path / "epoch.pt")[0], whole)
    assert not torch.equal(whole, Experts(10, (2, 4), width=4).routes[1])


def test_similarity_is_symmetric_and_of_softened_shares(teacher):
    found = similarity(teacher, DIGITS, 4.0)
    assert torch.equal(found, found.T) and found.sum().item() == pytest.approx(10, rel=1e-4)
    x = DIGITS.network_input(DIGITS.train_images[DIGITS.train_labels == 3])
    with torch.no_grad():
        assert found[3, 3].item() == pytest.approx(
            (teacher(x) / 4).softmax(1)[:, 3].mean().item(), rel=1e-4
        )


# --------------------------------------------------------------------------------- what is read off


def test_agreement_is_the_corrected_share_of_pairs():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 3, (2, 9))
        pairs = list(combinations(range(9), 2))
        one, two = ([x[i] == x[j] for i, j in pairs] for x in (a, b))
        both = sum(p and q for p, q in zip(one, two, strict=True))
        chance = sum(one) * sum(two) / len(pairs)
        expected = (both - chance) / ((sum(one) + sum(two)) / 2 - chance)
        assert report.agreement(a, b) == pytest.approx(expected)
    shuffled = [
        report.agreement([0, 0, 0, 1, 1, 1, 2, 2, 2], rng.integers(0, 3, 9)) for _ in range(200)
    ]
    assert abs(np.mean(shuffled)) < 0.06


def test_what_classes_share_is_the_overlap_of_their_ways():
    shares = [
        np.random.default_rng(k).dirichlet(np.ones(p), c)
        for k, (c, p) in enumerate(((4, 2), (8, 4), (10, 8)))
    ]
    last = shares[2]
    middle, first = last @ shares[1], last @ shares[1] @ shares[0]
    expected = sum(each @ each.T for each in (first, middle, last)) / 3
    assert report.shared(shares) == pytest.approx(expected)
    hard = [np.eye(s.shape[1])[s.argmax(1)] for s in shares]
    trees = report.tree(shares)
    same = (trees[:, :, None] == trees[:, None, :]).mean(0)
    assert report.shared(hard) == pytest.approx(same)


def test_the_runs_and_their_table(tmp_path, monkeypatch):
    """Two seeds of every arm, on a few digits."""
    setup = replace(
        study.tried("quick"),
        data=Data("digits", train=60, test=30),
        teacher_data=None,
        teacher_recipe=Recipe(1, 20, 1e-2, 1e-4, "sgd", threads=1),
        student_recipe=replace(RECIPE, epochs=1),
    )
    for module in (study, report):
        monkeypatch.setattr(module, "tried", lambda profile: setup)
    monkeypatch.setattr(study, "SEEDS", {"quick": (0, 1)})
    arms = ("ce", "kd", "ce + blocks", "kd + blocks", "kd + blocks, gamma 1")
    monkeypatch.setattr(study, "STUDENTS", {arm: study.STUDENTS[arm] for arm in arms})
    monkeypatch.setattr(study, "RECIPES", {"quick": replace(RECIPE, epochs=1)})
    monkeypatch.setattr(study, "SIZES", {"quick": (4, 4)})
    store = Store("quick", root=tmp_path)
    assert report.kdexplainer_figure(store) is None
    for run in study._runs("quick", store):
        execute(run, store)
    table = report.kdexplainer_table(store)
    assert list(table["arm"]) == [*study.STUDENTS, *study.EXPERTS] and (table["n"] == 2).all()
    rows = table.set_index(["kind", "arm"])
    blocks = rows.loc["student"].loc[[*arms[2:]]]
    assert (
        blocks["entropy"].between(0, 1).all() and rows.loc["student"]["entropy"].isna().sum() == 2
    )
    trees = rows.loc["experts"]
    assert trees.loc["ce", "with_ce"] == 1 and (trees["entropy"] > 0.9).all()
    assert trees["tree_accuracy"].between(0, 100).all() and trees["alike"].between(-1, 1).all()
    assert "experts under KD" in report.headline(table)
    assert len(report.kdexplainer_figure(store).axes) == 6
