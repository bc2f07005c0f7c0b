"""What tensors may be: specs for `paperlib.basics.checks.checked`.

dtype and shape are always checked. Values are looked at where that costs little: at the doors, such
as a ranking, and for tensors on the CPU. Elsewhere a look would wait for the device, or break a
compiled step.
"""

import math

import torch
from torch import Tensor, nn

from ..basics.checks import Spec, kind_of, number, require, several, shaped

# made once: inside a compiled step no function may be made
module, is_tensor = kind_of(nn.Module), kind_of(Tensor)
_unwrapped = torch._C._functorch.is_functorch_wrapped_tensor


def visible(x: Tensor) -> bool:
    """Whether a look at the values neither waits for a device nor breaks a compiled step."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not _unwrapped(x)


def floats(shape: str, door: bool = False) -> Spec:
    """A float tensor of a `shape`, see `paperlib.basics.checks.shaped`. door  its values, looked at
    wherever it lies, must be finite.
    """

    def check(name: str, value: Tensor, seen: dict | None = None) -> None:
        is_tensor(name, value)
        shaped(name, value, "a float tensor", shape, value.is_floating_point(), seen)
        if door and not (good := torch.isfinite(value)).all():
            raise ValueError(f"{name} must be finite, found {value[~good][0].item()}")

    return check


def distributions(shape: str) -> Spec:
    """Rows that are at least 0 and sum to 1, to 0.001; their values are always looked at."""

    def check(name: str, value: Tensor, seen: dict | None = None) -> None:
        floats(shape, door=True)(name, value, seen)
        _check_rows(name, value)

    return check


def _check_rows(name: str, value: Tensor) -> None:
    totals, rounding = value.double().sum(1), max(1e-3, torch.finfo(value.dtype).eps)
    wrong = ~((totals - 1).abs() < rounding) | ~(value >= 0).all(1)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"{name} must be non-negative and sum to 1, found {totals[row].item()} in row {row}"
        )


def scalars(allowed: str = "(-inf, inf)", above: str = "") -> Spec:
    """A number, or a float tensor that broadcasts, as a learned step. above  the name of an
    argument that it must exceed.
    """
    low, high = map(float, allowed[1:-1].split(","))  # both ends are open
    plain, any_shape = number(allowed), floats("...")

    def check(name: str, value: Tensor | float, seen: dict | None = None) -> None:
        other = (seen or {}).get(above, -math.inf)
        if not isinstance(value, Tensor):
            plain(name, value)
        else:
            any_shape(name, value)
        if all(visible(x) for x in (value, other) if isinstance(x, Tensor)):
            inside = torch.as_tensor((value > low) & (value < high)).all()
            require(inside, f"{name} must lie in {allowed}, got {value}")
            exceeds = torch.as_tensor(value > other).all()
            require(exceeds, f"{name} must be above {above}, got {value} and {other}")

    return check


def check_images(images: Tensor, name: str = "images", seen: dict | None = None) -> None:
    """Raise unless `images` is a non-empty (N, 3, H, W) uint8 tensor."""
    is_tensor(name, images)
    shaped(name, images, "a uint8 tensor", "N 3 H W", images.dtype == torch.uint8, seen)


def uint8_images(name: str, value: Tensor, seen: dict | None = None) -> None:
    """(N, 3, H, W) uint8."""
    check_images(value, name, seen)


def check_labels(labels: Tensor, images: int, classes: int) -> None:
    """Raise unless `labels` is (images,) int64 with values 0 .. classes - 1."""
    labels_of()("labels", labels, {"N": images, "C": classes})


def check_targets(targets: Tensor, images: int, classes: int) -> None:
    """Raise unless `targets` are labels as for `check_labels`, or soft ones: (images, classes)
    float, at least 0, with rows that sum to 1.
    """
    labels_of(soft=True)("labels", targets, {"N": images, "C": classes})


def labels_of(soft: bool = False, door: bool = True) -> Spec:
    """(N,) int64 of 0 .. C - 1, where C is known; if `soft`, also (N, C) float distributions.

    door  look at the values wherever they lie, else on the CPU alone.
    """

    def check(name: str, value: Tensor, seen: dict | None = None) -> None:
        is_tensor(name, value)
        look = door or visible(value)
        if soft and value.is_floating_point():
            shaped(f"soft {name}", value, "a float tensor", "N C", True, seen)
            if look:
                _check_rows(f"soft {name}", value)
            return
        shaped(name, value, "an int64 tensor", "N", value.dtype == torch.int64, seen)
        if look:
            low, high = int(value.min()), int(value.max())
            most = (seen or {}).get("C", math.inf) - 1
            found = low if low < 0 else high
            require(0 <= low and high <= most, f"{name} must lie in 0..{most}, found {found}")

    return check


features = floats("N _ ...")
_map, _tokens = floats("N _ _ _"), floats("N _ _")


def maps(name: str, value: Tensor, seen: dict | None = None) -> None:
    """A float map (N, C, H, W), or tokens (N, T, D)."""
    (_tokens if getattr(value, "ndim", 4) == 3 else _map)(name, value, seen)


several_maps = several(maps, 2)
