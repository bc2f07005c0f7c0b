"""A compiled teacher says what it says uncompiled, and several teachers what each says alone."""

import shutil
import warnings

import pandas as pd
import pytest
import torch
from torch import nn

from paperlib.data import load, subset
from paperlib.models import build, frozen
from paperlib.models.precision import autocast
from paperlib.scoring import rank, ranking, streaming

COMPILER = any(map(shutil.which, ("g++", "clang++", "c++", "cl")))
compiling = pytest.mark.skipif(not COMPILER, reason="there is no C++ compiler here")
IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def small(seed: int = 0) -> nn.Module:
    """A convolution, a BatchNorm with statistics of its own, and a branch on the values."""

    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

        def forward(self, x):
            x = self.norm(self.conv(x)).relu()
            if len(x) > 1000:
                x = -x
            return self.head(x.mean((2, 3)))

    torch.manual_seed(seed)
    network = Branching().eval()
    network.norm.running_mean.normal_()
    network.norm.running_var.uniform_(0.5, 2)
    return network


@torch.no_grad()
def made(network: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        swift = frozen.frozen(network, IMAGES)
    assert isinstance(swift, frozen.Frozen)
    return swift


@compiling
@torch.no_grad()
@torch._dynamo.config.patch(recompile_limit=1)  # versions of one code that torch keeps
def test_a_compiled_network_gives_the_same_logits_and_no_other_networks():
    networks = [small(seed) for seed in range(2)]
    for network in networks:
        swift = made(network)
        torch.testing.assert_close(swift(IMAGES), network(IMAGES), rtol=1e-4, atol=1e-5)
    network = networks[0]
    network.load_state_dict(networks[1].state_dict())  # the same object, other weights
    torch.testing.assert_close(made(network)(IMAGES), networks[1](IMAGES), rtol=1e-4, atol=1e-5)
    for count in (1, 5, 7):  # a last batch is smaller
        assert swift(IMAGES[:1].expand(count, -1, -1, -1)).shape == (count, 2)
    assert not any(module.training for module in swift.modules())


@compiling
def test_with_gradients_the_network_itself_runs():
    swift = made(small())
    with torch.enable_grad():
        assert swift(IMAGES.clone().requires_grad_()).requires_grad


@compiling
@torch.no_grad()
def test_in_bfloat16_it_is_as_near_as_the_eager_one():
    network = build("resnet8", 10, 1).eval()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with autocast("cpu", "bfloat16"):
        swift, eager = frozen.frozen(network, images), network(images)
        assert isinstance(swift, frozen.Frozen)
        error = (swift(images) - network.float()(images)).abs().max()
    exact = network(images)
    assert error <= 4 * (eager - exact).abs().max() + 1e-3 * exact.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("how", ["cannot be compiled", "comes out wrong"])
def test_what_cannot_be_compiled_runs_as_it_is_and_says_so(how, monkeypatch):
    def broken(function, **options):
        def call(images):
            if how == "cannot be compiled":
                raise RuntimeError("no C++ compiler\nand more lines")
            return function(images) + 0.1

        return call

    monkeypatch.setattr(torch, "compile", broken)
    network = small()
    with pytest.warns(UserWarning) as caught:
        assert frozen.frozen(network, IMAGES) is network
    assert len(caught) == 1 and "\n" not in str(caught[0].message)


def test_it_is_compiled_only_where_that_saves_time():
    small_one, large = build("resnet8", 10), build("resnet56", 10)
    assert not frozen.worth_compiling(small_one, 1.0)
    limits = [
        next(s for s in range(10_000) if frozen.worth_compiling(network, s))
        for network in (small_one, large)
    ]
    assert 10 < limits[0] < limits[1] < 600


DIGITS = subset(load("digits"), 200, 20)
NAMES = ("none", "augmix", "erasing+cutmix")


@compiling
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_scores_of_a_compiled_teacher_are_within_their_intervals(precision, monkeypatch):
    how = {"augmentations": NAMES, "precision": precision, "stddev_group": 50}
    teacher = build("resnet8", 10, 3)
    kept = {name: value.clone() for name, value in teacher.state_dict().items()}
    exact = rank(teacher, DIGITS, compiled=True, **how)  # too short a pass: it is not compiled
    pd.testing.assert_frame_equal(exact, rank(teacher, DIGITS, **how))
    monkeypatch.setattr(streaming, "worth_compiling", lambda network, seconds: True)
    calls = []
    monkeypatch.setattr(
        frozen.Frozen, "forward", lambda self, x: calls.append(len(x)) or self.compiled(x)
    )
    found = rank(teacher, DIGITS, compiled=True, **how)
    assert sum(calls) >= 200 * 5  # three candidates and two base passes
    both = exact.merge(found, on="augmentation", suffixes=("", "_found"))
    assert (both["score_found"] >= both["score_low"]).all()
    assert (both["score_found"] <= both["score_high"]).all()
    assert teacher.training and all(teacher.state_dict()[n].equal(v) for n, v in kept.items())


@pytest.mark.parametrize("way", ["in memory", "streamed"])
def test_several_teachers_score_as_each_alone_and_share_the_views(way, monkeypatch):
    teachers = {f"after {seed}": build("resnet8", 10, seed) for seed in range(3)}
    data = DIGITS if way == "in memory" else (DIGITS.train_images.numpy(), DIGITS.train_labels)
    scale = {} if way == "in memory" else {"mean": DIGITS.mean, "std": DIGITS.std}
    how = {"augmentations": NAMES, "replicates": 10, "stddev_group": 50, **scale}
    views = []
    if way == "in memory":
        counted, name, place = ranking.augmented, "augmented", ranking
    else:
        counted, name, place = streaming.Candidate.views, "views", streaming.Candidate
    monkeypatch.setattr(place, name, lambda *a, **k: views.append(1) or counted(*a, **k))
    alone = {name: rank(teacher, data, **how) for name, teacher in teachers.items()}
    one = len(views) // 3
    together = rank(teachers, data, **how)
    assert len(views) - 3 * one < 1.7 * one
    for name, table in alone.items():
        own = together[together["teacher"] == name].drop(columns="teacher").reset_index(drop=True)
        pd.testing.assert_frame_equal(own, table)


def test_teachers_must_be_some_and_have_the_same_classes():
    with pytest.raises(ValueError, match="teacher"):
        rank({}, DIGITS)
    with pytest.raises(TypeError, match="second"):
        rank({"first": build("resnet8", 10), "second": 3}, DIGITS)
    with pytest.raises(ValueError, match="7"):
        rank({"first": build("resnet8", 10), "second": build("resnet8", 7)}, DIGITS, NAMES)


@compiling
@torch.no_grad()
def test_logits_may_be_anywhere_in_what_the_network_gives():
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = small()

        def forward(self, x):
            return self.network(x) + 1, self.network(x)

    swift = frozen.frozen(Several().eval(), IMAGES, output=1)
    assert isinstance(swift, frozen.Frozen)
    torch.testing.assert_close(swift(IMAGES)[1], small()(IMAGES), rtol=1e-4, atol=1e-5)
