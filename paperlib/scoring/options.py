"""How a teacher looks at images: the options that every ranking shares."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .. import data as datasets
from ..basics.checks import Spec, check_fields, kind_of, number, require, several
from ..basics.progress import progress
from ..data.dataset import each_channel
from ..data.streams import as_images, as_labels, is_pair


def of_channels(allowed: str) -> Spec:
    """A number, or one for each channel."""
    one = number(allowed)

    def check(name: str, value: Any, seen: dict | None = None) -> None:
        (one if isinstance(value, int | float) else several(one))(name, value, seen)

    return check


@dataclass(frozen=True)
class Scoring:
    """How a teacher looks at images: the keywords that `rank` and `rank_within` share.

    mean, std   of the channels, or one number for all (scale 0 .. 1), what the teacher's input is
                normalised with; and
    mirror      whether a mirrored image keeps its class (None: yes). A `paperlib.data.Dataset`
                brings its own of these three.
    padding     pixels of the random crop.
    seed        of every random draw. batch  images a forward pass.
    cmi_weight  of CMI in the score.
    precision   "float32", or "bfloat16" for the teacher's convolutions: faster, and the third digit
                moves.
    compiled    compile the teacher, a network, for the passes of `rank` where that saves more time
                than it costs (`paperlib.models.frozen`): scores move in the sixth digit, in
                bfloat16 in the third.
    progress    called with (done, total, augmentation): before each pass of `rank` over images in
                memory; else, where each batch goes through all candidates, before each batch of
                each, with the views so far and in all (None if nobody knows). At the end the name
                is "".
    workers     processes that read images which are not in memory; 0 reads in this one.
    output      where a teacher's logits are in what it gives: a place, a key or an attribute, see
                `models.outputs.logits_in`. None finds them.
    """

    mean: Sequence[float] | float | None = None
    std: Sequence[float] | float | None = None
    mirror: bool | None = None
    padding: int = 4
    seed: int = 0
    batch: int = 100
    cmi_weight: float = 1.0
    precision: str = "float32"
    compiled: bool = False
    progress: Callable[[int, int | None, str], None] = lambda done, total, augmentation: None
    workers: int = 0
    output: int | str | None = None

    def __post_init__(self):
        scale = {"mean": of_channels("[0, 1]"), "std": of_channels("(0, 1]")}
        check_fields(self, **scale, workers=number("[0, inf)", whole=True))

    def check_scale(self, data: Any) -> None:
        """Raise ValueError unless mean and std are known once, from here or from a Dataset."""
        if isinstance(data, datasets.Dataset):
            own = (self.mean, self.std, self.mirror)
            brings = "a Dataset brings its own mean, std and mirror: leave these arguments out"
            require(all(value is None for value in own), brings)
        else:
            need = "images and labels alone need mean and std, to normalise what the teacher sees"
            require(self.mean is not None and self.std is not None, need)

    @contextmanager
    def watched(self, total: int | None) -> Iterator[Callable[[int, str], None]]:
        """A block of so many views: gives a function to call with the number that comes next, and
        the candidate's name.
        """
        done = 0
        with progress("views", total) as advance:

            def watch(views: int, name: str) -> None:
                nonlocal done
                self.progress(done, total, name)
                advance(views)
                done += views

            yield watch
        self.progress(done, total, "")

    def dataset(self, data: datasets.Dataset | tuple[Any, Any]) -> datasets.Dataset:
        """The images and labels to score, in memory. Raises ValueError, naming what is wrong with
        them.
        """
        self.check_scale(data)
        if isinstance(data, datasets.Dataset):
            return data
        kind_of(tuple, list)("data", data)
        require(is_pair(data), f"data must be images and labels, got {len(data)} values")
        images = as_images(data[0])
        labels = as_labels(data[1]).to(images.device)
        datasets.check_images(images)
        datasets.check_labels(labels, len(images), len(images))
        classes = int(labels.max()) + 1
        names, scale = tuple(map(str, range(classes))), map(each_channel, (self.mean, self.std))
        tensors = images, labels, images[:1], labels[:1]  # nothing is tested
        return datasets.Dataset("own data", *tensors, names, *scale, self.mirror is not False)
