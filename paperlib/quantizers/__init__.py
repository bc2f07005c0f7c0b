"""Low-bit students: `quantize(model, method, weight_bits, activation_bits)`.

    functional.py    the mathematics, one function per quantizer, gradients written out
    fusion.py        those functions as one compiled kernel each
    layers.py        convolution and linear layer with quantized weight and input
    ewgs.py, dorefa.py, pact.py, learned_step.py   one file per method: how its parameters start
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from . import dorefa, ewgs, learned_step, pact
from .functional import (
    dorefa_activation,
    dorefa_weight,
    ewgs_activation,
    ewgs_round,
    ewgs_weight,
    lsq,
    pact_activation,
)
from .fusion import fusing
from .layers import QUANTIZED_TYPES, QuantizedLayer, Quantizer


@dataclass(frozen=True)
class Method:
    """How to make the two quantizers of a layer: functions of (bits, **options), the options of each by name."""

    weight: Callable[..., Quantizer]
    activation: Callable[..., Quantizer]
    output_scale: bool = False
    weight_options: tuple[str, ...] = ()
    activation_options: tuple[str, ...] = ()


METHODS: dict[str, Method] = {
    "ewgs": Method(ewgs.weight, ewgs.activation, True, weight_options=("delta",), activation_options=("delta",)),
    "dorefa": Method(dorefa.DorefaWeight, dorefa.DorefaActivation),
    "pact": Method(dorefa.DorefaWeight, pact.PactActivation, activation_options=("alpha",)),
    "lsq": Method(learned_step.weight, learned_step.activation),
}


def layers_to_quantize(model: nn.Module, keep: tuple[str, ...] | None = None) -> list[str]:
    """Names of the convolutions and linear layers that `quantize` replaces.

    keep  modules that stay in full precision, with all below them. None: the model's own `full_precision`, or for a
          model without one its first convolution or linear layer and its last.
    Raises ValueError if `keep` names no module, or nothing is left.
    """
    candidates = [name for name, module in model.named_modules() if type(module) in QUANTIZED_TYPES]
    if keep is None:
        keep = getattr(model, "full_precision", tuple(candidates[:1] + candidates[-1:]))
    names = dict(model.named_modules())
    for name in keep:
        if name not in names:
            raise ValueError(f"the model has no module {name!r} to keep in full precision")
    chosen = [c for c in candidates if not any(c == k or c.startswith(k + ".") for k in keep)]
    if not chosen:
        raise ValueError(f"nothing to quantize: every layer of {candidates} is kept in full precision")
    return chosen


def quantize(
    model: nn.Module,
    method: str,
    weight_bits: int,
    activation_bits: int,
    keep: tuple[str, ...] | None = None,
    **options: float | str,
) -> nn.Module:
    """A low-bit copy of `model`: same weights, biases and BatchNorm state, convolutions and linear layers quantized.

    model            any torch network. Not modified.
    method           a key of `METHODS`.
    weight_bits, activation_bits  1 to 8 (LSQ weights: 2 to 8).
    keep             see `layers_to_quantize`: first and last layers stay in full precision unless told otherwise.
    options          of the method, such as delta for EWGS or alpha for PACT.

    The copy must see a first batch, `initialise(student, images)`, before it is used.
    Raises ValueError for an unknown method or option, or bits out of range.

    >>> student = quantize(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 2, 3)), "ewgs", 2, 2)
    >>> [type(layer).__name__ for layer in student]
    ['Conv2d', 'QuantizedConv2d', 'Conv2d']
    """
    if method not in METHODS:
        raise ValueError(f"unknown quantization method {method!r}; known: {', '.join(METHODS)}")
    recipe = METHODS[method]
    for option in options:
        if option not in recipe.weight_options + recipe.activation_options:
            raise ValueError(f"method {method!r} has no option {option!r}")
    of_weight = {k: v for k, v in options.items() if k in recipe.weight_options}
    of_activation = {k: v for k, v in options.items() if k in recipe.activation_options}
    student = copy.deepcopy(model).requires_grad_()  # a frozen teacher's copy is to learn
    for name in layers_to_quantize(model, keep):
        layer = student.get_submodule(name)
        # A change of class keeps weights, hyperparameters and hooks as they are; only quantizers are added.
        layer.__class__ = QUANTIZED_TYPES[type(layer)]
        device = layer.weight.device
        layer.adopt(
            recipe.weight(weight_bits, **of_weight).to(device),
            recipe.activation(activation_bits, **of_activation).to(device),
            recipe.output_scale,
        )
    return student


@torch.no_grad()
def initialise(student: nn.Module, images: Tensor) -> None:
    """Set all quantizer parameters from one batch: a forward pass in train mode, BatchNorm statistics included.

    student  as `quantize` made it, changed in place. images (N, ...) float, as the network takes them.
    """
    layers = [m for m in student.modules() if isinstance(m, QuantizedLayer)]
    training = student.training
    student.train()
    for layer in layers:
        layer.initialising = True
    try:
        student(images)
    finally:
        for layer in layers:
            layer.initialising = False
        student.train(training)


def quantizer_parameters(student: nn.Module) -> list[nn.Parameter]:
    """The learned bounds, steps, clips and output scales: what the paper trains with an optimiser of its own."""
    parameters = []
    for module in student.modules():
        if isinstance(module, Quantizer):
            parameters += list(module.parameters(recurse=False))
        elif isinstance(module, QuantizedLayer) and module.output_scale is not None:
            parameters.append(module.output_scale)
    return parameters


__all__ = [
    "METHODS", "Method", "QuantizedLayer", "Quantizer", "dorefa_activation", "dorefa_weight", "ewgs_activation",
    "ewgs_round", "ewgs_weight", "fusing", "initialise", "layers_to_quantize", "lsq", "pact_activation", "quantize",
    "quantizer_parameters",
]  # fmt: skip
