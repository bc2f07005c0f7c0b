"""The race finds what the full ranking finds, within its budget, and says so when it cannot."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from paperlib import scoring
from paperlib.augment import AUGMENTATIONS
from paperlib.scoring.estimates import BOX, Estimate, difference, estimate, standard_error
from paperlib.scoring.racing import (
    TRIED,
    least_images,
    level_of,
    nested_order,
    race,
    rank_within,
    schedule,
)

OWN = dict(
    mean=(0.5,) * 3, std=(0.25,) * 3, padding=0, cmi_weight=0.3
)  # with these, "none" is clearly best
CLASSES, N = 4, 800
LABELS = torch.arange(N) % CLASSES
# Four brightness levels under noise: erasing and inverting hide them, so that candidates differ
# clearly.
NOISE = 20 * torch.randn(N, 3, 8, 8, generator=torch.Generator().manual_seed(0))
IMAGES = (40 + 45 * LABELS[:, None, None, None] + NOISE).clamp(0, 255).to(torch.uint8)


class Brightness(nn.Module):
    """Logits by the distance of the mean brightness to each class's; counts the images it was
    given.
    """

    def __init__(self, classes=CLASSES, sharpness=4.0):
        super().__init__()
        self.centres = (40 + 45 * torch.arange(classes) - 127.5) / 63.75
        self.dropout, self.sharpness, self.images = nn.Dropout(0.5), sharpness, 0

    def forward(self, x):
        self.images += len(x)
        return self.dropout(-self.sharpness * (x.mean((1, 2, 3))[:, None] - self.centres).abs())


def logits(seed, n=N, noise=1.0, classes=CLASSES, margin=2.0):
    """(n, classes) float64 logits of images labelled in turn: `margin` for the right class and
    noise on all.
    """
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    scatter = noise * torch.randn(n, classes, dtype=torch.float64, generator=g)
    return margin * nn.functional.one_hot(labels, classes).double() + scatter


def raced(candidates, allowed, **options):
    """A race over stored logits, the targets LABELS."""
    sizes = schedule(N, len(candidates), allowed, 40, 1.5)

    def look(members, begin, end):
        return [estimate(candidates[i][:end], LABELS[:end], N) for i in members]

    return race(look, len(candidates), sizes, N, allowed, **options)


# ----------------------------------------------------------------------------------- the statistics


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_on_all_images_it_is_the_plain_score(soft):
    x, t = logits(1), LABELS
    if soft:
        one = nn.functional.one_hot(LABELS, CLASSES).double()
        t = 0.6 * one + 0.4 * one.roll(1, 0)
    found, plain = estimate(x, t, N, cmi_weight=0.5), scoring.score(x, t, cmi_weight=0.5)
    assert found.values == pytest.approx([plain.score, plain.cmi, plain.divergence])
    assert (found.bias == 0).all() and np.abs(found.influences.sum(0)).max() < 0.02
    fewer = estimate(x[:200], t[:200], N, cmi_weight=0.5)
    assert fewer.values[0] == pytest.approx(fewer.values[2] - 0.5 * fewer.values[1])


def test_the_jackknife_takes_the_bias_of_few_images_off_and_knows_its_error():
    """Against the mean over many small samples, not against the formula."""
    classes, n = 10, 100
    labels = torch.arange(n) % classes
    big = logits(0, 100_000, 2.0, classes)
    truth = scoring.score(big, torch.arange(len(big)) % classes)
    found = [estimate(logits(seed, n, 2.0, classes), labels, 10**9) for seed in range(1, 201)]
    values, bias = np.array([e.values for e in found]), np.array([e.bias for e in found])
    plain_error = (values + bias).mean(0) - [truth.score, truth.cmi, truth.divergence]
    error = values.mean(0) - [truth.score, truth.cmi, truth.divergence]
    noise = values.std(0) / np.sqrt(len(values))
    assert plain_error[0] > 0.1 and plain_error[1] < -0.1 and plain_error[2] > 0.01
    assert (np.abs(error) < 0.15 * np.abs(plain_error) + 3 * noise).all()
    stated = np.mean([standard_error(e.influences[:, 0]) for e in found])
    assert 0.93 < stated / values[:, 0].std() < 1.15


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_the_error_is_that_of_a_bootstrap(soft):
    """Of images that share nothing, whose batches say as much as they do alone."""
    x, t = logits(2, noise=2.0), LABELS
    shuffled = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    if soft:
        one = nn.functional.one_hot(LABELS, CLASSES).double()
        t = 0.7 * one + 0.3 * one[shuffled]
    found, bootstrapped = estimate(x[shuffled], t[shuffled], N), scoring.bootstrap(x, t, 400)
    for k, name in enumerate(("score", "cmi", "divergence")):
        error = standard_error(found.influences[:, k])
        assert error == pytest.approx(bootstrapped[name].std(), rel=0.15)


def test_the_interval_of_a_paired_difference_covers_the_truth_and_is_narrower():
    shared = lambda seed, own: logits(seed, 400) + 0.2 * logits(seed + own, 400, 1.0)  # noqa: E731
    labels, inside, widths = LABELS[:400], 0, []
    pairs = [
        (estimate(shared(s, 1000), labels, 10**9), estimate(shared(s, 2000) - 0.2, labels, 10**9))
        for s in range(100)
    ]
    truth = 0.0  # the same distribution but for a constant that softmax ignores
    for a, b in pairs:
        low, change, high = difference(a, b, 0.025)
        inside += low < truth < high
        widths.append((high - low) / 4 / standard_error(a.influences[:, 0]))
    assert inside >= 90 and np.mean(widths) < 0.6
    with pytest.raises(ValueError, match="400.*200"):
        difference(a, estimate(logits(0, 200), LABELS[:200], N), 0.025)


def test_images_that_share_a_box_are_one_observation():
    """Five copies of every image say no more than one: the error must not shrink by the square root
    of five.
    """
    x = logits(3, 200)
    copies, labels = x.repeat_interleave(BOX, 0), LABELS[:200].repeat_interleave(BOX)
    g = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    independent = torch.cat([logits(seed, 200)[g] for seed in range(5)])
    few = standard_error(estimate(copies, labels, 10**9).influences[:, 0])
    many = standard_error(estimate(independent, LABELS[:200][g].repeat(5), 10**9).influences[:, 0])
    assert few / many == pytest.approx(np.sqrt(5), rel=0.3)


def test_a_class_that_a_group_holds_alone_is_not_lost():
    labels = torch.zeros(40, dtype=torch.int64)
    labels[7] = 1
    assert np.isfinite(estimate(logits(0, 40, classes=2), labels, 400).influences).all()
    with pytest.raises(ValueError, match="class 1 has no image"):
        estimate(logits(0, 40, classes=2), torch.zeros(40, dtype=torch.int64), 400)


# ----------------------------------------------------------------------------------------- the race


def test_a_clear_winner_stops_the_race_early():
    run = raced([logits(0, margin=m) for m in (1.0, 5.0, 0.5, 0.0)], allowed=4 * N)
    assert run.stopped == "settled" and run.dropped.tolist() == [True, False, True, True]
    assert run.used < N and not run.active.any()


def test_equal_candidates_spend_the_budget_and_stay_open():
    same = logits(0, margin=3.0)
    run = raced([same, same, logits(0, margin=0.0)], allowed=900)
    assert run.stopped == "budget"
    assert run.active.tolist() == [True, True, False] and run.dropped.tolist() == [
        False,
        False,
        True,
    ]
    assert 900 - 2 * BOX < run.used <= 900
    assert raced([same, same], allowed=2 * N).stopped == "images"


def test_the_order_of_the_top_is_settled_not_only_its_members():
    margins = (1.0, 5.0, 3.0, 0.5, 0.0)
    run = raced([logits(0, margin=m) for m in margins], allowed=5 * N, top=3)
    assert run.stopped == "settled" and np.flatnonzero(~run.dropped).tolist() == [0, 1, 2]
    assert (
        run.better[1, [0, 2, 3, 4]].all()
        and run.better[2, 0]
        and not (run.better & run.better.T).any()
    )
    tied = raced([logits(0, margin=m) for m in (5.0, 3.0, 3.0)], allowed=3 * N, top=2)
    assert tied.stopped == "images" and tied.active.tolist() == [False, True, True]
    assert (
        raced([logits(0, margin=m) for m in (5.0, 3.0, 3.0)], allowed=3 * N, top=1).stopped
        == "settled"
    )


def test_the_wrong_winner_is_rare():
    """Forty races of a best candidate against three slightly worse ones: at confidence 0.95 two may
    go wrong.
    """
    wrong = 0
    for seed in range(40):
        best, *rivals = (logits(4 * seed + k, margin=2.0 + 0.15 * (k == 0)) for k in range(4))
        wrong += raced([best, *rivals], allowed=4 * N).dropped[0]
    assert wrong <= 4


def test_the_looks_of_a_pair_err_together_as_rarely_as_they_may():
    """Against sums of normal numbers, of as many images as a race has seen."""
    sizes = schedule(20_000, 16, 32_000, 100, 1.5)
    level, steps = level_of(sizes, 0.05), np.diff([0, *sizes])
    rng = np.random.default_rng(0)
    sums = (rng.normal(size=(40_000, len(sizes))) * np.sqrt(steps)).cumsum(1)
    erred = (sums / np.sqrt(sizes) > stats.norm.isf(level)).any(1).mean()
    assert 0.04 < erred < 0.05 + 0.003 and level > 1.2 * 0.05 / len(sizes)


def test_how_many_images_any_comparison_needs():
    """Against the formula written out, of two coins' divergence and one gap after the other."""
    kl = 0.05 * np.log(0.05 / 0.95) + 0.95 * np.log(0.95 / 0.05)
    near, far = 2 * kl * (1.0 / 0.1) ** 2, 2 * kl * (1.0 / 0.5) ** 2
    gaps, sigmas = np.array([0.1, 0.5, 0.0]), np.ones(3)
    assert least_images(gaps[:2], sigmas[:2], 10**6) == pytest.approx([near, near, far])
    # The second place is open to the third; what is equal needs all.
    assert least_images(gaps[1::-1], sigmas[:2], 10**6, top=2) == pytest.approx([far, near, near])
    assert least_images(gaps, sigmas, 300)[[0, 3]].tolist() == [300, 300]
    assert least_images(gaps, 0 * sigmas, 300).tolist() == [300, 0, 0, 300]
    assert least_images(gaps[:0], sigmas[:0], 300).tolist() == [0]
    assert (least_images(gaps[:2], sigmas[:2], 10**6, confidence=0.4) == 0).all()


def test_every_image_is_looked_at_once_and_never_more_than_allowed():
    seen = []

    def look(members, begin, end):
        seen.extend((i, begin, end) for i in members)
        numbers = {i: np.random.default_rng(i).normal(size=(20, 3)) for i in members}
        zero = np.zeros(3)
        return [Estimate(end, zero + 0.1 * (i > 3), zero, numbers[i]) for i in members]

    for allowed in range(400, 3000, 371):
        seen.clear()
        sizes = schedule(1000, 7, allowed, 40, 2)
        run = race(look, 7, sizes, 1000, allowed)
        assert sum(end - begin for _, begin, end in seen) == run.used <= allowed
        for i in range(7):
            steps = [(begin, end) for k, begin, end in seen if k == i]
            assert steps[0][0] == 0 and all(
                a[1] == b[0] for a, b in zip(steps, steps[1:], strict=False)
            )


# ---------------------------------------------------------------------------------------- a teacher


@pytest.mark.parametrize("counts", [(50,) * 4, (100, 50, 25, 5)], ids=["even", "uneven"])
def test_every_beginning_holds_the_classes_in_their_shares(counts):
    labels = torch.repeat_interleave(torch.arange(4), torch.tensor(counts))
    order = nested_order(labels, seed=3)
    assert order.sort().values.equal(torch.arange(len(labels)))
    for n in range(4, len(labels) + 1):
        found = torch.bincount(labels[order[:n]], minlength=4)
        share = n * torch.tensor(counts) / len(labels)
        assert (found >= 1).all() and (
            (found - share).abs() <= (1 if counts[0] == 50 else 2.5)
        ).all()
    assert not order.equal(nested_order(labels, seed=4)) and order.equal(
        nested_order(labels, seed=3)
    )


def test_with_the_whole_budget_it_agrees_with_rank():
    names = ["erasing+cutmix", "none", "autoaugment_svhn", "erasing"]
    full = scoring.rank(
        Brightness(), (IMAGES, LABELS), names, **OWN, replicates=0, batch=20
    )  # as many as 40 CutMix boxes
    whole = rank_within(Brightness(), (IMAGES, LABELS), names, **OWN, budget=1, start=N)
    assert whole["images"].tolist() == [N] * 4 and whole.attrs["share"] == 1
    assert whole["augmentation"].tolist() == full["augmentation"].tolist()
    # Two passes of other random numbers over the same images: within each other's intervals, or
    # nearly.
    margin = 1.5 * (whole["score_high"] - whole["score"])
    assert (np.abs(full["score"] - whole["score"]) < margin).all()
    assert (full["score"].diff()[1:] > 0.05).all()  # the order is no chance


def test_the_winner_of_rank_from_a_part_of_its_images():
    full = scoring.rank(Brightness(), (IMAGES, LABELS), **OWN, replicates=0)
    teacher, before = Brightness().train(), IMAGES.clone()
    steps = []
    table = rank_within(teacher, (IMAGES, LABELS), **OWN, progress=lambda *step: steps.append(step))
    assert table["augmentation"][0] == full["augmentation"][0]
    assert 0 < table.attrs["bound"] < table.attrs["share"]
    assert (
        teacher.images - 2 * TRIED
        == table["images"].sum()
        == round(table.attrs["share"] * 16 * N)
        <= 0.1 * 16 * N
    )
    assert teacher.training and torch.equal(IMAGES, before)
    assert table["rank"].tolist() == list(range(1, 17)) and set(table["augmentation"]) == set(
        AUGMENTATIONS
    )
    assert np.allclose(table["score"], table["divergence"] - 0.3 * table["cmi"])
    assert table["behind"][0] == 0 and (table["behind_low"] <= table["behind"]).all()
    dropped = table["state"] == "dropped"
    assert dropped.is_monotonic_increasing and table["behind"][dropped].is_monotonic_increasing
    assert steps[0] == (0, 1280, "none") and len(steps) >= 16
    assert rank_within(Brightness(), (IMAGES, LABELS), **OWN).equals(table)
    assert not rank_within(Brightness(), (IMAGES, LABELS), **OWN, seed=1).equals(table)


def test_identical_candidates_are_reported_as_open():
    table = rank_within(
        Brightness(),
        (IMAGES, LABELS),
        {"none": "none", "again": "none", "svhn": "autoaugment_svhn"},
        **OWN,
        budget=0.3,
    )
    assert table.attrs["stopped"] == "budget" and table["state"].tolist() == [
        "open",
        "open",
        "dropped",
    ]
    assert table["behind"][1] == 0  # all random numbers are shared
    assert 0.29 < table.attrs["share"] <= 0.3 < 2 / 3 < table.attrs["bound"] < 1


def test_one_candidate_is_settled_at_once():
    table = rank_within(Brightness(), (IMAGES, LABELS), ["none"], **OWN)
    assert table["state"].tolist() == ["settled"] and table.attrs["stopped"] == "settled"


@pytest.mark.parametrize(
    "change, named",
    [
        (dict(budget=0), "got 0"),
        (dict(budget=1.5), "1.5"),
        (dict(budget=0.01), r"0\.01 lets 8 of 800"),
        (dict(top=0), "got 0"),
        (dict(top=3), "1..2.*got 3"),
        (dict(confidence=1), "got 1"),
        (dict(growth=1), "got 1"),
        (dict(start=5), "got 5"),
        (dict(start=81), "20..80.*got 81"),
        (dict(batch=4), "got 4"),
        (dict(augmentations=["none", "mixup"]), "mixup"),
        (dict(augmentations=[]), r"\[\]"),
        (dict(mean=None), "mean"),
        (dict(teacher=Brightness(5)), "5 classes.*has 4"),
        (dict(data=(IMAGES.float(), LABELS)), "float32"),
        (dict(data=(IMAGES, 2 * LABELS)), "class 1 has no image"),
    ],
)
def test_what_is_wrong_is_named(change, named):
    arguments = (
        dict(teacher=Brightness(), data=(IMAGES, LABELS), augmentations=["none", "erasing"], **OWN)
        | change
    )
    with pytest.raises(ValueError, match=named):
        rank_within(arguments.pop("teacher"), arguments.pop("data"), **arguments)
