"""`quantize` takes any network: whatever class its layers have, in whatever order they run; what it
does not quantize it says.
"""

import copy
import itertools
import warnings

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from timm.utils import ModelEmaV2, ModelEmaV3
from torch import nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel

from bench import networks
from paperlib.quantizers import METHODS, QuantizedLayer, describe, ewgs, initialise, quantize
from paperlib.quantizers.attention import ExplicitAttention

# Each of the ten networks once, each method at least once.
PAIRS = dict(
    zip(
        networks.NETWORKS,
        "ewgs lsq lsq_released lsq+ dorefa pact ternary dorefa_released pact_released ewgs".split(),
        strict=True,
    )
)


@pytest.fixture(autouse=True)
def quiet():
    """Small networks have a large share of weights in their kept layers."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="only .* of the weights")
        yield


def test_every_method_is_tried():
    assert set(PAIRS.values()) == set(METHODS)


@pytest.mark.parametrize("name", PAIRS)
def test_networks_of_others(name):
    """Quantized nearly everywhere, it learns, and is saved and loaded bit by bit."""
    method, teacher = PAIRS[name], networks.network(name)
    images, labels = torch.randn(2, 3, 64, 64), torch.arange(2)
    student, again = (networks.student_of(teacher, method) for _ in range(2))
    initialise(student, images)
    table = describe(student)
    assert table.attrs["weights"] > 0.84 and table.attrs["macs"] > 0.6
    assert np.isfinite(networks.losses(student, images, labels, 1)).all()
    again.load_state_dict(student.state_dict())
    assert torch.equal(student.eval()(images), again.eval()(images))
    assert all(isinstance(value, torch.Tensor) for value in student.state_dict().values())


@pytest.mark.parametrize("method", METHODS)
def test_a_student_is_exported_with_any_batch(method):
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 3)
    network = nn.Sequential(*layers)
    student = quantize(network, method, 2, 2)
    initialise(student, torch.rand(4, 3, 9, 9))
    batch = torch.export.Dim("batch", min=2, max=64)
    shapes = {"input": {0: batch}}
    program = torch.export.export(student.eval(), (torch.rand(4, 3, 9, 9),), dynamic_shapes=shapes)
    images = torch.rand(7, 3, 9, 9)
    assert torch.allclose(program.module()(images), student(images), atol=1e-6)


class Own(nn.Linear):
    """A subclass with a forward of its own."""

    def forward(self, x):
        return nn.functional.linear(2 * x, self.weight, self.bias)


LAYERS = {
    "Conv1d": (nn.Conv1d(4, 6, 3, padding=1), (5, 4, 9)),
    "Conv3d": (nn.Conv3d(4, 6, 3), (5, 4, 4, 4, 4)),
    "ConvTranspose1d": (nn.ConvTranspose1d(4, 6, 3, stride=2), (5, 4, 9)),
    "ConvTranspose2d": (nn.ConvTranspose2d(4, 6, 3), (5, 4, 5, 5)),
    "grouped transposed": (nn.ConvTranspose2d(4, 6, 3, groups=2), (5, 4, 5, 5)),
    "reflecting": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (5, 4, 5, 5)),
    "subclass": (Own(4, 6), (5, 4)),
    "weight norm": (nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), (5, 4)),
    "spectral norm": (nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 6, 3)), (5, 4, 5, 5)),
    "weight norm by a hook": (nn.utils.weight_norm(nn.Linear(4, 6)), (5, 4)),
    "pruned": (prune.l1_unstructured(nn.Linear(4, 6), "weight", 0.5), (5, 4)),
}


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_of_any_class_is_quantized(name, per_channel):
    """At eight bits the output is nearly exact; at two it is made of few values of the weight."""
    layer, shape = LAYERS[name]
    torch.manual_seed(0)
    layer.eval()
    x = torch.rand(shape)
    network = nn.Sequential(nn.Identity(), layer)
    if name == "grouped transposed" and per_channel:
        with pytest.raises(ValueError, match="'1'"):
            quantize(network, "lsq+", 8, 8, keep=(), per_channel=True)
        return
    student = quantize(network, "lsq+", 8, 8, keep=(), per_channel=per_channel)
    initialise(student, x)
    exact, found = network(x), student.eval()(x)
    assert torch.equal(found, student(x))
    assert (found - exact).abs().max() < 0.1 * exact.std() and not torch.equal(found, exact)
    rough = quantize(network, "lsq+", 2, 8, keep=(), per_channel=per_channel)
    initialise(rough, x)
    weight = layer.weight.detach()
    if "Transpose" in type(layer).__name__:
        weight = weight.transpose(0, 1)
    codes = rough[1].weight_quantizer.codes(weight)[0]
    assert set(codes.unique().tolist()) <= {-2.0, -1.0, 0.0, 1.0}


@pytest.mark.parametrize(
    "options", [{}, {"batch_first": True}, {"kdim": 6, "vdim": 5}, {"bias": False}]
)
def test_explicit_attention_is_attention(options):
    torch.manual_seed(0)
    whole = nn.MultiheadAttention(8, 2, **options).eval()
    query, key = torch.randn(3, 4, 8), torch.randn(5, 4, options.get("kdim", 8))
    value = torch.randn(5, 4, options.get("vdim", 8))
    padding, mask = torch.zeros(4, 5, dtype=torch.bool), torch.randn(3, 5)
    padding[0, 4] = True
    if whole.batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    named = {"key_padding_mask": padding, "attn_mask": mask}
    wanted = whole(query, key, value, **named)
    for ours, theirs in zip(
        ExplicitAttention(whole)(query, key, value, **named), wanted, strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_attention_is_quantized_with_its_products_also_where_torch_has_a_fast_path():
    """nn.TransformerEncoderLayer in eval mode goes round its layers' forwards."""
    torch.manual_seed(0)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    network = nn.Sequential(nn.Linear(3, 8), encoder, nn.Flatten(), nn.Linear(32, 2)).eval()
    x = torch.randn(5, 4, 3)
    fine, rough = quantize(network, "lsq+", 8, 8), quantize(network, "lsq+", 2, 2)
    for student in (fine, rough):
        initialise(student, x)
        student.eval()
    with torch.no_grad():
        errors = [(student(x) - network(x)).abs().max() for student in (fine, rough)]
    assert errors[0] < 0.05 < errors[1]
    kinds = describe(fine)["kind"].tolist()
    assert kinds.count("Product") == 4 and kinds.count("QuantizedLinear") == 12


class Around(nn.Module):
    """Linear layers around one attention, or around the same one twice."""

    def __init__(self, attention, call=lambda a, x: a(x, x, x, need_weights=False)[0]):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.first = self.second = attention
        self.call = call

    def forward(self, x):
        x = self.call(self.first, self.b(self.a(x)))
        return self.c(self.call(self.second, x))


ENDS = ("a", "c")


def test_attention_that_is_kept_or_computes_something_else_stays_what_it_is():
    x = torch.randn(5, 4)
    biased = Around(nn.MultiheadAttention(8, 2, add_bias_kv=True))
    student = quantize(biased, "lsq+", 8, 8, keep=(*ENDS, "second"))
    initialise(student, x)
    assert low_bit(student) == ["b"] and type(student.first) is nn.MultiheadAttention
    own = type("Own", (nn.MultiheadAttention,), {"forward": lambda self, *x, **_: (2 * x[0], None)})
    for other in (biased, Around(own(8, 2))):
        with pytest.raises(ValueError, match="first.out_proj"):
            initialise(quantize(other, "lsq+", 8, 8), x)


def test_attention_in_two_places_stays_one_with_its_hooks_and_on_its_device():
    torch.manual_seed(0)
    network = Around(nn.MultiheadAttention(8, 2))
    network.first.register_forward_hook(lambda module, inputs, output: (3 * output[0], None))
    student, x = quantize(network, "lsq+", 8, 8), torch.randn(5, 4)
    initialise(student, x)
    assert student.first is student.second and not {"a", "c"} & {*low_bit(student)}
    assert (student.eval()(x) - network(x)).abs().max() < 0.1 * network(x).std()
    for held in quantize(network.to("meta"), "lsq", 8, 8).state_dict().values():
        assert held.is_meta
    causal = Around(nn.MultiheadAttention(8, 2), lambda a, x: a(x, x, x, is_causal=True)[0])
    with pytest.raises(ValueError, match="is_causal"):
        initialise(quantize(causal, "lsq+", 8, 8), x)


def test_the_hessian_rule_reaches_the_products_of_attention(monkeypatch):
    monkeypatch.setattr(ewgs, "hutchinson_trace", lambda *_: 1.0)
    student = quantize(Around(nn.MultiheadAttention(8, 2)), "ewgs", 2, 2, delta="hessian")
    x = torch.randn(3, 4)
    initialise(student, x)
    ewgs.update_deltas(student, [(x, torch.arange(3) % 2)], nn.functional.cross_entropy)
    sides = [*student.first.scores.sides, *student.first.mix.sides]
    assert all(side.activation_quantizer.delta > 0 for side in sides)


class HeadFirst(nn.Module):
    """Two heads, registered before the stem."""

    def __init__(self):
        super().__init__()
        self.head, self.other = nn.Linear(6, 2), nn.Linear(6, 2)
        self.middle, self.stem = nn.Linear(6, 6), nn.Linear(4, 6)

    def forward(self, x):
        x = self.middle(self.stem(x).relu()).relu()
        return self.head(x) + self.other(x)


def low_bit(student):
    return [n for n, m in student.named_modules() if isinstance(m, QuantizedLayer)]


@pytest.mark.parametrize(
    "wrap", [lambda m: m, nn.DataParallel, lambda m: torch.compile(m, backend="eager")]
)
def test_the_order_of_execution_says_what_is_first_and_last(wrap):
    assert low_bit(quantize(wrap(HeadFirst()), "lsq", 2, 2)) == ["middle"]


def test_full_precision_of_a_wrapped_network_is_seen():
    from paperlib.models import build

    network = build("resnet8", 10)
    wanted = low_bit(quantize(network, "lsq", 2, 2))
    assert low_bit(quantize(nn.DataParallel(network), "lsq", 2, 2)) == wanted
    assert low_bit(quantize(torch.compile(network, backend="eager"), "lsq", 2, 2)) == wanted


class Undecided(HeadFirst):
    """Its flow depends on values, which torch.fx cannot follow."""

    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


def test_a_guess_at_first_and_last_is_told():
    with pytest.warns(UserWarning, match="head"):
        quantize(Undecided(), "lsq", 2, 2)


def three(**attributes):
    network = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    for name, value in attributes.items():
        setattr(network, name, value)
    return network


@pytest.mark.parametrize(
    "network, keep, error, named",
    [
        (lambda: three(full_precision="12"), None, TypeError, "full_precision.*'12'"),
        (lambda: three(full_precision=True), None, TypeError, "full_precision.*True"),
        (three, "12", TypeError, "keep.*'12'"),
        (three, ("head",), ValueError, "'head'"),
        (lambda: nn.Linear(4, 4), None, ValueError, "nothing"),
        (nn.Sequential, None, ValueError, "Sequential"),
        (lambda: torch.jit.trace(three(), torch.rand(1, 4)), None, ValueError, "script"),
        (lambda: nn.Sequential(nn.LazyLinear(4), *three()), None, ValueError, "0.weight"),
        (lambda: quantize(three(), "lsq", 2, 2), None, ValueError, "already"),
    ],
)
def test_what_cannot_be_quantized_is_refused_by_name(network, keep, error, named):
    with pytest.raises(error, match=named):
        quantize(network(), "lsq+", 8, 8, keep=keep)


def test_kept_is_the_module_whatever_path_leads_to_it():
    layer = nn.Linear(4, 4)
    network = nn.Sequential(layer, nn.Linear(4, 4), nn.Sequential(layer))
    assert low_bit(quantize(network, "lsq", 2, 2, keep=("2",))) == ["1"]
    inner = nn.Sequential(nn.Linear(4, 4), three(full_precision=("1",)))
    assert low_bit(quantize(inner, "lsq", 2, 2)) == ["0", "1.0", "1.2"]


class Borrowed(nn.Module):
    """The parent uses the weight of a layer whose forward never runs."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.c(nn.functional.linear(self.a(x), self.b.weight))


def test_a_layer_that_never_runs_is_named():
    student = quantize(Borrowed(), "lsq+", 2, 2, keep=("a", "c"))
    with pytest.raises(ValueError, match="'b'"):
        initialise(student, torch.rand(5, 4))


class Dropping(nn.Module):
    """Stochastic depth: in train mode hardly a pass has the middle layer."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.a(x).relu()
        return self.c(x if self.training and torch.rand(()) < 0.999 else self.b(x))


def test_a_layer_that_is_dropped_by_chance_is_initialised():
    student = quantize(Dropping(), "lsq", 2, 2, keep=("a", "c")).train()
    initialise(student, torch.rand(5, 4))
    assert student.b.ready and student.training


class Twice(nn.Module):
    """One layer for small inputs, then for large ones."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4, bias=False)

    def forward(self, x):
        return self.layer(100 * x.abs()), self.layer(x.abs())


def test_a_layer_used_twice_has_bounds_for_both():
    torch.manual_seed(0)
    x = torch.rand(50, 4)
    student = quantize(Twice(), "ewgs", 4, 4, keep=())
    initialise(student, x)
    assert student.layer.activation_quantizer.upper > 50
    assert student.layer.activation_quantizer.lower < 1
    network = Twice()
    fine = quantize(network, "ewgs", 8, 8, keep=())
    initialise(fine, x)
    large, exact = fine(x)[0], network(x)[0]
    assert (large - exact).abs().max() < 0.1 * exact.std()


class Constant(nn.Module):
    def forward(self, x):
        return torch.full_like(x, -1)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_what_is_dead_or_constant_stays_finite_and_learns(method, per_channel):
    torch.manual_seed(0)
    network = nn.Sequential(*three(), nn.ReLU(), *three(), Constant(), *three())
    network[1].weight.data.zero_()
    network[2].weight.data[0] = 0
    network[2].bias.data.fill_(-100)  # the ReLU is dead
    student = quantize(network, method, 2, 2, per_channel=per_channel)
    initialise(student, torch.randn(6, 4))
    student(torch.randn(6, 4)).square().sum().backward()
    torch.optim.SGD(student.parameters(), 0.01).step()
    assert student(torch.randn(6, 4)).isfinite().all()
    assert all(p.isfinite().all() for p in student.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_other_precisions_compute_the_same(method):
    """Of 8 bits and 2,048 inputs: sums of codes do not fit into float16."""
    torch.manual_seed(0)
    layers = nn.Linear(4, 2048), nn.GELU(), nn.Linear(2048, 8), nn.Linear(8, 8)
    network, x = nn.Sequential(*layers), torch.rand(16, 4)
    student = quantize(network, method, 2 if method == "ternary" else 8, 8)
    initialise(student, x)
    exact = student.eval()(x)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        other = copy.deepcopy(student).to(dtype)
        found = [other(x.to(dtype))]
        if dtype.itemsize == 2:
            with torch.autocast("cpu", dtype):
                found.append(student(x))
        for y in found:
            assert y.dtype == dtype and (y - exact).abs().max() < 0.2 * exact.std()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shift", [nn.GELU(), nn.SiLU(), nn.Tanh(), nn.LayerNorm(16)])
def test_negative_inputs_get_a_grid_with_negative_values(method, shift):
    """At eight bits what enters the product goes with the input, up to scale and offset."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(16, 16), shift, nn.Linear(16, 16), nn.Linear(16, 4))
    x = 2 * torch.randn(200, 16)
    student = quantize(network, method, 2 if method == "ternary" else 8, 8)
    initialise(student, x)
    inside = network[1](network[0](x))
    found = student[2].activation_quantizer(inside)
    if method == "dorefa_released":  # by definition it squashes its input
        inside = inside.tanh()
    assert torch.corrcoef(torch.stack([found.flatten(), inside.flatten()]))[0, 1] > 0.97


@pytest.mark.parametrize("method", ["lsq", "dorefa", "pact"])
def test_a_student_with_negative_inputs_is_loaded(method):
    network = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 4))
    x = torch.randn(9, 4)
    student, again = (quantize(network, method, 4, 4) for _ in range(2))
    initialise(student, x)
    again.load_state_dict(student.state_dict())
    assert torch.equal(student.eval()(x), again.eval()(x))


@pytest.mark.parametrize("method", ["dorefa", "lsq"])
def test_the_networks_own_negative_input_is_not_clipped(method):
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.randn(100, 4)
    student = quantize(network, method, 8, 8, keep=())
    initialise(student, x)
    found = student[0].activation_quantizer(x)
    assert torch.corrcoef(torch.stack([found.flatten(), x.flatten()]))[0, 1] > 0.99


def test_frozen_parts_stay_frozen_and_keep_their_statistics():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 3)
    )
    network[0].requires_grad_(False)
    student = quantize(network, "lsq", 2, 2).train()
    student[1].eval()
    before = student[1].running_mean.clone()
    initialise(student, torch.rand(4, 3, 9, 9) + 5)
    assert torch.equal(before, student[1].running_mean) and not student[1].training
    assert not student[0].weight.requires_grad and student[3].weight.requires_grad
    frozen = quantize(network.requires_grad_(False), "lsq", 2, 2)
    assert all(p.requires_grad for p in frozen.parameters())


def test_a_batchnorm_is_not_folded_into_a_quantized_layer():
    network = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(3)), nn.BatchNorm2d(3))
    student = quantize(network, "lsq+", 4, 4, keep=("0", "1"))
    initialise(student, torch.rand(4, 3, 5, 5))
    with pytest.raises(ValueError, match="weight"):
        nn.utils.fusion.fuse_conv_bn_eval(student[2].eval(), student[3].eval())


def test_a_mostly_float_network_is_not_called_low_bit_in_silence():
    network = nn.Sequential(
        nn.Linear(100, 100), nn.Linear(100, 4), nn.Linear(4, 4), nn.Linear(4, 2)
    )
    with pytest.warns(UserWarning, match="0"):
        student = quantize(network, "lsq+", 2, 2)
    table = describe(student)
    assert table.attrs["weights"] == pytest.approx(416 / (10_000 + 416 + 8), abs=0.01)
    assert table.set_index("layer").loc["0", "why"] == "kept"


def test_shares_of_weights_and_multiply_adds_by_hand():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, stride=2, padding=1))
    network.append(nn.Sequential(nn.Flatten(), nn.Linear(8 * 16, 10)))
    student = quantize(network, "lsq+", 2, 2)
    initialise(student, torch.rand(5, 3, 8, 8))
    table, macs = describe(student), [64 * 108, 16 * 288, 1280]
    assert table["macs"].tolist()[1] == macs[1]
    assert table.attrs["macs"] == pytest.approx(macs[1] / sum(macs))
    assert table["macs"].tolist() == macs
    assert table.attrs["weights"] == pytest.approx(288 / (108 + 288 + 1280))
    assert describe(nn.DataParallel(student)).attrs == table.attrs


class Lora(nn.Linear):
    def __init__(self):
        super().__init__(8, 8)
        self.down = nn.Parameter(torch.rand(8, 2))

    def forward(self, x):
        return super().forward(x) + (x @ self.down).sum(-1, keepdim=True)


class Mixed(nn.Module):
    """Much that stays in full precision, on sequences that have images second."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), Lora(), nn.Linear(8, 2)
        self.rnn, self.two, self.table = nn.LSTM(8, 8), nn.Bilinear(8, 8, 8), nn.Embedding(3, 8)
        self.start = nn.Parameter(torch.zeros(1, 1, 8))
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        x = self.b(self.a(x)).transpose(0, 1)
        x = x + self.norm(self.start.expand(len(x), -1, -1)) + self.table.weight[0]
        x = self.rnn(x)[0]
        x = torch.softmax(x.transpose(0, 1) @ x.permute(1, 2, 0), -1) @ x.transpose(0, 1)
        return self.c(self.two(x, x)).mean(1)


def test_whatever_stays_in_full_precision_has_a_row():
    student = quantize(Mixed(), "lsq+", 2, 2)
    initialise(student, torch.rand(3, 5, 4))
    table = describe(student).set_index("layer")
    low = {"b": 64}
    high = {"a": 32, "b.down": 16, "c": 16, "rnn.weight_ih_l0": 256, "rnn.weight_hh_l0": 256}
    high |= {"two": 512, "table": 24, "start": 8}
    assert table["weights"].to_dict() == low | high
    assert table.attrs["weights"] == pytest.approx(64 / sum((low | high).values()))
    products = 2 * 5 * 5 * 8 + 5 * 512  # of `start`'s module, which is the network itself
    assert table["macs"].sum() == 5 * (32 + 64 + 16 + 16 + 512) + products
    assert set(table["why"][table["weight_bits"] == 2]) == {"low-bit"}


def test_attention_of_timm_is_named_with_its_products():
    """Fused or not, 5 tokens and 2 heads of 4."""
    block = timm.models.vision_transformer.Attention(8, num_heads=2)
    student = quantize(nn.Sequential(nn.Linear(4, 8), block, nn.Linear(8, 2)), "lsq", 4, 4)
    initialise(student, torch.rand(3, 5, 4))
    row = describe(student).set_index("layer").loc["1"]
    assert row["macs"] == 2 * 2 * 5 * 5 * 4
    assert (row["weights"], row["weight_bits"], row["why"] != "low-bit") == (0, 32, True)


def small(activation=nn.GELU):
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), activation()
    more = nn.Conv2d(8, 8, 3, groups=2, dilation=2, padding=2), nn.BatchNorm2d(8), activation()
    return nn.Sequential(*layers, *more, nn.Flatten(), nn.Linear(8 * 36, 4))


@pytest.mark.parametrize("method", METHODS)
def test_students_are_kept_in_files_and_averages(method, tmp_path):
    network, x = small(), torch.rand(4, 3, 8, 8)
    student = quantize(network, method, 2, 2, per_channel=True)
    initialise(student, x)
    wanted = student.eval()(x)
    safetensors.torch.save_file(student.state_dict(), tmp_path / "a")
    torch.save(student.state_dict(), tmp_path / "b")
    states = safetensors.torch.load_file(tmp_path / "a"), torch.load(tmp_path / "b")
    for state, assign in itertools.product(states, (False, True)):
        fresh = quantize(network, method, 2, 2, per_channel=True)
        for _ in range(2):  # once more into what is ready
            fresh.load_state_dict(state, assign=assign)
            assert torch.equal(fresh.eval()(x), wanted)
    averages = [AveragedModel(student, use_buffers=both) for both in (False, True)]
    for ema in (ModelEmaV2(student, 0.5), ModelEmaV3(student, 0.5), *averages):
        for _ in range(2):
            (ema.update_parameters if isinstance(ema, AveragedModel) else ema.update)(student)
        assert torch.allclose(ema.module.eval()(x), wanted, atol=1e-5)


def test_a_state_is_loaded_by_students_of_its_method_and_bits_only():
    """The names and shapes of bounds are alike; a 2-bit step on a 4-bit grid would be wrong in
    silence.
    """
    network, x = three(), torch.rand(9, 4)
    kinds = [*((name, (2, 2)) for name in METHODS), ("lsq", (2, 4)), ("lsq", (4, 2))]
    states = {}
    for name, bits in kinds:
        student = quantize(network, name, *bits)
        initialise(student, x)
        states[name, bits] = student.state_dict()
    for (kind, state), other in itertools.product(states.items(), kinds):
        student = quantize(network, other[0], *other[1])
        if kind == other:
            student.load_state_dict(state)
        else:
            with pytest.raises(RuntimeError):
                student.load_state_dict(state)


def test_weights_without_bounds_make_a_student_start_again():
    """As those of a teacher; what is loaded beside it leaves a student ready."""
    network, x = three(), torch.rand(9, 4)
    student = quantize(network, "lsq", 2, 2)
    initialise(student, x)
    wanted = student.eval()(x)
    student.load_state_dict({"2.weight": network[2].weight}, strict=False)
    assert torch.equal(student(x), wanted)
    student.load_state_dict({k: 3 * v for k, v in network.state_dict().items()}, strict=False)
    with pytest.raises(RuntimeError, match="initialise"):
        student(x)
    initialise(student, x)
    assert student(x).isfinite().all()


def test_a_state_without_its_grid_is_loaded():
    """As students were written before there was one, their readiness a bool."""
    network, x = three(), torch.rand(9, 4)
    student, again = (quantize(network, "lsq", 2, 2) for _ in range(2))
    initialise(student, x)
    state = {k: v for k, v in student.state_dict().items() if not k.endswith("grid")}
    again.load_state_dict(
        {k: v.bool() if k.endswith("_extra_state") else v for k, v in state.items()}
    )
    assert torch.equal(again.eval()(x), student.eval()(x))


def test_compiled_students_start_and_run():
    network = nn.Sequential(nn.Conv1d(4, 8, 3), nn.GELU(), nn.Conv1d(8, 8, 3), nn.Conv1d(8, 2, 3))
    x = torch.randn(5, 4, 12)
    plain = quantize(network, "lsq", 2, 2)
    compiled = torch.compile(copy.deepcopy(plain), backend="eager", fullgraph=True)
    initialise(plain, x)
    initialise(compiled, x)
    assert torch.allclose(compiled(x), plain(x), atol=1e-6)


def test_attention_is_exported_with_any_batch():
    torch.manual_seed(0)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1)
    network = nn.Sequential(nn.Linear(3, 8), encoder, nn.Flatten(), nn.Linear(32, 2))
    student, x = quantize(network, "ewgs", 2, 2), torch.randn(5, 4, 3)
    initialise(student, x)
    shapes = {"input": {0: torch.export.Dim("batch", min=2, max=64)}}
    program = torch.export.export(student.eval(), (x,), dynamic_shapes=shapes)
    assert torch.allclose(program.module()(x[:3]), student(x[:3]), atol=1e-6)
