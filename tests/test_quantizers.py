"""Grids, ranges and gradients of every quantizer, and what `quantize` makes of a network."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_losses import OnTheGpu
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from paperlib.models import build
from paperlib.quantizers import (
    METHODS,
    QuantizedLayer,
    dorefa,
    dorefa_activation,
    dorefa_weight,
    ewgs_activation,
    ewgs_round,
    ewgs_weight,
    fake_quantize,
    fusing,
    fusion,
    initialise,
    layers_to_quantize,
    learned_step,
    lsq,
    lsq_plus,
    pact,
    pact_activation,
    quantize,
    quantizer_parameters,
    released,
    ternary,
    ternary_weight,
)
from paperlib.quantizers.ewgs import update_deltas
from paperlib.quantizers.functional import interval_codes

X = torch.linspace(-3, 3, 601, dtype=torch.float64)
GRIDS = {  # name: (function of x and bits, the grid it promises)
    "ewgs_activation": (
        lambda x, b: ewgs_activation(x, -0.5, 2.0, 2**b),
        lambda b: torch.linspace(0, 1, 2**b),
    ),
    "ewgs_weight": (
        lambda x, b: ewgs_weight(x, -1.5, 1.5, 2**b),
        lambda b: torch.linspace(-1, 1, 2**b),
    ),
    "dorefa_activation": (dorefa_activation, lambda b: torch.linspace(0, 1, 2**b)),
    "dorefa_weight": (dorefa_weight, lambda b: torch.linspace(-1, 1, 2**b)),
    "pact_activation": (
        lambda x, b: pact_activation(x, 2.0, b),
        lambda b: torch.linspace(0, 2, 2**b),
    ),
    "lsq_signed": (
        lambda x, b: lsq(x, 0.3, -(2 ** (b - 1)), 2 ** (b - 1) - 1),
        lambda b: 0.3 * torch.arange(-(2 ** (b - 1)), 2 ** (b - 1)),
    ),
    "lsq_unsigned": (lambda x, b: lsq(x, 0.3, 0, 2**b - 1), lambda b: 0.3 * torch.arange(2**b)),
    "lsq_plus": (
        lambda x, b: lsq_plus(x, 0.3, -0.7, 0, 2**b - 1),
        lambda b: 0.3 * torch.arange(2**b) - 0.7,
    ),
    "fake_quantize": (
        lambda x, b: fake_quantize(x, 0.3, -(2 ** (b - 1)), 2 ** (b - 1) - 1),
        lambda b: 0.3 * torch.arange(-(2 ** (b - 1)), 2 ** (b - 1)),
    ),
    "ternary": (
        lambda x, b: ternary_weight(x),
        lambda b: X.abs()[X.abs() > 0.7 * X.abs().mean()].mean() * torch.tensor([-1, 0, 1]),
    ),
}


BOUNDS = {  # of x, beyond which no gradient passes, by the number of bits
    "ewgs_activation": lambda b: (-0.5, 2.0),
    "ewgs_weight": lambda b: (-1.5, 1.5),
    "dorefa_activation": lambda b: (0.0, 1.0),
    "dorefa_weight": lambda b: (-math.inf, math.inf),
    "pact_activation": lambda b: (0.0, 2.0),
    "lsq_signed": lambda b: (-0.3 * 2 ** (b - 1), 0.3 * (2 ** (b - 1) - 1)),
    "lsq_unsigned": lambda b: (0.0, 0.3 * (2**b - 1)),
    "lsq_plus": lambda b: (-0.7, 0.3 * (2**b - 1) - 0.7),
    "fake_quantize": lambda b: (
        -0.3 * (2 ** (b - 1) + 0.5),
        0.3 * (2 ** (b - 1) - 0.5),
    ),  # decided after rounding
}


# At one bit DoReFa's weights have another grid, see test_one_bit_weights, and LSQ's are undefined.
@pytest.mark.parametrize(
    "name, bits",
    [
        (name, bits)
        for name in GRIDS
        for bits in (1, 2, 3, 4, 8)
        if bits > 1 or name not in ("dorefa_weight", "lsq_signed", "fake_quantize")
    ],
)
def test_values_lie_on_the_grid_and_grow_with_x(name, bits):
    function, grid = GRIDS[name]
    before = X.clone()
    q = function(X, bits)
    assert torch.equal(X, before)
    distance = (q[:, None] - grid(bits).double()[None]).abs().min(1).values
    assert distance.max() < 1e-6
    assert (q.diff() >= -1e-12).all()
    assert q.dtype == X.dtype


@given(st.floats(-2, 1), st.floats(0.1, 3), st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_all_levels_are_reached_and_kept(lower, width, bits):
    levels = 2**bits
    points = torch.linspace(0, 1, levels, dtype=torch.float64)
    assert torch.allclose(
        ewgs_round(points, levels), points, atol=1e-12
    )  # grid points are fixed points
    x = lower + width * points
    assert torch.allclose(ewgs_activation(x, lower, lower + width, levels), points, atol=1e-9)
    step = width / (levels - 1)
    signed = step * torch.arange(-levels // 2, levels // 2, dtype=torch.float64)
    assert torch.allclose(
        lsq(signed, step, -levels // 2, max(levels // 2 - 1, 0)), signed, atol=1e-9
    )
    positive = step * torch.arange(levels, dtype=torch.float64)
    assert torch.allclose(pact_activation(positive, width, bits), positive, atol=1e-9)


@given(
    st.sampled_from([name for name in GRIDS if name != "ternary"]),
    st.integers(2, 8),
    st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=20),
    st.floats(-3, 3, allow_subnormal=False),
)
@settings(max_examples=150, deadline=None)
def test_any_values_are_quantized_in_order_within_the_range_and_pass_no_gradient_beyond_it(
    name, bits, values, g
):
    """Also where ties, bounds and repetitions meet: monotone, on the ends of the grid beyond it,
    gradient 0 or finite.
    """
    function, grid = GRIDS[name]
    ends = grid(bits).double()
    x = torch.tensor(sorted(values), dtype=torch.float64, requires_grad=True)
    if name == "dorefa_weight" and not x.detach().abs().max() > 0:
        return  # all weights 0: the scale is undefined
    q = function(x, bits)
    assert (
        (q.diff() >= -1e-12).all() and q.min() >= ends.min() - 1e-6 and q.max() <= ends.max() + 1e-6
    )
    q.backward(torch.full_like(q, g))
    assert torch.isfinite(x.grad).all()
    low, high = BOUNDS[name](bits)
    assert (x.grad[(x.detach() < low - 1e-9) | (x.detach() > high + 1e-9)] == 0).all()


def test_rounding_is_half_to_even():
    assert ewgs_round(torch.tensor([0.5, 1.5, 2.5]) / 3, 4).mul(3).tolist() == [0.0, 2.0, 2.0]


@pytest.mark.parametrize("delta", [0.0, 0.2, 1.0])
def test_ewgs_gradient_of_rounding(delta):
    x = torch.linspace(0, 1, 41, dtype=torch.float64, requires_grad=True)
    g = torch.linspace(-2, 2, 41, dtype=torch.float64)
    q = ewgs_round(x, 4, delta)
    q.backward(g)
    expected = g + delta * g.abs() * (x - q).detach()
    assert torch.allclose(x.grad, expected, atol=1e-14)
    if delta:
        assert not torch.allclose(x.grad, g)


def test_ewgs_gradients_inside_at_and_beyond_the_bounds():
    lower, upper = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (-1.0, 3.0))
    x = torch.tensor([-1.5, -1.0, 0.7, 3.0, 3.5], dtype=torch.float64, requires_grad=True)
    g = torch.tensor([1.0, 10.0, 100.0, 1000.0, 10000.0], dtype=torch.float64)
    ewgs_activation(x, lower, upper, 4).backward(g)
    inside = torch.tensor([0.0, 1, 1, 1, 0], dtype=torch.float64)  # the bounds count as inside
    assert torch.allclose(x.grad, g * inside / 4)
    n = (x.detach() + 1) / 4
    assert lower.grad == pytest.approx(((n - 1) / 4 * g * inside).sum().item())
    assert upper.grad == pytest.approx((-n / 4 * g * inside).sum().item())


def test_bounds_get_the_gradient_of_the_unrounded_map():
    """With the straight-through estimator, bounds and x get exactly the gradient of the clipped
    affine map.
    """
    x = torch.randn(
        200, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    lower, upper = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (-0.7, 0.9))
    g = torch.randn(200, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad(ewgs_weight(x, lower, upper, 8), (x, lower, upper), g)
    plain = 2 * (((x - lower) / (upper - lower)).clamp(0, 1) - 0.5)
    for a, b in zip(ours, torch.autograd.grad(plain, (x, lower, upper), g), strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_pact_gradients():
    alpha = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    x = torch.tensor([-0.5, 0.0, 1.1, 2.0, 2.5], dtype=torch.float64, requires_grad=True)
    pact_activation(x, alpha, 2).backward(
        torch.tensor([1.0, 10, 100, 1000, 10000], dtype=torch.float64)
    )
    assert x.grad.tolist() == pytest.approx([0, 10, 100, 0, 0])  # on 0 <= x < alpha
    assert alpha.grad.item() == pytest.approx(
        11000
    )  # from alpha on, and nothing from the rounding error


def test_lsq_gradients_decide_by_the_unrounded_value():
    step = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    v = torch.tensor(
        [-2.3, -2.0, -0.6, 0.3, 1.0, 1.3], dtype=torch.float64
    )  # qmin -2, qmax 1; 1.3 rounds to 1 but is out
    x = (v * 0.5).requires_grad_()
    g = torch.tensor([1.0, 10, 100, 1000, 10000, 100000], dtype=torch.float64)
    lsq(x, step, -2, 1, grad_scale=0.25).backward(g)
    assert x.grad.tolist() == pytest.approx([0, 0, 100, 1000, 0, 0])
    slope = torch.tensor([-2, -2, -1 + 0.6, 0 - 0.3, 1, 1], dtype=torch.float64)
    assert step.grad.item() == pytest.approx(0.25 * (g * slope).sum().item())


def test_one_bit_weights():
    w = torch.tensor([-2.0, -0.5, 0.0, 1.5], requires_grad=True)
    q = dorefa_weight(w, 1)
    assert q.tolist() == [-1.0, -1.0, 1.0, 1.0]  # mean |w| = 1
    q.backward(torch.tensor([1.0, 2, 3, 4]))
    assert w.grad.tolist() == [1, 2, 3, 4]
    assert ewgs_weight(w, -1.0, 1.0, 2).unique().tolist() == [-1.0, 1.0]


@pytest.mark.parametrize(
    "call",
    [
        lambda: ewgs_round(X, 1),
        lambda: ewgs_round(X, 4, -1.0),
        lambda: dorefa_weight(X, 0),
        lambda: dorefa_activation(X, 33),
        lambda: pact_activation(X, 1.0, 2.5),
        lambda: pact_activation(X, -1.0, 2),
        lambda: lsq(X, 0.0, -2, 1),
        lambda: lsq(X, 1.0, 2, 2),
        lambda: ewgs_activation(X, 1.0, 1.0, 4),
    ],
)
def test_bad_arguments(call):
    with pytest.raises(ValueError, match=r"\d"):
        call()


# ---------------------------------------------------------------- LSQ+, ternary, the released forms


def test_lsq_plus_moves_the_grid_and_its_offset_learns_from_what_is_outside():
    step, offset = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.5, -1.0))
    x = torch.tensor(
        [-2.0, -0.9, 0.3, 0.45, 3.0], dtype=torch.float64, requires_grad=True
    )  # v = -2, 0.2, 2.6, 2.9, 8; grid 0 .. 3
    g = torch.tensor([1.0, 10, 100, 1000, 10000], dtype=torch.float64)
    y = lsq_plus(x, step, offset, 0, 3)
    assert y.tolist() == pytest.approx([-1.0, -1.0, 0.5, 0.5, 0.5])
    y.backward(g)
    assert x.grad.tolist() == pytest.approx([0, 10, 100, 1000, 0])
    assert offset.grad.item() == pytest.approx(10001)
    slope = torch.tensor([0, -0.2, 0.4, 0.1, 3], dtype=torch.float64)
    assert step.grad.item() == pytest.approx((g * slope).sum().item())
    moved = lsq_plus(x.detach() + 7, 0.5, 6.0, 0, 3) - 7
    assert torch.allclose(moved, y.detach())


def test_lsq_plus_starts_where_the_error_is_least():
    x = torch.randn(2000, generator=torch.Generator().manual_seed(0)) - 0.3
    quantizer = learned_step.LsqPlusActivation(2)
    quantizer.initialise(x)
    error = lambda step, low: (lsq_plus(x, step, low, 0, 3) - x).square().mean().item()  # noqa: E731
    ours = error(quantizer.step.item(), quantizer.offset.item())
    fine = min(
        error((high - low) / 3, low)
        for low in torch.linspace(-4, 0, 60).tolist()
        for high in torch.linspace(0.1, 4, 60).tolist()
    )
    assert ours < 1.03 * fine < error(((x.max() - x.min()) / 3).item(), x.min().item())


def test_an_offset_goes_through_a_padded_convolution_exactly():
    conv = nn.Sequential(
        nn.Conv2d(2, 2, 1), nn.Conv2d(2, 4, 3, padding=1, stride=2, groups=2), nn.Conv2d(4, 2, 1)
    )
    student = quantize(conv, "lsq+", 3, 3).double()
    x = torch.randn(3, 2, 7, 7, dtype=torch.float64)
    initialise(student, x)
    layer, seen = student[1], student[0](x).detach()
    a, w = layer.activation_quantizer, layer.weight_quantizer
    assert a.offset.item() < -0.1
    reference = torch.nn.functional.conv2d(
        a(seen), w(layer.weight), layer.bias, 2, 1, 1, 2
    )  # the border is padded with zeros
    assert torch.allclose(layer(seen), reference, atol=1e-12)
    parameters = [a.step, a.offset, w.step, layer.weight]
    for ours, theirs in zip(
        *(torch.autograd.grad(y.square().sum(), parameters) for y in (layer(seen), reference)),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, rtol=1e-9)


def test_ternary_weights():
    w = torch.tensor(
        [-2.0, -0.1, 0.3, 1.0], dtype=torch.float64, requires_grad=True
    )  # mean|w| 0.85, threshold 0.595
    q = ternary_weight(w)
    assert q.tolist() == [-1.5, 0, 0, 1.5]
    q.backward(torch.tensor([1.0, 2, 3, 4]))
    assert w.grad.tolist() == [1, 2, 3, 4]
    both = ternary_weight(torch.stack([w.detach(), 10 * w.detach()]), per_channel=True)
    assert torch.allclose(both, torch.stack([q, 10 * q]).detach())


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_fake_quantization_is_torchs(bits):
    """Values and all gradients equal torch's own kernels, which the released code's framework
    calls.
    """
    qmin, qmax = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    x = 3 * torch.randn(500, generator=torch.Generator().manual_seed(bits))
    g = torch.randn(500, generator=torch.Generator().manual_seed(9))
    scale, zero = torch.tensor([0.37]), torch.zeros(1)
    leaves = [[t.clone().requires_grad_() for t in (x, scale)] for _ in range(2)]
    ours = fake_quantize(*leaves[0], qmin, qmax, 0.25)
    theirs = torch._fake_quantize_learnable_per_tensor_affine(*leaves[1], zero, qmin, qmax, 0.25)
    ours.backward(g), theirs.backward(g)
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert torch.allclose(
        leaves[0][0].grad, leaves[1][0].grad, rtol=1e-6, atol=0
    )  # 0 at the same places
    assert leaves[0][1].grad.item() == pytest.approx(leaves[1][1].grad.item(), rel=1e-4)


def test_released_lsq_differs_from_the_paper_between_the_last_level_and_the_next():
    x = torch.tensor([1.3], dtype=torch.float64)  # rounds to 1, the last level, but lies beyond it
    for function, passes in ((lsq, 0.0), (fake_quantize, 1.0)):
        mine, step = (
            x.clone().requires_grad_(),
            torch.tensor(1.0, dtype=torch.float64, requires_grad=True),
        )
        function(mine, step, -2, 1).backward()
        assert mine.grad.item() == passes
        assert step.grad.item() == pytest.approx(1 - 1.3 if passes else 1.0)
    weights, images = torch.randn(8, 3, 3, 3), torch.randn(4, 3, 5, 5)
    for numel, quantizer, tensor in (
        (216, released.ReleasedLsq(3), weights),
        (300, released.ReleasedLsq(3), images),
    ):
        quantizer.initialise(tensor)
        assert quantizer.step.item() == pytest.approx(2 * tensor.abs().mean().item() / math.sqrt(3))
        quantizer(tensor).sum().backward()
        whole = quantizer.step.detach().clone().requires_grad_()
        fake_quantize(tensor, whole, -4, 3).sum().backward()
        assert quantizer.step.grad.item() == pytest.approx(
            whole.grad.item() / math.sqrt(numel * 3), rel=1e-5
        )  # the batch counts


def test_released_dorefa_keeps_its_first_scale_and_its_maximums_gradient():
    quantizer = released.ReleasedDorefa(3)
    x = torch.randn(64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    quantizer.double().initialise(x)
    scale = quantizer.scale.item()
    t = x.tanh() / (x.tanh().abs().max() + 1e-5)
    assert scale == pytest.approx(t.abs().max().item() / 3.5)
    values = quantizer(x)
    codes = values / scale
    assert (
        torch.allclose(codes, codes.round())
        and codes.min() >= -4
        and codes.max().item() == pytest.approx(3)
    )
    quantizer(5 * x)
    assert quantizer.scale.item() == scale and not list(quantizer.parameters())
    mine, plain = x.clone().requires_grad_(), x.clone().requires_grad_()
    g = torch.randn(64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    quantizer(mine).backward(g)
    t = plain.tanh() / (plain.tanh().abs().max() + 1e-5)
    r = (t.detach() / scale).round()
    (t * ((r >= -4) & (r <= 3))).backward(g)
    assert torch.allclose(mine.grad, plain.grad, atol=1e-12)


def test_released_pact_has_half_a_grid_and_an_alpha_that_stays():
    quantizer = released.ReleasedPact(2)
    assert not list(quantizer.parameters())
    assert quantizer(torch.linspace(0, 9, 100)).unique().tolist() == [
        0,
        4,
    ]  # 6 / 1.5 = 4: of four levels a ReLU's output sees two
    assert quantizer(torch.tensor([-50.0])).item() == -8


# -------------------------------------------------------------------------------------- per channel


@pytest.mark.parametrize("method", METHODS)
def test_a_channels_quantizer_is_that_of_the_channel_alone(method):
    """Every output channel of a per-channel weight is quantized as the per-tensor quantizer would
    quantize it by itself.
    """
    bits = 2
    w = (
        torch.randn(5, 3, 3, 3, dtype=torch.float64)
        * torch.tensor([0.1, 1, 10, 3, 0.5]).view(-1, 1, 1, 1).double()
    )
    make = METHODS[method].weight
    together = make(bits, shape=(5, 1, 1, 1)).double()
    together.initialise(w)
    mine = w.clone().requires_grad_()
    values = together(mine)
    values.square().sum().backward()
    for c in range(5):
        alone = make(bits).double()
        alone.initialise(w[c : c + 1])
        own = w[c : c + 1].clone().requires_grad_()
        value = alone(own)
        value.square().sum().backward()
        assert torch.allclose(value, values[c : c + 1], atol=1e-12)
        assert torch.allclose(own.grad, mine.grad[c : c + 1], atol=1e-12)
        for a, b in zip(alone.parameters(), together.parameters(), strict=True):
            assert a.grad.item() == pytest.approx(b.grad.flatten()[c].item(), rel=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_per_channel_students_work_in_convolutions_and_linear_layers(method):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Flatten(),
        nn.Linear(8, 6),
        nn.Linear(6, 2),
    )
    student, x = quantize(net, method, 2, 2, per_channel=True), torch.randn(5, 3, 7, 7)
    initialise(student, x)
    student(x).square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in student.parameters() if p.grad is not None)
    if METHODS[method].output_scale:
        layer, seen = student[1], net[0](x)
        assert layer.output_scale.shape == (8,)
        sizes = lambda y: y.abs().mean((0, 2, 3))  # noqa: E731
        assert torch.allclose(sizes(layer(seen)), sizes(net[1](seen)), rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert student[1](net[0](x).bfloat16()).dtype == torch.bfloat16


# --------------------------------------------------------------------------- shorter floats, fusion

CODES = {  # name: a quantizer of b bits with its parameter set
    "ewgs weight": lambda b: METHODS["ewgs"].weight(b),
    "ewgs activation": lambda b: METHODS["ewgs"].activation(b, delta=0.2),
    "dorefa weight": dorefa.DorefaWeight,
    "dorefa activation": dorefa.DorefaActivation,
    "pact": lambda b: pact.PactActivation(b, alpha=1.3),
    "lsq": METHODS["lsq"].activation,
    "ternary": lambda b: ternary.TernaryWeight(2),
    "lsq+": learned_step.LsqPlusActivation,
    "released lsq": lambda b: released.ReleasedLsq(max(b, 2)),
    "released dorefa": lambda b: released.ReleasedDorefa(max(b, 2)),
    "released pact": lambda b: released.ReleasedPact(max(b, 2)),
}


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("name", CODES)
def test_codes_are_integers_that_bfloat16_holds_exactly(name, bits):
    x = torch.randn(4000, generator=torch.Generator().manual_seed(0)).bfloat16()
    quantizer = CODES[name](bits)
    if name not in ("ewgs weight", "ewgs activation"):
        quantizer.initialise(x.float().abs() if name == "lsq" else x.float())
    exact, scale = quantizer.codes(x.float())
    short, scale_ = quantizer.codes(x)
    assert torch.equal(exact, exact.round()) and exact.unique().numel() <= 2 ** max(bits, 2)
    assert short.dtype == torch.bfloat16 and torch.equal(
        short.float(), exact
    )  # the arithmetic before is in float32
    assert torch.equal(exact.bfloat16().float(), exact)
    assert float(scale_) == float(scale)
    assert torch.equal(
        quantizer(x.float()), exact * scale + (0 if quantizer.offset is None else quantizer.offset)
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_quantizers_give_the_same_values(dtype, layout):
    """Compiled or, where torch cannot compile, as written: equal values, gradients but for the
    order of sums.
    """
    x = (
        torch.randn(3, 4, 6, 5, generator=torch.Generator().manual_seed(1))
        .to(dtype)
        .contiguous(memory_format=layout)
    )
    results = []
    for on in (False, True):
        mine, lower, upper = (
            x.clone().requires_grad_(),
            *(torch.tensor(v, requires_grad=True) for v in (-0.4, 0.8)),
        )
        with fusing(on):
            codes = interval_codes(mine, lower, upper, 4, 0.3)
            codes.backward(torch.linspace(-1, 1, x.numel()).reshape(x.shape).to(dtype))
        assert codes.stride() == x.stride()
        results.append((codes.detach(), mine.grad, lower.grad, upper.grad))
    for plain, fused in zip(*results, strict=True):
        assert (
            torch.equal(plain, fused)
            if plain.ndim
            else plain.item() == pytest.approx(fused.item(), rel=1e-4)
        )


def test_what_cannot_be_compiled_runs_as_written(monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("no compiler was found")

    monkeypatch.setattr(torch, "compile", fail)
    monkeypatch.setattr(fusion, "_broken", False)
    double = fusion.or_as_written(lambda x: 2 * x)
    with pytest.warns(UserWarning, match="no compiler was found"):
        assert double(torch.ones(1)).item() == 2
    assert double(torch.ones(1)).item() == 2  # and no second warning
    wrong = fusion.or_as_written(lambda x: x.no_such_thing)
    with pytest.raises(AttributeError):
        wrong(torch.ones(1))


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_nothing_in_a_step_waits_for_the_gpu(method, per_channel):
    """On fake CUDA tensors, which have no values: whatever needed one would raise, and so would a
    tensor made on the host.
    """
    student = quantize(build("resnet8", 10), method, 2, 2, per_channel=per_channel)
    initialise(student, torch.rand(4, 3, 8, 8))

    def on_gpu(t):
        return torch.empty(t.shape, dtype=t.dtype, device="cuda")

    with FakeTensorMode():
        student._apply(on_gpu)
        images = on_gpu(torch.rand(4, 3, 8, 8))
        with OnTheGpu():
            assert student(images).is_cuda


# ----------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize(
    "name, layers", [("resnet20", 18), ("resnet32", 30), ("vgg8", 4), ("vgg13", 8)]
)
def test_the_papers_layers_are_quantized(name, layers):
    model = build(name, 10)
    student = quantize(model, "ewgs", 2, 2)
    assert sum(isinstance(m, QuantizedLayer) for m in student.modules()) == layers
    assert not any(isinstance(m, QuantizedLayer) for m in model.modules())
    extra = sum(p.numel() for p in student.parameters()) - sum(
        p.numel() for p in model.parameters()
    )
    assert extra == 5 * layers == len(quantizer_parameters(student))


BITS = dict.fromkeys(
    ("lsq", "lsq+", "dorefa_released", "pact_released", "lsq_released"), (2, 4, 8)
) | {"ternary": (2,)}


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("method", METHODS)
def test_students_start_from_the_teacher_and_learn(method, bits):
    if bits not in BITS.get(method, (1, 2, 4, 8)):
        with pytest.raises(ValueError, match=str(bits)):
            quantize(build("resnet8", 10), method, bits, bits)
        return
    teacher, images = build("resnet8", 10), torch.randn(8, 3, 16, 16)
    student = quantize(teacher, method, bits, bits)
    initialise(student, images)
    for name, p in teacher.named_parameters():
        assert torch.equal(p, student.get_parameter(name))
    student(images).square().sum().backward()
    for p in student.parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all()
    for layer in (m for m in student.modules() if isinstance(m, QuantizedLayer)):
        assert len(layer.weight_quantizer(layer.weight).unique()) <= 2**bits


def test_ewgs_starts_as_the_paper_says():
    conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.Conv2d(5, 2, 3))
    student = quantize(conv, "ewgs", 2, 2)
    images = torch.randn(6, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    initialise(student, images)
    layer, x = student[1], conv[0](images)
    w = conv[1].weight
    assert layer.weight_quantizer.upper.item() == pytest.approx(3 * w.std().item())
    assert layer.weight_quantizer.lower.item() == pytest.approx(-3 * w.std().item())
    assert layer.activation_quantizer.upper.item() == pytest.approx(
        3 * x.std().item() / math.sqrt(1 - 2 / math.pi), rel=1e-5
    )
    assert layer.activation_quantizer.lower.item() == pytest.approx(x.min().item())
    # the output scale makes the mean size of the quantized output that of the exact one
    assert student[1](x).abs().mean().item() == pytest.approx(
        conv[1](x).abs().mean().item(), rel=1e-5
    )


def test_a_frozen_teachers_student_learns():
    teacher = build("resnet8", 10).requires_grad_(False)
    assert all(p.requires_grad for p in quantize(teacher, "ewgs", 2, 2).parameters())
    assert not any(p.requires_grad for p in teacher.parameters())


def test_uninitialised_students_refuse_and_states_travel():
    student = quantize(build("resnet8", 10), "ewgs", 2, 2)
    with pytest.raises(RuntimeError, match="initialise"):
        student(torch.randn(2, 3, 16, 16))
    initialise(student, torch.randn(4, 3, 16, 16))
    other = quantize(build("resnet8", 10, seed=9), "ewgs", 2, 2)
    other.load_state_dict(student.state_dict())
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(other.eval()(x), student.eval()(x))


def test_eight_bits_are_close_to_full_precision():
    # Without bias, and after a ReLU: EWGS leaves out the offset of an interval that does not start
    # at 0, and adds the bias before its output scale.
    torch.manual_seed(0)
    convs = [nn.Conv2d(c, 2 * c, 3, bias=False) for c in (3, 6, 12)]
    layers = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])
    student, x = quantize(layers, "ewgs", 8, 8), torch.rand(4, 3, 12, 12)
    initialise(student, x)
    errors = [((student(x) - layers(x)).abs().mean() / layers(x).std()).item()]
    coarse = quantize(layers, "ewgs", 2, 2)
    initialise(coarse, x)
    errors.append(((coarse(x) - layers(x)).abs().mean() / layers(x).std()).item())
    assert errors[0] < 0.1 and errors[1] > 3 * errors[0]


def test_any_network_keeps_its_first_and_last_layer():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Flatten(),
        nn.Linear(16, 8),
        nn.Linear(8, 2),
    )
    assert layers_to_quantize(net) == ["1", "3"]
    assert layers_to_quantize(net, keep=()) == ["0", "1", "3", "4"]
    student = quantize(net, "lsq", 4, 4)
    initialise(student, torch.rand(5, 3, 6, 6))
    assert student(torch.rand(5, 3, 6, 6)).shape == (5, 2)
    for keep in (("9",), ("0", "1", "3", "4")):
        with pytest.raises(ValueError):
            quantize(net, "ewgs", 2, 2, keep=keep)


def test_kept_layers_can_have_more_bits():
    """Tiny-ImageNet's recipe: the first and the last layer at 8 bits, weights and inputs, all
    others at b.
    """
    teacher, images = build("resnet8", 10), torch.randn(4, 3, 16, 16)
    for method in METHODS:
        if method == "ternary":  # three values are not 8 bits
            continue
        student = quantize(teacher, method, 3, 3, kept_bits=8)
        initialise(student, images)
        levels = {
            name: len(m.weight_quantizer(m.weight).unique())
            for name, m in student.named_modules()
            if isinstance(m, QuantizedLayer)
        }
        assert len(levels) == 8 and all(
            (n > 8) == (name in ("conv", "linear")) for name, n in levels.items()
        )
        first = student.conv.activation_quantizer(images)
        assert (
            len(first.unique()) <= 256 and len(first[images < 0].unique()) > 16
        )  # the image is negative too
        assert torch.isfinite(student(images)).all()
    with pytest.raises(ValueError, match="8"):
        quantize(teacher, "ternary", 2, 2, kept_bits=8)


def test_ewgs_bounds_stay_in_order_far_from_zero():
    quantizer = METHODS["ewgs"].activation(3)
    x = 5 + 0.01 * torch.randn(100)  # 3 std / sqrt(1 - 2 / pi) is below the minimum
    quantizer.initialise(x)
    assert quantizer.lower.item() == x.min().item() and quantizer.upper.item() == x.max().item()
    assert len(quantizer(x).unique()) == 8


@pytest.mark.parametrize(
    "arguments, named",
    [
        (("awq", 2, 2), "awq"),
        (("ewgs", 0, 2), "0"),
        (("dorefa", 2, 33), "33"),
        (("lsq", 1, 2), "1"),
    ],
)
def test_quantize_names_what_is_wrong(arguments, named):
    with pytest.raises(ValueError, match=named):
        quantize(build("resnet8", 10), *arguments)
    with pytest.raises(ValueError, match="alpha"):
        quantize(build("resnet8", 10), "ewgs", 2, 2, alpha=1.0)


# ------------------------------------------------------------------------------------- Hessian rule


class Quadratic(nn.Module):
    """A student of one quantized layer and a loss whose curvature is known: sum over outputs of a
    weighted square.
    """

    def __init__(self):
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 5)

    def forward(self, x):
        return self.middle(torch.relu(self.first(x)))


def test_hessian_rule_on_a_known_curvature():
    torch.manual_seed(0)
    student = quantize(Quadratic(), "ewgs", 4, 4, keep=("first", "last"), delta="hessian")
    x = torch.randn(64, 4)
    initialise(student, x)
    loss = lambda y, _: y.square().sum()  # noqa: E731
    found = update_deltas(student, [(x, None)], loss)["middle"]
    # y = s (2 (q - 1/2) a' + b), a' = quantized input: the loss is quadratic in q and in a', each
    # with a known trace.
    layer = student.middle
    with torch.no_grad():
        a = layer.activation_quantizer(torch.relu(student.first(x)))
        w = layer.weight_quantizer(layer.weight)
        s = layer.output_scale.abs()
        y = s * (a @ w.T + layer.bias)
        trace_w = (
            2 * (2 * s) ** 2 * a.square().sum() * w.shape[0]
        )  # each of 5 rows sees every input
        trace_a = 2 * s**2 * w.square().sum() * len(x)
        g_w = 2 * s * 2 * (y.T @ a)
        g_a = 2 * s * (y @ w)
    expected = (trace_w / w.numel() / (3 * g_w.std()), trace_a / a.numel() / (3 * g_a.std()))
    assert found[0] == pytest.approx(expected[0].item(), rel=0.15)  # Hutchinson, at most 50 draws
    assert found[1] == pytest.approx(expected[1].item(), rel=0.15)
    assert layer.weight_quantizer.delta.item() == found[0] > 0
    with pytest.raises(ValueError, match="hessian"):
        update_deltas(quantize(Quadratic(), "ewgs", 2, 2), [(x, None)], loss)


def test_hessian_rule_leaves_the_network_as_it_was():
    student = quantize(build("resnet8", 10), "ewgs", 2, 2, delta="hessian")
    initialise(student, torch.randn(8, 3, 8, 8))
    before = {k: v.clone() for k, v in student.state_dict().items() if isinstance(v, torch.Tensor)}
    update_deltas(
        student, [(torch.randn(4, 3, 8, 8), torch.arange(4))], nn.functional.cross_entropy
    )
    for name, value in before.items():
        assert name.endswith(".delta") or torch.equal(student.state_dict()[name], value), name
    assert all(p.grad is None for p in student.parameters())
