"""Which layers a network runs first and last, by the flow of its data."""

import copy

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from ..basics.checks import require
from .attention import ExplicitAttention
from .layers import LAYERS

BLOCKS = (nn.MultiheadAttention, ExplicitAttention)


class _Tracer(fx.Tracer):
    """Traces a network down to its layers, whatever their class."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        known = isinstance(module, (*LAYERS, *BLOCKS))
        return known or super().is_leaf_module(module, name)


def ends(model: nn.Module, layers: list[str]) -> tuple[list[str], list[str]] | None:
    """Of these layers and of attention blocks, those whose input no other one has made, and those
    whose output no other one takes.

    Two heads beside each other are both last, whatever was registered first. None where
    `torch.fx` cannot follow the network, or not down to its ends.

    >>> class Network(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.head, self.stem = nn.Linear(4, 2), nn.Linear(3, 4)
    ...     def forward(self, x):
    ...         return self.head(self.stem(x))
    >>> ends(Network(), ["head", "stem"])
    (['stem'], ['head'])
    """
    try:
        graph = _Tracer().trace(model)
    except Exception:  # whatever a network does that a symbol cannot
        return None
    blocks = [name for name, module in model.named_modules() if isinstance(module, BLOCKS)]
    known = {*layers, *blocks}
    forward = _without(graph.nodes, lambda node: node.all_input_nodes, known)
    backward = _without(reversed(graph.nodes), lambda node: list(node.users), known)
    followed = forward and backward and known.issuperset(forward + backward)
    return (forward, backward[::-1]) if followed else None


def _without(nodes, neighbours, layers: set[str]) -> list[str]:
    """The layers, or modules not looked into that hold some, which are reached without passing
    another one. Nodes come in such an order that neighbours are met first.
    """
    holders = {name[:k] for name in layers for k, c in enumerate(name) if c == "."}
    passed: dict[fx.Node, bool] = {}
    found = []
    for node in nodes:
        behind = any(passed[other] for other in neighbours(node))
        is_layer = node.op == "call_module" and node.target in layers | holders
        if is_layer and not behind and node.target not in found:
            found.append(node.target)
        passed[node] = behind or is_layer
    return found


def unwrapped(model: nn.Module) -> nn.Module:
    """The network itself, out of `DataParallel` and `torch.compile`.

    >>> inner = nn.Linear(2, 2)
    >>> unwrapped(nn.DataParallel(inner)) is inner
    True
    """
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)
    if isinstance(model, torch._dynamo.OptimizedModule):
        return unwrapped(model._orig_mod)
    return model


def copied(model: nn.Module) -> nn.Module:
    """A copy, also where a hook has computed a weight with its gradient, as `weight_norm` does."""
    lazy = [name for name, p in model.named_parameters() if is_lazy(p)]
    require(not lazy, f"these have no size before the network has run once: {', '.join(lazy)}")
    computed = [x for m in model.modules() for x in vars(m).values() if isinstance(x, Tensor)]
    return copy.deepcopy(model, {id(x): x.detach().clone() for x in computed})
