"""The loop learns, resumes exactly, and refuses what cannot work."""

import copy
import shutil
import warnings
from dataclasses import fields, replace

import pytest
import torch
from torch import nn

from paperlib import data
from paperlib.basics.recipe import Recipe
from paperlib.losses import OBJECTIVES, objective
from paperlib.models import build
from paperlib.quantizers import METHODS, initialise, quantize
from paperlib.training import Task, accuracy, fit, fit_in_turn, fit_together, learners, loop
from paperlib.training.learners import (
    InitialStage,
    Single,
    batches,
    optimisers,
    rate_factor,
    set_rates,
    split_parameters,
)

DIGITS = data.subset(data.load("digits"), train=320, test=100)
SMALL = data.Dataset(  # 16 x 16: a quarter of the time
    "small digits",
    *(
        t[..., ::2, ::2].contiguous() if t.ndim == 4 else t
        for t in (DIGITS.train_images, DIGITS.train_labels, DIGITS.test_images, DIGITS.test_labels)
    ),
    DIGITS.classes,
    DIGITS.mean,
    DIGITS.std,
    mirror=False,
)


class Double(data.Dataset):
    """The same images for networks in float64."""

    def normalise(self, images):
        return super().normalise(images).double()


TEACHER_RECIPE = Recipe(epochs=8, batch=32, lr=0.05, weight_decay=1e-4, optimiser="sgd")
STUDENT_RECIPE = Recipe(epochs=4, batch=32, lr=1e-3, weight_decay=1e-4, quantizer_lr=1e-5)


@pytest.fixture(scope="module")
def teacher():
    model = build("resnet8", 10)
    curve = fit(model, Task(SMALL, "none", objective("ce"), TEACHER_RECIPE, seed=0))
    assert curve[-1]["test_accuracy"] > 75, "the teacher of these tests has not learned"
    return model


MARGIN = 40  # points above chance, which is 10 %, that every method must reach in four short epochs
# For training this short: few negatives in CRD's draws, one epoch of the stage before the main one,
# no warm-up of 20 epochs.
SHORT = {
    "crd": {"negatives": 64},
    "cktf": {"negatives": 64},
    "fsp": {"init_epochs": 1},
    "ft": {"init_epochs": 1},
    "dkd": {"warmup": 0},
}


@pytest.mark.parametrize("method", METHODS)
def test_every_quantizer_learns(teacher, method):
    bits = 2 if method == "ternary" else 3
    curve = fit(
        quantize(teacher, method, bits, bits),
        Task(SMALL, "none", objective("kd"), STUDENT_RECIPE, 0, teacher),
    )
    assert curve[-1]["test_accuracy"] > 10 + MARGIN
    assert curve[-1]["loss"] < curve[0]["loss"]


@pytest.mark.parametrize("loss", OBJECTIVES)
def test_every_loss_trains_a_student(teacher, loss):
    task = Task(SMALL, "none", objective(loss, **SHORT.get(loss, {})), STUDENT_RECIPE, 0, teacher)
    curve = fit(quantize(teacher, "ewgs", 2, 2), task)
    assert curve[-1]["test_accuracy"] > 10 + MARGIN
    # CKTF's and CRD's loss depends on how far their memories have come, it may rise at first.
    assert loss in ("crd", "cktf") or curve[-1]["loss"] < curve[0]["loss"]


@pytest.mark.parametrize("loss", OBJECTIVES)
@pytest.mark.parametrize("method", METHODS)
def test_every_quantizer_takes_a_step_with_every_loss(teacher, method, loss):
    """Soft labels included; weights, quantizer parameters and the loss's own parameters move and
    stay finite.
    """
    few = replace(SMALL, train_images=SMALL.train_images[:48], train_labels=SMALL.train_labels[:48])
    student = quantize(teacher, method, 2, 2)
    recipe = Recipe(1, 24, 1e-3, 0.0, quantizer_lr=1e-3)
    before = {name: value.detach().clone() for name, value in student.named_parameters()}
    (row,) = fit(
        student,
        Task(few, "none+cutmix", objective(loss, **SHORT.get(loss, {})), recipe, 0, teacher),
    )
    assert torch.isfinite(torch.tensor(row["loss"]))
    moved = [
        name for name, value in student.named_parameters() if not torch.equal(value, before[name])
    ]
    assert all(torch.isfinite(value).all() for value in student.parameters())
    layers = {
        name.rsplit(".", 1)[0] for name in before if ".conv" in name and name.endswith(".weight")
    }
    assert layers <= {name.rsplit(".", 1)[0] for name in moved}


def test_a_one_bit_student_learns_from_soft_labels(teacher):
    student = quantize(teacher, "ewgs", 1, 1)
    curve = fit(student, Task(SMALL, "erasing+cutmix", objective("kd"), STUDENT_RECIPE, 0, teacher))
    assert curve[-1]["loss"] < curve[0]["loss"]


def test_an_interrupted_run_ends_with_the_same_weights(teacher, tmp_path):
    options = {"delta": 0.01}
    task = Task(
        SMALL,
        "randaugment+cutmix",
        objective("kd"),
        Recipe(3, 64, 1e-3, 1e-4, quantizer_lr=1e-5),
        3,
        teacher,
    )
    whole = quantize(teacher, "ewgs", 2, 2, **options)
    straight = fit(whole, task)

    class Killed(Exception):
        pass

    reached = []

    def kill(row):
        reached.append(row["epoch"])
        raise Killed

    path = tmp_path / "run.pt"
    for _ in range(3):
        student = quantize(teacher, "ewgs", 2, 2, **options)
        with pytest.raises(Killed):
            fit(student, task, path, kill)
    resumed = quantize(teacher, "ewgs", 2, 2, **options)
    curve = fit(resumed, task, path)
    assert reached == [0, 1, 2]
    for name in ("loss", "test_accuracy", "lr"):
        assert [row[name] for row in curve] == [row[name] for row in straight]
    for name, value in whole.state_dict().items():
        assert not isinstance(value, torch.Tensor) or torch.equal(
            value, resumed.state_dict()[name]
        ), name


@pytest.mark.parametrize(
    "loss, changes",
    [("ft", {"init_epochs": 2}), ("fsp", {"init_epochs": 2}), ("crd", {"negatives": 16})],
)
def test_losses_that_learn_resume_exactly(teacher, tmp_path, loss, changes):
    """Killed after every epoch, also of the stage before the main one: memories, heads and
    paraphrasers go on.
    """
    task = Task(
        SMALL,
        "none+cutmix",
        objective(loss, **changes),
        Recipe(2, 64, 1e-3, 1e-4, quantizer_lr=1e-5),
        3,
        teacher,
    )
    whole, rows = quantize(teacher, "ewgs", 2, 2), []
    straight = fit(whole, task, report=rows.append)
    initial = task.objective.init_epochs
    assert [row.get("initial_epoch") for row in rows] == [*range(initial), None, None]
    assert ("initial_seconds" in straight[0]) == bool(initial)

    class Killed(Exception):
        pass

    def kill(row):
        raise Killed

    path = tmp_path / "run.pt"
    for _ in rows:
        with pytest.raises(Killed):
            fit(quantize(teacher, "ewgs", 2, 2), task, path, kill)
    resumed = quantize(teacher, "ewgs", 2, 2)
    assert [row["loss"] for row in fit(resumed, task, path)] == [row["loss"] for row in straight]
    for name, value in whole.state_dict().items():
        assert not isinstance(value, torch.Tensor) or torch.equal(
            value, resumed.state_dict()[name]
        ), name


def test_the_first_stage_trains_what_its_method_says(teacher):
    """FT's paraphraser learns from the teacher and the student waits; FSP's feature layers learn,
    the classifier waits.
    """
    recipe = Recipe(1, 64, 1e-3, 1e-2, quantizer_lr=1e-5)
    for loss, lr, of_student in (("ft", 1e-2, False), ("fsp", 3e-3, True)):
        student = quantize(teacher, "ewgs", 2, 2)
        task = Task(SMALL, "none", objective(loss, init_epochs=1, init_lr=lr), recipe, 0, teacher)
        initialise(student, next(batches(task, 0))[0])
        learner = Single(student, task)
        before = copy.deepcopy(student.state_dict())
        own = copy.deepcopy(learner.loss.state_dict())
        stage = InitialStage(learner)
        losses = [stage.epoch(k) for k in range(6)]
        assert losses[-1] < losses[0]
        moved = {name for name, p in student.named_parameters() if not torch.equal(p, before[name])}
        assert ("stages.0.0.conv1.weight" in moved) == of_student and "linear.weight" not in moved
        assert all(p.grad is None for p in learner.loss.parameters())
        frozen = {name: p.clone() for name, p in learner.loss.named_parameters() if "coder" in name}
        assert bool(frozen) != of_student and all(
            not torch.equal(own[name], p) for name, p in frozen.items()
        )
        learner.epoch(
            0
        )  # the main stage leaves the paraphraser alone, in spite of the weight decay
        assert all(
            torch.equal(p, frozen[name])
            for name, p in learner.loss.named_parameters()
            if name in frozen
        )


def test_hessian_factors_are_updated_on_schedule(teacher):
    from paperlib.training import loop

    small = data.subset(SMALL, train=20, test=10)
    student = quantize(teacher, "ewgs", 2, 2, delta="hessian")
    seen, original = [], loop.update_deltas
    loop.update_deltas = lambda model, three, loss, seed: seen.append(len(list(three)))
    try:
        fit(student, Task(small, "none", objective("ce"), Recipe(21, 5, 1e-4, 0.0), 0))
    finally:
        loop.update_deltas = original
    assert seen == [3, 3]  # at epochs 10 and 20, three batches each, never at epoch 0


def test_an_epoch_shows_every_image_once_in_a_new_order():
    task = Task(SMALL, "none", objective("ce"), Recipe(2, 64, 0.1, 0.0), 0)
    orders = [torch.cat([targets for _, targets, _ in batches(task, epoch)]) for epoch in (0, 0, 1)]
    assert torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], orders[2])
    assert torch.equal(orders[0].sort().values, SMALL.train_labels.sort().values)


def test_optimisers_and_schedule(teacher):
    student = quantize(teacher, "ewgs", 2, 2)
    recipe = Recipe(10, 32, 1e-3, 1e-4, quantizer_lr=1e-5)
    weights, quantizers = optimisers(split_parameters(student), recipe)
    assert (
        len(quantizers.param_groups[0]["params"]) == 30
        and quantizers.param_groups[0]["weight_decay"] == 0
    )
    counted = sum(
        p.numel() for o in (weights, quantizers) for g in o.param_groups for p in g["params"]
    )
    assert counted == sum(p.numel() for p in student.parameters())
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(
        torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 1e-3), 10
    )
    for epoch in range(10):
        set_rates([weights, quantizers], recipe, rate_factor(recipe, epoch, 0, 7))
        assert weights.param_groups[0]["lr"] == pytest.approx(reference.get_last_lr()[0])
        assert quantizers.param_groups[0]["lr"] == pytest.approx(reference.get_last_lr()[0] / 100)
        reference.optimizer.step(), reference.step()
    (only,) = optimisers(split_parameters(build("resnet8", 10)), TEACHER_RECIPE)
    assert isinstance(only, torch.optim.SGD) and only.param_groups[0]["momentum"] == 0.9


def test_tiny_imagenets_schedule_and_optimiser(teacher):
    """One group with Nesterov momentum, linear warm-up by steps, then a cosine that ends with the
    last step (PAPER 7.5).
    """
    recipe = Recipe(4, 32, 0.004, 1e-4, "sgd_nesterov", schedule="step", warmup_steps=10)
    rates = [0.004 * rate_factor(recipe, step // 10, step % 10, 10) for step in range(40)]
    assert rates[0] == pytest.approx(1e-4) and rates[5] == pytest.approx((1e-4 + 0.004) / 2)
    assert (
        rates[10] == pytest.approx(0.004)
        and rates[25] == pytest.approx(0.002)
        and 0 < rates[39] < 2e-5
    )
    student = quantize(teacher, "lsq_released", 3, 3, kept_bits=8)
    (only,) = optimisers(split_parameters(student), recipe)
    assert only.defaults["nesterov"] and only.defaults["weight_decay"] == 1e-4
    assert sum(len(group["params"]) for group in only.param_groups) == len(
        list(student.parameters())
    )
    task = Task(
        SMALL, "none", objective("kd", smoothing=0.1), replace(recipe, warmup_steps=3), 0, teacher
    )
    seen, original = [], Single._step
    initialise(student, next(batches(task, 0))[0])
    learner = Single(student, task)
    learner.step = lambda *inputs: (
        seen.append(learner.steppers[0].param_groups[0]["lr"]),
        original(learner, *inputs),
    )[1]
    learner.epoch(0)
    assert seen == pytest.approx(
        [0.004 * rate_factor(task.recipe, 0, step, 10) for step in range(10)]
    )
    for bad in (
        dict(schedule="day"),
        dict(warmup_steps=3),
        dict(optimiser="sgd_nesterov", quantizer_lr=0.5),
    ):
        with pytest.raises(ValueError, match=str(list(bad.values())[-1])):
            Recipe(1, 2, 0.1, 0.0, **bad)


def test_accuracy_counts(teacher):
    logits = teacher.eval()(SMALL.normalise(SMALL.test_images))
    assert accuracy(teacher, SMALL, batch=70) == pytest.approx(
        100 * (logits.argmax(1) == SMALL.test_labels).double().mean().item()
    )


def test_what_cannot_work_is_refused(teacher):
    other = build("resnet8", 12)
    with pytest.raises(ValueError, match="12 classes"):
        fit(
            quantize(teacher, "ewgs", 2, 2),
            Task(SMALL, "none", objective("kd"), STUDENT_RECIPE, 0, other),
        )
    with pytest.raises(ValueError, match="teacher"):
        fit(
            quantize(teacher, "ewgs", 2, 2), Task(SMALL, "none", objective("kd"), STUDENT_RECIPE, 0)
        )
    with pytest.raises(FloatingPointError, match="epoch 0"):
        fit(
            build("resnet8", 10),
            Task(SMALL, "none", objective("ce"), Recipe(1, 32, 1e30, 0.0, "sgd"), 0),
        )
    for bad in (
        dict(epochs=0),
        dict(batch=1),
        dict(lr=0.0),
        dict(optimiser="lion"),
        dict(weight_decay=-1.0),
    ):
        with pytest.raises(ValueError, match=str(next(iter(bad.values())))):
            Recipe(**(dict(epochs=1, batch=2, lr=0.1, weight_decay=0.0) | bad))


# ---------------------------------------------------------------------------- many students at once


def tasks_of(teacher, recipe, loss="kd"):
    return [
        Task(SMALL, name, objective(loss), recipe, seed, teacher)
        for name, seed in (("none", 0), ("randaugment+cutmix", 0), ("none", 1))
    ]


@pytest.mark.parametrize(
    "method, loss", [("ewgs", "kd"), ("lsq", "ce"), ("pact", "at"), ("dorefa", "kd")]
)
def test_a_pack_trains_each_student_as_alone(teacher, method, loss):
    """In float64, where rounding is too small to be amplified, the weights after an epoch are the
    same to 8 digits.
    """
    double = replace(
        SMALL, train_images=SMALL.train_images[:96], train_labels=SMALL.train_labels[:96]
    )
    recipe = Recipe(1, 32, 1e-3, 1e-4, quantizer_lr=1e-4)
    expert = copy.deepcopy(teacher).double()
    exact = Double(**{f.name: getattr(double, f.name) for f in fields(double)})
    tasks = [replace(task, data=exact, teacher=expert) for task in tasks_of(expert, recipe, loss)]
    alone = [quantize(expert, method, 4, 4) for _ in tasks]
    packed = [copy.deepcopy(student) for student in alone]
    curves = [fit(student, task) for student, task in zip(alone, tasks, strict=True)]
    together = fit_together(packed, tasks)
    for one, other, ours, theirs in zip(alone, packed, curves, together, strict=True):
        assert theirs[0]["loss"] == pytest.approx(ours[0]["loss"], rel=1e-6)
        for name, value in one.state_dict().items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                assert torch.allclose(other.state_dict()[name], value, rtol=1e-6, atol=1e-8), name
    assert curves[0][0]["loss"] != pytest.approx(
        curves[2][0]["loss"], rel=1e-6
    )  # the seeds differ, so do the students


def test_a_pack_resumes_and_refuses_what_differs(teacher, tmp_path):
    recipe = Recipe(2, 64, 1e-3, 1e-4, quantizer_lr=1e-5)
    tasks = tasks_of(teacher, recipe)
    students = lambda **options: [quantize(teacher, "ewgs", 2, 2, **options) for _ in tasks]  # noqa: E731
    straight = fit_together(students(), tasks)

    class Killed(Exception):
        pass

    def kill(number, row):
        raise Killed

    path = tmp_path / "pack.pt"
    with pytest.raises(Killed):
        fit_together(students(), tasks, path, kill)
    rows = []
    resumed = fit_together(
        students(), tasks, path, lambda number, row: rows.append((number, row["epoch"]))
    )
    assert rows == [(0, 1), (1, 1), (2, 1)]
    for a, b in zip(straight, resumed, strict=True):
        assert [row["loss"] for row in a] == [row["loss"] for row in b]
    with pytest.raises(ValueError, match="share"):
        fit_together(
            students(), [tasks[0], replace(tasks[1], recipe=replace(recipe, lr=0.1)), tasks[2]]
        )
    with pytest.raises(ValueError, match="hessian"):
        fit_together(students(delta="hessian"), tasks)
    with pytest.raises(ValueError, match="alone"):
        fit_together(students(), tasks_of(teacher, recipe, "crd"))
    with pytest.raises(ValueError, match="2 tasks"):
        fit_together(students(), tasks[:2])


# ------------------------------------------------------------------- many students over one teacher

IN_TURN = (
    ("ewgs", 2, {}, "kd", {}),
    ("lsq", 3, {}, "at", {}),
    ("pact", 4, {}, "ce", {}),
    ("dorefa", 2, {}, "crd", {"negatives": 16}),
    ("ewgs", 2, {"delta": "hessian"}, "ft", {"init_epochs": 1}),
    ("ternary", 2, {}, "fsp", {"init_epochs": 1}),
)


def in_turn(teacher, precision="float32"):
    recipe = Recipe(2, 64, 1e-3, 1e-4, quantizer_lr=1e-5, precision=precision)
    few = data.subset(SMALL, train=140, test=40)
    task = Task(few, "randaugment+cutmix", objective("ce"), recipe, 3, teacher)
    students = [quantize(teacher, how, bits, bits, **kw) for how, bits, kw, _, _ in IN_TURN]
    return students, [replace(task, objective=objective(loss, **kw)) for *_, loss, kw in IN_TURN]


def untimed(curve):
    return [{name: v for name, v in row.items() if "seconds" not in name} for row in curve]


def same_weights(one, other):
    values, others = one.state_dict(), other.state_dict()
    tensors = [name for name, value in values.items() if isinstance(value, torch.Tensor)]
    return all(torch.equal(values[name], others[name]) for name in tensors)


@pytest.mark.parametrize("precision", ("float32", "bfloat16"))
def test_students_in_turn_end_as_alone_also_after_an_interruption(teacher, tmp_path, precision):
    """Killed within an epoch, when some students had ended theirs. The teacher is asked once."""
    alone, tasks = in_turn(teacher, precision)
    curves = [untimed(fit(*each)) for each in zip(alone, tasks, strict=True)]
    paths, rows = [tmp_path / f"{number}.pt" for number in range(len(tasks))], []

    class Killed(Exception):
        pass

    def kill(number, row):
        rows.append((number, row.get("initial_epoch"), row.get("epoch")))
        if len(rows) == 5:
            raise Killed

    with pytest.raises(Killed):
        fit_in_turn(in_turn(teacher, precision)[0], tasks, paths, kill)
    resumed = in_turn(teacher, precision)[0]
    found = fit_in_turn(resumed, tasks, paths, kill)
    main = [(number, None, epoch) for epoch in (0, 1) for number in range(len(tasks))]
    assert rows == [(4, 0, None), (5, 0, None), *main]
    assert [untimed(curve) for curve in found] == curves
    assert all(same_weights(*each) for each in zip(alone, resumed, strict=True))


def test_the_teacher_is_asked_once_for_a_batch_of_students_in_turn(teacher):
    asked, (students, tasks) = [], in_turn(teacher)
    seen = teacher.linear.register_forward_hook(lambda _, inputs, __: asked.append(len(inputs[0])))
    try:
        fit_in_turn(students[:4], tasks[:4], [None] * 4)
    finally:
        seen.remove()
    assert [size for size in asked if size > 2] == 2 * [64, 64, 12]  # of two images: it is tried


def test_a_student_that_fails_takes_no_other_with_it(teacher):
    alone, tasks = in_turn(teacher)
    curves = [untimed(fit(*each)) for each in zip(alone[:2], tasks[:2], strict=True)]
    students = in_turn(teacher)[0][:4]
    bad = objective("ce", gamma=3e38), objective("fitnet", layers=("f9",))
    tasks = [tasks[0], *(replace(tasks[0], objective=each) for each in bad), tasks[1]]
    order = [students[0], *students[2:], students[1]]
    found = fit_in_turn(order, tasks, [None] * 4)
    assert isinstance(found[1], FloatingPointError) and "epoch 0" in str(found[1])
    assert isinstance(found[2], ValueError) and "f9" in str(found[2])
    assert [untimed(found[0]), untimed(found[3])] == curves
    assert same_weights(alone[0], order[0]) and same_weights(alone[1], order[3])


def test_students_in_turn_share_all_but_the_objective(teacher):
    students, tasks = in_turn(teacher)
    for name, other in (("seed", 4), ("augmentation", "none"), ("teacher", copy.deepcopy(teacher))):
        with pytest.raises(ValueError, match="share"):
            fit_in_turn(students[:2], [tasks[0], replace(tasks[1], **{name: other})], [None] * 2)
    with pytest.raises(ValueError, match="1 checkpoints"):
        fit_in_turn(students[:2], tasks[:2], [None])


# ----------------------------------------------------------------------------------------- bfloat16


def test_a_student_learns_in_bfloat16(teacher):
    accuracies = {}
    for precision in ("float32", "bfloat16"):
        student = quantize(teacher, "ewgs", 2, 2)
        task = Task(
            SMALL, "none", objective("kd"), replace(STUDENT_RECIPE, precision=precision), 0, teacher
        )
        accuracies[precision] = fit(student, task)[-1]["test_accuracy"]
    assert accuracies["bfloat16"] > 55 and abs(accuracies["bfloat16"] - accuracies["float32"]) < 25


def test_a_captured_step_trains_as_a_plain_one(teacher):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU here")
    data_ = SMALL.to("cuda")
    curves = []
    for wrap in (True, False):
        student = quantize(copy.deepcopy(teacher).cuda(), "ewgs", 8, 8)
        initialise(
            student, next(batches(Task(data_, "none", objective("ce"), STUDENT_RECIPE, 0), 0))[0]
        )
        learner = Single(
            student,
            Task(data_, "none", objective("kd"), STUDENT_RECIPE, 0, copy.deepcopy(teacher).cuda()),
        )
        learner.step = learner.step if wrap else learner._step
        curves.append([learner.epoch(k)[0] for k in range(2)])
    assert curves[0] == pytest.approx(curves[1], rel=1e-2)


@pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++", "cl"))), reason="no C++ compiler here"
)
def test_a_student_in_one_graph_learns_as_it_does_as_written(teacher, monkeypatch):
    """In float64, where rounding is too small to move an activation into another level. Of the
    three batches the last is smaller, and not compiled.
    """
    monkeypatch.setattr(loop, "COMPILE_FROM", 1)
    compiled, plain = [], learners.or_as_written
    monkeypatch.setattr(
        learners, "or_as_written", lambda f, **options: compiled.append(f) or plain(f, **options)
    )
    few = data.subset(SMALL, 70, 20)
    exact = Double(**{f.name: getattr(few, f.name) for f in fields(few)})
    recipe, expert = Recipe(1, 30, 1e-3, 1e-4, quantizer_lr=1e-4), copy.deepcopy(teacher).double()
    ends = []
    for own in (recipe, replace(recipe, one_graph=True)):
        student = quantize(expert, "ewgs", 2, 2)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="torch cannot compile")
            curve = fit(student, Task(exact, "none", objective("kd"), own, 0, expert))
        ends.append((curve[0]["loss"], student.state_dict()))
    assert len(compiled) == 1
    (loss, weights), (whole_loss, whole) = ends
    assert whole_loss == pytest.approx(loss, rel=1e-9)
    for name, value in weights.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            assert torch.allclose(whole[name], value, rtol=1e-6, atol=1e-8), name


def test_one_graph_is_refused_for_another_network():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))
    recipe = Recipe(1, 30, 1e-3, 1e-4, one_graph=True)
    with pytest.raises(ValueError, match="one_graph"):
        fit(network, Task(SMALL, "none", objective("ce"), recipe, 0))
