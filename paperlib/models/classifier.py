"""The base class of networks, and their registry."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..basics.registry import Registry
from .precision import widen


def pool(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C), the mean over positions, in float32 at least."""
    return widen(x).mean((2, 3))


def full_precision(x: Tensor) -> torch.autocast:
    """A block without autocast on the device of x. Logits in bfloat16 would have two or three
    digits.
    """
    return torch.autocast(x.device.type, enabled=False)


@contextmanager
def in_mode(network: nn.Module, training: bool) -> Iterator[None]:
    """A block in which the network is in train mode or in eval mode; then each of its modules is as
    it was, a BatchNorm that was frozen by `.eval()` too.
    """
    before = {module: module.training for module in network.modules()}
    with suppress(NotImplementedError):  # what torch.export made has one mode for good
        network.train(training)
    try:
        yield
    finally:
        for module, mode in before.items():
            module.training = mode


def learning(network: nn.Module) -> AbstractContextManager:
    """A block in which the network learns. One that is in train mode stays as it is, and so does
    what is frozen in it by `.eval()`; one in eval mode is in train mode, and then as it was.

    >>> network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2).eval())
    >>> with learning(network):
    ...     [module.training for module in network]
    [True, False]
    """
    return nullcontext() if network.training else in_mode(network, training=True)


@contextmanager
def channels_last(*networks: nn.Module) -> Iterator[None]:
    """A block in which the weights of these networks have the channels last in memory, which
    convolutions like best. Then those that were contiguous are so again, as safetensors needs them.
    """
    weights = [weight for network in networks for weight in network.parameters()]
    plain = [weight for weight in weights if weight.ndim == 4 and weight.is_contiguous()]
    for network in networks:
        network.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for weight in plain:
            weight.data = weight.data.contiguous()


class Classifier(nn.Module):
    """A network that gives logits and named features.

    `full_precision` names the modules that stay unquantized when a student is made of this network:
    a name covers the module and all below it. The paper keeps the first and the last layers so.
    """

    full_precision: tuple[str, ...] = ()
    built: tuple[str, int] | None = None  # name and number of classes, if `build` made it

    def features(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(N, 3, H, W) float images, normalised -> (N, classes) logits and {"f0": ..., "f1": ...,
        ...}.
        """
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) float images, normalised -> (N, classes) logits."""
        return self.features(images)[0]


@dataclass(frozen=True)
class Network:
    """A network as it is registered.

    make   the number of classes -> the network, its weights drawn from torch's random state.
    paper  authors, venue. proof  the test that compares it with something known.
    """

    make: Callable[[int], Classifier]
    paper: str
    proof: str = ""


MODELS: Registry[Network] = Registry("model")
