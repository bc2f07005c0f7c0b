"""A network that somebody names: timm's, this package's, one of their own code, or a program."""

import logging
import os
import pkgutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torchvision.transforms import v2

from ..basics.checks import require
from .classifier import MODELS
from .programs import load_program

TIMM = "timm:"
FORMS = "timm:NAME, module:factory, a file.pt2 of torch.export, or one of this package's networks"


@dataclass(frozen=True)
class Preprocessing:
    """What a network's input is made by.

    transform  of a picture of Pillow -> (3, H, W) uint8; None: the picture as it is.
    mean, std  of the channels, on the scale 0 .. 1, or one number for all. text  the transform in
    words.
    """

    transform: Callable | None
    mean: tuple[float, ...] | float
    std: tuple[float, ...] | float
    text: str


def network_of(
    spec: str,
    weights: str | Path | None = None,
    classes: int | None = None,
    pretrained: bool = True,
) -> Any:
    """The network that a text names.

    spec     "timm:NAME", "module:factory" (a function without arguments, or the network itself, in
             a module that Python finds from the current folder), "FILE.pt2", see `load_program`, or
             a name of `MODELS`.
    weights  a safetensors file with its whole state. Without one timm fetches its own weights, and
             a name of `MODELS` is refused.
    classes  outputs of a network of timm or of `MODELS`; None: as many as its own weights have.
    pretrained  False: without weights, a network as it is made.

    Nothing is unpickled. Raises ValueError, naming the spec or the file, for what is not known, not
    there, or does not fit.

    >>> type(network_of("torch.nn:Identity")).__name__
    'Identity'
    """
    if weights is None and spec in MODELS and pretrained:
        raise ValueError(f"the network {spec!r} has no weights of its own: give a safetensors file")
    if spec.endswith(".pt2"):
        require(weights is None, f"{spec} brings its own weights, got {str(weights)!r} too")
        return load_program(spec)
    if spec.startswith(TIMM):
        network = _of_timm(spec.removeprefix(TIMM), pretrained and weights is None, classes)
    elif spec in MODELS:
        require(classes, f"the network {spec!r} needs to be told the number of classes")
        network = MODELS[spec].make(classes)
    else:
        network = _of_module(spec)
    if weights is not None:
        load_weights(network, weights)
    return network


def _of_timm(name: str, pretrained: bool, classes: int | None) -> nn.Module:
    timm = _timm()
    near = [each for each in timm.list_models(f"*{name}*")[:5]]
    require(timm.is_model(name.split(".")[0]), f"timm has no model {name!r}; close to it: {near}")
    outputs = {} if classes is None or pretrained else {"num_classes": classes}
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # a line for each of ten tries
    try:
        return timm.create_model(name, pretrained=pretrained, **outputs)
    except Exception as error:  # of the network, the hub or timm: many kinds
        if not pretrained:
            raise ValueError(f"timm cannot make {name!r}: {error}") from error
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        fetched = f"timm's weights of {name!r} could not be fetched ({reason:.120})"
        raise ValueError(f"{fetched}: give a safetensors file") from error


def _timm() -> Any:
    with warnings.catch_warnings(action="ignore"):  # what it says of other packages
        try:
            import timm
        except ImportError as error:
            raise ValueError("networks of timm need the package: pip install timm") from error
    return timm


def named(place: str) -> Any:
    """What "module:name" names, in a module that Python finds from the current folder. Raises
    ValueError if it is not there.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return pkgutil.resolve_name(place)
    except (ValueError, ImportError, AttributeError) as error:
        raise ValueError(f"there is no {place!r}: {error}") from error
    except SystemExit as error:  # of a script; it would end this program without a word
        raise ValueError(f"{place!r} cannot be imported: it exits, with {error.code}") from error


def _of_module(spec: str) -> Any:
    require(":" in spec, f"a network is {FORMS}; got {spec!r}")
    found = named(spec)
    network = found() if callable(found) and not isinstance(found, nn.Module) else found
    require(
        callable(network),
        f"{spec!r} must be a network, or a function that makes one: {network!r:.80}",
    )
    return network


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Put the tensors of a safetensors file into a network, which must have just these.

    Raises ValueError, naming the first that differ.
    """
    require(isinstance(network, nn.Module), f"{type(network).__name__} is no module with weights")
    try:
        state = load_file(path)
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from error
    own = network.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in state]
    wrong += [f"{name} is not the network's" for name in state if name not in own]
    shapes = [(n, tuple(state[n].shape), tuple(own[n].shape)) for n in own if n in state]
    wrong += [f"{name} is {got}, not {has}" for name, got, has in shapes if got != has]
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    require(
        not wrong, f"{path} does not fit {type(network).__name__}: {'; '.join(wrong[:3])}{more}"
    )
    network.load_state_dict(state)


def preprocessing_of(
    network: Any,
    mean: tuple[float, ...] | float | None = None,
    std: tuple[float, ...] | float | None = None,
    size: int | None = None,
) -> Preprocessing:
    """What a network's input is made by: its own configuration, if it is timm's, and what is given.

    size  the side of a square in pixels: the shorter side is resized to it, and the middle taken.
    Raises ValueError if the network has no configuration and mean or std are not given.
    """
    config = getattr(network, "pretrained_cfg", None) or {}
    mean, std = (
        tuple(config[name]) if given is None and config.get(name) else given
        for name, given in (("mean", mean), ("std", std))
    )
    need = "the network does not say what its input is normalised with: give mean and std"
    require(mean is not None and std is not None, need)
    if config and size is None:
        timm = _timm()
        found = timm.data.resolve_model_data_config(network)
        # ToNumpy in the place of ToTensor and Normalize: pixels stay bytes
        change = timm.data.create_transform(**found, is_training=False, use_prefetcher=True)
        text = f"timm's: {found['input_size'][1]} pixels, crop {found['crop_pct']}, "
        return Preprocessing(change, mean, std, text + found["interpolation"])
    if size is None:
        return Preprocessing(None, mean, std, "pictures as they are")
    change = v2.Compose([v2.Resize(size), v2.CenterCrop(size), v2.PILToTensor()])
    return Preprocessing(change, mean, std, f"{size} pixels, the middle")
