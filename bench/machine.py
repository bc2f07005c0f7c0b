"""Where the benchmark runs, and what that machine can do at best."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from paperlib import data as datasets
from paperlib.basics.machine import count_cores
from paperlib.data import Dataset
from paperlib.runs import execution

from .measure import Contender, Row, best, combine, interleave


@dataclass(frozen=True)
class Setting:
    """How a suite is to be run.

    device  "cpu", "cuda" or "cuda:N". threads  of this process; spawned ones share them. small
    sizes of a test. Raises ValueError for a device that is not there, or fewer than one repetition
    or thread.
    """

    device: str = "cpu"
    threads: int = 1
    repetitions: int = 5
    small: bool = False

    def __post_init__(self):
        name, _, number = self.device.partition(":")
        if name not in ("cpu", "cuda") or (number and not (name == "cuda" and number.isdecimal())):
            raise ValueError(f"unknown device {self.device!r}; known: cpu, cuda, cuda:N")
        if self.cuda and int(number or 0) >= torch.cuda.device_count():
            raise ValueError(
                f"device {self.device!r} was asked for, and torch sees "
                f"{torch.cuda.device_count()} CUDA GPUs here"
            )
        for field in ("threads", "repetitions"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, got {getattr(self, field)}")

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def model(self) -> str:
        return "resnet8" if self.small else "resnet20"

    def pick(self, small: Any, cpu: Any, cuda: Any) -> Any:
        """One of three sizes."""
        return small if self.small else cuda if self.cuda else cpu

    def synchronise(self) -> None:
        """Wait until the device has done all it was given."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def rates(
        self, contenders: list[Contender], report: Callable[[str], Any]
    ) -> dict[str, tuple[float, ...]]:
        """`measure.interleave` on this device."""
        return interleave(contenders, self.repetitions, synchronise=self.synchronise, report=report)

    def environment(self) -> dict[str, Any]:
        """Device, threads, cores, versions, commit, date, and on a CPU the instructions used."""
        return execution.environment(self.device) | {
            "instructions": {} if self.cuda else instructions(),
            "cores": count_cores(),
            "repetitions": self.repetitions,
            "small": self.small,
        }


def images(setting: Setting, count: int) -> Dataset:
    """`count` labelled images on the device: CIFAR-10's, digits for a test, noise where CIFAR-10
    cannot be had.

    Neither networks nor augmentations take longer for one picture than for another, so noise gives
    the same speeds.
    """
    if setting.small:
        return datasets.subset(datasets.load("digits"), train=count, test=50).to(setting.device)
    try:
        return datasets.subset(datasets.load("cifar10", download=False), train=count, test=100).to(
            setting.device
        )
    except FileNotFoundError:
        return noise(count, 10).to(setting.device)


def noise(count: int, classes: int) -> Dataset:
    """`count` random 32 x 32 images, every class as often as the others."""
    pixels = torch.randint(
        0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    labels = torch.arange(count) % classes
    return Dataset(
        "noise", pixels, labels, pixels[:classes], labels[:classes], tuple(map(str, range(classes)))
    )


def ready(
    data: Dataset, batch: int, memory_format: torch.memory_format = torch.channels_last
) -> list[tuple[Tensor, Tensor]]:
    """Normalised float32 batches that wait on the device: what a network is given when nothing else
    costs anything.
    """
    x = data.normalise(data.train_images)
    pairs = zip(x.split(batch), data.train_labels.split(batch), strict=True)
    return [(x.contiguous(memory_format=memory_format), labels) for x, labels in pairs]


# ----------------------------------------------------------------------------------------- ceilings

ARITHMETIC = "arithmetic at best, {}"
COPY = "copy in memory"
SIDES = (512, 1024, 2048)  # of square matrices on a CPU: which is fastest depends on its caches
PRECISIONS = ("float32", "bfloat16")


def ceilings(setting: Setting) -> list[Contender]:
    """What the device can do at best: multiply matrices and convolve maps of several sizes (GFLOP),
    copy a big array (GB read and written).
    """
    times = setting.pick(1, 2, 10)
    contenders = []
    for precision in PRECISIONS:
        dtype = getattr(torch, precision)
        for n in setting.pick((256,), SIDES, (8192,)):
            a, repeated = torch.randn(n, n, device=setting.device).to(dtype), times * 2048 // n
            contenders.append(
                Contender(
                    f"matrix product of {n}, {precision}",
                    lambda a=a, r=repeated: [a @ a for _ in range(r)],
                    repeated * 2 * n**3 / 1e9,
                )
            )
        conv, maps = _convolution(setting, dtype)
        work = times * 2 * maps.numel() * conv.weight[0].numel() / 1e9
        contenders.append(
            Contender(
                f"convolution, {precision}",
                lambda c=conv, x=maps: [c(x) for _ in range(times)],
                work,
            )
        )
    source = torch.empty(
        setting.pick(2**20, 2**28, 2**31), dtype=torch.uint8, device=setting.device
    ).fill_(1)
    target = source.clone()
    work = 2 * times * source.numel() / 1e9
    return [
        *contenders,
        Contender(COPY, lambda: [target.copy_(source) for _ in range(times)], work),
    ]


def _convolution(setting: Setting, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    """3 x 3, as many channels out as in, and maps for it."""
    channels, side, batch = setting.pick((8, 8, 2), (128, 16, 64), (256, 32, 256))
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False).requires_grad_(False)
    maps = torch.randn(batch, channels, side, side)
    return tuple(
        x.to(setting.device, dtype, memory_format=torch.channels_last) for x in (conv, maps)
    )


def arithmetic(rates: dict[str, tuple[float, ...]], precision: str) -> Row:
    """The row of the fastest of `ceilings`' products and convolutions in each round."""
    kinds = "matrix product", "convolution"
    found = [r for n, r in rates.items() if n.startswith(kinds) and n.endswith(precision)]
    return Row(ARITHMETIC.format(precision), "limit", best(found), "GFLOP/s")


SHOWS = """
import torch
conv, x = torch.nn.Conv2d(16, 16, 3), torch.ones(2, 16, 8, 8)
x = x.contiguous(memory_format=torch.channels_last)
with torch.no_grad():
    conv(x), conv.bfloat16()(x.bfloat16())
"""


def instructions() -> dict[str, str]:
    """precision -> the instruction set of the convolution that oneDNN chooses here, as it names
    it. Without one where it says nothing.
    """
    shown = subprocess.run(
        [sys.executable, "-c", SHOWS],
        env=os.environ | {"ONEDNN_VERBOSE": "1"},
        capture_output=True,
        encoding="utf-8",
        check=True,
    ).stdout
    used = re.findall(r",exec,cpu,convolution,[^,:]*:([^,]*),[^,]*,src:(f32|bf16):", shown)
    names = {"f32": "float32", "bf16": "bfloat16"}
    return {names[short]: instruction for instruction, short in used}


class _Traffic(TorchDispatchMode):
    """Adds up the bytes that operations read and write, each by itself; views move nothing."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = (t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor))
            self.bytes += sum(t.numel() * t.element_size() for t in tensors)
        return result


def effort(run: Callable[[], Any]) -> tuple[float, float]:
    """(GFLOP, GB) of a computation: multiplications and additions counted apart; bytes as if no
    operation were fused.
    """
    with FlopCounterMode(display=False) as counter:
        run()
    with _Traffic() as traffic:
        run()
    return counter.get_total_flops() / 1e9, traffic.bytes / 1e9


def efficiency(
    rates: dict[str, tuple[float, ...]],
    names: dict[str, str],
    per_image: tuple[float, float],
    precision: str = "float32",
    fused: bool = False,
) -> list[Row]:
    """Rows of what is achieved of the ceilings.

    names  {row of images/s: role}; per_image  as `effort` gives it, of one image. fused  what is
    compiled keeps in registers what else goes through the memory: its bytes are not counted.
    """
    rows = [arithmetic(rates, precision)]
    if not fused:
        rows.append(Row(f"{COPY}, beside {precision}", "limit", rates[COPY], "GB/s"))
    for name, role in names.items():
        for amount, limit in zip(per_image, rows[: 2 - fused], strict=False):
            reached = combine([(1 / amount, rates[name])])
            rows.append(Row(f"{name}: {limit.unit}", role, reached, limit.unit, limit=limit.name))
    return rows


def frozen(model: nn.Module, setting: Setting) -> nn.Module:
    """A teacher: on the device, in eval mode, without gradients, in the layout its kernels like
    best.
    """
    return (
        model.to(device=setting.device, memory_format=torch.channels_last)
        .eval()
        .requires_grad_(False)
    )
