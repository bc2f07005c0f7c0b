"""Candidates of a user's own, beside the sixteen: any transform of torchvision, any function.

A candidate is the base augmentation (crop and mirror), then a policy or a transform, then perhaps
CutMix or MixUp. What a transform draws from the global random states is keyed, as all draws are,
and those states are left as they were.
"""

import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..basics.checks import require
from ..data.streams import as_images
from .ops import OPS, apply_chains
from .pipeline import (
    AUGMENTATIONS,
    CUTMIX,
    augment,
    cutmix,
    cutmix_draw,
    generator,
    parse,
    policy_of,
)
from .policies import Policy, apply_augmix, erase

MIXUP = "+mixup"
MIXING = 0x313C  # keys of random numbers, beside those of a pass
TRANSFORM = 0x7A5F
MIXES_CHANNELS = {1: {"Color", "Hue"}}  # what has no meaning, by the number of channels
OTHER_CHANNELS = {"Color", "Hue", "Contrast"}  # these weigh red, green and blue


@dataclass(frozen=True)
class OnBatch:
    """A transform that takes a whole batch, (B, C, H, W) uint8; see `on_batch`."""

    function: Callable


def on_batch(function: Callable) -> OnBatch:
    """Mark a function of a candidate as one of a batch: (B, C, H, W) uint8 -> (B, C, H', W').
    Others are called image by image, because a transform draws once a call.

    >>> dark = candidates({"dark": on_batch(lambda images: images // 2)})["dark"]
    >>> views, _ = dark.views(torch.full((2, 3, 8, 8), 100).byte(), torch.tensor([0, 1]), 2, (0, 0))
    >>> views.amax().item()
    50
    """
    return OnBatch(function)


def as_policy(function: Callable) -> Policy:
    """A transform of torchvision, or any function of an image (C, H, W) uint8 that keeps its size,
    as a policy: with an entry of `POLICIES` it also trains, as `fit` takes augmentations by name.
    Each image is transformed alone, with random states of its own.

    >>> policy = as_policy(lambda image: image[torch.randperm(3)])
    >>> draws = policy.draw(generator(0), 2, 8, 8)
    >>> views = policy.apply(torch.arange(3).byte().view(1, 3, 1, 1).expand(2, 3, 8, 8), *draws)
    >>> views[:, :, 0, 0].tolist()
    [[0, 2, 1], [2, 0, 1]]
    """
    candidate = _candidate(_name(function), function)
    mixes = f"{candidate.name!r} mixes labels: give its name {CUTMIX} instead"
    require(not _mixes_labels(function), mixes)

    def apply(images: Tensor, seeds: np.ndarray) -> Tensor:
        views = torch.empty_like(images)
        for k, seed in enumerate(seeds):
            with keyed(int(seed), TRANSFORM):
                (view,), _ = _transformed(candidate, images[k : k + 1], seeds, 0)
            same = f"{candidate.name!r} must keep the size {tuple(images.shape[1:])} to train"
            require(view.shape == images.shape[1:], f"{same}, got {tuple(view.shape)}")
            views[k] = view
        return views

    return Policy(lambda rng, count, height, width: (rng.integers(2**32, size=count),), apply)


@dataclass(frozen=True)
class Candidate:
    """name    in the table. policy  a name that `parse` knows, without CutMix.
    transform  after the policy: of an image, or `OnBatch`; None for none.
    mixing     "", `CUTMIX` or `MIXUP`.
    """

    name: str
    policy: str = "none"
    transform: Callable | OnBatch | None = None
    mixing: str = ""

    @property
    def plain(self) -> bool:
        """Whether the pipeline has it under its name."""
        return self.transform is None and self.mixing != MIXUP

    @property
    def partner(self) -> "Candidate":
        """The base augmentation with the same mixing, which T. stddev pairs it with."""
        return Candidate("none" + self.mixing, mixing=self.mixing)

    def key(self, seed: int, number: int, draw: int) -> tuple[int, ...]:
        """Of the random numbers of a batch, as `scoring.predict` has them."""
        known = self.plain and self.name in AUGMENTATIONS
        policy = AUGMENTATIONS.index(self.name) if known else len(AUGMENTATIONS)
        return seed, policy, number, draw

    def check_channels(self, channels: int) -> None:
        """Raise ValueError for a policy that draws what has no meaning for so many channels."""
        if channels == 3:
            return
        policy = policy_of(self.policy)
        known = policy.apply in (apply_chains, apply_augmix, erase) or self.policy == "none"
        what = f"{self.name!r} has no meaning for images of {channels} channels"
        require(known, f"{what}: its policy is made for three; give a function instead")
        wrong = operations(self.policy) & MIXES_CHANNELS.get(channels, OTHER_CHANNELS)
        require(not wrong, f"{what}: it draws {', '.join(sorted(wrong))}")

    def check_keyed(self, images: Tensor) -> None:
        """Warn of a transform that draws from a generator of its own: no seed reaches it."""
        if self.transform is None or _mixes_labels(self.transform):
            return
        alone, labels = Candidate(self.name, transform=self.transform), torch.zeros(len(images))
        one, other = (alone.views(images, labels.long(), 1, (0, 0))[0] for _ in range(2))
        if not torch.equal(one, other):
            text = f"{self.name!r} draws from a generator of its own: no two tables are the same"
            warnings.warn(f"{text}; seed it by torch's, at each call", stacklevel=5)

    def views(
        self,
        images: Tensor,
        labels: Tensor,
        classes: int,
        key: tuple[int, ...],
        mirror: bool = True,
        padding: int = 4,
        size: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One random view of each image of a batch, and its targets: labels, or soft ones.

        images  (B, C, H, W) uint8, not modified. labels  (B,) int64. key  of the random numbers.
        The rest is as for `augment`. Returns (B, C, H', W') uint8, and (B,) or (B, classes) float.
        """
        name = self.policy + (CUTMIX if self.plain and self.mixing else "")
        base = classes, mirror, padding, size
        views, targets = _by_threes(images, labels, name, key, base)
        if self.plain:
            return views, targets
        return self.finish(views, targets, classes, key, generator(*key, MIXING))

    def finish(
        self,
        views: Tensor,
        labels: Tensor,
        classes: int,
        key: tuple[int, ...],
        rng: np.random.Generator,
        group: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The transform, which draws by the key, and the mixing, by `rng`. What is drawn once a
        batch is drawn for every `group` views; None: for all together.
        """
        parts, group = [], group or len(views)
        mix = _mixup if self.mixing == MIXUP else _cutmix
        with keyed(*key, TRANSFORM):
            for some in zip(views.split(group), labels.split(group), strict=True):
                some = some if self.transform is None else _transformed(self, *some, classes)
                parts.append(mix(rng, *some, classes) if self.mixing else some)
        views, targets = zip(*parts, strict=True)
        return torch.cat(views), torch.cat(targets)


def candidates(augmentations: Any) -> dict[str, Candidate]:
    """Candidates by name.

    augmentations  a sequence or a dictionary from names. Each is a name among `AUGMENTATIONS`, or
                   with "+mixup" in the place of "+cutmix", a transform of torchvision, any other
                   function of an image (C, H, W) uint8, or `on_batch` of one of a batch. A name of
                   one's own that ends with "+cutmix" or "+mixup" has that after the transform.
    Raises TypeError or ValueError for others, and for two of one name.

    >>> found = candidates({"mirror+cutmix": lambda image: image.flip(-1), "none": "none"})
    >>> found["mirror+cutmix"].mixing, found["none"].plain
    ('+cutmix', True)
    """
    if isinstance(augmentations, str) or not isinstance(augmentations, Mapping | Sequence):
        wanted = "augmentations must be a sequence or a dictionary from names"
        raise TypeError(f"{wanted}, got {augmentations!r:.80}")
    require(len(augmentations), f"augmentations must be at least 1, got {augmentations!r}")
    if isinstance(augmentations, Mapping):
        found = [_candidate(*item) for item in augmentations.items()]
    else:
        found = [_candidate(_name(each), each) for each in augmentations]
    named = {candidate.name: candidate for candidate in found}
    twice = [candidate.name for candidate in found if named[candidate.name] is not candidate]
    require(not twice, f"augmentations must have names of their own, got {twice} twice")
    return named


def _name(augmentation: Any) -> str:
    if isinstance(augmentation, str):
        return augmentation
    function = augmentation.function if isinstance(augmentation, OnBatch) else augmentation
    return getattr(function, "__name__", type(function).__name__)


def _candidate(name: Any, augmentation: Any) -> Candidate:
    if not isinstance(name, str) or not name:
        raise TypeError(f"an augmentation's name must be a string, got {name!r}")
    own = name == augmentation or name not in AUGMENTATIONS
    require(own, f"{name!r} is the name of another augmentation")
    if isinstance(augmentation, str):
        mixing = MIXUP if augmentation.endswith(MIXUP) else ""
        policy, cut = parse(augmentation.removesuffix(MIXUP))
        require(not (mixing and cut), f"one of {CUTMIX} and {MIXUP}, got {augmentation!r}")
        return Candidate(name, policy, mixing=CUTMIX if cut else mixing)
    function = isinstance(augmentation, OnBatch) or callable(augmentation)
    if not function or isinstance(augmentation, type):
        wanted = "an augmentation must be a name, a transform or a function"
        raise TypeError(f"{wanted}, got {augmentation!r:.80}")
    mixing = next((mix for mix in (CUTMIX, MIXUP) if name.endswith(mix)), "")
    return Candidate(name, transform=augmentation, mixing=mixing)


def operations(policy: str) -> set[str]:
    """Names among `OPS` of what a policy draws.

    >>> "Color" in operations("trivialaugment"), operations("erasing")
    (True, set())
    """
    known = policy_of(policy)
    if known.apply not in (apply_chains, apply_augmix):
        return set()
    drawn = known.draw(generator(0), 5000, 32, 32)  # any that there is, is among so many
    chosen = np.unique(drawn[1 if known.apply is apply_augmix else 0])
    return {OPS[k] for k in chosen}


@contextmanager
def keyed(*key: int) -> Iterator[None]:
    """A block in which the random states of torch, numpy and Python depend on the key alone."""
    seed = int(generator(*key).integers(2**32))
    states = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def _by_threes(
    images: Tensor, labels: Tensor, name: str, key: tuple[int, ...], base: tuple[Any, ...]
) -> tuple[Tensor, Tensor]:
    """`augment`, which knows three channels, for any number: three at a time, with the same draws.
    A group that lacks some has its last one again.
    """
    parts = []
    for some in images.split(3, 1):
        last = some[:, -1:].expand(-1, 3 - some.shape[1], -1, -1)
        views, targets = augment(torch.cat([some, last], 1), labels, name, generator(*key), *base)
        parts.append(views[:, : some.shape[1]])
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0], targets


def _transformed(
    candidate: Candidate, views: Tensor, labels: Tensor, classes: int
) -> tuple[Tensor, Tensor]:
    """A user's transform on views of a batch."""
    function, batch = candidate.transform, isinstance(candidate.transform, OnBatch)
    try:
        if _mixes_labels(function):
            mixed, targets = function(views.float().div(255), labels)
            own = f"num_classes must be the teacher's {classes}, got {function.num_classes}"
            require(function.num_classes == classes, own)
            return as_images(mixed.clamp(0, 1)), targets
        if batch:
            changed = as_images(function.function(views.clone()))
        else:
            each = [_image(function(view)) for view in views.clone()]
            changed = torch.stack(each)
    except Exception as error:
        shape = tuple(views.shape if batch else views.shape[1:])
        hint = "" if batch else "; a function of a batch needs augment.on_batch around it"
        failed = f"{candidate.name!r} failed on uint8 of shape {shape}"
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{failed}{hint} ({reason})") from error
    good = changed.shape[:2] == views.shape[:2]
    kept = f"{candidate.name!r} must keep images and channels, {tuple(views.shape[:2])}"
    require(good, f"{kept}, got {tuple(changed.shape)}")
    return changed.to(views.device), labels


def _mixes_labels(function: Any) -> bool:
    """torchvision's CutMix and MixUp, which need its number of classes."""
    return type(function).__name__ in ("CutMix", "MixUp") and hasattr(function, "num_classes")


def _image(result: Any) -> Tensor:
    """What a function made of an image -> (C, H, W) uint8."""
    if isinstance(result, Mapping) and "image" in result:  # of albumentations
        result = result["image"]
    if hasattr(result, "convert"):  # of Pillow
        result = np.array(result)
    return as_images(result[None] if np.ndim(result) == 3 else result)[0]


def _cutmix(
    rng: np.random.Generator, views: Tensor, labels: Tensor, classes: int
) -> tuple[Tensor, Tensor]:
    """CutMix of views with any number of channels."""
    boxes, partners = cutmix_draw(rng, len(views), *views.shape[-2:])
    threes = [F.pad(part, (0, 0, 0, 0, 0, 3 - part.shape[1])) for part in views.split(3, 1)]
    mixed = [cutmix(part, labels, classes, boxes, partners) for part in threes]
    return torch.cat([part for part, _ in mixed], 1)[:, : views.shape[1]], mixed[0][1]


def _mixup(
    rng: np.random.Generator, views: Tensor, labels: Tensor, classes: int
) -> tuple[Tensor, Tensor]:
    """MixUp (Zhang et al., ICLR 2018) as torchvision's, alpha 1: image n with the one before."""
    own = rng.beta(1, 1)
    mixed = views.float().lerp(views.roll(1, 0).float(), 1 - own).round_().to(torch.uint8)
    one_hot = F.one_hot(labels, classes).float()
    return mixed, one_hot.lerp(one_hot.roll(1, 0), 1 - own)
