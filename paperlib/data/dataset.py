"""A data set of labelled images as four tensors, and its normalisation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..basics.checks import check_fields, checked, several, word
from ..basics.registry import Registry
from .checks import check_images, check_labels, uint8_images


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test images of one classification task.

    train_images, test_images  (N, 3, H, W) uint8.
    train_labels, test_labels  (N,) int64, 0 .. classes - 1.
    classes                    their names, in label order.
    mean, std                  of the channels, on the scale 0 .. 1, for the normalisation; std
                               above 0.
    mirror                     whether a mirrored image keeps its class: true of photographs, not of
                               digits.
    size                       None: training views are crops of the padded images, as large as the
                               images. A number: the side of views made by the base augmentation of
                               `paperlib.augment.base`, see `resized`.

    Raises TypeError or ValueError, naming the value, if the arrays are not that.
    """

    name: str
    train_images: Tensor = field(repr=False)
    train_labels: Tensor = field(repr=False)
    test_images: Tensor = field(repr=False)
    test_labels: Tensor = field(repr=False)
    classes: tuple[str, ...]
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    mirror: bool = True
    size: int | None = None

    def __post_init__(self):
        check_fields(self, classes=several(word))
        for images, labels in (
            (self.train_images, self.train_labels),
            (self.test_images, self.test_labels),
        ):
            check_images(images)
            check_labels(labels, len(images), len(self.classes))

    def to(self, device: str | torch.device) -> "Dataset":
        """The same data set with its four tensors on `device`."""
        names = ("train_images", "train_labels", "test_images", "test_labels")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def normalise(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 -> float32 of the same shape, (x / 255 - mean) / std per channel."""
        return normalise(images, self.mean, self.std)

    def network_input(self, images: Tensor) -> Tensor:
        """`normalise`, with the channels last in memory, which convolutions like best."""
        return self.normalise(images).contiguous(memory_format=torch.channels_last)

    @property
    def view_shape(self) -> tuple[int, int]:
        """(height, width) of a training view."""
        return tuple(self.train_images.shape[-2:]) if self.size is None else (self.size, self.size)

    def test_views(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 -> uint8 as a network trained on this data set is tested on them; no
        randomness.

        The images themselves if `size` is None or their own side. Else they are resized to a square
        of 256 pixels for views of 224, and in that proportion for others (bilinear, antialias);
        nothing is cut off, as in the paper's code. Random crops show objects larger than the whole
        image of the same size would (Touvron et al., NeurIPS 2019).
        """
        if self.size is None or images.shape[-2:] == (self.size, self.size):
            return images
        side = round(self.size * 256 / 224)
        large = F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True)
        return large.round_().to(torch.uint8)


@dataclass(frozen=True)
class Source:
    """A data set as it is registered.

    load   (folder, whether to download) -> the data set.
    paper  authors, year, licence if it is known. proof  the test of what is read.
    """

    load: Callable[[Path, bool], Dataset]
    paper: str
    proof: str = ""


DATASETS: Registry[Source] = Registry("data set")


def each_channel(values: Sequence[float] | float, channels: int = 3) -> tuple[float, ...]:
    """One number for all channels, or one for each -> one for each."""
    single = isinstance(values, int | float)
    return (values,) * channels if single else tuple(map(float, values))


@lru_cache(maxsize=64)  # made anew, they would be copied from the host for every batch
def _scaled(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers on the scale 0 .. 1, one per channel -> (1, C, 1, 1) float32 on the scale 0 .. 255.
    Not to be modified.
    """
    return torch.tensor(values, device=device).view(1, -1, 1, 1) * 255


@checked(images=uint8_images)
def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(N, 3, H, W) uint8 -> float32 of the same shape and memory format, (x / 255 - mean) / std per
    channel.
    """
    shift, scale = (_scaled(tuple(values), images.device) for values in (mean, std))
    return images.float().sub_(shift).div_(scale)
