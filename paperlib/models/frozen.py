"""A network that learns no more: BatchNorms folded, weights packed, its forward pass compiled."""

import types
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ..basics.checks import require
from .classifier import in_mode
from .outputs import Output, logits_in

# An estimate on the safe side, in seconds: the first start of torch's and the C++ compiler, and
# each layer with weights (results/bench/frozen.md has whole networks, most after that start). SAVED
# is the share of a pass that is saved at the least (results/bench/README.md has the rates).
START, A_LAYER, SAVED = 12.0, 0.3, 0.2
EXACT = 1e-3  # of the largest logit: how far a compiled pass in float32 may be from the eager one
WIDER = 3  # times the error of the eager pass in bfloat16 that the compiled one may have


def worth_compiling(network: nn.Module, seconds: float) -> bool:
    """Whether so many seconds of forward passes are worth compiling the network for.

    >>> worth_compiling(nn.Linear(2, 2), 10.0), worth_compiling(nn.Linear(2, 2), 100.0)
    (False, True)
    """
    layers = sum(any(p.ndim > 1 for p in m.parameters(recurse=False)) for m in network.modules())
    return seconds * SAVED > START + A_LAYER * layers


class Frozen(nn.Module):
    """A network whose passes over images of one shape are compiled; others it runs as they are.

    network  any, in eval mode. Its weights must not change as long as this lives: they are in the
             compiled code. images  (N, C, H, W) as the network takes them.

    Made, and called, without gradients and within the autocast of the passes to come. Raises
    whatever torch raises where it cannot compile.
    """

    def __init__(self, network: nn.Module, images: Tensor):
        from torch._inductor import config

        super().__init__()
        self.network, self.shape, self.training = network, images.shape, False
        self.compiled = torch.compile(_own(network), dynamic=False)
        with in_mode(network, training=False), config.patch(freezing=True):
            self.compiled(images)

    def forward(self, images: Tensor) -> Any:
        """What the network gives for the images."""
        alike = images.shape == self.shape and not torch.is_grad_enabled()
        return self.compiled(images) if alike else self.network(images)


def _own(network: nn.Module) -> types.FunctionType:
    """The network's pass as a function with code of its own.

    torch.compile keeps what it compiled by the code, up to eight versions of one: the weights in
    there would be taken for those of another network, and the ninth network would run uncompiled.
    """

    def forward(images: Tensor) -> Any:
        return network(images)

    code = forward.__code__.replace()
    return types.FunctionType(code, globals(), "forward", None, forward.__closure__)


@torch.no_grad()
def frozen(network: nn.Module, images: Tensor, output: Output = None) -> nn.Module:
    """`Frozen`, or the network itself, after one warning that says why, where it cannot be compiled
    or gives other logits then.

    images  (N, C, H, W), a batch of the shape that is to come. Called within its autocast.
    output  where the logits are in what it gives, see `logits_in`.

    >>> with warnings.catch_warnings(action="ignore"):  # where there is no C++ compiler
    ...     swift = frozen(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.ones(5, 3, 2, 2))
    >>> swift(torch.ones(7, 3, 2, 2)).shape
    torch.Size([7, 2])
    """
    try:
        made = Frozen(network, images)
        with in_mode(network, training=False):
            _check(network, made, images, output)
        return made
    except Exception as error:  # no compiler, an operator it does not know: of many kinds
        reason = (str(error).strip().splitlines() or [""])[0]
        text = f"the teacher runs as it is, not compiled ({type(error).__name__}: {reason:.200})"
        warnings.warn(text, stacklevel=2)
        return network


def _check(network: nn.Module, made: Frozen, images: Tensor, output: Output) -> None:
    """Raise ValueError if the compiled pass is further from the exact one than it may be."""
    with torch.autocast(images.device.type, enabled=False):
        exact = logits_in(network(images), output).float()
    scale = max(float(exact.abs().max()), torch.finfo().tiny)
    eager, own = (
        float((logits_in(each(images), output).float() - exact).abs().max()) / scale
        for each in (network, made)
    )
    off = f"its logits would be off by {own:.2g} of the largest"
    require(own <= EXACT + WIDER * eager, off)
