"""How a loss looks at a network: logits, and the features that it names.

The package's networks say both by `Classifier.features`. Any other network is called as it is, and
forward hooks, which are there for the pass only, read the outputs of the modules that are named.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..basics.checks import require
from ..losses.objective import LAYERS
from ..models import Classifier
from ..models.outputs import check_logits, logits_in
from ..quantizers import unwrapped

# (N, 3, H, W) normalised images -> (N, classes) logits, and features by name
Look = Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]


def look_of(network: nn.Module, layers: Sequence[str], images: Tensor) -> Look:
    """How a loss between `layers` looks at a network.

    network  any. A wrapped one is called as it is if there are no layers, else what is inside.
    layers   of a `Classifier`, its features and groups of them (`losses.layer_names`); everything
             else, and everything of another network, is the path of a module, as "layer1.0".
    images   (N, 3, H, W) normalised, one batch to look at.

    Raises ValueError for a path that is no module of the network.
    """
    seen = unwrapped(network) if layers else network
    own = isinstance(seen, Classifier)
    known = {*LAYERS, *seen.features(images)[1]} if own and layers else set()
    paths = [name for name in layers if name not in known]
    base = seen.features if own else partial(_logits_alone, seen)
    own_type = next((p.dtype for p in seen.parameters() if p.is_floating_point()), images.dtype)
    if own_type != images.dtype:
        base = partial(_in_type, base, own_type)
    return Hooked(base, seen, paths) if paths else base


def _logits_alone(network: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    return logits_in(network(images)), {}


def _in_type(base: Look, dtype: torch.dtype, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    return base(images.to(dtype))


class Hooked:
    """A look at a network that adds the outputs of some of its modules to the features.

    base   the look without them. paths  as `named_modules` has them.

    An output is copied, because a later layer may overwrite it, as a ReLU in place does. Calls
    raise ValueError, naming the module, for one that does not run once in a pass, or gives no
    tensor.
    """

    def __init__(self, base: Look, network: nn.Module, paths: Sequence[str]):
        modules = dict(network.named_modules())
        modules.pop("")
        some = ", ".join(list(modules)[:8])
        found = f"layers=(...) of the objective names modules of the network; it has {some}, ..."
        for path in paths:
            require(path in modules, f"the network has no module {path!r}: {found}")
        self.base, self.modules = base, {path: modules[path] for path in paths}

    def __call__(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        found: dict[str, list[Any]] = {path: [] for path in self.modules}
        with ExitStack() as hooks:
            for path, module in self.modules.items():
                handle = module.register_forward_hook(partial(_record, found[path]))
                hooks.callback(handle.remove)
            logits, features = self.base(images)
        for path, outputs in found.items():
            once = f"module {path!r} ran {len(outputs)} times in a pass; a feature runs once"
            require(len(outputs) == 1, once)
            kind = type(outputs[0]).__name__
            require(isinstance(outputs[0], Tensor), f"module {path!r} gives a {kind}, no tensor")
        return logits, features | {path: outputs[0] for path, outputs in found.items()}


def _record(outputs: list[Any], module: nn.Module, inputs: tuple, output: Any) -> None:
    outputs.append(output.clone() if isinstance(output, Tensor) else output)


def check_look(role: str, outputs: tuple, images: int, classes: int, name: str) -> None:
    """Raise ValueError unless a look gave logits (images, classes), no probabilities, and features
    of as many images.

    role  "network" or "teacher". name  of the data set.
    """
    good = isinstance(outputs, tuple) and len(outputs) == 2 and isinstance(outputs[1], dict)
    require(good, f"`features` of the {role} must give (logits, {{name: feature}})")
    logits, features = outputs
    shape = tuple(logits.shape)
    require(len(shape) == 2, f"the {role} gives logits of shape {shape} for {images} images")
    found = f"the {role} has {shape[1]} classes, the data set {name!r} has {classes}"
    require(shape == (images, classes), found)
    check_logits(logits, role)
    for path, feature in features.items():
        shape = tuple(feature.shape)
        wanted = "features are (N, D), tokens (N, T, D) or maps (N, C, H, W), images first"
        good = 2 <= len(shape) <= 4 and shape[0] == images
        require(good, f"{wanted}; {path!r} of the {role} is {shape} for {images} images")
