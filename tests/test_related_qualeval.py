"""QualEval: measures and assignment against slow ones, its statistics, one tiny end to end run."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage, stats

from paperlib.basics.recipe import Recipe
from paperlib.data import load
from paperlib.runs.sweep import sweep
from paperlib.study.config import Data
from paperlib.study.profiles import Setup
from paperlib.study.store import Store
from related.qualeval import report
from related.qualeval.method import affinity, assign, measures, teacher_measures
from related.qualeval.study import AttributesRun

RNG = np.random.default_rng(3)


def kept(given, bounds):
    low, high = bounds
    return all(low[j] <= given.count(j) <= high[j] for j in range(len(low)))


@pytest.mark.parametrize("slots, slack", [(1, 0.1), (2, 0.1), (2, 0.0), (1, 1.0)])
def test_the_assignment_is_the_best_of_all(slots, slack):
    """All assignments of a few samples are tried. With slack 1 an attribute may be left out."""
    for _ in range(5):
        scores = RNG.integers(1, 6, (5, 3)).astype(float)
        wanted = slots * 5 * scores.sum(0) / scores.sum()
        bounds = np.floor((1 - slack) * wanted), np.ceil((1 + slack) * wanted)
        rows = itertools.product(itertools.combinations(range(3), slots), repeat=5)
        best = max(
            sum(scores[i, j] for i, row in enumerate(rows_) for j in row)
            for rows_ in rows
            if kept([j for row in rows_ for j in row], bounds)
        )
        found = assign(scores, slots, slack)
        assert kept(found.ravel().tolist(), bounds)
        assert np.take_along_axis(scores, found, 1).sum() == pytest.approx(best)


def test_every_sample_has_its_slots_and_every_attribute_its_share():
    values = RNG.normal(size=(400, 7))
    ranks = np.stack([affinity(column) for column in values.T], 1)
    given = assign(np.stack([6 - ranks, ranks], 2).reshape(400, -1), 2, 0.1)
    counts = np.bincount(given.ravel(), minlength=14)
    assert given.shape == (400, 2) and (given[:, 0] < given[:, 1]).all()
    assert counts.min() >= math.floor(0.9 * 800 / 14) and counts.max() <= math.ceil(1.1 * 800 / 14)
    of_low = values[(given == 0).any(1), 0]  # the low end of the first measure
    assert of_low.max() < np.median(values[:, 0])
    for wrong in ({"slots": 15}, {"scores": -np.ones((2, 2, 2))}, {"slack": 2}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            assign(**{"scores": ranks, "slots": 2, "slack": 0.1} | wrong)


def slow(image):
    """The measures of one image (3, H, W) in 0 .. 1."""
    red, green, blue = image
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    a, b = red - green, (red + green) / 2 - blue
    most, least = image.max(0), image.min(0)
    steep = np.hypot(ndimage.sobel(grey, 0), ndimage.sobel(grey, 1))[1:-1, 1:-1]
    share = steep / steep.sum()
    power = np.abs(np.fft.fft2(grey - grey.mean())) ** 2
    fine = [[max(min(k, 32 - k), min(m, 32 - m)) > 8 for m in range(32)] for k in range(32)]
    return {
        "brightness": grey.mean(),
        "contrast": grey.std(),
        "saturation": np.divide(most - least, most, where=most > 0, out=0 * most).mean(),
        "colourfulness": math.hypot(a.std(), b.std()) + 0.3 * math.hypot(a.mean(), b.mean()),
        "edges": steep.mean(),
        "high_frequency": power[np.array(fine)].sum() / power.sum(),
        "clutter": -sum(p * math.log(p) for p in share.flat if p > 0) / math.log(900),
    }


def test_measures_are_their_slow_transcription():
    images = torch.cat(
        [
            load("digits").test_images[:3],
            (torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 255).byte(),
        ]
    )
    found = measures(images)
    for k, image in enumerate(images.numpy() / 255):
        wanted = slow(image)
        assert wanted.keys() == found.keys()
        for name, value in wanted.items():
            assert found[name][k] == pytest.approx(value, abs=1e-9), name
    black = measures(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    assert all((values == 0).all() for values in black.values())


def test_a_teachers_measures():
    p, labels = torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]]), torch.tensor([0, 0, 1])
    found = teacher_measures(p, labels)
    assert found["confidence"].tolist() == pytest.approx([0.8, 0.6, 0.9])
    assert found["distance"].tolist() == pytest.approx([0.1, 0.1, 0.0], abs=1e-6)


def test_wilson_and_the_bound_are_scipys():
    for k, n in ((0, 7), (3, 20), (50, 50)):
        wanted = stats.binomtest(k, n).proportion_ci(method="wilson")
        assert report.wilson(k / n, n) == pytest.approx((wanted.low, wanted.high), abs=1e-9)
    for wrong in ((1.1, 5), (0.5, 0)):
        with pytest.raises(ValueError, match=str(wrong[0])):
            report.wilson(*wrong)
    assert stats.norm.sf(report.bound(10)) * 20 == pytest.approx(0.05)


def test_z_is_measured_in_standard_deviations_of_random_parts():
    change, part = RNG.choice([-1.0, 0, 1], 60, p=[0.3, 0.6, 0.1]), np.arange(60) < 15
    means = [change[RNG.permutation(60)[:15]].mean() for _ in range(20_000)]
    wanted = (change[part].mean() - change.mean()) / np.std(means)
    assert report.z_of_part(change, part) == pytest.approx(wanted, abs=0.05)
    assert report.z_of_part(change, ~part) == pytest.approx(-report.z_of_part(change, part))
    assert report.z_of_part(np.zeros(4), np.arange(4) < 2) == 0


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A teacher and two students on a few digits."""
    recipe = Recipe(1, 50, 0.1, 1e-4, "sgd", threads=1)
    own = Recipe(1, 50, 1e-3, 1e-4, quantizer_lr=1e-5, threads=1)
    setup = Setup(Data("digits", 100, 60), "resnet8", 2, recipe, own, teacher_augmentation="none")
    look = AttributesRun(setup.data, setup.teacher)
    students = {"none": [setup.student("none")], "augmix": [setup.student("augmix")]}
    monkeypatch.setattr(report, "tried", lambda profile: setup)
    monkeypatch.setattr(report, "attributes", lambda profile: look)
    monkeypatch.setattr(report, "students", lambda profile: students)
    store = Store("quick", root=tmp_path)
    assert report.qualeval_table(store).empty
    sweep([look, *students["none"], *students["augmix"]], store, jobs=1)
    return store


def test_the_table_counts_what_the_predictions_say(store):
    table, found = report.qualeval_table(store), report.rights(store)
    result = store.load(report.attributes("quick"))["result"]
    assert "saturation" not in result["measures"]  # digits are grey
    assert len(table) == 2 * len(result["attributes"])
    given = np.array(result["given"].split(), int).reshape(60, 2)
    row = table[table["change"] == "augmix"].iloc[0]
    part = (given == result["attributes"].index(row["attribute"])).any(1)
    assert row["images"] == part.sum() and row["low"] <= row["accuracy_mean"] <= row["high"]
    assert row["before"] == pytest.approx(100 * found["none"][part].mean())
    change = found["augmix"] - found["none"]
    assert row["difference"] == pytest.approx(100 * change[part].mean())
    assert row["elsewhere"] == pytest.approx(100 * change[~part].mean())
    accuracy = store.load(report.attributes("quick").network)["result"]["accuracy"]
    assert 100 * found["teacher"].mean() == pytest.approx(accuracy)
    shares = report.overlap(found, table).set_index("augmentation").loc["none"]
    assert shares["both_wrong"] + shares["rescued"] == pytest.approx(100 - accuracy)
    assert report.correlations(store).shape == (len(result["measures"]),) * 2


def test_sentences_are_written_beyond_the_bound_only():
    rows = {"change": ["2 bits", "augmix", "2 bits"], "attribute": ["dark", "bright", "coarse"]}
    rows |= {"difference": [-7.1, 3.0, 1.0], "elsewhere": [-2.3, 0.0, 0.5], "z": [-4.0, 3.5, 1.0]}
    table = pd.DataFrame(rows).assign(beyond=[True, True, False], images=50)
    said = report.sentences(table)
    assert len(said) == 2 and "7.1" in said[0] and "dark" in said[0] and "bright" in said[1]
    assert "7.1" in report.headline(table)
    assert "-7.1" in report.headline(table.assign(beyond=False))
