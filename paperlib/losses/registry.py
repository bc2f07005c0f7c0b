"""Registry entries of losses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..basics.checks import one_of
from ..basics.registry import Registry, options_of

# What is compared (Gou et al., IJCV 2021, arXiv 2006.05525, section 2), and what a loss of that
# kind is given. The other arguments are its options.
_FEATURES = ("fs", "ft", "self", "student", "teacher")
KNOWLEDGE: dict[str, tuple[str, ...]] = {
    "none": ("logits", "targets", "smoothing"),
    "response": ("student_logits", "teacher_logits", "targets", "temperature"),  # logits
    "feature": _FEATURES,  # features, image by image
    "relation": _FEATURES,  # features of several images, or of several layers
}
SCHEMES = ("none", "offline", "online", "self")  # the same survey, section 3: who the teacher is
BOTH = "both networks' features are of the mixed image; the CE takes the mixed label"


@dataclass(frozen=True)
class Entry:
    """A loss, registered in `OBJECTIVES`.

    loss       of logits: (student_logits, teacher_logits, targets, temperature, **options) ->
               scalar; in the scheme "self" the teacher's may be None. Of features: (fs, ft,
               **options) -> scalar, of one layer; or a subclass of `Distiller`, for a loss that
               learns, remembers, or relates layers.
    knowledge  a key of `KNOWLEDGE`. scheme  one of `SCHEMES`.
    paper      authors, venue.
    defaults   fields of `Objective` and their usual values: weights, layers.
    cutmix     what CutMix means for it; student and teacher always see the same mixed image.
    proof      the test that proves the formula, beside those that every loss goes through.
    """

    loss: Callable
    knowledge: str
    paper: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    cutmix: str = BOTH
    proof: str = ""
    scheme: str = "offline"

    def __post_init__(self):
        one_of("knowledge", self.knowledge, KNOWLEDGE)
        one_of("scheme", self.scheme, SCHEMES)

    @property
    def options(self) -> dict[str, Any]:
        """The options of the loss, with their usual values."""
        return options_of(getattr(self.loss, "build", self.loss), KNOWLEDGE[self.knowledge])


OBJECTIVES: Registry[Entry] = Registry("loss")
