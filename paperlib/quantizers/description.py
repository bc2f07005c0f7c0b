"""What of a student is low-bit: layer by layer, and as shares of its weights and multiply-adds."""

import math
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.flop_counter import FlopCounterMode

from ..basics.checks import checked, require
from ..data.checks import floats, module
from ..models import in_mode
from .attention import Product
from .ends import unwrapped
from .layers import LAYERS, LowBit, QuantizedLayer

ENOUGH = 0.95  # of the weights; below, a network is hardly a low-bit one
# What torch does not count by itself, of shapes.
UNCOUNTED = {
    torch.ops.aten._trilinear: lambda x, w, *_, **__: 2 * x[0] * math.prod(w),
    torch.ops.aten.mkldnn_rnn_layer: lambda x, w, u, *_, **__: (
        2 * math.prod(x[:2]) * (math.prod(w) + math.prod(u))
    ),
}


@checked(student=module, images=floats("N _ ...", door=True))
def describe(student: nn.Module, images: Tensor | None = None) -> pd.DataFrame:
    """Which weights of a network are low-bit, and why the others are not.

    images  (N, ...) float, as the network takes them: multiply-adds are counted anew, on the first
            of them. None: those that `initialise` counted.

    A row for each weight, a parameter of two or more dimensions, and for each module that has none
    but computes products in its own code, as the attention of timm does: layer, kind, weights
    (their number), weight_bits and activation_bits (32 in full precision), input ("negative too"
    where the first batch was), macs (multiply-adds an image, all of a module in its first row; NaN
    if not counted), why. `.attrs["weights"]` and `.attrs["macs"]` are the shares in low bits, in
    [0, 1].

    >>> from paperlib.quantizers import initialise, quantize
    >>> layers = nn.Linear(2, 40), nn.Linear(40, 40), nn.Linear(40, 40), nn.Linear(40, 2)
    >>> student = quantize(nn.Sequential(*layers), "lsq+", 2, 2)
    >>> initialise(student, torch.rand(5, 2))
    >>> table = describe(student)
    >>> table[["layer", "weight_bits", "why"]].values.tolist()[1:3]
    [['1', 2, 'low-bit'], ['2', 2, 'low-bit']]
    """
    student = unwrapped(student)
    if images is not None:
        count(student, images)
    rows = list(_rows(student))
    require(rows, "the network has no weight")
    table = pd.DataFrame(rows)
    low = table["why"] == "low-bit"
    table.attrs["weights"] = float(table["weights"][low].sum() / table["weights"].sum())
    table.attrs["macs"] = float(table["macs"][low].sum() / table["macs"].sum(skipna=False))
    return table


def _rows(student: nn.Module) -> Iterator[dict[str, Any]]:
    macs = getattr(student, "_macs", None)
    low = {m for m in student.modules() if isinstance(m, QuantizedLayer)}
    inside = {m for layer in low for m in layer.modules()} - low
    columns = "layer kind weights weight_bits activation_bits input macs why".split()
    for path, part in student.named_modules():
        left = float("nan") if macs is None else macs[path]
        if part not in inside:
            for name, *values, why in _entries(path, part, left > 0):
                row = name, type(part).__name__, *values, left, why
                yield dict(zip(columns, row, strict=True))
                left *= 0


def _entries(path: str, part: nn.Module, computes: bool) -> Iterator[tuple]:
    """The rows of a module itself. computes  whether it has multiply-adds of its own."""
    weights = [(n, p.numel()) for n, p in part.named_parameters(path, recurse=False) if p.ndim > 1]
    why = "kept" if isinstance(part, LAYERS) else "no convolution or linear layer"
    if isinstance(part, QuantizedLayer):
        bits = part.weight_quantizer.bits, part.activation_quantizer.bits
        signed = "negative too" if hasattr(part, "signed_input") else "as given"
        yield path, part.weight.numel(), *bits, signed, "low-bit"
        weights = [
            (n, k) for n, k in weights if not n[len(path) :].lstrip(".").startswith("weight")
        ]
        why = "beside the layer's weight"
    elif isinstance(part, Product) and part.sides:
        yield path, 0, *(s.activation_quantizer.bits for s in part.sides), "as given", "low-bit"
    elif computes and not weights:
        own = "kept" if isinstance(part, Product) else "products of its own code"
        yield path, 0, 32, 32, "", own
    for name, number in weights:
        yield name.removesuffix(".weight"), number, 32, 32, "", why


@torch.enable_grad()  # without it the counter fails on an expanded parameter
def count(student: nn.Module, images: Tensor) -> None:
    """Count the multiply-adds of the first image, those of each module's own code by its name, in
    `student._macs`. Attention is counted as the two products that a fused kernel stands for.
    """
    student, spent = unwrapped(student), Counter()
    running, layers = [student], [m for m in student.modules() if isinstance(m, LowBit)]
    counter = FlopCounterMode(display=False, custom_mapping=UNCOUNTED)

    def settle(*_: Any) -> None:
        spent[running[-1]] += counter.get_total_flops() // 2 - spent.total()

    def enter(part: nn.Module, _: Any) -> None:
        settle()
        running.append(part)

    def leave(*_: Any) -> None:
        settle()
        running.pop()

    before, after = register_module_forward_pre_hook(enter), register_module_forward_hook(leave)
    for layer in layers:
        layer.phase = layer.COUNT
    try:
        with in_mode(student, training=False), sdpa_kernel(SDPBackend.MATH), counter:
            student(images[:1])
            settle()
    finally:
        before.remove()
        after.remove()
        for layer in layers:
            layer.phase = layer.RUN
    student._macs = Counter({name: spent[part] for name, part in student.named_modules()})


def warn_if_mostly_float(student: nn.Module) -> None:
    """Warn if less than 95 % of the weights are low-bit, and name the largest that are not."""
    table = describe(student)
    if table.attrs["weights"] < ENOUGH:
        left = table[table["why"] != "low-bit"].sort_values("weights", ascending=False)
        warnings.warn(
            f"only {table.attrs['weights']:.1%} of the weights are low-bit; in full precision are "
            f"{', '.join(left['layer'].head(3))}: see paperlib.quantizers.describe",
            stacklevel=4,
        )
