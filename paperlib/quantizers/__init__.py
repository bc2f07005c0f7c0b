"""Low-bit students: `quantize(model, method, weight_bits, activation_bits)`.

functional.py    the mathematics, one function per quantizer, gradients written out
fusion.py        those functions as one compiled kernel each
attention.py     multi-head attention out of layers and products
layers.py        convolution and linear layer of any kind with quantized weight and input
ends.py          which layers run first and last
description.py   `describe`: what of a student is low-bit
card.py          how a student was made; students as files: `save_student`, `load_student`
export.py        `export`: a student as one ONNX file; `agreement`: whether that says the same
graph.py         what becomes of its graph
registry.py      `METHODS`, the quantizers by name; a file for each method, which says how its
                 parameters start and ends with its entry
"""

import copy
import warnings
from collections.abc import Callable, Collection
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from ..basics.checks import checked, kind_of, require, several
from ..basics.registry import import_all
from ..data.checks import floats, module
from ..models import in_mode, learning
from .attention import Product, explicit_attention
from .card import Card, load_student, save_student
from .description import count, describe, warn_if_mostly_float
from .ends import copied, ends, unwrapped
from .export import agreement, export
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
from .layers import LAYERS, LowBit, QuantizedLayer, Quantizer, quantized_type
from .registry import METHODS, Method
from .ternary import ternary_weight

import_all(__name__, __path__)


def quantizable(model: nn.Module) -> list[str]:
    """Names of the model's convolutions and linear layers, of subclasses of them too, in its order.
    A `MultiheadAttention` has four, q, k, v and out, when it is quantized.
    """
    return [name for name, module in model.named_modules() if isinstance(module, LAYERS)]


def _below(product: str, layers: Collection[str]) -> bool:
    """Whether a product belongs to an attention of which a layer is quantized."""
    attention = product.rpartition(".")[0]
    return any(layer.startswith(f"{attention}.") for layer in layers)


def layers_to_quantize(model: nn.Module, keep: tuple[str, ...] | None = None) -> list[str]:
    """Names of the convolutions and linear layers that `quantize` replaces by low-bit ones.

    keep  modules that stay in full precision, with all below them. None: the `full_precision` of
          the model and of those in it; for a model without one the layers that run first and last,
          as the flow of its data says, or else, with a warning, that were registered so.
    Raises ValueError if `keep` names no module, nothing is left, or the model is a student already.
    """
    model = unwrapped(model)
    again = "the model is quantized already: quantize the network that it was made of"
    require(not any(isinstance(m, LowBit) for m in model.modules()), again)
    scripted = isinstance(model, torch.jit.ScriptModule)
    require(not scripted, "a scripted network's layers cannot be replaced: quantize its source")
    keep = _kept(model, keep)
    if any(isinstance(m, nn.MultiheadAttention) for m in model.modules()):
        model = copy.deepcopy(model)
        explicit_attention(model, keep or ())
    candidates, names = quantizable(model), dict(model.named_modules(remove_duplicate=False))
    require(candidates, f"{type(model).__name__} has no convolution and no linear layer")
    keep = _ends(model, candidates) if keep is None else keep
    for name in keep:
        require(name in names, f"the model has no module {name!r} to keep in full precision")
    kept = {module for name in keep for module in names[name].modules()}
    chosen = [name for name in candidates if names[name] not in kept]
    require(chosen, f"nothing to quantize: all layers, {candidates}, are kept in full precision")
    return chosen


def _kept(model: nn.Module, keep: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """`keep`, or what the `full_precision` of the model and of the modules in it say, if any."""
    names = several(kind_of(str), 0)
    if keep is not None:
        names("keep", keep)
        return tuple(keep)
    own = {n: m.full_precision for n, m in model.named_modules() if hasattr(m, "full_precision")}
    for path, found in own.items():
        names(f"full_precision of {path or 'the model'}", found)
    paths = tuple(f"{path}.{name}".lstrip(".") for path, found in own.items() for name in found)
    return paths if own else None


def _ends(model: nn.Module, candidates: list[str]) -> list[str]:
    """The layers that run first and last, or a guess with a warning."""
    if found := ends(model, candidates):
        return found[0] + found[1]
    guess = [*candidates[:1], *candidates[-1:]]
    text = f"torch.fx cannot tell which layers run first and last; kept are {guess}, those that"
    warnings.warn(f"{text} were registered so. keep= says otherwise", stacklevel=4)
    return guess


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

    model            any torch network, also in DataParallel or compiled. Not modified. Convolutions
                     and linear layers of any class are quantized, with the weight that enters the
                     product. A network that is frozen altogether gives a student that learns;
                     single frozen parameters stay frozen.
    method           a key of `METHODS`.
    weight_bits, activation_bits  1 to 8 (LSQ's weights and the released forms: 2 to 8; ternary
                                  weights: 2).
    keep             see `layers_to_quantize`: first and last layers stay in full precision unless
                     told otherwise.
    kept_bits        None, or bits at which weights and inputs of those layers are quantized after
                     all: 8 in the paper's Tiny-ImageNet recipe.
    per_channel      weights get bounds, steps and scales of their own for each output channel.
    options          of the method, such as delta for EWGS or alpha for PACT.

    The copy must see a first batch, `initialise(student, images)`, before it is used or copied for
    a moving average. Inputs that
    are negative in that batch get a grid with negative values. `describe` tells what is low-bit;
    below 95 % of the weights a warning says so.
    Raises ValueError for an unknown method or option, or bits out of range.

    >>> student = quantize(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3),
    ...     nn.Conv2d(8, 2, 3)), "ewgs", 2, 2)
    >>> [type(layer).__name__ for layer in student]
    ['Conv2d', 'QuantizedConv2d', 'Conv2d']
    """
    recipe = METHODS[method]
    for option in options:
        known = option in recipe.weight_options | recipe.activation_options
        require(known, f"method {method!r} has no option {option!r}")
    model, wanted = unwrapped(model), None if keep is None else tuple(keep)
    student, keep = copied(model), _kept(model, keep)
    explicit_attention(student, (keep or ()) if kept_bits is None else ())
    if not any(p.requires_grad for p in student.parameters()):
        student.requires_grad_()  # a frozen teacher's copy is to learn; single frozen parts stay so
    low, names = set(layers_to_quantize(student, keep)), quantizable(student)
    for name in names if kept_bits is not None else sorted(low, key=names.index):
        bits = (weight_bits, activation_bits) if name in low else (kept_bits, kept_bits)
        _quantize_layer(student.get_submodule(name), name, recipe, bits, per_channel, options)
    for name, product in student.named_modules():
        if isinstance(product, Product) and _below(name, low):
            beside = next(student.get_submodule(name.rpartition(".")[0]).parameters())
            product.adopt(name, *_of_inputs(recipe, activation_bits, options), beside.device)
    for part in student.modules():
        if isinstance(part, LowBit):
            part.call_grid(method)
    bits = weight_bits, activation_bits
    built = getattr(model, "built", None) or (None, None)
    student.card = Card(method, *bits, wanted, kept_bits, per_channel, options, *built)
    warn_if_mostly_float(student)
    return student


def _of_inputs(recipe: Method, bits: int, options: dict) -> tuple[Callable, Callable]:
    """Functions that make the quantizer of an input from 0 on, and of one that is negative too."""
    own = {k: v for k, v in options.items() if k in recipe.activation_options}
    return partial(recipe.activation, bits, **own), partial(recipe.signed_activation, bits, **own)


def _quantize_layer(
    layer: nn.Module,
    name: str,
    recipe: Method,
    bits: tuple[int, int],
    per_channel: bool,
    options: dict,
) -> None:
    """Make a layer a quantized one, in place. bits  of weights and of inputs."""
    transposed = isinstance(layer, _ConvTransposeNd)
    grouped = per_channel and transposed and layer.groups > 1
    require(not grouped, f"{name!r}, transposed and grouped, cannot be quantized per channel")
    weight = layer.weight.transpose(0, 1) if transposed else layer.weight
    own = {k: v for k, v in options.items() if k in recipe.weight_options}
    if per_channel:
        own["shape"] = (len(weight), *[1] * (weight.ndim - 1))
    unsigned, signed = _of_inputs(recipe, bits[1], options)
    scale = (len(weight),) if per_channel else ()
    # A change of class keeps weights, hyperparameters and hooks as they are; only quantizers are
    # added.
    layer.__class__ = quantized_type(type(layer))
    output_scale = scale if recipe.output_scale else None
    layer.adopt(name, recipe.weight(bits[0], **own), unsigned(), signed, output_scale)


@checked(student=module, images=floats("N _ ...", door=True))
@torch.no_grad()
def initialise(student: nn.Module, images: Tensor) -> None:
    """Set the quantizer parameters that are not set yet, from one batch: a forward pass in train
    mode, BatchNorm statistics included. Of a student in train mode, parts in eval mode stay so; one
    that is ready stays as it is.

    student  as `quantize` made it, changed in place. images (N, ...) float, as the network takes
    them.
    Raises ValueError for a network without quantized layers; for layers that the forward pass does
    not call, such as those whose weight another module uses itself; and for a layer whose
    parameters would not be finite, as that of a weight which is NaN.
    """
    student = unwrapped(student)
    low_bit = [m for m in student.modules() if isinstance(m, LowBit)]
    require(low_bit, "the student has no quantized layer: quantize(model, ...) makes one")
    if all(layer.ready for layer in low_bit):
        return
    try:
        # What train mode leaves out by chance, as LayerDrop does, runs in eval mode.
        for mode in (learning(student), in_mode(student, training=False)):
            for layer in low_bit:
                layer.phase = layer.RUN if layer.ready else layer.INITIALISE
            with mode:
                student(images)
            if all(layer.ready for layer in low_bit):
                break
    finally:
        for layer in low_bit:
            layer.phase, layer._seen = layer.RUN, []
    left = [layer.path for layer in low_bit if not layer.ready]
    unused = "the network does not call these layers, but may use their weights: keep="
    require(not left, f"{unused}{tuple(left)}")
    for layer in low_bit:
        broken = f"layer {layer.path!r} has a weight or a quantizer that is not finite"
        require(all(map(_finite, (*layer.parameters(), *layer.buffers()))), broken)
    count(student, images)


def _finite(values: Tensor) -> bool:
    return bool(torch.isfinite(values).all())


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
