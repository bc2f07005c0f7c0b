"""Element-wise functions as one compiled kernel each, where torch can compile.

A quantizer is a chain of cheap element-wise operations. Run one by one, each reads and writes the
whole activation, and on a CPU the chain then costs as much as the convolution it feeds.
`torch.compile` makes one loop of it. Compiling takes seconds and a C++ compiler (on a GPU: Triton),
so it is done on request, `with fusing():`, and where it fails everything runs as written, after one
warning. The results are the same but for the order of the sums.
"""

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

_active = False  # a plain global: on a GPU the backward pass runs in a thread of its own
_broken = False


def fusible(function: Callable) -> Callable:
    """Decorator for an element-wise function without side effects: inside `fusing()` it runs
    compiled.

    function  of tensors and numbers. Its first tensor sets the shape; every other one is of that
              shape or a scalar; so are the tensors it returns, one or a tuple of them. Otherwise it
              runs as written.
    """
    compiled = or_as_written(function, dynamic=True)

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        if not _active or torch.compiler.is_compiling() or not _one_shape(arguments):
            return function(*arguments)
        return _on_flat(compiled, arguments)

    return call


def or_as_written(function: Callable, **options: Any) -> Callable:
    """`torch.compile(function, **options)` or, where torch cannot compile, the function itself,
    after one warning.
    """
    compiled = functools.cache(lambda: torch.compile(function, **options))

    def call(*arguments: Any) -> Any:
        global _broken
        if _broken:
            return function(*arguments)
        try:
            return compiled()(*arguments)
        except Exception as error:  # no compiler, no Triton, a full disk: torch raises many kinds
            result = function(
                *arguments
            )  # an error of the function's own goes to the caller from here
            _broken = True
            reason = (str(error).strip().splitlines() or [""])[0]
            warnings.warn(
                f"torch cannot compile here, so it goes slower ({type(error).__name__}: {reason})",
                stacklevel=2,
            )
            return result

    return call


def _one_shape(arguments: tuple) -> bool:
    shapes = {a.shape for a in arguments if isinstance(a, Tensor) and a.ndim}
    return len(shapes) == 1


def _on_flat(function: Callable, arguments: tuple) -> Any:
    """Call with one-dimensional views in memory order: one kernel then serves all shapes and
    layouts.
    """
    first = next(a for a in arguments if isinstance(a, Tensor) and a.ndim)
    order = sorted(range(first.ndim), key=lambda d: -first.stride(d))
    shape = [first.shape[d] for d in order]
    back = sorted(range(first.ndim), key=order.__getitem__)

    def flat(a: Any) -> Any:
        if not isinstance(a, Tensor):
            return a
        a = a.detach()  # also makes a plain tensor of a parameter, which would be compiled for anew
        return a.permute(order).reshape(-1) if a.ndim else a

    def shaped(a: Tensor) -> Tensor:
        return a.view(shape).permute(back) if a.ndim else a

    result = function(*map(flat, arguments))
    return tuple(map(shaped, result)) if isinstance(result, tuple) else shaped(result)


@contextlib.contextmanager
def fusing(on: bool = True) -> Iterator[None]:
    """Run `fusible` functions compiled within this block, or with on=False as written, which second
    derivatives need.
    """
    global _active
    before, _active = _active, on
    try:
        yield
    finally:
        _active = before
