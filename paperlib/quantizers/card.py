"""What a student is, in words that a file can hold, and students as safetensors files."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from ..basics.checks import check_fields, checked, count, kind_of, require, several, word
from ..basics.files import write_atomically
from ..data.checks import module
from ..models import MODELS, build
from ..models.weights import as_safetensors
from .ends import unwrapped
from .registry import METHODS

file_path = kind_of(str, PathLike)


@dataclass(frozen=True)
class Card:
    """How a student was made: the arguments of `quantize`, which writes it on `student.card`.

    network, outputs  name and number of classes, if `build` made the network; else None.
    classes, mean, std  names of the classes, and what images are normalised with, if known.
    """

    method: str
    weight_bits: int
    activation_bits: int
    keep: tuple[str, ...] | None = None
    kept_bits: int | None = None
    per_channel: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    network: str | None = None
    outputs: int | None = None
    classes: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self):
        check_fields(self, network=word, outputs=count, classes=several(word))
        named = len(self.classes or ()) or self.outputs
        require(self.outputs in (None, named), f"{named} classes are named of {self.outputs}")

    @property
    def quantization(self) -> dict[str, Any]:
        """The arguments of `quantize`."""
        names = "method weight_bits activation_bits keep kept_bits per_channel".split()
        return {name: getattr(self, name) for name in names} | self.options

    def texts(self) -> dict[str, str]:
        """What is known, by name, as JSON; `card_of` reads it."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return {name: json.dumps(value) for name, value in known.items()}


def card_of(texts: Mapping[str, str]) -> Card:
    """The card of a file's metadata. Raises ValueError or TypeError if there is none in it."""
    names = [each.name for each in fields(Card)]
    known = {name: json.loads(texts[name]) for name in names if name in texts}
    require("method" in known, "it has no configuration of a student")
    lists = {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
    return Card(**known | lists)


def known_card(
    student: nn.Module,
    classes: Sequence[str] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Card:
    """A student's card with what is known besides. Raises ValueError for what `quantize` did not
    make.
    """
    card = getattr(student, "card", None)
    require(isinstance(card, Card), "the network is no student: quantize(model, ...) makes one")
    given = {"classes": classes, "mean": mean, "std": std}
    return replace(card, **{k: tuple(v) for k, v in given.items() if v is not None})


@checked(student=module, path=file_path, classes=several(word))
def save_student(
    student: nn.Module,
    path: str | Path,
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> None:
    """Write a student's weights and quantizers, and its card as metadata, as safetensors.

    path  of the file, which is replaced in one step. classes, mean, std  go into the card.
    Raises ValueError for a network that `quantize` did not make.

    >>> from tempfile import mkdtemp
    >>> from paperlib.quantizers import quantize
    >>> path = Path(mkdtemp(), "student.safetensors")
    >>> save_student(quantize(build("resnet8", classes=3), "lsq", 2, 2), path, classes=list("abc"))
    >>> load_student(path).card.classes
    ('a', 'b', 'c')
    """
    student = unwrapped(student)
    card = known_card(student, classes, mean, std)
    write_atomically(Path(path), as_safetensors(student, card.texts()))


@checked(path=file_path)
def load_student(path: str | Path, factory: Callable[[], nn.Module] | None = None) -> nn.Module:
    """The student in a file that `save_student` wrote, in eval mode; nothing is unpickled.

    factory  makes the network that was quantized, its weights do not matter. None: the file names
             one of `MODELS`.
    Raises ValueError, naming the file and what does not fit: no safetensors, no student's card, a
    network or a method that is not registered, other weights; FileNotFoundError without a file.
    """
    from . import quantize  # which imports this module

    try:
        with safe_open(path, "pt") as file:
            texts, state = file.metadata() or {}, {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
        card = card_of(texts)
        # Not METHODS[...]: what is not registered would be imported, whatever a file names.
        require(card.method in METHODS, f"no method {card.method!r} is registered in METHODS")
        if factory is None:
            there = card.network in MODELS
            require(there, f"network {card.network!r} is not in MODELS: factory= makes it")
            factory = lambda: build(card.network, card.outputs)  # noqa: E731
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            student = quantize(factory(), **card.quantization)
        student.load_state_dict(state)
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
        why = str(error)  # torch lists every tensor that does not fit
        raise ValueError(f"no student can be made of {path}: {why:.300}") from error
    student.card = card
    return student.eval()
