"""KD thrives on data augmentation: the loss against its formula, mixed images against plain ones,
the learner against plain training, and a run end to end.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from paperlib.basics.recipe import Recipe
from paperlib.data import load, subset
from paperlib.losses import objective
from paperlib.models import build
from paperlib.runs.sweep import sweep
from paperlib.study.config import Data, StudentRun, TeacherRun, fields_of
from paperlib.study.store import Store
from paperlib.training import Task, fit
from paperlib.training.learners import Single, batches
from related.kdda import report, study
from related.kdda.method import Mixing, mixed_loss, mixup
from related.kdda.study import FORMS, MixedRun

g = torch.Generator().manual_seed(0)
STUDENT, TEACHER, ITS_STUDENT, ITS_TEACHER = torch.randn(4, 5, 3, generator=g)
LABELS = torch.tensor([0, 1, 2, 1, 0])
SOFT = torch.rand(5, 3, generator=g)
SOFT /= SOFT.sum(1, keepdim=True)


@pytest.fixture(scope="module")
def data():
    return subset(load("digits"), 44, 20)


def task_of(data, augmentation="none", loss="kd", **changes):
    recipe = Recipe(1, 8, 0.01, 1e-4, "sgd", threads=1)
    teacher = build("resnet8", 10, seed=1)
    return Task(data, augmentation, objective(loss, **changes), recipe, 0, teacher)


@pytest.mark.parametrize("form", FORMS)
def test_the_loss_is_its_written_out_terms(form):
    def log_p(logits, temperature):
        z = logits.double().numpy() / temperature
        return z - np.log(np.exp(z).sum(1, keepdims=True))

    def ce(student, targets):
        targets = np.eye(3)[targets] if targets.ndim == 1 else targets.double().numpy()
        return -(targets * log_p(student, 1)).sum(1).mean()

    def kl(student, teacher):
        s, t = log_p(student, 4), log_p(teacher, 4)
        return 16 * (np.exp(t) * (t - s)).sum(1).mean()

    wanted = {
        "mixed": 0.1 * ce(ITS_STUDENT, SOFT) + 0.9 * kl(ITS_STUDENT, ITS_TEACHER),
        "tl": 0.1 * ce(STUDENT, LABELS) + 0.9 * kl(ITS_STUDENT, ITS_TEACHER),
        "tl_released": 0.1 * ce(STUDENT, LABELS)
        + 0.9 * (kl(STUDENT, TEACHER) + kl(ITS_STUDENT, ITS_TEACHER)),
    }
    plain, mixed = (STUDENT, TEACHER, LABELS), (ITS_STUDENT, ITS_TEACHER, SOFT)
    found = mixed_loss(form, plain, mixed, 0.1, 0.9)
    assert float(found) == pytest.approx(wanted[form], abs=1e-5)
    if form == "mixed":
        assert found == mixed_loss(form, None, mixed, 0.1, 0.9)
    else:
        with pytest.raises(ValueError, match=form):
            mixed_loss(form, None, mixed, 0.1, 0.9)


def test_mixup_mixes_each_image_with_the_one_before_and_its_label_alike():
    x = torch.rand(5, 3, 4, 4, generator=g)
    mixed, soft = mixup(x, LABELS, 3, 0.7)
    for n in range(5):
        assert torch.allclose(mixed[n], 0.7 * x[n] + 0.3 * x[n - 1])
        hot = torch.eye(3)
        assert torch.allclose(soft[n], 0.7 * hot[LABELS[n]] + 0.3 * hot[LABELS[n - 1]])
    same, labels = mixup(x, LABELS, 3, 1.0)
    assert same.equal(x) and labels.equal(torch.eye(3)[LABELS])


def test_mixed_images_are_made_of_the_plain_ones(data):
    """CutMix: each pixel is the image's own or that of the image before it in the batch."""
    task = task_of(data)
    learner = Mixing(build("resnet8", 10), task, mixing="cutmix", form="tl")
    found = list(learner.batches(0))
    assert len(found) == learner.steps()
    for (x, mixed, labels, soft), (own, its, _) in zip(found, batches(task, 0), strict=True):
        assert x.equal(own) and labels.equal(its)
        kept, before = (mixed == x).all(1), (mixed == x.roll(1, 0)).all(1)
        assert (kept | before).all() and torch.allclose(soft.sum(1), torch.ones(len(x)))
    for x, mixed, labels, soft in Mixing(
        build("resnet8", 10), task, mixing="mixup", form="tl"
    ).batches(0):
        own = soft.gather(1, labels[:, None]).min()
        again = mixup(x, labels, 10, float(own))
        assert torch.allclose(mixed, again[0], atol=1e-5) and torch.allclose(soft, again[1])


def test_mixed_cutmix_is_plain_training_with_cutmix(data):
    plain, mixing = build("resnet8", 10), build("resnet8", 10)
    fit(plain, task_of(data, "none+cutmix"), learner=Single)

    def learner(*arguments):
        return Mixing(*arguments, mixing="cutmix", form="mixed")

    fit(mixing, task_of(data), learner=learner)
    state = mixing.state_dict()
    assert all(value.equal(state[name]) for name, value in plain.state_dict().items())


def test_what_it_cannot_mix_is_named(data):
    how = {"mixing": "cutmix", "form": "tl"}
    for wrong in (
        task_of(data, "none+cutmix"),
        task_of(data, loss="ce"),
        task_of(data, loss="dkd"),
        task_of(data, smoothing=0.1),
    ):
        with pytest.raises(ValueError, match="cutmix|KD"):
            Mixing(build("resnet8", 10), wrong, **how)


# -------------------------------------------------------------------------------------------- runs

FEW = Data("digits", train=40, test=40)
TEACHER_RUN = TeacherRun(FEW, "resnet8", Recipe(1, 8, 0.1, 1e-4, "sgd", threads=1), "none")
RECIPE = Recipe(1, 8, 1e-3, 1e-4, quantizer_lr=1e-5, threads=1)
PLAIN = StudentRun(FEW, TEACHER_RUN, "none", RECIPE, 2, 2)
RUN = MixedRun(**fields_of(PLAIN), mixing="mixup", form="tl")


def test_runs_end_to_end(tmp_path, monkeypatch):
    store = Store("quick", root=tmp_path)
    longer = replace(PLAIN, recipe=replace(RECIPE, epochs=2))
    found = {("kd", "none", 1): [PLAIN], ("kd", "none", 2): [longer]}
    found |= {
        ("kd", "none+cutmix", n): [replace(PLAIN, augmentation="none+cutmix")] for n in (2, 4)
    }
    mixes = {("mixed", "cutmix"): found["kd", "none+cutmix", 2], ("tl", "mixup"): [RUN]}
    monkeypatch.setattr(report, "schedules", lambda profile: found)
    monkeypatch.setattr(report, "mixes", lambda profile: mixes)
    assert report.kdda_table(store).empty
    sweep([PLAIN, longer, found["kd", "none+cutmix", 2][0], RUN], store, jobs=1)
    table = report.kdda_table(store)
    assert len(table) == 6 and (table["n"] == 1).all()
    gain = store.load(longer)["result"]["accuracy"] - store.load(PLAIN)["result"]["accuracy"]
    assert table["difference"].iloc[1] == pytest.approx(gain)
    with pytest.raises(ValueError, match="none.cutmix"):
        replace(RUN, augmentation="none+cutmix")
    with pytest.raises(ValueError, match="both"):
        replace(RUN, form="both")


def test_gains_are_paired_by_seed():
    accuracies = {
        ("ce", "none", 1): [90.0, 91, 92],
        ("ce", "none", 4): [90.0, 92, 92],
        ("kd", "none", 1): [90.0, 90, 91],
        ("kd", "none", 4): [94.0, 95, 95],
    }
    series = {key: pd.Series(dict(enumerate(each))) for key, each in accuracies.items()}
    found = report.contrast(
        series["kd", "none", 4] - series["kd", "none", 1],
        series["ce", "none", 4] - series["ce", "none", 1],
    )
    extra = np.array([4.0, 4, 4])
    assert found["gain"] == pytest.approx(extra.mean())
    assert found["se"] == pytest.approx(extra.std(ddof=1) / 3**0.5)
    assert found["verdict"] == "yes" and study.LENGTHS == (1, 2, 4)
