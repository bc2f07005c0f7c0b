"""The plan of docs/experiments.md: the formula, the rules of its verdicts, and the runs that it
needs.
"""

import json
import math
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from test_report import WHERE

from paperlib import scoring
from paperlib.basics import confidence
from paperlib.basics.recipe import Recipe
from paperlib.data import choosing_images, halves, load
from paperlib.reporting import regimes, theory
from paperlib.runs import execution, kinds
from paperlib.runs.execution import execute, load_network
from paperlib.runs.sweep import sweep
from paperlib.study import plan, profiles
from paperlib.study.config import Data, HeldOutRun, ScoreRun, StudentRun, TeacherRun, WalkRun
from paperlib.study.store import Store
from paperlib.training import evaluated


def certain(error, classes, softness=0.0):
    """Logits and labels of a teacher with probability 1 - softness on one class, wrong on `error`,
    evenly over the others.
    """
    per = 10 * (classes - 1)
    wrong = round(error * per)
    rows, labels = [], []
    for label in range(classes):
        others = [c for c in range(classes) if c != label]
        for k in range(per):
            row = torch.full((classes,), softness / (classes - 1), dtype=torch.float64)
            row[others[k % (classes - 1)] if k < wrong else label] = 1 - softness
            rows.append(row)
            labels.append(label)
    return torch.stack(rows).clamp(min=1e-12).log(), torch.tensor(labels)


@pytest.mark.parametrize("softness", [0.0, 0.3])
@pytest.mark.parametrize("error", [0.0, 0.2, 0.6])
def test_the_formula_is_the_score_where_errors_are_spread_evenly(error, softness):
    logits, labels = certain(error, 5, softness)
    found = scoring.score(logits, labels)
    missed = 1 - math.exp(-found.divergence)
    assert missed == pytest.approx(error * (1 - softness / 4) + (1 - error) * softness, abs=1e-6)
    assert float(confidence.even_spread(missed, 5)) + found.entropy == pytest.approx(
        found.score, abs=1e-6
    )


@pytest.mark.parametrize(
    "classes, least, zero", [(10, 0.52, 0.90), (100, 0.72, 0.99), (200, 0.76, 0.995)]
)
def test_the_valley(classes, least, zero):
    s = np.linspace(0, 0.999, 100_000)
    f = confidence.even_spread(s, classes)
    assert (
        s[f.argmin()]
        == pytest.approx(confidence.preferred_miss(classes), abs=1e-4)
        == pytest.approx(least, abs=0.005)
    )
    assert s[np.flatnonzero(f < 0)[-1]] == pytest.approx(zero, abs=0.001)
    with pytest.raises(ValueError, match="1.5"):
        confidence.even_spread(1.5, classes)


def test_rank_warns_where_the_score_is_the_teachers_error():
    error = np.linspace(0.1, 0.5, 16)
    table = pd.DataFrame({"error": error, "score": error, "confidence": 0.6})
    assert "mildest" in confidence.warning(table, 10)
    assert "52%" in confidence.warning(table.assign(score=-error, confidence=0.99), 10)
    assert (
        confidence.warning(table.assign(score=-error), 10) == ""
    )  # not confident: the theory does not say so
    assert confidence.warning(table.assign(score=np.tile([0.0, 1.0], 8)), 10) == ""
    data = load("digits")
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = scoring.rank(net, data, stddev_group=500, replicates=0)
    assert found["error"].between(0, 1).all() and found["confidence"].between(0.1, 1).all()
    assert (found["centroid_entropy"] <= math.log(10) + 1e-9).all()


def test_error_and_confidence_are_means_over_views():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    row = scoring.evaluate(logits, torch.tensor([0, 1, 1]), 1.0, 0, 0)
    assert row["error"] == pytest.approx(1 / 3)
    assert row["confidence"] == pytest.approx(float(logits.softmax(1).max(1).values.mean()))
    mixed = scoring.evaluate(logits, torch.tensor([[0.7, 0.3], [0.0, 1.0], [0.4, 0.6]]), 1.0, 0, 0)
    assert mixed["error"] == pytest.approx(1 - (0.7 + 1.0 + 0.4) / 3)
    hard = scoring.evaluate(logits, torch.tensor([0, 1, 1]), 1.0, 0, 0)
    assert hard["centroid_entropy"] == pytest.approx(hard["cmi"] + hard["entropy"])


def test_the_calibrating_temperature_undoes_a_scaling():
    torch.manual_seed(0)
    logits = 2 * torch.randn(4000, 10, dtype=torch.float64)
    labels = torch.distributions.Categorical(logits=logits).sample()  # calibrated at temperature 1
    first = scoring.calibrating_temperature(logits, labels)
    assert first == pytest.approx(1, abs=0.1)
    assert scoring.calibrating_temperature(3 * logits, labels) == pytest.approx(3 * first, rel=1e-3)


def test_halves_are_a_partition_with_half_of_each_class():
    labels = torch.arange(103) % 4
    choosing, judging = halves(labels)
    assert sorted([*choosing.tolist(), *judging.tolist()]) == list(range(103))
    counts = [torch.bincount(labels[half], minlength=4) for half in (choosing, judging)]
    assert (counts[0] - counts[1]).abs().max() <= 1 and len(choosing) == 51
    data = load("digits")
    assert torch.equal(
        choosing_images(data).train_images, data.test_images[halves(data.test_labels)[0]]
    )


# --------------------------------------------------------------------------------------------- runs

RECIPE = Recipe(3, 40, 0.05, 1e-4, "sgd", threads=1)
TEACHER = TeacherRun(Data("digits", train=120, test=60), "resnet8", RECIPE, "none")
NAMES = ("none", "erasing+cutmix", "trivialaugment")
WALK = WalkRun(TEACHER.data, TEACHER, NAMES, (1, 3), views=200)
STUDENT = StudentRun(
    TEACHER.data,
    TEACHER,
    "none",
    Recipe(2, 40, 1e-3, 1e-4, quantizer_lr=1e-5, threads=1, evaluate_every=2),
    2,
    2,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    store = Store("quick", "results", tmp_path_factory.mktemp("made"))
    score = ScoreRun(TEACHER.data, TEACHER, NAMES, stddev_group=40)
    held_out = HeldOutRun(TEACHER.data, TEACHER, NAMES, Data("digits", split="choosing"), views=300)
    sweep([TEACHER, WALK, STUDENT, score, held_out], store, jobs=1, keep={TEACHER.key})
    return store, score, held_out


def test_a_walk_ends_with_the_teachers_own_weights_and_scores(made):
    store, score, _ = made
    walk, teacher = store.load(WALK)["result"], store.load(TEACHER)["result"]
    assert walk["weights_sha256"] == teacher["weights_sha256"] and [
        step["epoch"] for step in walk["steps"]
    ] == [1, 3]
    one = execute(replace(WALK, views=1), store)["result"]["steps"][-1]["scores"]
    scored = {row["augmentation"]: row for row in store.load(score)["result"]["scores"]}
    for row in one:
        assert row["score"] == pytest.approx(scored[row["augmentation"]]["score"], abs=1e-9)
    with pytest.raises(ValueError, match=r"\(2, 1\)"):
        replace(WALK, epochs=(2, 1))


def test_an_interrupted_walk_ends_as_if_it_had_not_been(made, tmp_path, monkeypatch):
    store = Store("quick", "results", tmp_path)
    before, calls = kinds.scoring.predict_views, []

    def interrupt(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt  # while it scores after epoch 3
        return before(*arguments)

    monkeypatch.setattr(kinds.scoring, "predict_views", interrupt)
    with pytest.raises(KeyboardInterrupt):
        execute(WALK, store)
    monkeypatch.undo()
    assert execute(WALK, store)["result"]["steps"] == made[0].load(WALK)["result"]["steps"]
    assert not list(store.cache.glob("*.json"))


def test_held_out_scores_use_no_training_image_and_the_calibrating_temperature(made):
    store, _, held_out = made
    result, teacher = store.load(held_out)["result"], load_network(TEACHER, store, "cpu")
    data, images = (
        kinds.load_data(held_out.data, "cpu"),
        kinds.load_data(held_out.held_out, "cpu"),
    )
    with torch.no_grad():
        plain = teacher(images.normalise(images.train_images))
    assert result["temperature"] == pytest.approx(
        scoring.calibrating_temperature(plain, images.train_labels), rel=1e-4
    )
    logits, targets = scoring.predict(teacher, data, "none", 0, held_out.batch)
    row = next(row for row in result["scores"] if row["augmentation"] == "none")
    assert row["calibrated_score"] == pytest.approx(
        scoring.score(logits / result["temperature"], targets).score
    )
    logits, targets = scoring.predict_views(teacher, images, "none", 300, 0, held_out.batch)
    assert len(logits) == 500 and row["held_out_score"] == pytest.approx(
        scoring.score(logits, targets).score
    )


def test_predictions_lie_beside_the_record_and_are_its_own(made, tmp_path):
    store, *_ = made
    labels = kinds.load_data(STUDENT.data, "cpu").test_labels.numpy()
    classes, probability = store.predictions(STUDENT)
    assert 100 * (classes == labels).mean() == pytest.approx(
        store.load(STUDENT)["result"]["accuracy_last"]
    )
    assert ((probability > 0.09) & (probability <= 1)).all()
    path = store.predictions_path(STUDENT)
    original = path.read_bytes()
    path.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    with pytest.raises(ValueError, match=path.name):
        store.predictions(STUDENT)
    path.write_bytes(original)


def test_a_lost_cache_makes_nothing_stale(made, tmp_path):
    """Committed weights are taken instead of training the teacher again."""
    store, *_ = made
    assert store.kept_weights(TEACHER).exists() and not store.kept_weights(STUDENT).exists()
    for path in store.cache.iterdir():
        path.unlink()
    before = store.load(TEACHER)
    new = replace(STUDENT, seed=1)
    assert execute(new, store)["teacher"]["weights_sha256"] == before["result"]["weights_sha256"]
    assert store.load(TEACHER) == before and store.done(STUDENT)


def test_evaluation_is_thinned_and_changes_no_weight(made):
    store, *_ = made
    every = execute(replace(TEACHER, recipe=replace(RECIPE, epochs=7, evaluate_every=2)), store)[
        "result"
    ]
    assert [("test_accuracy" in row) for row in every["curve"]] == [
        evaluated(replace(RECIPE, epochs=7, evaluate_every=2), e) for e in range(7)
    ]
    assert [row["epoch"] for row in every["curve"] if "test_accuracy" not in row] == [0]
    always = execute(replace(TEACHER, recipe=replace(RECIPE, epochs=7)), store)["result"]
    assert always["weights_sha256"] == every["weights_sha256"]
    for row in always["curve"]:
        assert row["test_accuracy"] == pytest.approx(np.mean(row["test_accuracy_halves"]))


def test_a_recipes_threads_decide_not_the_cores(made, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        record = execute(TEACHER, Store("quick", root=tmp_path))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert record["environment"]["threads"] == 1
    assert record["result"]["weights_sha256"] == made[0].load(TEACHER)["result"]["weights_sha256"]


# -------------------------------------------------------------------------------------------- rules


def told(tmp_path, monkeypatch, accuracies, scores=None, seeds=2):
    """The verdict on a set-up with these accuracies (seed, candidate) -> points and scores by
    candidate.
    """
    setup = replace(profiles.REGIMES["quick"][0], seeds=tuple(range(seeds)))
    monkeypatch.setitem(profiles.REGIMES, "quick", (setup,))
    store, names = Store("quick", root=tmp_path), profiles.CANDIDATES
    facts = {"key": setup.teacher.key, "accuracy": 98.0, "weights_sha256": "0"}
    store.save(setup.teacher, "done", result={"accuracy": 98.0, "weights_sha256": "0"}, **WHERE)
    rows = [
        {
            "rank": i + 1,
            "augmentation": name,
            "score": (scores or range(16))[i],
            "cmi": 0.5,
            "divergence": 0.1 * i + 0.1,
            "entropy": 1.0,
            "cross_entropy": 1.0 + i,
            "cmi_released": 0.5,
            "score_released": i,
            "score_low": 0,
            "score_high": 1,
            "images": 10,
            "teacher_stddev": 16.0 - i,
            "error": 0.01 * i,
            "confidence": 0.95,
            "centroid_entropy": 1.5,
        }
        for i, name in enumerate(names)
    ]
    store.save(setup.score, "done", result={"scores": rows}, teacher=facts, **WHERE)
    for run in setup.students:
        value = float(accuracies(run.seed, names.index(run.augmentation)))
        curve = [
            {"epoch": 0, "test_accuracy": value, "test_accuracy_halves": [value - 1, value + 1]}
        ]
        store.save(run, "done", result={"accuracy": value, "curve": curve}, teacher=facts, **WHERE)
    return store


@pytest.mark.parametrize(
    "accuracies, order, choice",
    [
        (lambda seed, i: 90 - i + 0.1 * seed, regimes.HOLDS, regimes.HOLDS),
        (lambda seed, i: 70 + i + 0.1 * seed, regimes.REVERSED, regimes.REVERSED),
        (lambda seed, i: 90 - (i if seed else (7 * i) % 16), regimes.CANNOT_TELL, None),
        (lambda seed, i: 90 - (5 * i) % 16 + 0.1 * seed, regimes.NO_ORDER, None),
    ],
)
def test_verdicts_follow_the_rules(tmp_path, monkeypatch, accuracies, order, choice):
    (row,) = regimes.verdicts_table(told(tmp_path, monkeypatch, accuracies)).to_dict("records")
    assert row["order"] == order and (choice is None or row["choice"] == choice)
    assert row["low"] - 1e-9 <= row["spearman"] <= row["high"] + 1e-9 and (
        row["pick"],
        row["minimal"],
    ) == ("none", profiles.CANDIDATES[-1])


def test_one_seed_cannot_tell(tmp_path, monkeypatch):
    (row,) = regimes.verdicts_table(
        told(tmp_path, monkeypatch, lambda seed, i: 90 - i, seeds=1)
    ).to_dict("records")
    assert row["order"] == row["choice"] == regimes.CANNOT_TELL


def test_rivals_are_judged_on_the_other_half(tmp_path, monkeypatch):
    store = told(tmp_path, monkeypatch, lambda seed, i: 90 - i)
    table = regimes.rivals_table(store).set_index("rival")
    assert (
        table.loc[regimes.SCORE, "regret"] == 0
        and table.loc["T. stddev", "regret"] == 15
        and table["tells"].all()
    )
    judged = regimes.accuracies(plan.regimes("quick")[0], store, half=1)
    assert judged.loc["none", 0] == 91


def test_intervals_shrink_with_the_noise_of_seeds():
    rng, metric = np.random.default_rng(1), np.arange(16.0)
    widths = []
    for noise in (0.1, 5.0):
        table = pd.DataFrame(90 - metric[:, None] + rng.normal(0, noise, (16, 3)))
        low, high = regimes.spearman_interval(metric, table)
        widths.append(high - low)
    assert widths[0] < 0.05 < 0.1 < widths[1]


def test_halving_follows_its_rungs():
    """Against a brute-force transcription on random curves."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        names = list(profiles.CANDIDATES)
        by_epoch = {e: pd.Series(rng.permutation(np.arange(16.0)), names) for e in (5, 10, 20, 40)}
        left = sorted(names, key=lambda n: -by_epoch[5][n])[:8]
        left = sorted(left, key=lambda n: -by_epoch[10][n])[:4]
        left = sorted(left, key=lambda n: -by_epoch[20][n])[:2]
        winner = max(left, key=lambda n: by_epoch[40][n])
        assert regimes.halving(by_epoch, regimes.halving_rungs(40)) == (
            winner,
            16 * 5 + 8 * 5 + 4 * 10 + 2 * 20,
        )


def walk_record(kind, confidences, errors):
    rows = []
    for k, (certainty, error) in enumerate(zip(confidences, errors, strict=True)):
        for i, name in enumerate(profiles.CANDIDATES):
            picked = i == 3
            rows.append(
                {
                    "profile": "quick",
                    "teacher": f"{kind}{k}",
                    "source": "walk",
                    "dataset": kind,
                    "model": "m",
                    "trained": "none",
                    "epoch": k,
                    "augmentation": name,
                    "score": -1.0 if picked else 0.1 * i,
                    "cmi": 0.1,
                    "divergence": 0.1,
                    "entropy": 0.1,
                    "error": error if picked else 0.1,
                    "confidence": certainty,
                    "missed": 0.01 * i,
                    "formula": -1.0 if picked else 0.1 * i,
                    "classes": 10,
                }
            )
    return pd.DataFrame(rows)


def test_prediction_a_is_decided_on_each_data_set():
    rising, falling = (
        walk_record("x", [0.3, 0.6, 0.9], [0.1, 0.2, 0.3]),
        walk_record("y", [0.3, 0.6, 0.9], [0.9, 0.8, 0.7]),
    )
    assert regimes._p_a(theory.teachers_table(rising))[2] == regimes.KEPT
    assert regimes._p_a(theory.teachers_table(pd.concat([rising, falling])))[2] == regimes.BROKEN
    assert regimes._p_f(theory.teachers_table(rising))[2] == regimes.KEPT
    assert regimes._p_e(pd.DataFrame(columns=["tells"]))[0][2] == regimes.OPEN


def test_the_plan_names_every_run_and_what_is_kept():
    others = {
        profile: {need.key for run in plan.runs_of(profile, plan.RELATED) for need in run.needs}
        for profile in ("cpu", "quick")
    }  # of related systems
    assert len(plan.kept("cpu") - others["cpu"]) <= 6 + 32 <= len(plan.kept("cpu"))
    assert plan.kept("quick") == others["quick"]
    setups = {setup.regime: setup for setup in plan.teachers_alone("cpu")}
    assert list(setups) == ["A", "B", "C", "D", "F", "I"]
    assert {len(setups[name].students) for name in "ABCD"} == {48} and len(
        setups["F"].students
    ) == 32
    epochs = {name: s.student_recipe.epochs * s.data.train for name, s in setups.items()}
    assert set(epochs.values()) == {200_000}
    assert setups["D"].teacher == replace(setups["A"].teacher, augmentation="none+cutmix")
    text = json.dumps([walk.label for walk in plan.walks("cpu")])
    assert len(plan.walks("cpu")) == 8 and "vgg8" in text and "cifar100" in text
    assert plan.wider("cpu", Store("cpu", root=execution.Path("/nowhere"))) is None


def test_a_prediction_is_open_while_runs_that_decide_it_are_missing(tmp_path, monkeypatch):
    """A counterexample breaks what is said of every teacher; nothing is kept before all are in."""
    store = told(tmp_path, monkeypatch, lambda seed, i: 90 - i)
    row = pd.Series({"prediction": "P-d", "verdict": regimes.KEPT})
    whole = regimes._whole(store)
    assert regimes._settled(row, whole) == regimes.OPEN
    assert regimes._settled(row.replace(regimes.KEPT, regimes.BROKEN), whole) == regimes.BROKEN
    together = pd.Series({"prediction": "P-a", "verdict": regimes.BROKEN})
    assert regimes._settled(together, whole) == regimes.OPEN
    monkeypatch.setattr(regimes.plan, "runs_of", lambda *arguments: [])
    assert regimes._settled(row, regimes._whole(store)) == regimes.KEPT
