"""The score computed in other ways, forms of quantizers, and the policy search."""

import numpy as np
import pytest
import torch
from test_gains import scored
from test_report import ACCURACIES, WHERE

from paperlib import scoring
from paperlib.augment import OPS, apply_chains, augment, generator, parse, policies
from paperlib.augment.pipeline import crop_draw
from paperlib.data import Dataset
from paperlib.reporting import ablations, results
from paperlib.study import plan
from paperlib.study.plan import BEST_FEW, BEST_PAIR, StudentRun, Way
from paperlib.study.profiles import CANDIDATES


@pytest.fixture(scope="module")
def small():
    """A teacher and 120 images of three classes."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (120, 3, 8, 8), generator=rng, dtype=torch.uint8)
    labels = torch.arange(120) % 3
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    return net, Dataset(
        "own", images, labels, images, labels, ("a", "b", "c"), (0.5,) * 3, (0.25,) * 3, True
    )


def test_variants_of_the_score_are_the_score_of_something_else(small):
    net, data = small
    names = ["none", "randaugment+cutmix"]
    table = scoring.ablate(net, data, names, [2.0], [60], seed=3, batch=40).set_index(
        ["augmentation", "variant"]
    )
    ranked = scoring.rank(
        net, data, names, seed=3, batch=40, stddev_group=40, replicates=0
    ).set_index("augmentation")
    for name in names:
        row = table.loc[name]
        assert row.loc["as defined", "score"] == ranked.loc[name, "score"]
        logits, targets = scoring.predict(net, data, name, seed=3, batch=40)
        assert row.loc["temperature 2", "score"] == scoring.score(logits / 2, targets).score
        assert row.loc["60 images", "cmi"] == scoring.score(logits[:60], targets[:60]).cmi
        others, other_targets = scoring.predict(net, data, name, seed=3, batch=40, draw=1)
        centroids = scoring.class_centroids(others.double().softmax(1), other_targets)
        assert row.loc["two passes", "cmi"] == pytest.approx(
            float(scoring.cmi(logits.double(), targets, centroids))
        )
        assert (
            row.loc["two passes", "cmi"] > row.loc["as defined", "cmi"]
        )  # its own centroids fit a pass best
        assert row.loc["two passes", "divergence"] == pytest.approx(
            float(scoring.centroid_divergence(centroids))
        )
    # Labels are in the order of the pass: without CutMix the image's own label is the label.
    assert (
        table.loc[("none", "unmixed labels"), "score"] == table.loc[("none", "as defined"), "score"]
    )
    mixed = table.loc["randaugment+cutmix"]
    assert mixed.loc["unmixed labels", "score"] != mixed.loc["as defined", "score"]


@pytest.mark.parametrize(
    "change, named",
    [({"temperatures": [0.0]}, "0.0"), ({"counts": [121]}, "121"), ({"counts": [0]}, "0")],
)
def test_bad_variants_are_named(small, change, named):
    with pytest.raises(ValueError, match=named):
        scoring.ablate(*small, ["none"], **change)


# TrivialAugment's ranges (PAPER 4.4) in seven buckets, 0 .. 6.
BUCKETS = {
    **dict.fromkeys(
        ("ShearX", "ShearY", "Brightness", "Color", "Contrast", "Sharpness"),
        lambda bucket: 0.99 * bucket / 6,
    ),
    **dict.fromkeys(("TranslateX", "TranslateY"), lambda bucket: 32.0 * bucket / 6),
    "Rotate": lambda bucket: 135.0 * bucket / 6,
    "Posterize": lambda bucket: 8.0 - bucket,
    "Solarize": lambda bucket: 255.0 * (1 - bucket / 6),
}


def test_pairs_draw_two_operations_below_their_limits():
    count, rng = 4_000, generator(1)
    numbers = (12, 9, 28, 8, 11)
    ops, magnitudes = policies.pairs(rng, count, 32, 32, numbers)
    known = [tuple(policies.pair(k)[0]) for k in numbers]
    chosen = np.array([known.index(tuple(row)) for row in ops])
    assert (
        np.abs(np.bincount(chosen) / count - 0.2).max() < 0.03
    )  # each number for a fifth of the images: 5 standard errors
    for k, number in enumerate(numbers):
        for place, (op, limit) in enumerate(zip(*policies.pair(number), strict=True)):
            drawn = np.unique(np.abs(magnitudes[chosen == k, place]))
            assert drawn.tolist() == pytest.approx(
                sorted({BUCKETS.get(OPS[op], lambda bucket: 0.0)(b) for b in range(limit)}),
                abs=1e-4,
            )
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    views, _ = augment(
        images, torch.zeros(6).long(), "pair12-9-28", generator(2), 10, mirror=False, padding=0
    )
    rng = generator(2)
    crop_draw(rng, 6, 32, 32, padding=0, mirror=False)
    assert views.equal(apply_chains(images, *policies.pairs(rng, 6, 32, 32, (12, 9, 28))))


def test_the_space_of_pairs_is_covered():
    ops, limits = (np.stack(part) for part in zip(*map(policies.pair, range(2_000)), strict=True))
    counts = np.bincount(ops.ravel(), minlength=len(OPS))
    assert {OPS[k] for k in np.flatnonzero(counts == 0)} == {"Invert", "Hue"}
    assert set(limits.ravel()) == {1, 2, 3, 4, 5, 6}
    expected = ops.size / 14
    assert (
        (counts[counts > 0] - expected) ** 2 / expected
    ).sum() < 34.5  # chi-squared, 13 degrees of freedom, p = 0.001


@pytest.mark.parametrize("name", ["pair", "pair-3", "pair3-", "pair3.5", "pairs3"])
def test_names_of_pairs(name):
    assert parse("pair3-11+cutmix") == ("pair3-11", True)
    with pytest.raises(ValueError, match=repr(name)):
        parse(name)


def test_the_search_names_its_students_after_the_race(tmp_path):
    store = scored(tmp_path)
    assert plan.searched("quick", store) == {} and ablations.search_table(store).empty
    before = plan.runs_of("quick", "search", store)
    run = plan.search("quick")
    facts = {"key": run.teacher.key, "accuracy": 98.0, "weights_sha256": "0"}
    order = ["pair9", "pair2", "pair30", "pair4", "pair1"]
    race = [
        {
            "augmentation": name,
            "score": 0.1 * i,
            "behind": 0.1 * i,
            "behind_low": 0.0,
            "behind_high": 1.0,
            "images": 50,
            "state": "settled",
        }
        for i, name in enumerate(order)
    ]
    store.save(
        run,
        "done",
        result={"scores": race, "share": 0.1, "stopped": "budget", "confidence": 0.95},
        teacher=facts,
        **WHERE,
    )
    found = plan.searched("quick", store)
    assert found == {BEST_PAIR: "pair9", BEST_FEW: "pair9-2-30-4"}
    added = [run for run in plan.runs_of("quick", "search", store) if run not in before]
    assert {run.augmentation for run in added if isinstance(run, StudentRun)} == set(found.values())
    rows = [
        {"augmentation": name, "score": -1.0, "cmi": 2.0, "divergence": 1.0}
        for name in found.values()
    ]
    store.save(
        plan.search_score("quick", store), "done", result={"scores": rows}, teacher=facts, **WHERE
    )
    accuracies = ACCURACIES | {"pair9": 95.0, "pair9-2-30-4": 80.0}
    for runs in plan.search_students("quick", store).values():
        for student in runs:
            store.save(
                student,
                "done",
                result={"accuracy": accuracies[student.augmentation]},
                teacher=facts,
                **WHERE,
            )
    table = ablations.search_table(store).set_index("choice")
    assert table.loc[BEST_PAIR, ["score", "difference"]].tolist() == [
        -1.0,
        95.0 - ACCURACIES["none"],
    ]
    assert table.loc[BEST_FEW, "accuracy_mean"] == 80.0 and table.loc[Way.BASE, "difference"] == 0
    assert table.loc[Way.OURS, "augmentation"] == "trivialaugment" and table.loc[
        Way.OURS, "score"
    ] == pytest.approx(0.0)
    assert ablations.race_of_pairs(store)[0]["augmentation"].tolist() == order
    assert {"search.csv", "search.png"} <= {path.name for path in results.write(store)}


def test_a_search_without_the_score_of_the_sixteen_shows_nothing(tmp_path):
    store = scored(tmp_path)
    score = plan.setups("quick")[0].score
    store.path(score).unlink()
    store.save(score, "failed", error=["out of memory"], **WHERE)
    assert ablations.search_table(store).empty and results.write(store) == []


def test_variants_are_judged_by_the_same_students(tmp_path):
    store = scored(
        tmp_path, {name: float(i) for i, name in enumerate(CANDIDATES)}
    )  # the order of the students
    (setup,) = plan.setups("quick")
    facts = {"key": setup.teacher.key, "accuracy": 98.0, "weights_sha256": "0"}
    line = {"cmi": 0.0, "divergence": 0.0}
    rows = [
        {"augmentation": name, "variant": variant, "score": sign * i} | line
        for variant, sign in (("as defined", 1.0), ("temperature 2", -1.0))
        for i, name in enumerate(CANDIDATES)
    ]
    store.save(plan.score_ablation(setup), "done", result={"rows": rows}, teacher=facts, **WHERE)
    other = plan.other_teacher("quick")
    other_facts = {"key": other.teacher.key, "accuracy": 90.0, "weights_sha256": "1"}
    store.save(other.teacher, "done", result={"accuracy": 90.0, "weights_sha256": "1"}, **WHERE)
    scores = [
        {"augmentation": name, "score": -float(i)} for i, name in enumerate(reversed(CANDIDATES))
    ]
    store.save(other, "done", result={"scores": scores}, teacher=other_facts, **WHERE)
    table = ablations.score_variants_table(store).set_index("variant")
    assert table["spearman"].tolist() == pytest.approx([-1, 1, -1])
    assert table["kendall"].tolist() == pytest.approx([1, -1, 1])
    assert table.loc["temperature 2", ["pick", "regret"]].tolist() == [CANDIDATES[-1], 15.0]
    assert table.index[-1] == ablations.OTHER_TEACHER and table["regret"].iloc[-1] == 0
    axes = ablations.score_variants_figure(table.reset_index()).axes
    assert [t.get_text() for t in axes[0].get_yticklabels()] == table.index.tolist()


def test_forms_are_compared_with_the_first_of_their_kind(tmp_path):
    store = scored(tmp_path)
    values = {"ewgs": 80.0, "lsq": 70.0, "lsq_released": 65.0}
    facts = {"key": plan.setups("quick")[0].teacher.key, "accuracy": 98.0, "weights_sha256": "0"}
    for runs in plan.forms("quick").values():
        for run in runs:
            accuracy = values.get(run.method, 50.0) + 10 * run.method_options.get("delta", 0)
            store.save(run, "done", result={"accuracy": accuracy}, teacher=facts, **WHERE)
    table = ablations.forms_table(store).set_index("form")["difference"]
    assert table["ewgs, delta = 0.1"] == pytest.approx(1) and table["lsq, released"] == -5
    assert (
        table["ewgs, delta = 0 (straight-through)"]
        == table["lsq, paper"]
        == table["pact, released"]
        == 0
    )
