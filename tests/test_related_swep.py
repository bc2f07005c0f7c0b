"""SWEP: the KL, what a multiplied feature map does, the learner, and the runs."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from paperlib.basics.recipe import Recipe
from paperlib.data import load, subset
from paperlib.losses import objective
from paperlib.models import build
from paperlib.quantizers import initialise, quantize
from paperlib.runs.execution import execute
from paperlib.scoring import predict
from paperlib.study.config import Data
from paperlib.study.store import Store
from paperlib.training import Task, fit
from related.swep import report, study
from related.swep.method import (
    Perturbation,
    Perturbed,
    Swept,
    drawn,
    kl_to_dropout,
    multiplied,
    perturbation_for,
)

G = torch.Generator().manual_seed(0)
DIGITS = subset(load("digits"), train=40, test=20)
RECIPE = Recipe(2, 20, 1e-3, 1e-4, quantizer_lr=1e-5, threads=1)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def teacher():
    return build("resnet8", 10).eval()


def test_the_kl_is_that_of_torch():
    mean, log_variance = torch.randn(2, 6, 4, generator=G, dtype=torch.float64)
    for variance in (1 / 9, 1 / 3, 2.0):
        q, prior = Normal(mean, (log_variance / 2).exp()), Normal(1.0, variance**0.5)
        expected = kl_divergence(q, prior).sum(1).mean()
        assert kl_to_dropout(mean, log_variance, variance).item() == pytest.approx(expected.item())
    with pytest.raises(ValueError, match="0"):
        kl_to_dropout(mean, log_variance, 0)


def test_what_is_drawn_has_the_moments():
    mean, log_variance = torch.tensor([[0.5, 2.0]]), torch.tensor([[0.25, 4.0]]).log()
    z = drawn(
        mean.expand(20_000, 2), log_variance.expand(20_000, 2), torch.randn(20_000, 2, generator=G)
    )
    assert z.mean(0).tolist() == pytest.approx(mean[0].tolist(), abs=0.05)
    assert z.var(0).tolist() == pytest.approx([0.25, 4.0], rel=0.05)


def test_times_one_is_the_identity_and_another_factor_scales_its_channel(teacher):
    images = torch.randn(3, 3, 32, 32, generator=G)
    plain = teacher(images)
    with multiplied(teacher, torch.ones(3, 16)):
        assert torch.equal(teacher(images), plain)
    z = torch.ones(3, 16)
    z[1, 4] = 0
    with multiplied(teacher, z):
        found = teacher(images)
    assert torch.equal(found[[0, 2]], plain[[0, 2]]) and not torch.equal(found[1], plain[1])
    assert torch.equal(teacher(images), plain), "afterwards it is as it was"
    with pytest.raises(ValueError, match=r"stages\.0"), multiplied(torch.nn.Linear(2, 2), z):
        pass


def test_before_it_learns_it_is_the_dropout_whatever_the_image():
    fresh = Perturbation(8, 4, 1 / 9, seed=3)
    mean, log_variance = fresh(torch.randn(5, 8, generator=G))
    assert torch.equal(mean, torch.ones(5, 4))
    assert torch.allclose(log_variance.exp(), torch.full((5, 4), 1 / 9))
    assert kl_to_dropout(mean, log_variance, 1 / 9).item() == pytest.approx(0, abs=1e-6)


def test_a_teacher_without_perturbation_is_scored_as_itself(teacher):
    none = perturbation_for(teacher, DIGITS, 0.0)
    plain, targets = predict(teacher, DIGITS, "none")
    found, same = predict(Perturbed(teacher, none), DIGITS, "none")
    assert torch.equal(found, plain) and torch.equal(same, targets)
    some = perturbation_for(teacher, DIGITS, 0.5)
    first, again, other = (
        predict(Perturbed(teacher, some, seed), DIGITS, "none")[0] for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def learner(teacher, **options) -> tuple[Swept, Task]:
    task = Task(DIGITS, "none", objective("kd"), RECIPE, 0, teacher)
    student = quantize(teacher, "ewgs", 2, 2)
    initialise(student, DIGITS.network_input(DIGITS.train_images[:20]))
    return Swept(student, task, **options), task


def test_without_perturbation_the_loss_is_the_objectives(teacher):
    none = perturbation_for(teacher, DIGITS, 0.0).requires_grad_(False)
    swept, task = learner(teacher, perturbation=none, beta=0.0)
    x, targets, indices, noise = next(swept.batches(0))
    plain = super(Swept, swept).losses(x, targets, indices)
    with torch.no_grad():
        halved = swept.losses(x, targets, indices, noise)
    assert len(x) == len(noise) == 20 and noise.shape[1] == 16
    assert halved.item() == pytest.approx(plain.item(), rel=1e-5)


def test_noise_depends_on_the_batch_and_the_epoch_alone(teacher):
    swept, _ = learner(teacher, perturbation=perturbation_for(teacher, DIGITS, 0.1), beta=1.0)
    noise = [inputs[3] for epoch in (0, 1, 0) for inputs in swept.batches(epoch)]
    assert torch.equal(noise[0], noise[4]) and not torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[1])


def test_an_interrupted_student_and_its_perturbation_end_the_same(teacher, tmp_path):
    def trained(checkpoint=None, stop=False):
        perturbation = perturbation_for(teacher, DIGITS, 0.1, seed=1)
        student = quantize(teacher, "ewgs", 2, 2)

        def inspect(epochs):
            if stop and epochs == 2:
                raise KeyboardInterrupt
            return {}

        task = Task(DIGITS, "none", objective("kd"), replace(RECIPE, epochs=3), 0, teacher)
        how = partial(Swept, perturbation=perturbation, beta=0.1)
        fit(student, task, checkpoint, inspect=inspect, learner=how)
        return perturbation.out.weight

    whole = trained()
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "epoch.pt", stop=True)
    assert torch.equal(trained(tmp_path / "epoch.pt"), whole) and whole.abs().max() > 0


def test_the_runs_and_their_table(tmp_path, monkeypatch):
    """Two seeds of two arms, on a few digits."""
    setup = replace(
        study.short("quick"),
        data=Data("digits", train=60, test=30),
        teacher_data=None,
        teacher_recipe=Recipe(1, 20, 1e-2, 1e-4, "sgd", threads=1),
        student_recipe=replace(RECIPE, epochs=1),
    )
    for module in (study, report):
        monkeypatch.setattr(module, "short", lambda profile: setup)
    monkeypatch.setattr(study, "ARMS", {k: study.ARMS[k] for k in (study.FIXED, "learned")})
    monkeypatch.setattr(study, "SEEDS", {"quick": (0, 1)})
    store = Store("quick", root=tmp_path)
    curves = [replace(run, variances=(0.0, study.VARIANCE, 1.0)) for run in study.curves("quick")]
    monkeypatch.setattr(report, "curves", lambda profile: curves)
    runs = [run for arm in study.students("quick").values() for run in arm]
    shown = {"quick": {study.UNTINTED: Data("digits", test=10)}}
    monkeypatch.setattr(study, "SHOWN", shown)
    looks = [run for arm in study.looks("quick").values() for run in arm]
    records = {run.key: execute(run, store) for run in (*curves, *runs, *looks)}
    scores = records[curves[0].key]["result"]["rows"]
    assert scores[0]["cmi"] < scores[-1]["cmi"]
    fixed = next(run for run in runs if getattr(run, "learned", None) is False)
    result = records[fixed.key]["result"]
    assert result["perturbed"]["cmi"] == scores[1]["cmi"]
    assert result["curve"][0]["kl"] == pytest.approx(0, abs=1e-5)
    table = report.swep_table(store)
    assert list(table["arm"]) == [study.PLAIN, study.FIXED, "learned"] and (table["n"] == 2).all()
    rows = table.set_index("arm")
    assert rows.loc[study.FIXED, "gain"] == pytest.approx(0, abs=1e-9)
    assert "learned" in report.headline(table) and rows["corrupted"].between(0, 100).all()
    assert len(report.scores_table(store)) == 2 * 3 + 2


def test_a_gain_is_what_lies_above_the_curve():
    curve = [{"divergence": d, "cmi": d**0.5} for d in (0.9, 0.1, 0.2, 0.3, 0.5, 0.7)]
    assert report.gain({"divergence": 0.3, "cmi": 0.3**0.5}, curve) == pytest.approx(0)
    assert report.gain({"divergence": 0.6, "cmi": 0.05 + 0.6**0.5}, curve) == pytest.approx(
        0.05, abs=2e-3
    )
    assert report.gain({"divergence": 2.0, "cmi": 1.0}, curve) == pytest.approx(1 - 0.9**0.5)
