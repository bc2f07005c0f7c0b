"""`fit` takes networks of others, wrapped ones and trained ones, and leaves what is frozen."""

import copy
import io
from dataclasses import replace

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import nn
from torchvision.transforms import v2

from paperlib import data
from paperlib.augment import POLICIES, as_policy, generator
from paperlib.augment.candidates import TRANSFORM, keyed
from paperlib.basics.recipe import Recipe
from paperlib.losses import objective
from paperlib.models import build
from paperlib.quantizers import METHODS, QuantizedLayer, initialise, quantize
from paperlib.training import Task, fit, fit_together, predictions
from paperlib.training.learners import batches
from paperlib.training.looks import look_of

DIGITS = data.subset(data.load("digits"), train=48, test=40)


pytestmark = pytest.mark.usefixtures("one_thread")


RECIPE = Recipe(1, 24, 1e-3, 1e-4, quantizer_lr=1e-5)


def task_of(teacher=None, loss="kd", of=DIGITS, recipe=RECIPE, **changes):
    name = loss if teacher is not None else "ce"
    return Task(of, "none", objective(name, **changes), recipe, 0, teacher)


class Plain(nn.Module):
    """A small network of the layers that these tests freeze, overwrite and read."""

    def __init__(self, classes=10, width=8):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width))
        self.act = nn.ReLU(inplace=True)
        self.body = nn.Conv2d(width, width, 3, 2, 1)
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        return self.head(self.body(self.act(self.stem(images))).mean((2, 3)))


@pytest.mark.parametrize("role", ["teacher", "network"])
def test_probabilities_are_no_logits(role):
    networks = [Plain(), Plain()]
    networks[role == "teacher"] = nn.Sequential(Plain(), nn.Softmax(1))
    with pytest.raises(ValueError, match=role):
        fit(networks[0], task_of(networks[1]))


class Tokens(nn.Module):
    """A transformer of 16 patches of an image of 32 pixels."""

    def __init__(self, classes=10, width=8):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        layer = nn.TransformerEncoderLayer(width, 2, 16, 0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        return self.head(self.blocks(self.patches(images).flatten(2).mT).mean(1))


def seeded(make, *arguments, **options):
    torch.manual_seed(0)
    return make(*arguments, **options)


def equal_states(a, b):
    a, b = a.state_dict(), b.state_dict()
    pairs = [(a[name], b[name]) for name in a]
    return all(x.equal(y) if isinstance(x, torch.Tensor) else x == y for x, y in pairs)


# ------------------------------------------------------------------------- trained, frozen, modes


@pytest.mark.parametrize("method", METHODS)
def test_a_trained_student_stays_as_it_was_at_no_learning_rate(method):
    """Saved, loaded anew and fitted again: with its statistics frozen, every prediction stays."""
    teacher = seeded(Plain)
    student = quantize(teacher, method, 2, 2)
    fit(student, task_of(teacher, recipe=replace(RECIPE, epochs=2, lr=1e-2, quantizer_lr=1e-3)))
    file = io.BytesIO()
    torch.save(student.state_dict(), file)
    loaded = quantize(Plain(), method, 2, 2)
    loaded.load_state_dict(torch.load(io.BytesIO(file.getvalue())))
    loaded.stem[1].eval()
    tiny = replace(RECIPE, lr=1e-9, quantizer_lr=1e-9, weight_decay=0.0)
    before = predictions(student, DIGITS)
    fit(loaded, task_of(teacher, recipe=tiny))
    after = predictions(loaded, DIGITS)
    assert (before[0] == after[0]).double().mean() > 0.95
    assert torch.allclose(before[1], after[1], atol=0.02)


def test_only_layers_that_are_not_ready_are_started():
    student = quantize(build("resnet8", 10), "ewgs", 2, 2)
    x = DIGITS.network_input(DIGITS.train_images[:20])
    initialise(student, x)
    ready = copy.deepcopy(student)
    initialise(student, x * 3 + 1)
    assert equal_states(ready, student)  # the statistics too
    first, second = [m for m in student.modules() if isinstance(m, QuantizedLayer)][:2]
    bounds = first.activation_quantizer.upper.clone()
    second.ready = False
    second.activation_quantizer.upper.data.zero_()
    initialise(student, x)
    assert second.ready and second.activation_quantizer.upper > 0
    assert first.activation_quantizer.upper.equal(bounds)


def modes(network):
    return [module.training for module in network.modules()]


@pytest.mark.parametrize("quantized", [False, True])
def test_what_is_frozen_stays_and_modes_come_back(quantized):
    teacher, network = seeded(Plain), seeded(Plain, width=16)
    teacher.stem[1].eval()
    student = quantize(network, "lsq", 2, 2) if quantized else network
    student.train()
    student.stem[1].eval()
    student.stem[0].requires_grad_(False)
    before, as_was = copy.deepcopy(student.state_dict()), (modes(student), modes(teacher))
    taught = copy.deepcopy(teacher)
    fit(student, task_of(teacher))
    after = student.state_dict()
    moved = {n for n, p in before.items() if torch.is_tensor(p) and not p.equal(after[n])}
    assert not any(name.startswith("stem.0.") or "running" in name for name in moved)
    assert {"stem.1.weight", "body.weight", "head.weight"} <= moved
    assert (modes(student), modes(teacher)) == as_was and equal_states(teacher, taught)
    assert not student.stem[0].weight.requires_grad


def test_weights_lie_in_memory_as_before_so_that_safetensors_saves_them():
    student, teacher = seeded(Plain), seeded(Plain)
    student.stem[0].to(memory_format=torch.channels_last)  # the user's own wish
    before = [p.stride() for p in (*student.parameters(), *teacher.parameters())]
    fit(student, task_of(teacher))
    assert [p.stride() for p in (*student.parameters(), *teacher.parameters())] == before
    assert safetensors.torch.save(teacher.state_dict())


def test_modes_come_back_after_an_exception_and_a_network_in_eval_mode_learns():
    teacher, student = seeded(Plain), seeded(Plain).eval()
    student.body.register_forward_hook(lambda *_: None if student.training is False else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(student, task_of(teacher))
    assert not any(modes(student)) and all(modes(teacher))
    calm = seeded(Plain).eval()
    before = calm.stem[1].running_mean.clone()
    fit(calm, task_of(teacher))
    assert not calm.stem[1].running_mean.equal(before) and not any(modes(calm))


# ------------------------------------------------------------------------------- other networks


FOREIGN = {
    "squeezenet": lambda: torchvision.models.squeezenet1_1(num_classes=10),
    "vgg": lambda: _short_vgg(),
    "timm": lambda: timm.create_model("test_resnet", num_classes=10),
    "tokens": Tokens,
}


def _short_vgg():
    layers = torchvision.models.vgg.make_layers([8, "M", 8, "M"], batch_norm=True)
    network = torchvision.models.VGG(layers, num_classes=10)
    network.avgpool, network.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 10)
    return network


@pytest.mark.parametrize("name", FOREIGN)
def test_networks_of_others_learn_from_logits(name):
    """As a plain loop with the same batches and the same optimiser."""
    network, teacher = seeded(FOREIGN[name]), seeded(Plain)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    own, task = copy.deepcopy(network), task_of(teacher)
    (row,) = fit(network, task)
    optimiser = torch.optim.Adam(own.parameters(), 1e-3, weight_decay=1e-4, fused=True)
    losses = []
    for x, targets, _ in batches(task, 0):
        logits = own(x)
        wanted = (teacher.eval()(x).detach() / 4).log_softmax(1)
        kl = nn.functional.kl_div(
            (logits / 4).log_softmax(1), wanted, log_target=True, reduction="batchmean"
        )
        loss = nn.functional.cross_entropy(logits, targets) + 2 * 16 * kl
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert row["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    for a, b in zip(network.parameters(), own.parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-4)


class Answers(nn.Module):
    """A network that wraps its logits in something."""

    def __init__(self, network, wrap):
        super().__init__()
        self.network, self.wrap = network, wrap

    def forward(self, images):
        return self.wrap(self.network(images))


WRAPS = {
    "tuple": lambda logits: (logits, None),
    "mapping": lambda logits: {"logits": logits},
    "object": lambda logits: type("Output", (), {"logits": logits})(),
}


@pytest.mark.parametrize("wrap", WRAPS)
def test_answers_in_other_forms_are_understood(wrap):
    teacher, plain = seeded(Plain), seeded(Plain, width=4)
    wrapped = Answers(copy.deepcopy(plain), WRAPS[wrap])
    rows = fit(wrapped, task_of(Answers(teacher, WRAPS[wrap]))), fit(plain, task_of(teacher))
    assert rows[0][0]["loss"] == rows[1][0]["loss"] and equal_states(wrapped.network, plain)


@pytest.mark.parametrize("own", [False, True])
def test_wrapped_networks_train_what_is_inside(own):
    """DataParallel on whatever is here, and `torch.compile`, by logits and by features."""
    make = (lambda: build("resnet8", 10)) if own else (lambda: seeded(Plain))
    layer = "maps" if own else "body"
    wrappers = nn.DataParallel, lambda network: torch.compile(network, backend="eager")
    for changes in ({}, {"loss": "at", "layers": (layer,)}):
        plain, teacher = make(), make()
        fit(plain, task_of(teacher, **changes))
        for wrapper in wrappers:
            student = make()
            fit(wrapper(student), task_of(wrapper(make()), **changes))
            assert equal_states(student, plain)


def test_teachers_of_any_precision_teach_and_short_students_are_refused():
    teacher = seeded(Plain)
    short, long = copy.deepcopy(teacher).bfloat16(), copy.deepcopy(teacher).double()
    rows = [fit(seeded(Plain, width=4), task_of(t))[0]["loss"] for t in (teacher, short, long)]
    assert rows == pytest.approx([rows[0]] * 3, rel=1e-2)
    with pytest.raises(ValueError, match="bfloat16"):
        fit(short, task_of(teacher))


def test_networks_of_others_train_together():
    tasks = [replace(task_of(seeded(Plain)), seed=seed) for seed in (0, 1)]
    tasks[1] = replace(tasks[1], teacher=tasks[0].teacher, objective=tasks[0].objective)
    alone, packed = ([seeded(Plain, width=4) for _ in tasks] for _ in range(2))
    curves = [fit(student, task) for student, task in zip(alone, tasks, strict=True)]
    together = fit_together(packed, tasks)
    for ours, theirs in zip(curves, together, strict=True):
        assert theirs[0]["loss"] == pytest.approx(ours[0]["loss"], rel=1e-4)
    hooked = objective("at", layers=("body",))
    with pytest.raises(ValueError, match="alone"):
        fit_together(packed, [replace(task, objective=hooked) for task in tasks])


# ------------------------------------------------------------------------------------- features


def test_features_by_path_are_what_the_module_gave():
    """Also where the next layer overwrites them; of the package's networks beside their own."""
    x = torch.randn(4, 3, 32, 32)
    network = seeded(Plain).eval()
    _, found = look_of(network, ("stem.1", "act", "body"), x)(x)
    assert found["stem.1"].min() < 0 and torch.equal(found["act"], found["stem.1"].relu())
    assert torch.equal(found["stem.1"], network.stem(x)) and not network.stem[1]._forward_hooks
    own = build("resnet8", 10).eval()
    logits, features = look_of(own, ("f1", "stages.0.0.bn1"), x)(x)
    assert torch.equal(logits, own(x)) and torch.equal(features["f1"], own.features(x)[1]["f1"])
    assert features["stages.0.0.bn1"].shape == (4, 16, 32, 32)
    assert look_of(own, ("maps", "vector"), x) == own.features  # no hooks where none are needed


def test_gradients_pass_through_features_by_path():
    """The same loss, once by the path and once by the package's own name of the feature."""
    rows = []
    for layers in (("f1",), ("stages.0",)):
        student, teacher = build("resnet8", 10), build("resnet8", 10, seed=1)
        task = task_of(teacher, "at", layers=layers)
        rows.append((fit(student, task)[0]["loss"], student.state_dict()))
    assert rows[0][0] == pytest.approx(rows[1][0], rel=1e-6)  # the copy is laid out otherwise
    for name, value in rows[1][1].items():
        assert torch.allclose(rows[0][1][name], value, atol=1e-4), name


def test_two_networks_call_their_layers_by_their_own_names():
    student, teacher = seeded(Plain), seeded(FOREIGN["timm"])
    before = student.stem[0].weight.clone()
    task = task_of(teacher, "vid", layers=("body",), teacher_layers=("layer2",), gamma=0)
    fit(student, task)
    assert not before.equal(student.stem[0].weight)


class Twice(Plain):
    def forward(self, images):
        return self.head(self.body(self.act(self.act(self.stem(images)))).mean((2, 3)))


class SequenceFirst(Plain):
    def __init__(self):
        super().__init__()
        self.turn = nn.Identity()

    def forward(self, images):
        maps = self.body(self.act(self.stem(images)))
        return self.head(self.turn(maps.flatten(2).permute(2, 0, 1)).mean(0))


class Unpaired(Plain):
    """It runs another module than it names."""

    def __init__(self):
        super().__init__()
        self.idle = nn.Conv2d(3, 3, 1)


@pytest.mark.parametrize(
    "network, layer, named",
    [
        (Plain, "maps", "maps"),
        (Plain, "nowhere.0", "nowhere.0"),
        (Twice, "act", "2 times"),
        (Unpaired, "idle", "0 times"),
        (SequenceFirst, "turn", "turn"),
    ],
)
def test_features_that_mislead_are_refused_by_name(network, layer, named):
    with pytest.raises(ValueError, match=named):
        fit(network(), task_of(seeded(Plain), "sp", layers=(layer,), teacher_layers=("body",)))


def test_what_cannot_learn_is_refused():
    teacher, sharing = seeded(Plain), seeded(Plain)
    sharing.stem = teacher.stem
    for student, named in (
        (teacher, "own teacher"),
        (sharing, r"stem\.0\.weight"),
        (seeded(Plain).double(), "float64"),
        (seeded(Plain).requires_grad_(False), "frozen"),
        (seeded(Plain, classes=12), "12 classes"),
        (nn.Sequential(nn.Conv2d(3, 10, 3)), "shape"),
    ):
        with pytest.raises(ValueError, match=named):
            fit(student, task_of(teacher))
    with pytest.raises(ValueError, match="str"):
        fit(Answers(seeded(Plain), str), task_of(teacher))


def test_two_heads_beside_each_other_are_not_guessed():
    """Which of two outputs is trained is never chosen in silence."""
    student, teacher = Answers(seeded(Plain), lambda z: (z, z)), seeded(Plain)
    with pytest.raises(ValueError, match="logits"):
        fit(student, task_of(teacher))


def test_a_transform_of_ones_own_trains_as_it_does_image_by_image(monkeypatch):
    blur = v2.GaussianBlur(5, (0.2, 2.0))
    policy = as_policy(blur)
    monkeypatch.setitem(POLICIES, "blur", policy)
    images, (seeds,) = DIGITS.train_images[:6], policy.draw(generator(3), 6, 32, 32)
    views = policy.apply(images, seeds)
    for image, seed, view in zip(images, seeds, views, strict=True):
        with keyed(int(seed), TRANSFORM):
            assert view.equal(blur(image)) and not view.equal(image)
    task, state = replace(task_of(), augmentation="blur"), torch.get_rng_state()
    curves = [fit(build("resnet8", 10, seed=0), task) for _ in range(2)]
    assert curves[0][0]["loss"] == curves[1][0]["loss"]
    assert curves[0][0]["loss"] != fit(build("resnet8", 10, seed=0), task_of())[0]["loss"]
    assert torch.get_rng_state().equal(state)


def test_a_transform_that_cannot_train_is_refused_by_name():
    with pytest.raises(ValueError, match="CutMix"):
        as_policy(v2.CutMix(num_classes=3))
    policy = as_policy(v2.CenterCrop(8))
    with pytest.raises(ValueError, match="CenterCrop"):
        policy.apply(DIGITS.train_images[:2], *policy.draw(generator(0), 2, 32, 32))
