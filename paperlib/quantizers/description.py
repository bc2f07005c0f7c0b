"""What of a student is low-bit: layer by layer, and as shares of its weights and multiply-adds."""

import warnings
from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..basics.checks import checked, require
from ..data.checks import floats, module
from ..models import in_mode
from .attention import Product
from .layers import LAYERS, LowBit, QuantizedLayer

ENOUGH = 0.95  # of the weights; below, a network is hardly a low-bit one


@checked(student=module, images=floats("N _ ...", door=True))
def describe(student: nn.Module, images: Tensor | None = None) -> pd.DataFrame:
    """Which weights of a network are low-bit, and why the others are not.

    images  (N, ...) float, as the network takes them: multiply-adds are counted anew, on the first
            of them. None: those that `initialise` counted.

    A row for each weight, a parameter of two or more dimensions: layer, kind, weights (their
    number), weight_bits and activation_bits (32 in full precision), input ("negative too" where
    the first batch was), macs (multiply-adds an image; NaN if not counted), why.
    `.attrs["weights"]` and `.attrs["macs"]` are the shares in low bits, in [0, 1].

    >>> from paperlib.quantizers import initialise, quantize
    >>> layers = nn.Linear(2, 40), nn.Linear(40, 40), nn.Linear(40, 40), nn.Linear(40, 2)
    >>> student = quantize(nn.Sequential(*layers), "lsq+", 2, 2)
    >>> initialise(student, torch.rand(5, 2))
    >>> table = describe(student)
    >>> table[["layer", "weight_bits", "why"]].values.tolist()[1:3]
    [['1', 2, 'low-bit'], ['2', 2, 'low-bit']]
    """
    if images is not None:
        count(student, images)
    rows = list(_rows(student))
    require(rows, "the network has no weight")
    table = pd.DataFrame(rows)
    low = table["why"] == "low-bit"
    table.attrs["weights"] = float(table["weights"][low].sum() / table["weights"].sum())
    total = getattr(student, "total_macs", None)
    table.attrs["macs"] = float(table["macs"][low].sum() / total) if total else float("nan")
    return table


def _rows(student: nn.Module) -> Iterator[dict[str, Any]]:
    low = {name: m for name, m in student.named_modules() if isinstance(m, QuantizedLayer)}
    for path, part in student.named_modules():
        if isinstance(part, Product) and part.sides:
            bits = [side.activation_quantizer.bits for side in part.sides]
            macs = part.macs if part.macs is not None else float("nan")
            yield _row(path, part, 0, *bits, "as given", macs, "low-bit")
        elif path in low:
            bits = part.weight_quantizer.bits, part.activation_quantizer.bits
            signed = "as given" if not hasattr(part, "signed_input") else "negative too"
            macs = part.macs if part.macs is not None else float("nan")
            yield _row(path, part, part.weight.numel(), *bits, signed, macs, "low-bit")
        elif not any(path.startswith(f"{name}.") for name in low):
            for name, parameter in part.named_parameters(path, recurse=False):
                why = "kept" if isinstance(part, LAYERS) else "no convolution or linear layer"
                if parameter.ndim >= 2:
                    own = name.removesuffix(".weight")
                    nan = float("nan")
                    yield _row(own, part, parameter.numel(), 32, 32, "", nan, why)


def _row(*values: Any) -> dict[str, Any]:
    names = "layer kind weights weight_bits activation_bits input macs why".split()
    path, part, *rest = values
    return dict(zip(names, (path, type(part).__name__, *rest), strict=True))


@torch.no_grad()
def count(student: nn.Module, images: Tensor) -> None:
    """Count the multiply-adds of the first image: of each quantized layer in `macs`, of the whole
    network, its attention too, in `student.total_macs`.
    """
    layers = [m for m in student.modules() if isinstance(m, LowBit)]
    for layer in layers:
        layer.phase = layer.COUNT
    try:
        with in_mode(student, training=False), FlopCounterMode(display=False) as counter:
            student(images[:1])
    finally:
        for layer in layers:
            layer.phase = layer.RUN
    student.total_macs = counter.get_total_flops() // 2


def warn_if_mostly_float(student: nn.Module) -> None:
    """Warn if less than 95 % of the weights are low-bit, and name the largest that are not."""
    table = describe(student)
    if table.attrs["weights"] < ENOUGH:
        left = table[table["why"] != "low-bit"].sort_values("weights", ascending=False)
        warnings.warn(
            f"only {table.attrs['weights']:.0%} of the weights are low-bit; in full precision are "
            f"{', '.join(left['layer'].head(3))}: see paperlib.quantizers.describe",
            stacklevel=3,
        )
