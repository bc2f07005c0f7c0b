"""The scorer against a slow transcription of the definitions, and `rank` on a user's own
teacher.
"""

import math
from dataclasses import asdict

import pytest
import torch
from torch import nn

from paperlib import data as datasets
from paperlib import scoring as scorer
from paperlib.augment import AUGMENTATIONS
from paperlib.scoring import (
    centroid_divergence,
    class_centroids,
    cmi,
    rank,
    ranking,
    score,
    teacher_stddev,
)

G = torch.Generator().manual_seed(0)
LOGITS = 2 * torch.randn(60, 4, dtype=torch.float64, generator=G)
HARD = torch.arange(60) % 4
SOFT = (
    0.7 * torch.nn.functional.one_hot(HARD, 4).double()
    + 0.3 * torch.nn.functional.one_hot(HARD.roll(7), 4).double()
)


def slow(logits, targets):
    """Centroids, CMI, D, entropy and cross-entropy, number by number."""
    n, c = logits.shape
    t = [
        [float(targets[i] == y) if targets.ndim == 1 else float(targets[i, y]) for y in range(c)]
        for i in range(n)
    ]
    p = [[math.exp(v) / sum(math.exp(w) for w in row) for v in row] for row in logits.tolist()]
    q = [
        [
            sum(t[i][y] * p[i][k] for i in range(n)) / sum(t[i][y] for i in range(n))
            for k in range(c)
        ]
        for y in range(c)
    ]
    value = 0.0
    for i in range(n):
        mixture = [sum(t[i][y] * q[y][k] for y in range(c)) for k in range(c)]
        value += sum(p[i][k] * math.log(p[i][k] / mixture[k]) for k in range(c)) / n
    divergence = sum(-math.log(q[y][y]) for y in range(c)) / c
    entropy = -sum(v * math.log(v) for row in p for v in row) / n
    cross = -sum(t[i][k] * math.log(p[i][k]) for i in range(n) for k in range(c)) / n
    return q, value, divergence, entropy, cross


@pytest.mark.parametrize("targets", [HARD, SOFT], ids=["hard", "soft"])
def test_equals_the_definitions(targets):
    q, value, divergence, entropy, cross = slow(LOGITS, targets)
    centroids = class_centroids(LOGITS.softmax(1), targets)
    assert torch.allclose(centroids, torch.tensor(q, dtype=torch.float64))
    assert torch.allclose(centroids.sum(1), torch.ones(4, dtype=torch.float64))
    assert cmi(LOGITS, targets).item() == pytest.approx(value)
    assert cmi(LOGITS, targets, centroids).item() == pytest.approx(value)
    assert centroid_divergence(centroids).item() == pytest.approx(divergence)
    found = score(LOGITS, targets, cmi_weight=0.5)
    assert found.score == pytest.approx(divergence - 0.5 * value)
    assert (found.entropy, found.cross_entropy) == (pytest.approx(entropy), pytest.approx(cross))


def test_one_hot_soft_labels_are_hard_labels():
    one = torch.nn.functional.one_hot(HARD, 4).float()
    assert asdict(score(LOGITS, one)) == pytest.approx(asdict(score(LOGITS, HARD)))


def test_cmi_of_hard_labels_is_a_difference_of_entropies():
    p = LOGITS.softmax(1)
    q = class_centroids(p, HARD)

    def h(x):
        return -(x * x.log()).sum(1)

    assert cmi(LOGITS, HARD).item() == pytest.approx((h(q)[HARD] - h(p)).mean().item())


def test_own_centroids_minimise_cmi_and_constant_predictions_have_none():
    other = class_centroids((LOGITS + torch.randn(60, 4, generator=G)).softmax(1), HARD)
    assert cmi(LOGITS, HARD) < cmi(LOGITS, HARD, other)
    constant = torch.tensor([[3.0, 1.0, 0.0, -2.0]]).expand(60, 4)
    assert cmi(constant, HARD).item() == pytest.approx(0, abs=1e-9)
    assert cmi(constant, HARD).item() >= 0


def test_perfect_predictions_score_zero():
    sure = 1000 * torch.nn.functional.one_hot(HARD, 4).double()
    found = score(sure, HARD)
    assert (found.score, found.cmi, found.divergence, found.cross_entropy) == (0, 0, 0, 0)


def test_transposed_centroids_are_the_released_fault():
    p = LOGITS.softmax(1)
    expected = torch.zeros(4, 4, dtype=torch.float64)
    for x, t in zip(p, SOFT, strict=True):
        expected += torch.outer(x, t)  # [predicted, label]
    expected /= SOFT.sum(0)[:, None]
    released = class_centroids(p, SOFT, transposed=True)
    assert torch.allclose(released, expected)
    assert torch.allclose(
        centroid_divergence(released), centroid_divergence(class_centroids(p, SOFT))
    )
    assert not torch.allclose(cmi(LOGITS, SOFT, released), cmi(LOGITS, SOFT))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_and_inputs_are_kept(dtype):
    logits = LOGITS.to(dtype)
    before = logits.clone()
    assert cmi(logits, HARD).dtype == class_centroids(logits.softmax(1), HARD).dtype == dtype
    assert torch.equal(logits, before)


def test_teacher_stddev_by_hand():
    p = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.5, 0.5], [0.1, 0.9], [0.3, 0.7]])
    groups = [(0.9 + 0.7) / 2, (0.5 + 0.1) / 2]
    mean = sum(groups) / 2
    expected = math.sqrt(
        sum((g - mean) ** 2 for g in groups)
    )  # unbiased over two groups; both classes alike
    assert teacher_stddev(p, [2, 2]).item() == pytest.approx(
        expected, rel=1e-5
    )  # the incomplete last group is left out
    for sizes in ([5], [], [2, 0], [3, 3]):
        with pytest.raises(ValueError, match="group"):
            teacher_stddev(p, sizes)


@pytest.mark.parametrize(
    "logits, targets, named",
    [
        (torch.full((4, 2), float("nan")), torch.tensor([0, 1, 0, 1]), "nan"),
        (torch.zeros(4, 2), torch.tensor([0, 1, 2, 1]), "2"),
        (torch.zeros(4, 2), torch.tensor([0, -1, 0, 1]), "-1"),
        (torch.zeros(4, 2), torch.full((4, 2), 0.6), "1.2"),
        (torch.zeros(4, 2), torch.tensor([[1.5, -0.5]] * 4), "non-negative"),
        (torch.zeros(4, 2), torch.tensor([0, 0, 0, 0]), "class 1 has no image"),
        (torch.zeros(4, 2, dtype=torch.int64), torch.tensor([0, 1, 0, 1]), "float"),
    ],
)
def test_bad_input_is_named(logits, targets, named):
    for function in (score, cmi):
        with pytest.raises(ValueError, match=named):
            function(logits, targets)


# --------------------------------------------------------------------------------------------- rank


class Linear(nn.Module):
    """A user's own teacher, on images that are not square and not 32 pixels."""

    def __init__(self, classes=3):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(0.05 * torch.randn(classes, 3 * 12 * 16, generator=generator))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(x.flatten(1)) @ self.weight.T


IMAGES = torch.randint(0, 256, (90, 3, 12, 16), dtype=torch.uint8, generator=G)
LABELS = torch.arange(90) % 3
OWN = dict(mean=(0.5,) * 3, std=(0.25,) * 3, stddev_group=20, replicates=30, batch=30)


def test_rank_any_teacher_and_any_images():
    teacher = Linear().train()
    before = IMAGES.clone()
    steps = []
    table = rank(teacher, (IMAGES, LABELS), progress=lambda *step: steps.append(step), **OWN)
    assert sorted(table["augmentation"]) == sorted(AUGMENTATIONS)
    assert table["score"].is_monotonic_increasing and table["rank"].tolist() == list(range(1, 17))
    assert (
        (table["cmi"] > 0).all()
        and (table["divergence"] > 0).all()
        and (table["teacher_stddev"] > 0).all()
    )
    assert torch.allclose(
        torch.tensor(table["score"]), torch.tensor(table["divergence"] - table["cmi"])
    )
    assert (table["score_low"] < table["score_high"]).all()
    mixed = table["augmentation"].str.endswith("+cutmix")
    assert (table["cmi_released"] == table["cmi"])[~mixed].all() and (
        table["cmi_released"] != table["cmi"]
    )[mixed].all()
    assert teacher.training and torch.equal(IMAGES, before)
    assert steps[0][:2] == (0, 16) and steps[-1][:2] == (16, 16)
    again = rank(teacher, (IMAGES, LABELS), **OWN)
    assert again.equals(table)  # dropout is off, random numbers are keyed


def test_t_stddev_does_not_measure_how_the_images_are_sorted():
    """Groups of class-sorted images would differ in class; the order of the pass is shuffled."""
    labels = torch.arange(300) % 3
    images = (60 + 60 * labels)[:, None, None, None].expand(-1, 3, 12, 16).to(torch.uint8)
    teacher = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    teacher[2].weight.data = torch.tensor([[-9.0] * 3, [0.0] * 3, [9.0] * 3])
    teacher[2].bias.data = torch.tensor([0.0, 2.0, 0.0])
    order = labels.argsort(stable=True)
    p = teacher(datasets.normalise(images[order], (0.5,) * 3, (0.25,) * 3)).softmax(1)
    sorted_groups = teacher_stddev(p, [20] * 15).item()
    table = rank(teacher, (images[order], labels[order]), ["none"], **OWN)
    assert table["teacher_stddev"][0] < sorted_groups / 3


def test_t_stddev_pairs_each_view_with_a_base_view_of_its_own():
    """For "none" the base half is another draw, and CutMix is drawn for both halves."""
    teacher, data = Linear(), ranking.Scoring((0.5,) * 3, (0.25,) * 3).dataset((IMAGES, LABELS))
    table = rank(teacher, (IMAGES, LABELS), ["none", "erasing+cutmix"], **OWN).set_index(
        "augmentation"
    )
    for name, partner in (("none", "none"), ("erasing+cutmix", "none+cutmix")):
        view = scorer.predict(teacher, data, name, batch=30)[0]
        base = scorer.predict(teacher, data, partner, batch=30, draw=1)[0]
        assert not torch.equal(view, base)
        means = [
            torch.cat([view[i : i + 20], base[i : i + 20]]).double().softmax(1).mean(0)
            for i in range(0, 80, 20)
        ]
        assert table.loc[name, "teacher_stddev"] == pytest.approx(
            torch.stack(means).std(0).mean().item(), rel=1e-5
        )


def test_the_interval_holds_the_estimate_and_the_truth():
    """With many classes and few images every replicate loses CMI; the interval must not."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(900) % 30

    def draw():
        return 3 * torch.randn(
            900, 30, dtype=torch.float64, generator=generator
        ) + 4 * torch.nn.functional.one_hot(labels, 30)

    row = scorer.evaluate(draw(), labels, 1.0, 100, 0)
    for name in ("score", "cmi", "divergence"):
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
    inside = 0
    truth = (
        sum(
            float(centroid_divergence(class_centroids(draw().softmax(1), labels)))
            for _ in range(40)
        )
        / 40
    )
    for seed in range(40):
        row = scorer.evaluate(draw(), labels, 1.0, 100, seed)
        inside += row["divergence_low"] < truth < row["divergence_high"]
    assert 32 <= inside <= 40  # 38 expected


def test_the_replicates_shrink_with_the_images():
    few, many = (
        scorer.bootstrap(LOGITS.repeat(k, 1), HARD.repeat(k), 200, seed=1)["score"] for k in (1, 16)
    )
    assert few.std() / many.std() == pytest.approx(4, rel=0.35)
    soft = scorer.bootstrap(LOGITS, SOFT, 200, seed=1)
    assert soft["cmi"].mean() == pytest.approx(cmi(LOGITS, SOFT).item(), rel=0.1)
    hard_as_soft = scorer.bootstrap(LOGITS, torch.nn.functional.one_hot(HARD, 4).double(), 20)
    for name, values in scorer.bootstrap(LOGITS, HARD, 20).items():
        assert hard_as_soft[name] == pytest.approx(values)  # the two ways to sum agree


@pytest.mark.parametrize(
    "change, named",
    [
        (dict(augmentations=["none", "mixup"]), "mixup"),
        (dict(mean=None), "mean"),
        (dict(teacher=Linear(5)), r"5\).*3 classes"),
        (dict(data=(IMAGES.float(), LABELS)), "float32"),
        (dict(stddev_group=0), "0"),
        (dict(data=(IMAGES, LABELS - 1)), "-1"),
    ],
)
def test_rank_names_what_is_wrong(change, named):
    arguments = (
        dict(teacher=Linear(), data=(IMAGES, LABELS), augmentations=["none"], **OWN) | change
    )
    with pytest.raises(ValueError, match=named):
        rank(arguments.pop("teacher"), arguments.pop("data"), **arguments)


def test_a_teacher_that_gives_nan_is_refused():
    teacher = Linear()
    teacher.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="nan"):
        rank(teacher, (IMAGES, LABELS), ["none"], **OWN)


def test_an_option_that_is_not_there_is_named():
    for ranker in (rank, scorer.rank_within):
        with pytest.raises(TypeError, match="paddding"):
            ranker(
                Linear(), (IMAGES, LABELS), ["none"], mean=(0.5,) * 3, std=(0.25,) * 3, paddding=2
            )
