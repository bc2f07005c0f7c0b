"""A folder of pictures: what is a class, what each file decodes to, and what cannot be read.

What a network sees of a file is its first frame, upright as its EXIF tag says, as RGB of 8 bits:
grey of 16 bits is scaled, a palette and CMYK are converted, and an alpha channel is dropped, as
torchvision drops it.
"""

import os
import re
import stat
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import v2

from ..basics.checks import require
from ..basics.progress import progress
from .streams import IMAGE_COLUMNS, LABEL_COLUMNS, as_images, as_labels

# Whatever a file is called: others, as EPS, Pillow would hand to a program.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
MOST_PIXELS = 178_956_970  # of one picture; Pillow takes more for an attack
# What stands above the classes, not for one. Of several, the first is taken.
SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")
NO_CLASS = ("__MACOSX", "lost+found")


@dataclass(frozen=True)
class Pictures:
    """Pictures with labels, read when they are asked for: `pictures[k]` is an image and its label.

    files, targets  of each picture its path, and its class by number.
    classes         names in the order of the network's outputs.
    ignored         files below the classes that are no pictures by their name, and all beside them.
    transform       of a picture of Pillow in RGB; None: (3, H, W) uint8 of it as it is.
    """

    files: tuple[Path, ...]
    targets: tuple[int, ...]
    classes: tuple[str, ...]
    ignored: tuple[Path, ...] = ()
    transform: Callable | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> tuple[Any, int]:
        change, path = self.transform or v2.functional.pil_to_tensor, self.files[place]
        try:
            return change(decode(path)), self.targets[place]
        except Exception as error:  # of a worker process all that is left is the text
            raise ValueError(f"{path}: {_reason(error)}") from error

    def take(self, places: Sequence[int]) -> "Pictures":
        """Those at these places."""
        files, targets = zip(*((self.files[k], self.targets[k]) for k in places), strict=True)
        return replace(self, files=files, targets=targets)


def pictures(
    folder: str | Path, classes: Sequence[str] | None = None, transform: Callable | None = None
) -> Pictures:
    """The pictures of a folder that has a folder a class.

    folder   its hidden folders are no classes. One with `train` and others of `SPLITS` above the
             classes is named in the error.
    classes  names of folders in the order of the network's outputs, also such as are not there.
             However a system writes an accent, the name is the same. None: the folders that are
             there, sorted as text, which is torchvision's ImageFolder.

    Raises ValueError for a folder of no class or of one, one that is not among `classes`, a class
    without a picture, or one that is a link to what it lies in; FileNotFoundError and other OSError
    as the system does.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> for name in ("cat/1.PNG", "dog/2.png", "dog/notes.txt", ".hidden/3.png"):
    ...     (root / name).parent.mkdir(exist_ok=True)
    ...     Image.new("RGB", (8, 8)).save(root / name, format="png")
    >>> found = pictures(root)
    >>> found.classes, found.targets, len(found.ignored), tuple(found[0][0].shape)
    (('cat', 'dog'), (0, 1), 1, (3, 8, 8))
    """
    folder = Path(folder)
    found = _classes(folder)
    above = f"{str(folder)!r} has {', '.join(found)} above the classes: give one of them"
    require(not splits(folder), above)
    names = found if classes is None else list(classes)
    place = check_names(names)
    unknown = [name for name in found if _composed(name) not in place]
    require(not unknown, f"folders of {str(folder)!r} are not in the list of classes: {unknown}")
    require(len(found) > 1, f"{str(folder)!r} must have a folder a class, two at least; {found}")
    files, targets, ignored = [], [], _beside(folder)
    for name in found:
        round_about = folder.resolve().is_relative_to((folder / name).resolve())
        require(
            not round_about, f"the class {name!r} is a link to what it lies in, {str(folder)!r}"
        )
        own, others = _files(folder / name)
        require(own, f"the class {name!r} has no picture in {str(folder / name)!r}")
        files += own
        targets += [place[_composed(name)]] * len(own)
        ignored += others
    return Pictures(tuple(files), tuple(targets), tuple(names), tuple(ignored), transform)


def check_names(classes: Sequence[str]) -> dict[str, int]:
    """The place of each name, its accents composed. Raises ValueError for one that is there twice.

    >>> check_names(["a", "e\u0301"]) == {"a": 0, "\u00e9": 1}
    True
    """
    names = list(map(_composed, classes))
    twice = sorted({name for name in names if names.count(name) > 1})
    require(not twice, f"the list of classes has {twice} twice")
    return {name: k for k, name in enumerate(names)}


def splits(folder: Path) -> list[str]:
    """The names in `SPLITS` of a folder that has these, and no other folders, above its classes.
    They come in the order of `SPLITS`.
    """
    found = {name.lower(): name for name in _classes(Path(folder))}
    above = found and set(found) <= set(SPLITS)
    nested = above and all(_classes(Path(folder) / name) for name in found.values())
    return [found[name] for name in SPLITS if name in found] if nested else []


def numbered(classes: Sequence[str]) -> list[str] | None:
    """The names with the numbers in them in the order of numbers; None if that is the order of
    text, or there are no numbers.

    >>> numbered(["0", "1", "10", "2"]), numbered(["0", "1"])
    (['0', '1', '2', '10'], None)
    """

    def parts(name: str) -> list[tuple[int, int, str]]:
        words = re.split(r"(\d+)", name)
        return [(0, int(w), "") if w.isdecimal() else (1, 0, w) for w in words if w]

    ordered = sorted(classes, key=parts)
    return None if ordered == sorted(classes) else ordered


def decode(path: str | Path) -> Image.Image:
    """The picture in a file, as the text above says.

    Raises ValueError or OSError, saying why, for what is no regular file, no picture or a damaged
    one, has more than `MOST_PIXELS` pixels, or values whose scale nobody knows.
    """
    status = os.stat(path)  # a pipe would be waited for
    require(stat.S_ISREG(status.st_mode), "it is no regular file")
    Image.init()  # else Pillow knows some formats only once it has met them
    with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as image:
        width, height = image.size
        require(width * height <= MOST_PIXELS, f"it has {width} x {height} pixels")
        return _rgb(ImageOps.exif_transpose(image), image.format)


def readable(found: Pictures, workers: int = 0) -> tuple[Pictures, list[tuple[Path, str]]]:
    """Those pictures that can be read, and each other file with the reason.

    Every file is decoded once. workers  processes that read. Raises ValueError if a class has no
    picture left, or for pictures of two sizes that no transform resizes.
    """
    good, bad, sizes = [], [], {}
    loader = DataLoader(_Reasons(found.files), 64, num_workers=workers, collate_fn=list)
    with progress("pictures", len(found)) as advance:
        for reasons in loader:
            for place, reason, size in reasons:
                if reason:
                    bad.append((found.files[place], reason))
                else:
                    good.append(place)
                    sizes.setdefault(size, found.files[place])
            advance(len(reasons))
    left = {found.targets[place] for place in good}
    lost = sorted({found.classes[k] for k in found.targets if k not in left})
    first = f"such as {bad[0][0]}: {bad[0][1]}" if bad else ""
    require(not lost, f"no picture of the classes {lost} can be read, {first}")
    some = ", ".join(f"{w} x {h} {path}" for (w, h), path in list(sizes.items())[:2])
    one = f"pictures must be of one size, or be resized to one; found {some}"
    require(found.transform or len(sizes) == 1, one)
    return found.take(good), bad


@dataclass(frozen=True)
class _Reasons:
    """Of each file why it cannot be read, "" if it can, and its size."""

    files: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> tuple[int, str, tuple[int, int]]:
        try:
            return place, "", decode(self.files[place]).size
        except Exception as error:  # what a damaged file makes Pillow raise is of many kinds
            return place, _reason(error), (0, 0)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _beside(folder: Path) -> list[Path]:
    """What is in a folder and is no folder itself, such as a link to nowhere; nothing hidden."""
    return sorted(p for p in folder.iterdir() if not (p.name.startswith(".") or p.is_dir()))


def _classes(folder: Path) -> list[str]:
    """The folders in a folder, sorted, but hidden ones and those of `NO_CLASS`."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir()]
    return sorted(name for name in names if not name.startswith(".") and name not in NO_CLASS)


def _files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Pictures below a folder, sorted, and other files, and links to folders, which may lead round
    in a circle. What is hidden is neither. Raises OSError for a folder that cannot be read.
    """

    def unread(error: OSError) -> None:
        raise error

    found: tuple[list[Path], list[Path]] = [], []
    for place, folders, names in os.walk(folder, onerror=unread):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found[1].extend(path for name in folders if (path := Path(place, name)).is_symlink())
        for name in sorted(names):
            if not name.startswith("."):
                found[not name.lower().endswith(IMG_EXTENSIONS)].append(Path(place, name))
    return found


def _rgb(image: Image.Image, form: str | None) -> Image.Image:
    if image.mode[0] in "IF":
        values = np.asarray(image)
        # Mode I holds 32 bits: of these formats they are 16 that have been scaled to their range.
        known = image.mode.startswith("I;16") or (image.mode == "I" and form in ("PNG", "PPM"))
        require(known, f"it has values of unknown scale, Pillow's mode {image.mode}")
        return Image.fromarray(np.rint(values / 257).astype(np.uint8)).convert("RGB")
    return (image.convert("RGBA") if image.mode in ("P", "PA") else image).convert("RGB")


def arrays(path: str | Path) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Images, labels and the classes' names, if it has any, of an npz file. Nothing is unpickled.

    Its arrays are called as columns are in `streams`: images or x, labels or y, and classes. Raises
    ValueError, naming the file, for another one.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            columns = [[k for k in known if k in file] for known in (IMAGE_COLUMNS, LABEL_COLUMNS)]
            wanted = f"it must have one of {IMAGE_COLUMNS} and one of {LABEL_COLUMNS}"
            require(all(columns), f"{wanted}, has {file.files}")
            images, labels = as_images(file[columns[0][0]]), as_labels(file[columns[1][0]])
            names = tuple(map(str, file["classes"])) if "classes" in file else ()
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever a damaged archive makes numpy raise
        raise ValueError(f"{path} has no images and labels: {error}") from error
    require(len(images) == len(labels), f"{path}: {len(images)} images, {len(labels)} labels")
    return images, labels, names
