"""A teacher and images that belong together, as the command line names them, looked at before
anything is made of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..augment import AUGMENTATIONS, candidates
from ..basics.checks import require
from ..basics.files import printable
from ..basics.machine import count_cores
from ..data import DATASETS, Dataset, load
from ..data.pictures import Pictures, arrays, check_names, numbered, pictures, readable, splits
from ..data.streams import shelf
from ..models.bring import TIMM, Preprocessing, named, network_of, preprocessing_of
from ..models.outputs import SomeOutputs
from ..scoring.glance import Glance, glance
from ..scoring.racing import nested_order

SHOWN = 12  # of a list of classes or files
Say = Callable[[str], None]


@dataclass(frozen=True)
class Brought:
    """A teacher, images and what is known of them.

    data     `Pictures`, or images and labels. classes  names, in the order of the outputs.
    skipped  files that cannot be read, and why. seen  how pictures become the teacher's input.
    mirror   whether a mirrored image keeps its class. workers  processes that read pictures.
    """

    teacher: Any
    data: Any
    classes: tuple[str, ...]
    look: Preprocessing
    skipped: tuple[tuple[str, str], ...]
    seen: tuple[str, ...]
    glance: Glance
    mirror: bool
    workers: int

    @property
    def labels(self) -> Tensor:
        """(N,) int64."""
        return shelf(self.data).labels()

    def examples(self, count: int) -> tuple[Tensor, Tensor]:
        """(count, 3, H, W) uint8 images, of as many classes as there are, and their labels."""
        source = shelf(self.data)
        places = nested_order(source.labels())[: min(count, source.length)]
        return next(source.read(places.numpy(), count))


@dataclass(frozen=True)
class Wanted:
    """What the command line says of teacher and images; see `options`."""

    teacher: str
    weights: str
    data: str
    classes: str
    order: str
    subset: bool
    mean: str
    std: str
    size: int
    per_class: int
    mirror: bool | None
    device: str
    workers: int
    seed: int


def bring(wanted: Wanted, say: Say) -> Brought:
    """Read, check and print: classes and outputs, files that cannot be read, the preprocessing, and
    whether the teacher knows the images. Raises ValueError if it does not.
    """
    say = printing(say)
    workers = processes(wanted.workers)
    names = _lines(wanted.classes) if wanted.classes else None
    known = known_data(wanted.data)
    data, classes = _data(wanted, names, say) if known is None else _of_known(known)
    _check_options(wanted, data, known)
    if wanted.teacher.startswith(TIMM) and not wanted.weights:
        say(f"fetching timm's weights of {wanted.teacher.removeprefix(TIMM)}")
    network = network_of(wanted.teacher, wanted.weights or None, len(classes))
    scale = [_numbers(name, getattr(wanted, name)) for name in ("mean", "std")]
    if known is not None:
        own = known.mean, known.std
        scale = [usual if given is None else given for given, usual in zip(scale, own, strict=True)]
    look = preprocessing_of(network, *scale, wanted.size or None)
    if isinstance(network, nn.Module):
        network.to(wanted.device)
    skipped: list[tuple[str, str]] = []
    if isinstance(data, Pictures):
        data, skipped = usable(replace(data, transform=look.transform), workers, say)
    if wanted.subset:
        data, classes, network = _subset(data, classes, network)
    how = {"mean": look.mean, "std": look.std, "workers": workers, "seed": wanted.seed}
    found = glance(network, data, **how)
    if isinstance(data, Pictures) and names is None:
        data, classes, found = _ordered(data, classes, found, wanted.order, say)
    mirror = known is None or known.mirror if wanted.mirror is None else wanted.mirror
    facts = tuple(skipped), _seen(data, look), found, mirror, workers
    brought = Brought(network, data, classes, look, *facts)
    _report(brought, say)
    _check(brought)
    return brought


def processes(workers: int) -> int:
    """What `--workers` asks for: -1 is one for each core that this process may use."""
    return workers if workers >= 0 else count_cores()


def known_data(name: str) -> Dataset | None:
    """A data set that the package knows by this name, if no folder or file is called so."""
    return load(name) if name in DATASETS and not Path(name).exists() else None


def _of_known(data: Dataset) -> tuple[Any, tuple[str, ...]]:
    return (data.train_images, data.train_labels), data.classes


def _data(wanted: Wanted, names: list[str] | None, say: Say) -> tuple[Any, tuple[str, ...]]:
    """Images, and names of classes."""
    require(wanted.data, "data must name a folder, a file or a data set, got ''")
    source = Path(wanted.data)
    if source.suffix == ".npz":
        return _of_arrays(source, names)
    if above := splits(source):
        source = source / above[0]
        say(f"{wanted.data} has {', '.join(above)} above the classes: taken is {above[0]}")
    found = pictures(source, names)
    if wanted.per_class:
        found = _some(found, wanted.per_class, wanted.seed)
    return found, found.classes


def _of_arrays(source: Path, names: list[str] | None) -> tuple[Any, tuple[str, ...]]:
    images, labels, own = arrays(source)
    most, known = int(labels.max()), names or own
    there = (
        f"{len(known)} classes" if known else f"{len(labels)} images, so that some class has none"
    )
    reach = f"{source}: labels reach {most}, but there are {there}"
    require(most < (len(known) or len(labels)), reach)
    classes = tuple(known or map(str, range(most + 1)))
    check_names(classes)
    return (images, labels), classes


def _check_options(wanted: Wanted, data: Any, known: Dataset | None) -> None:
    """Raise ValueError for what these images have no use for."""
    folder = isinstance(data, Pictures)
    for name in ("subset", "size", "per_class"):
        option = f"--{name.replace('_', '-')} is for a folder of pictures, {wanted.data} is none"
        require(folder or not getattr(wanted, name), option)
    own = f"--classes is for images of one's own; {wanted.data} has its classes"
    require(known is None or not wanted.classes, own)


def printing(say: Say) -> Say:
    """The same for any text: one line, whatever the names of files hold."""
    return lambda text: say(printable(text))


def tested(
    folder: Path, classes: tuple[str, ...], look: Preprocessing, workers: int, say: Say
) -> Pictures:
    """The pictures of a folder to test on; what it lacks is printed."""
    say = printing(say)
    found, _ = usable(pictures(folder, classes, look.transform), workers, say)
    lacks = [name for k, name in enumerate(classes) if k not in found.targets]
    if lacks:
        say(f"{folder} has no pictures of {len(lacks)} classes, such as {lacks[:3]}")
    return found


def usable(found: Pictures, workers: int, say: Say) -> tuple[Pictures, list[tuple[str, str]]]:
    """The pictures that can be read; the others with the reason, some of which are printed."""
    if found.ignored:
        some = ", ".join(path.name for path in found.ignored[:3])
        say(f"ignored: {len(found.ignored)} files that are no pictures of a class, such as {some}")
    good, bad = readable(found, workers)
    for path, reason in bad[:SHOWN]:
        say(f"skipped {path}: {reason}")
    if bad:
        say(f"{len(bad)} of {len(found)} files cannot be read and are skipped")
    return good, [(str(path), reason) for path, reason in bad]


def _some(found: Pictures, count: int, seed: int) -> Pictures:
    """At most so many pictures a class, at random."""
    targets, rng = np.array(found.targets), np.random.default_rng(seed)
    parts = [rng.permutation(np.flatnonzero(targets == k))[:count] for k in np.unique(targets)]
    return found.take(np.sort(np.concatenate(parts)).tolist())


def _subset(data: Any, classes: tuple[str, ...], network: Any) -> tuple[Any, tuple[str, ...], Any]:
    """The classes that there are images of, alone, and the teacher's outputs for them."""
    present = sorted(set(data.targets))
    data = replace(
        data,
        classes=tuple(classes[k] for k in present),
        targets=tuple(present.index(k) for k in data.targets),
    )
    return data, data.classes, SomeOutputs(network, present)


def _ordered(
    data: Pictures, classes: tuple[str, ...], found: Glance, order: str, say: Say
) -> tuple[Pictures, tuple[str, ...], Glance]:
    """Folders with numbers in their names can be sorted as text, as torchvision does, or by number.
    Unless it is said, that in which the teacher knows more of the images is taken, and printed.
    """
    by_number = numbered(classes)
    if by_number is None or order == "text":
        return data, classes, found
    numbers = [by_number.index(name) for name in classes]
    other = found.renumbered(numbers)
    if order == "auto":
        text, number = found.accuracy, other.accuracy
        taken = "by number" if number > text else "as text"
        say(f"folders by number: {number:.1%} right; as text: {text:.1%}. They are taken {taken}")
        if number <= text:
            return data, classes, found
    targets = tuple(numbers[k] for k in data.targets)
    return replace(data, classes=tuple(by_number), targets=targets), tuple(by_number), other


def _seen(data: Any, look: Preprocessing) -> tuple[str, ...]:
    decoding = (
        "Each file: the first frame, upright as EXIF says, RGB of 8 bits; grey of 16 bits is "
        "scaled, palettes and CMYK are converted, an alpha channel is dropped."
    )
    scale = f"mean {_rounded(look.mean)}, standard deviation {_rounded(look.std)}"
    if not isinstance(data, Pictures):
        return ("Images as the file has them.", f"Normalised with {scale}.")
    return (decoding, f"Preprocessing: {look.text}.", f"Normalised with {scale}.")


def _rounded(values: tuple[float, ...] | float) -> str:
    return ", ".join(f"{value:.4g}" for value in np.atleast_1d(values))


def _report(brought: Brought, say: Say) -> None:
    counts = torch.bincount(brought.labels, minlength=len(brought.classes)).tolist()
    rows = [f"{name} -> {k} ({counts[k]})" for k, name in enumerate(brought.classes)]
    shown = rows if len(rows) <= SHOWN else [*rows[: SHOWN - 1], "...", rows[-1]]
    say("folder -> output (pictures)")
    for row in shown:
        say(f"  {row}")
    for line in brought.seen:
        say(line)
    found = brought.glance
    say(
        f"the teacher has {found.classes} outputs; of {len(found.labels)} pictures as they are it "
        f"knows {found.accuracy:.1%}, with a confidence of {found.confidence:.2f}"
    )


def _check(brought: Brought) -> None:
    found, classes = brought.glance, len(brought.classes)
    lists = "give --classes FILE with a name a line, in the order of the outputs"
    have = f"the teacher has {found.classes} outputs, there are {classes} classes"
    require(found.classes == classes, f"{have}: {lists}")
    counts = torch.bincount(brought.labels, minlength=classes)
    empty = [brought.classes[k] for k in range(classes) if not counts[k]]
    only = "--subset takes the outputs of the others alone"
    require(not empty, f"no pictures of {len(empty)} classes, such as {empty[:3]}: {only}")
    images = f"{len(found.labels)} pictures"
    few = f"{images} are too few to tell a teacher from a guess, which knows {found.guess:.1%}"
    require(found.enough, f"{few}: give more")
    guess = f"{found.accuracy:.1%} of {images} as they are, which a guess of {found.guess:.1%} can"
    wrong = "the order of the classes, the weights or the normalisation are not the teacher's"
    require(found.knows, f"the teacher knows {guess}: {wrong}")


def chosen(text: str) -> dict[str, Any]:
    """Candidates: names, and places of one's own, "module:name", of a transform or a dictionary of
    such, by commas; "" for the sixteen.
    """
    if not text:
        return {name: name for name in AUGMENTATIONS}
    found: dict[str, Any] = {}
    for word in filter(None, map(str.strip, text.split(","))):
        if ":" not in word:
            found[word] = word
            continue
        own = named(word)
        own = own if isinstance(own, Mapping) else {word.rpartition(":")[2]: own}
        twice = [name for name in own if name in found and found[name] != own[name]]
        require(not twice, f"two candidates have the name {twice}, one of {word!r}")
        found |= own
    candidates(found)  # raises for what is none
    return found


def _lines(path: str) -> list[str]:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # a mark of Windows is no part of a name
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error}") from error
    names = [name for line in text.splitlines() if (name := line.strip())]
    require(names, f"{path} names no class")
    return names


def _numbers(name: str, text: str) -> tuple[float, ...] | float | None:
    """One number for all channels, or one for each; None for no text."""
    try:
        values = tuple(map(float, text.split(","))) if text else (None,)
        return values if len(values) > 1 else values[0]
    except ValueError:
        raise ValueError(f"{name} must be numbers by commas, got {text!r}") from None
