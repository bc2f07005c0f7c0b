"""An exported student says what torch says, in the bytes that its bits need; students in files."""

import copy
import pickle
import sys
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

from paperlib.models import build, in_mode
from paperlib.quantizers import (
    METHODS,
    Method,
    Quantizer,
    agreement,
    export,
    initialise,
    load_student,
    quantize,
    save_student,
    straight_through,
)
from paperlib.quantizers.export import session
from paperlib.quantizers.layers import QuantizedLayer
from paperlib.quantizers.line import CHAIN, Stored, line_of
from related.vit.method import TERNARY

onnxruntime.set_default_logger_severity(3)
pytestmark = pytest.mark.filterwarnings("ignore:only")  # a small part of small networks is low-bit
PACKED = {25: 2, 21: 4, 2: 8}  # UINT2, UINT4, UINT8


class PowerOfTwo(Quantizer):
    """One of a user's: 0 and signed powers of two."""

    def __init__(self, bits, shape=()):
        super().__init__(bits)

    def codes(self, x):
        exact = x.detach()
        scale = exact.abs().max() / 4
        size = (exact.abs() / scale).clamp(min=1e-9)
        codes = torch.where(size < 0.5, 0.0, 2 ** size.log2().round().clamp(min=0)) * exact.sign()
        return straight_through(x, codes, scale), scale


class Stepped(Quantizer):
    """A quantizer that depends on its values, which no graph can hold."""

    def codes(self, x):
        return (x.round() if float(x.sum()) > 0 else x.floor()), 1.0


class Fractions(Quantizer):
    """Codes that are no integers, and too many."""

    def codes(self, x):
        return x, 1.0


OWN = {"dynamic": TERNARY, "power of two": Method(PowerOfTwo, METHODS["lsq"].activation, "mine")}


@pytest.fixture(autouse=True, scope="module")
def _registered():
    METHODS.update(OWN)
    yield
    for name in OWN:
        del METHODS[name]


def plain():
    """Convolutions with all that may stand between two of them, and a linear layer."""
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)),
        *(nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, 2, padding=1, bias=False)),
        *(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.ReLU()),
        *(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5)),
    )


def small():
    """A convolution that can run in int8, and one that cannot."""
    first, inner = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3, padding=1)
    last, head = nn.Conv2d(8, 4, 3), nn.Linear(36, 5)
    return nn.Sequential(
        *(first, nn.ReLU(), inner, nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(last, nn.Flatten(), head),
    )


class Residual(nn.Module):
    """A shortcut, a pooling before a norm of negative slopes, and a layer that is used twice."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = (nn.Conv2d(k, 6, 3, padding=1) for k in (3, 6, 6))
        self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(6, 5)

    def forward(self, x):
        x = self.stem(x).relu()
        y = self.a(self.norm(nn.functional.max_pool2d(self.b(x), 2)).relu())
        return self.head((self.b(y) + x[:, :, ::2, ::2]).mean((2, 3)))


def twice():
    """A layer whose two calls end in different quantizers."""
    layer = nn.Conv2d(6, 6, 3, padding=1)
    first, last = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3)
    inner = (layer, nn.ReLU(), layer, nn.BatchNorm2d(6), nn.ReLU())
    return nn.Sequential(first, nn.ReLU(), *inner, last, nn.Flatten(), nn.Linear(64, 5))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(6, 16), nn.Linear(16, 5)
        self.block = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x):
        x = self.embed(x)
        return {"logits": self.head(self.block(x, x, x)[0].mean(1))}


def flat(layer, features):
    """That layer between two others, which stay."""
    dims = int(type(layer).__name__[-2])
    first = getattr(nn, f"Conv{dims}d")(3, 6, 3)
    return nn.Sequential(first, nn.ReLU(), layer, nn.Flatten(), nn.Linear(features, 5))


NETWORKS = {
    "plain": (plain, (3, 14, 14)),
    "small": (small, (3, 12, 12)),
    "residual": (Residual, (3, 8, 8)),
    "twice": (twice, (3, 8, 8)),
    "attention": (Attention, (7, 6)),
    "1d": (lambda: flat(nn.Conv1d(6, 4, 3, dilation=2), 32), (3, 14)),
    "3d": (lambda: flat(nn.Conv3d(6, 4, 3, groups=2), 256), (3, 8, 8, 8)),
    "transposed": (lambda: flat(nn.ConvTranspose2d(6, 4, 3, 2), 676), (3, 8, 8)),
    "reflecting": (
        lambda: flat(nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"), 144),
        (3, 8, 8),
    ),
}


@cache
def student(network="plain", method="ewgs", bits=(2, 2), **options):
    """A student whose BatchNorms have learned something, with its inputs' shape."""
    make, shape = NETWORKS[network]
    torch.manual_seed(0)
    teacher = make()
    for part in teacher.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(part.weight, 0.5, 0.5)
            nn.init.normal_(part.bias, 0.0, 0.3)
    made = quantize(teacher, method, *bits, **options)
    initialise(made, torch.randn(16, *shape))
    return made.eval(), shape


def images_of(shape, count=40):
    """Also far outside of what the quantizers have seen."""
    images = torch.randn(count, *shape, generator=torch.Generator().manual_seed(1)) * 2
    images[:4] *= torch.tensor([0.0, 1e3, 1e6, -1e6]).view(-1, *[1] * len(shape))
    return images


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(student's arguments) -> student, file, images, table; each file is made once."""

    @cache
    def make(*arguments, **options):
        made, shape = student(*arguments, **options)
        path = tmp_path_factory.mktemp("exported") / "student.onnx"
        table = export(made, path, torch.randn(1, *shape))
        return made, path, images_of(shape), table

    return make


def level(made, images):
    """The largest change of a logit that one code of the last low-bit layer can make, roughly: a
    hundredth of what logits differ by.
    """
    with torch.no_grad():
        output = made(images)
    logits = output["logits"] if isinstance(output, dict) else output
    return float(logits[4:].std())


def check(made, path, images, close=1e-4):
    """Torch, and onnxruntime with and without its optimisation, on all images and on one."""
    found = agreement(made, path, images, batch=len(images))
    assert found.attrs["equal"] >= 0.95 * len(images)
    size = level(made, images)
    raw = session(path, optimised=False)(images.numpy())
    with torch.no_grad():
        output = made(images)
    ours = (output["logits"] if isinstance(output, dict) else output).numpy()
    far = np.abs(raw - ours).max(1) > close * np.abs(ours).max(1).clip(size)
    assert far.mean() <= 0.05, "but for a code at the edge of another"
    return found


# ------------------------------------------------------------------------------- every quantizer


def bits_of(method):
    return (2, 8) if method == "dynamic" else (2, 4) if method == "ternary" else (3, 3)


@pytest.mark.parametrize("method", [*METHODS, *OWN])
def test_every_method_exports_and_says_the_same(method, exported):
    made, path, images, table = exported("small", method, bits_of(method))
    check(made, path, images)
    low = table[table["stored"].notna()]
    assert set(low["stored"]) <= {"UINT2", "UINT4"} and (low["kernel"] != "").all()
    assert list(path.parent.iterdir()) == [path], "one file"
    if "dynamic" not in method and "dorefa_released" != method:  # whose codes depend on the batch
        one = session(path)(images[7:8].numpy())
        assert np.allclose(one, made(images[7:8]).detach(), atol=1e-3 * level(made, images))


@pytest.mark.parametrize(
    "network, options",
    [
        ("residual", {}),
        ("twice", {}),
        ("attention", {"keep": ()}),
        ("1d", {}),
        ("3d", {"per_channel": True}),
        ("transposed", {}),
        ("reflecting", {"keep": (), "kept_bits": 8}),
    ],
)
def test_every_kind_of_layer_exports(network, options, exported):
    method = "ewgs" if network == "twice" else "lsq+"
    made, path, images, table = exported(network, method, (4, 4), **options)
    check(made, path, images)
    kernels = dict(zip(table["layer"], table["kernel"], strict=True))
    whys = dict(zip(table["layer"], table["why"], strict=True))
    if network == "attention":
        assert kernels["block.q"] == "int8" and table.attrs["int8"] > 0.5
        assert kernels["block.scores"] == "float"
    if network == "twice":
        assert [n.op_type for n in onnx.load(path).graph.node].count("QLinearConv") == 2
    if network == "transposed":
        assert "ConvTranspose" in whys["2"]


def test_convolutions_before_one_quantizer_and_linear_layers_run_in_int8(exported):
    """And what stays in float says why: a shortcut, slopes that pooling would turn around, codes
    that do not fit, products that would saturate.
    """
    _, path, _, table = exported("plain", "ewgs", (2, 2))
    kernels = dict(zip(table["layer"], table["kernel"], strict=True))
    assert [kernels[name] for name in ("0", "2", "6", "9", "12", "14")] == (
        ["float", "int8", "int8", "float", "int8", "float"]
    )
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert kinds.count("QLinearConv") == 2 and kinds.count("MatMulInteger") == 1
    assert (table["why"][table["kernel"] == "float"] != "").all()
    _, _, _, table = exported("residual", "ewgs", (2, 2))
    assert table["kernel"].tolist() == ["float", "int8", "float", "float"]
    *_, table = exported("plain", "dorefa", (8, 8))
    low = table[table["stored"] == "UINT8"]
    assert (low["kernel"] == "float").all() and low["why"].str.contains("fit").any()
    for largest, inputs, taken in ((64, 255, True), (65, 255, False), (127, 128, True)):
        table = np.array([-largest, 0, 1], np.float32)
        layer = Stored("layer", np.zeros((1, 1), np.uint8), table, (0, inputs))
        assert bool(layer.problem()) != taken, "two products within 16 bits"


def heard(made, images):
    """The codes of each layer's input, in the order of the calls."""
    found = []
    layers = [part for part in made.modules() if isinstance(part, QuantizedLayer)]

    def listen(layer):
        inner = layer.activation_quantizer.codes

        def codes(x):
            found.append(inner(x)[0])
            return inner(x)

        layer.activation_quantizer.codes = codes

    for layer in layers:
        listen(layer)
    with torch.no_grad():
        made(images)
    for layer in layers:
        del layer.activation_quantizer.codes
    return found


@pytest.mark.parametrize("method, bits", [("ewgs", 2), ("lsq", 2), ("dorefa", 4)])
def test_each_layer_alone_is_within_one_level(method, bits, exported):
    """The codes that each convolution in int8 makes, of codes that are torch's."""
    made, path, images, _ = exported("plain", method, (bits, bits))
    model = onnx.load(path)
    names = []
    for node in model.graph.node:
        if node.op_type == "QLinearConv":
            names.append(node.output[0])
        elif node.op_type in ("Clip", "MaxPool") and node.input[0] in names:
            names[names.index(node.input[0])] = node.output[0]
    codes = heard(made, images)
    assert len(names) == 2
    for name in names:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, 2, None))
    run = onnxruntime.InferenceSession(model.SerializeToString())
    least = min(0, *(int(c.min()) for c in codes))
    for ours, theirs in zip(codes[1:], run.run(names, {"images": images.numpy()}), strict=False):
        off = np.abs(ours.numpy() - least - theirs)
        assert off.max() <= 1 and off.mean() <= (0 if bits == 2 else 3e-3)


def test_a_line_gives_the_codes_of_every_sum():
    """Against torch's own layers, for every sum that the weights can make."""
    rng = np.random.default_rng(0)
    for bits, signed in ((1, False), (2, False), (2, True), (3, False), (4, False)):
        top = 2**bits - 1
        table = np.arange(-top, top + 1, 2, dtype=np.float32)
        index = rng.integers(0, len(table), (9, 4, 3, 3)).astype(np.uint8)
        layer = Stored("layer", index, table, (-top - 1, top) if signed else (0, top))
        norm = nn.BatchNorm2d(9).eval()
        for value in (norm.weight, norm.bias, norm.running_mean):
            value.data = torch.from_numpy(rng.normal(0, 1, 9).astype(np.float32))
        norm.weight.data[0] = 0.0  # a channel that is always the same
        low, high = layer.reach()
        step, scale = np.float32(0.4), np.float32(0.03 / top)

        def torch_codes(sums, norm=norm, scale=scale, step=step, top=top):
            y = norm(torch.from_numpy(sums.astype(np.float32))[None, :, None] * scale)[0, :, 0]
            return (y.relu() / step * top).clamp(0, top).round().detach().numpy()

        numbers = [norm.weight, norm.bias, norm.running_mean, norm.running_var]
        columns = [x.detach().numpy().reshape(-1, 1) for x in numbers]
        one = [np.array([[x]], np.float32) for x in (scale, step, top, 0.0)]
        operations = [
            *(("Mul", one[:1], {}), ("BatchNormalization", columns, {"epsilon": norm.eps})),
            *(("Relu", [], {}), ("Div", one[1:2], {}), ("Mul", one[2:3], {})),
            *(("Clip", [one[3], one[2]], {}), ("Round", [], {})),
        ]
        assert {kind for kind, *_ in operations} <= set(CHAIN)
        line = line_of(operations, layer, (0, top))
        sums = np.arange(low.min(), high.max() + 1)[None].repeat(9, axis=0)
        reached = (sums >= low[:, None]) & (sums <= high[:, None])
        off = np.abs(line(sums) - torch_codes(sums))[reached]
        assert off.max() <= 1 and off.mean() <= 1e-3 and (bits > 2 or off.max() == 0)
        assert 2 * (layer.inputs[1] - layer.inputs[0]) * line.step * top < 2**15, "no saturation"


def test_pooling_before_a_negative_slope_is_no_line():
    layer = Stored("layer", np.zeros((1, 1, 1, 1), np.uint8), np.ones(1, np.float32), (0, 3))
    factor = [np.array([[-1.0]], np.float32)]
    ends = [np.array([[x]], np.float32) for x in (-3, 0)]
    tail = [("Clip", ends, {}), ("Round", [], {})]
    pooled = [("MaxPool", [], {}), ("Mul", factor, {}), *tail]
    assert line_of([("Mul", factor, {}), *tail], layer, (-3, 0)) is not None
    assert line_of(pooled, layer, (-3, 0)) is None


# ---------------------------------------------------------------------------------------- the file


@pytest.mark.parametrize("method, bits", [("ewgs", 2), ("lsq", 3), ("dorefa", 4), ("dorefa", 8)])
def test_weights_are_packed_and_the_file_is_no_larger_than_that(method, bits, exported):
    made, path, _, table = exported("small" if bits == 3 else "plain", method, (bits, bits))
    model, layers = onnx.load(path), dict(made.named_modules())
    stored = {x.name: x for x in model.graph.initializer if x.name.endswith(".codes")}
    packed = 0
    for name, tensor in stored.items():
        layer = layers[name.removesuffix(".codes")]
        held = PACKED[tensor.data_type]
        assert held <= (4 if bits == 3 else bits)
        assert len(tensor.raw_data) == -(-layer.weight.numel() * held // 8)
        packed += len(tensor.raw_data)
        tables = {x.name: onnx.numpy_helper.to_array(x) for x in model.graph.initializer}
        index = onnx.numpy_helper.to_array(tensor).astype(int)
        codes = layer.weight_quantizer.codes(layer.weight)[0].detach().numpy()
        assert (tables[name.replace(".codes", ".table")][index] == codes).all()
    low = sum(layers[name.removesuffix(".codes")].weight.numel() for name in stored)
    others = sum(x.numel() for x in made.state_dict().values()) - low
    size = path.stat().st_size
    assert table.attrs["bytes"] == size and packed == table["bytes"].sum()
    assert size < packed + 4 * others + 1000 * len(layers)


def test_the_reference_implementation_of_onnx_says_the_same(exported):
    made, path, images, _ = exported("plain", "lsq", (2, 2))
    theirs = ReferenceEvaluator(str(path)).run(None, {"images": images.numpy()})[0]
    assert np.allclose(theirs, made(images).detach(), atol=1e-3 * level(made, images))


def test_the_file_says_what_it_is_and_takes_any_number_of_images(tmp_path):
    made, shape = student("plain", "lsq", (2, 2))
    path, names = tmp_path / "deep" / "student.onnx", [str(k) for k in range(5)]
    export(made, path, torch.randn(1, *shape), names, mean=(0.5,) * 3, std=(0.25,) * 3)
    model = onnx.load(path)
    words = {each.key: each.value for each in model.metadata_props}
    assert words["method"] == '"lsq"' and words["weight_bits"] == "2"
    assert words["classes"] == '["0", "1", "2", "3", "4"]' and words["std"] == "[0.25, 0.25, 0.25]"
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    text = path.read_bytes()
    parts = (*model.graph.node, *model.graph.initializer, *model.graph.input, model.graph)
    assert not any(part.metadata_props or part.doc_string for part in parts)
    assert b"test_export" not in text and b"site-packages" not in text, "no trace of its maker"
    for count in (1, 3):
        assert session(path)(np.zeros((count, *shape), np.float32)).shape == (count, 5)


def test_the_student_stays_as_it_is(tmp_path):
    made, shape = student("plain", "lsq", (2, 2), per_channel=True)
    made.train()
    made[3].eval()
    before = {name: x.clone() for name, x in made.state_dict().items()}
    facts = lambda: [(m.training, sorted(vars(m)), type(m)) for m in made.modules()]  # noqa: E731
    modes, state, images = facts(), torch.random.get_rng_state(), images_of(shape)
    export(made, tmp_path / "student.onnx", images)
    agreement(made, tmp_path / "student.onnx", images)
    assert facts() == modes and torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(x, before[name]) for name, x in made.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in made.parameters())


def test_a_file_of_another_student_disagrees_image_by_image(exported):
    made, path, images, _ = exported("plain", "ewgs", (2, 2))
    other = copy.deepcopy(made)
    with torch.no_grad():
        other[14].bias += torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4]) * level(made, images)
        other[14].weight *= torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])[:, None]
    labels = torch.arange(len(images)) % 5
    found = agreement(other, path, images, labels)
    with torch.no_grad(), in_mode(made, False):
        ours, theirs = other(images), made(images)
    a, b = ours.argmax(1), theirs.argmax(1)
    assert found["image"].tolist() == (a != b).nonzero()[:, 0].tolist() and len(found)
    assert found.attrs["equal"] == int((a == b).sum()) == len(images) - len(found)
    row = found.iloc[0]
    margin = ours[int(row["image"]), int(row["torch"])] - ours[int(row["image"]), int(row["onnx"])]
    assert row["margin"] == pytest.approx(float(margin)) and margin > 0
    right = [100 * float((each == labels).double().mean()) for each in (a, b)]
    assert found.attrs["accuracy"] == pytest.approx(right)


# -------------------------------------------------------------------------------- what is refused


def refused(made, folder, *parts, kind=ValueError, images=None, **options):
    path = folder / "student.onnx"
    path.write_bytes(b"old")
    images = torch.randn(2, 3, 14, 14) if images is None else images
    with pytest.raises(kind) as error:
        export(made, path, images, **options)
    assert all(part in str(error.value) for part in parts), str(error.value)
    assert path.read_bytes() == b"old" and list(folder.iterdir()) == [path]


def test_what_cannot_be_exported_is_refused_by_name(tmp_path, monkeypatch):
    fresh = quantize(build("resnet8", 3), "lsq", 2, 2)
    refused(fresh, tmp_path, "stages.0.0.conv1", "initialise")
    refused(build("resnet8", 3), tmp_path, "quantize")
    made, _ = student("plain", "lsq", (2, 2))
    refused(made, tmp_path, "2 classes", classes=["a", "b"])
    for kind, part in ((Stepped, "Stepped"), (Fractions, "different weights")):
        weight = METHODS["lsq"].weight if kind is Stepped else lambda bits: Fractions()
        METHODS["odd"] = Method(weight, lambda bits: kind(), "mine")  # noqa: B023
        own = quantize(plain(), "odd", 2, 2)
        del METHODS["odd"]
        initialise(own, torch.randn(4, 3, 14, 14))
        refused(own, tmp_path, "layer '2'", part)
    wide = quantize(build("resnet8", 3).double(), "lsq", 2, 2)
    initialise(wide, torch.randn(4, 3, 32, 32).double())
    refused(wide, tmp_path, "float64", images=torch.randn(2, 3, 32, 32).double())
    monkeypatch.setitem(sys.modules, "onnx", None)
    refused(made, tmp_path, "onnx", "paperlib[export]", kind=ImportError)


def test_a_file_that_onnxruntime_cannot_run_is_named(exported, tmp_path):
    made, path, _, _ = exported("plain", "lsq", (2, 2))
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(path.read_bytes()[:3000])
    for file, images in ((damaged, images_of((3, 14, 14))), (path, images_of((3, 15, 15)))):
        with pytest.raises(ValueError, match=file.name):
            agreement(made, file, images)


# ------------------------------------------------------------------------------- students in files


@pytest.mark.parametrize("method", [*METHODS, *OWN])
def test_a_saved_student_comes_back(method, tmp_path):
    made, shape = student("small", method, bits_of(method))
    path, images = tmp_path / "student.safetensors", images_of(shape)
    save_student(made, path, ("a", "b", "c"), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    again = load_student(path, small)
    assert torch.equal(again(images), made(images)) and not again.training
    assert again.card.classes == ("a", "b", "c") and again.card.std == (0.2, 0.2, 0.2)
    assert again.card.quantization == made.card.quantization
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_names_a_network_of_the_package(tmp_path):
    made = quantize(build("resnet8", 3, seed=1), "ewgs", 2, 3, keep=("linear",), kept_bits=8)
    initialise(made, torch.randn(4, 3, 16, 16))
    save_student(made, tmp_path / "student")
    again, images = load_student(tmp_path / "student"), torch.randn(2, 3, 16, 16)
    assert made.training and torch.equal(again(images), made.eval()(images))


def test_a_network_of_ones_own_comes_back_through_its_factory(tmp_path):
    made, shape = student("attention", "ewgs", (3, 2), keep=(), per_channel=True, delta=0.5)
    path = tmp_path / "student.safetensors"
    save_student(made, path)
    again, images = load_student(path, Attention), images_of(shape)
    assert torch.equal(again(images)["logits"], made(images)["logits"])
    with pytest.raises(ValueError, match="factory"):
        load_student(path)
    with pytest.raises(ValueError, match=path.name):
        load_student(path, plain)


def test_what_is_no_students_file_is_refused_and_nothing_of_it_runs(tmp_path):
    made = quantize(build("resnet8", 3), "lsq", 2, 2)
    path, bad = tmp_path / "student.safetensors", tmp_path / "bad.safetensors"
    save_student(made, path)
    content = path.read_bytes()
    text = content.decode("latin1")

    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    cases = {
        "pickled": pickle.dumps(Trap()),
        "truncated": content[:-7],
        "empty": b"",
        "another method": text.replace('\\"lsq\\"', '\\"ewg\\"').encode("latin1"),
        "one that would be imported": text.replace('\\"lsq\\"', '\\"a:b\\"').encode("latin1"),
        "other bits": text.replace('"weight_bits":"2"', '"weight_bits":"4"').encode("latin1"),
        "no number": text.replace('"weight_bits":"2"', '"weight_bits":"x"').encode("latin1"),
        "more classes": text.replace('"outputs":"3"', '"outputs":"4"').encode("latin1"),
        "no card": text.replace('"method"', '"methud"').encode("latin1"),
    }
    for name, damaged in cases.items():
        assert damaged != content, name
        bad.write_bytes(damaged)
        with pytest.raises(ValueError, match=bad.name):
            load_student(bad)
    with pytest.raises(FileNotFoundError):
        load_student(tmp_path / "nothing")
    with pytest.raises(ValueError):
        save_student(build("resnet8", 3), bad)
    assert path.read_bytes() == content


def test_quantize_remembers_its_arguments():
    made = quantize(build("vgg8", 4), "pact", 2, 3, keep=("linear",), alpha=5.0)
    card = made.card
    assert (card.network, card.outputs, card.method) == ("vgg8", 4, "pact")
    assert card.quantization == {
        "method": "pact",
        **{"weight_bits": 2, "activation_bits": 3, "keep": ("linear",), "kept_bits": None},
        **{"per_channel": False, "alpha": 5.0},
    }
    assert quantize(plain(), "lsq", 2, 2).card.network is None
