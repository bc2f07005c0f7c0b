"""Low-bit students: `quantize(model, method, weight_bits, activation_bits)`.

functional.py    the mathematics, one function per quantizer, gradients written out
fusion.py        those functions as one compiled kernel each
layers.py        convolution and linear layer with quantized weight and input
registry.py      `METHODS`, the quantizers by name; a file for each method, which says how its
                 parameters start and ends with its entry
"""

import copy

import torch
from torch import Tensor, nn

from ..basics.checks import checked, kind_of, require, several
from ..basics.registry import import_all
from ..data.checks import floats, module
from ..models import in_mode
from .functional import (
    dorefa_activation,
    dorefa_weight,
    ewgs_activation,
    ewgs_round,
    ewgs_weight,
    fake_quantize,
    lsq,
    lsq_plus,
    pact_activation,
    straight_through,
)
from .fusion import fusing
from .layers import QUANTIZED_TYPES, QuantizedLayer, Quantizer
from .registry import METHODS, Method
from .ternary import ternary_weight

import_all(__name__, __path__)


def quantizable(model: nn.Module) -> list[str]:
    """Names of the model's convolutions and linear layers, in its order."""
    return [name for name, module in model.named_modules() if type(module) in QUANTIZED_TYPES]


def layers_to_quantize(model: nn.Module, keep: tuple[str, ...] | None = None) -> list[str]:
    """Names of the convolutions and linear layers that `quantize` replaces by low-bit ones.

    keep  modules that stay in full precision, with all below them. None: the model's own
          `full_precision`, or for a model without one its first convolution or linear layer and its
          last.
    Raises ValueError if `keep` names no module, or nothing is left.
    """
    candidates = quantizable(model)
    if keep is None:
        keep = getattr(model, "full_precision", tuple(candidates[:1] + candidates[-1:]))
    names = dict(model.named_modules())
    for name in keep:
        has = f"the model has no module {name!r} to keep in full precision"
        require(name and name in names, has)
    chosen = [c for c in candidates if not any(c == k or c.startswith(k + ".") for k in keep)]
    require(chosen, f"nothing to quantize: all layers, {candidates}, are kept in full precision")
    return chosen


@checked(model=module, keep=several(kind_of(str), 0))
def quantize(
    model: nn.Module,
    method: str,
    weight_bits: int,
    activation_bits: int,
    keep: tuple[str, ...] | None = None,
    kept_bits: int | None = None,
    per_channel: bool = False,
    **options: float | str,
) -> nn.Module:
    """A low-bit copy of `model`: same weights, biases and BatchNorm state, convolutions and linear
    layers quantized.

    model            any torch network. Not modified.
    method           a key of `METHODS`.
    weight_bits, activation_bits  1 to 8 (LSQ's weights and the released forms: 2 to 8; ternary
                                  weights: 2).
    keep             see `layers_to_quantize`: first and last layers stay in full precision unless
                     told otherwise.
    kept_bits        None, or bits at which weights and inputs of those layers are quantized after
                     all: 8 in the paper's Tiny-ImageNet recipe.
    per_channel      weights get bounds, steps and scales of their own for each output channel.
    options          of the method, such as delta for EWGS or alpha for PACT.

    The copy must see a first batch, `initialise(student, images)`, before it is used.
    Raises ValueError for an unknown method or option, bits out of range, or kept_bits with a method
    that has no grid for the network's own input.

    >>> student = quantize(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3),
    ...     nn.Conv2d(8, 2, 3)), "ewgs", 2, 2)
    >>> [type(layer).__name__ for layer in student]
    ['Conv2d', 'QuantizedConv2d', 'Conv2d']
    """
    recipe = METHODS[method]
    for option in options:
        known = option in recipe.weight_options | recipe.activation_options
        require(known, f"method {method!r} has no option {option!r}")
    no_grid = f"{method!r} has no grid for the network's own input, which is negative too"
    require(kept_bits is None or recipe.image, f"kept_bits = {kept_bits}: {no_grid}")
    of_weight = {k: v for k, v in options.items() if k in recipe.weight_options}
    of_input = {k: v for k, v in options.items() if k in recipe.activation_options}
    student = copy.deepcopy(model).requires_grad_()  # a frozen teacher's copy is to learn
    low, names = set(layers_to_quantize(model, keep)), quantizable(model)
    for name in names if kept_bits is not None else sorted(low, key=names.index):
        layer = student.get_submodule(name)
        bits = (weight_bits, activation_bits) if name in low else (kept_bits, kept_bits)
        activation = recipe.image if name == names[0] and recipe.image else recipe.activation
        channels = len(layer.weight)
        shape = {"shape": (channels, *[1] * (layer.weight.ndim - 1))} if per_channel else {}
        # A change of class keeps weights, hyperparameters and hooks as they are; only quantizers
        # are added.
        layer.__class__ = QUANTIZED_TYPES[type(layer)]
        quantizers = recipe.weight(bits[0], **of_weight, **shape), activation(bits[1], **of_input)
        scale_shape = (channels,) if per_channel else ()
        layer.adopt(
            *(q.to(layer.weight.device) for q in quantizers),
            scale_shape if recipe.output_scale else None,
        )
    return student


@checked(student=module, images=floats("N _ ...", door=True))
@torch.no_grad()
def initialise(student: nn.Module, images: Tensor) -> None:
    """Set all quantizer parameters from one batch: a forward pass in train mode, BatchNorm
    statistics included.

    student  as `quantize` made it, changed in place. images (N, ...) float, as the network takes
    them. Raises ValueError for a network without quantized layers, and for a layer whose
    parameters would not be finite, as that of a weight which is NaN.
    """
    named = {name: m for name, m in student.named_modules() if isinstance(m, QuantizedLayer)}
    require(named, "the student has no quantized layer: quantize(model, ...) makes one")
    layers = named.values()
    for layer in layers:
        layer.initialising = True
    try:
        with in_mode(student, training=True):
            student(images)
    finally:
        for layer in layers:
            layer.initialising = False
    for name, layer in named.items():
        for value in (*layer.parameters(), *layer.buffers()):
            broken = f"layer {name!r} has a weight or a quantizer that is not finite"
            require(torch.isfinite(value).all(), broken)


def quantizer_parameters(student: nn.Module) -> list[nn.Parameter]:
    """The learned bounds, steps, clips and output scales: what the paper trains with an optimiser
    of its own.
    """
    parameters = []
    for part in student.modules():
        if isinstance(part, Quantizer):
            parameters += list(part.parameters(recurse=False))
        elif isinstance(part, QuantizedLayer) and part.output_scale is not None:
            parameters.append(part.output_scale)
    return parameters
