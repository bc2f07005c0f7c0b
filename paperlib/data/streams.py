"""What people have, as batches of uint8 images and labels, one batch in memory at a time.

Understood are a pair of images and labels (tensors, numpy arrays, memory maps), anything with a
length and places (a torch Dataset, torchvision's ImageFolder, a Hugging Face dataset), a
DataLoader, and any iterable of samples or of batches.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ..basics.checks import require
from ..basics.progress import progress
from .dataset import Dataset

IMAGE_COLUMNS = ("image", "img", "images", "pixel_values", "x")
LABEL_COLUMNS = ("label", "labels", "fine_label", "target", "targets", "y")
KINDS = (
    "a paperlib Dataset, images and labels, a torch Dataset, a DataLoader, a Hugging Face dataset, "
    "or an iterable of batches"
)
LOADER_OPTIONS = ("num_workers", "collate_fn", "worker_init_fn", "multiprocessing_context")
AT_ONCE = 256  # images that are read for their labels alone
Batch = tuple[Tensor, Tensor]
Order = Callable[[int], np.ndarray]


@dataclass(frozen=True)
class Stream:
    """Labelled images, to be gone through once.

    batches  (B, C, H, W) uint8 and (B,) int64; all of one size but the last.
    length   images in all; None if nobody knows. classes  how many; None if nobody knows.
    ordered  whether the order was chosen here. Else it is the source's own.
    """

    batches: Iterator[Batch]
    length: int | None
    classes: int | None
    ordered: bool


@dataclass(frozen=True)
class Shelf:
    """Labelled images that can be read at any place, as often as need be.

    length, classes  as of a `Stream`. labels  gives all of them, (N,) int64 on the CPU: those that
                     the source lists, else it reads everything once.
    read             (places, batch) -> the images and labels there, in batches.
    """

    length: int
    classes: int | None
    labels: Callable[[], Tensor]
    read: Callable[[np.ndarray, int], Iterator[Batch]]


def shelf(data: Any, workers: int = 0) -> Shelf | None:
    """What a user brings, as for `stream`, if it has places; None for what comes in its own order.

    >>> found = shelf((np.zeros((4, 8, 8), np.uint8), [0, 1, 0, 1]))
    >>> found.length, [labels.tolist() for _, labels in found.read(np.array([1, 3, 0]), 2)]
    (4, [[1, 1], [0]])
    """
    if isinstance(data, Dataset):
        return _arrays(data.train_images, data.train_labels, len(data.classes))
    if is_pair(data):
        images, labels = _array(data[0]), as_labels(data[1])
        same = f"data must be as many images as labels, got {len(images)} and {len(labels)}"
        require(len(images) == len(labels), same)
        return _arrays(images, labels, None)
    if isinstance(data, DataLoader):
        places = _places(data)
        how = {name: getattr(data, name) for name in LOADER_OPTIONS}
        return None if places is None else _rows(data.dataset, places, how)
    in_order = isinstance(data, IterableDataset) or _is_batches(data)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not in_order | _no_data(data):
        require(len(data) > 0, f"data must have images, got an empty {type(data).__name__}")
        how = {"num_workers": workers, "collate_fn": _collate}
        return _rows(data, np.arange(len(data)), how)
    return None


def stream(data: Any, batch: int, order: Order, workers: int = 0) -> Stream:
    """What a user brings -> its images, in batches.

    data     see above. Images are as for `as_images`; labels are whole numbers from 0 on. A sample
             or batch is an image and a label, or a mapping with one of `IMAGE_COLUMNS` and one of
             `LABEL_COLUMNS`. What comes in its own order must end.
    batch    images in a batch.
    order    the number of images -> a permutation of them, for what can be read at any place. A
             DataLoader over such a data set is read in this order too: all that its sampler gives,
             whether it shuffles or drops the last. Other iterables come in their own order, which
             should be random: neighbours share CutMix boxes, and groups of T. stddev are runs of
             images.
    workers  processes that read; 0 reads in this one. A DataLoader brings its own number.

    Raises TypeError for other things, ValueError for images and labels that are not these.

    >>> pairs = [(np.full((8, 8, 3), k, np.uint8), k % 2) for k in range(5)]
    >>> found = stream(pairs, 2, np.arange)
    >>> found.length, [(tuple(images.shape), labels.tolist()) for images, labels in found.batches]
    (5, [((2, 3, 8, 8), [0, 1]), ((2, 3, 8, 8), [0, 1]), ((1, 3, 8, 8), [0])])
    """
    if places := shelf(data, workers):
        batches = places.read(order(places.length), batch)
        return Stream(batches, places.length, places.classes, True)
    if isinstance(data, Iterable) and not _no_data(data):
        return Stream(_batched(data, batch), None, None, False)
    raise TypeError(f"data must be {KINDS}; got {type(data).__name__} {data!r:.80}")


def is_pair(data: Any) -> bool:
    """Whether this is images and labels, each as one array or a list of numbers; labels of another
    shape, as one-hot ones, are for `as_labels` to refuse.
    """
    if not (isinstance(data, tuple | list) and len(data) == 2 and hasattr(data[0], "shape")):
        return False
    return len(data[0].shape) > 1 and _ndim(data[1]) in (1, 2)


def as_images(images: Any) -> Tensor:
    """(B, C, H, W) uint8 of a batch of images.

    images  a tensor (B, C, H, W) or (B, H, W), or a numpy array, also (B, H, W, C): its channels
            are the shorter one of axes 1 and 3. uint8, or floats in 0 .. 1, which are rounded to
            multiples of 1/255. Raises ValueError for others, such as images that were normalised.

    >>> as_images(np.zeros((2, 8, 8, 3)))[0].shape, as_images(torch.ones(2, 8, 8))[0, 0, 0, 0]
    (torch.Size([3, 8, 8]), tensor(255, dtype=torch.uint8))
    """
    if not isinstance(images, Tensor):
        images = np.asarray(images)
        if images.ndim == 4 and images.shape[3] < images.shape[1]:
            images = images.transpose(0, 3, 1, 2)
        images = torch.from_numpy(np.ascontiguousarray(images))
    if images.ndim == 3:
        images = images.unsqueeze(1)
    last = images.ndim == 4 and images.shape[3] <= 4 < images.shape[1]
    first = "the channels of a tensor come first, (N, C, H, W): permute(0, 3, 1, 2) it"
    require(not last, f"{first}, got {tuple(images.shape)}")
    found = f"{images.dtype} {tuple(images.shape)}"
    shaped = images.ndim == 4 and images.numel() > 0
    kind = images.dtype == torch.uint8 or images.is_floating_point()
    require(shaped and kind, f"images must be uint8, or floats in 0..1, (N, C, H, W), got {found}")
    if images.dtype == torch.uint8:
        return images
    low, high = float(images.min()), float(images.max())
    wanted = "images that are floats must lie in 0..1, not normalised (give mean and std instead)"
    require(low >= 0 and high <= 1, f"{wanted}, found {images.dtype} {low} .. {high}")
    return (images.float() * 255).round_().to(torch.uint8)


def as_labels(labels: Any) -> Tensor:
    """(B,) int64 of a list, an array or a tensor of whole numbers from 0 on; ValueError for others.

    >>> as_labels([0, 2]), as_labels(np.array([1], np.uint8))
    (tensor([0, 2]), tensor([1]))
    """
    try:
        labels = torch.as_tensor(labels if isinstance(labels, Tensor) else np.asarray(labels))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"labels must be whole numbers, got {labels!r:.80}") from error
    kinds = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    found = f"{labels.dtype} {tuple(labels.shape)}"
    require(kinds and labels.ndim == 1, f"labels must be whole numbers, one an image, got {found}")
    labels = labels.to("cpu", torch.int64)
    low = int(labels.min()) if len(labels) else 0
    require(low >= 0, f"labels must be at least 0, found {low}")
    return labels


# --------------------------------------------------------------------------------- kinds of sources


def _array(part: Any) -> Any:
    return part if isinstance(part, Tensor | np.ndarray) else np.asarray(part)


def _ndim(part: Any) -> int:
    if hasattr(part, "shape"):
        return len(part.shape)
    return 1 if isinstance(part, Sequence) and not isinstance(part, str) else -1


def _no_data(data: Any) -> bool:
    """What can be gone through, but holds no pairs of images and labels."""
    arrays = isinstance(data, Tensor | np.ndarray | str | bytes | Mapping)
    return arrays or (isinstance(data, tuple | list) and not all(map(_is_sample, data[:1])))


def _is_batches(data: Any) -> bool:
    """Whether a list holds batches, not samples."""
    listed = isinstance(data, tuple | list) and len(data) > 0 and _is_sample(data[0])
    return listed and len(getattr(_columns(data[0])[0], "shape", ())) == 4


def _is_sample(sample: Any) -> bool:
    return isinstance(sample, Mapping) or (isinstance(sample, tuple | list) and len(sample) == 2)


def _arrays(images: Any, labels: Tensor, classes: int | None) -> Shelf:
    labels = labels.cpu()

    def read(places: np.ndarray, batch: int) -> Iterator[Batch]:
        for start in range(0, len(places), batch):
            some = places[start : start + batch]
            part = torch.from_numpy(some)
            some = part.to(images.device) if isinstance(images, Tensor) else some
            yield as_images(images[some]), labels[part]

    return Shelf(len(images), classes, lambda: labels, read)


def _places(loader: DataLoader) -> np.ndarray | None:
    """What a DataLoader's sampler gives of a data set with places, sorted, because a sampler that
    shuffles would do so anew each time; None if there is none.
    """
    sampler = getattr(loader.batch_sampler, "sampler", None)
    if sampler is None or isinstance(loader.dataset, IterableDataset):
        return None
    with torch.random.fork_rng(devices=[]):
        return np.sort(np.fromiter(sampler, np.int64))


def _rows(data: Any, places: np.ndarray, how: Mapping[str, Any]) -> Shelf:
    """Read by torch's DataLoader, whose worker processes keep the order."""

    def read(order: np.ndarray, batch: int) -> Iterator[Batch]:
        parts = [places[order[k : k + batch]].tolist() for k in range(0, len(order), batch)]
        # A generator of its own: a DataLoader draws from torch's random state otherwise.
        loader = DataLoader(data, batch_sampler=parts, generator=torch.Generator(), **how)
        return map(_batch_of, loader)

    def labels() -> Tensor:
        if (listed := _listed(data)) is not None:
            return listed[torch.from_numpy(places)]
        with progress("labels", len(places)) as advance:
            parts = []
            for _, some in read(np.arange(len(places)), AT_ONCE):
                parts.append(some)
                advance(len(some))
        return torch.cat(parts)

    return Shelf(len(places), len(class_names(data)) or None, labels, read)


def _listed(data: Any) -> Tensor | None:
    """The labels that a data set lists beside its images, as torchvision's and Hugging Face's."""
    column = next((name for name in LABEL_COLUMNS if name in getattr(data, "column_names", ())), "")
    plain = getattr(data, "target_transform", None) is None
    listed = data[column] if column else getattr(data, "targets", None) if plain else None
    try:
        labels = as_labels(listed if isinstance(listed, Tensor) else list(listed))
    except (TypeError, ValueError):
        return None
    return labels if len(labels) == len(data) else None


def _batched(source: Iterable, batch: int) -> Iterator[Batch]:
    """Samples or batches of any size -> batches of one size; the last one may be smaller."""
    images, labels, held = [], [], 0
    for sample in _once(source):
        image, label = _columns(sample)
        single = np.ndim(label) == 0
        some = _collate([sample]) if single else (as_images(image), as_labels(label))
        check_same([images[0][0]] if images else [], some[0][0])
        images.append(some[0].clone())  # the source may write the next ones over these
        labels.append(some[1].clone())
        held += len(some[1])
        if held >= batch:
            *whole, rest = zip(*(torch.cat(x).split(batch) for x in (images, labels)), strict=True)
            if full := len(rest[0]) == batch:
                whole.append(rest)
            yield from whole
            images, labels = ([], []) if full else ([rest[0]], [rest[1]])
            held = 0 if full else len(rest[1])
    if held:
        yield torch.cat(images), torch.cat(labels)


def _once(source: Iterable) -> Iterator[Any]:
    """What a source gives. Raises ValueError if the worker processes of a DataLoader all read the
    whole of it: then its second batch is the first again.
    """
    several, first = getattr(source, "num_workers", 0) > 1, None
    for number, sample in enumerate(source):
        if several and number == 0:
            first = _batch_of(sample)
        if several and number == 1 and all(map(torch.equal, first, _batch_of(sample))):
            share = "let its __iter__ give each its share (torch.utils.data.get_worker_info)"
            raise ValueError(f"the {source.num_workers} workers read the same images: {share}")
        yield sample


def check_same(others: Sequence[Tensor], image: Tensor) -> None:
    """Raise ValueError for an image that has not the shape of the others."""
    for other in others:
        both = f"{tuple(image.shape)} and {tuple(other.shape)}"
        same = "images must be of one shape: let the data set's transform resize them"
        require(image.shape == other.shape, f"{same}, got {both}")


# ----------------------------------------------------------------------------------------- a sample


def _columns(sample: Any) -> tuple[Any, Any]:
    """The image or images, and the label or labels, of a sample or batch."""
    if isinstance(sample, Mapping):
        found = [[k for k in known if k in sample] for known in (IMAGE_COLUMNS, LABEL_COLUMNS)]
        wanted = f"a sample must have one of {IMAGE_COLUMNS} and one of {LABEL_COLUMNS}"
        require(all(found), f"{wanted}, got the columns {list(sample)}")
        return sample[found[0][0]], sample[found[1][0]]
    if not _is_sample(sample):
        raise TypeError(f"a sample must be an image and a label, got {type(sample).__name__}")
    return sample[0], sample[1]


def _batch_of(sample: Any) -> Batch:
    images, labels = _columns(sample)
    return as_images(images), as_labels(labels)


def _collate(samples: Sequence[Any]) -> Batch:
    """Samples -> a batch. An image is a picture of Pillow, a tensor (C, H, W) or an array."""
    images, labels = zip(*map(_columns, samples), strict=True)
    images = [_pixels(image) for image in images]
    for image in images[1:]:
        check_same(images[:1], image)
    return torch.stack(images), as_labels([_whole(label) for label in labels])


def _pixels(image: Any) -> Tensor:
    if hasattr(image, "convert"):  # of Pillow
        bytes_only = "a picture must have 8 bits a channel: let a transform scale it to that"
        require(image.mode[0] not in "IF", f"{bytes_only}, got Pillow's mode {image.mode}")
        image = np.array(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    if not hasattr(image, "shape"):
        raise TypeError(f"an image must be a picture, an array or a tensor, got {image!r:.80}")
    flat = len(image.shape) == 2
    return as_images(image[None, None] if flat else image[None])[0]


def _whole(label: Any) -> int:
    """A label as an int. An array of one number is one."""
    one = hasattr(label, "item") and math.prod(label.shape) == 1
    value = label.item() if one else label
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"labels must be whole numbers, one an image, got {label!r:.80}")
    return value


def class_names(data: Any) -> tuple[str, ...]:
    """The classes that a data set says it has: torchvision's `classes`, Hugging Face's features;
    none if it does not.
    """
    names, features = getattr(data, "classes", None), getattr(data, "features", None)
    if isinstance(features, Mapping):
        known = [features[column] for column in LABEL_COLUMNS if column in features]
        names = getattr(known[0], "names", None) if known else None
    return tuple(names) if isinstance(names, Sequence) and not isinstance(names, str) else ()
