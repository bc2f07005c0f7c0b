"""A ranking of augmentations by one teacher, from one augmented pass each."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from .. import data as datasets
from ..augment import AUGMENTATIONS, Candidate, augmented, candidates, generator, to_device
from ..augment.pipeline import augmentation_name, augmentation_names
from ..basics.checks import anything, checked, kind_of, require
from ..basics.confidence import warning
from ..basics.progress import progress as progress_bar
from ..data.checks import module
from ..data.streams import is_pair
from ..models.outputs import check_logits, logits_in
from ..models.precision import autocast
from .metrics import class_centroids, evaluate, paired_stddev, score
from .options import Scoring
from .streaming import look_of, scale_of, scoring_places, streamed
from .teachers import device_of, evaluating, fitted, teachers_kind


@torch.no_grad()
def logits_of(
    teacher: nn.Module, data: datasets.Dataset, views: Tensor, precision: str = "float32"
) -> Tensor:
    """(N, 3, H, W) uint8 views -> (N, C) float32 logits. Raises ValueError if C is not the data
    set's.
    """
    with autocast(views.device, precision):
        output = teacher(fitted(teacher, data.network_input(views)))
    logits = logits_in(output).float()
    found = f"the teacher gives logits of shape {tuple(logits.shape)} for {len(views)} images"
    wanted = f"the data set {data.name!r} has {len(data.classes)} classes"
    require(logits.shape == (len(views), len(data.classes)), f"{found}; {wanted}")
    return logits


def scoring_order(data: datasets.Dataset, seed: int) -> Tensor:
    """(N,) int64 on the data's device: the place in the data set of each image of a pass."""
    order = scoring_places(len(data.train_images), seed)
    return to_device(order, data.train_images.device)


FEW = 10  # images of a class, below which its own centroid makes CMI much too low
DATA = kind_of(datasets.Dataset)


@checked(teacher=module, data=DATA, augmentation=augmentation_name)
def predict(
    teacher: nn.Module,
    data: datasets.Dataset,
    augmentation: str,
    seed: int = 0,
    batch: int = 100,
    padding: int = 4,
    draw: int = 0,
    precision: str = "float32",
) -> tuple[Tensor, Tensor]:
    """The teacher's logits on one augmented pass over the training images, and the targets that go
    with them.

    Images are taken in a seeded random order, the same for every augmentation, so that neither T.
    stddev's groups nor CutMix's partners depend on how the data set is sorted. `draw` numbers
    independent passes of one augmentation over the images in that order. The teacher runs in eval
    mode, its convolutions in `precision`, and is left in the mode it was in.

    Returns (N, C) float32 logits and (N,) int64 labels or (N, C) float32 soft labels, on the data's
    device. Raises ValueError if the teacher's number of classes is not the data set's.
    """
    how = Scoring(seed=seed, batch=batch, padding=padding, precision=precision)
    (logits,), targets = _predict_all([teacher], data, augmentation, how, draw)
    return logits, targets


@torch.no_grad()
def _predict_all(
    teachers: Sequence[nn.Module],
    data: datasets.Dataset,
    augmentation: str,
    how: Scoring,
    draw: int = 0,
) -> tuple[list[Tensor], Tensor]:
    """Logits of each teacher on the same views, and the targets; see `predict`."""
    known = augmentation in AUGMENTATIONS
    policy = AUGMENTATIONS.index(augmentation) if known else len(AUGMENTATIONS)

    def rng_of(number: int) -> np.random.Generator:
        return generator(how.seed, policy, number, draw)

    order = scoring_order(data, how.seed)
    logits: list[list[Tensor]] = [[] for _ in teachers]
    targets = []
    with evaluating(*teachers):
        for views, target, _ in augmented(
            data, order, augmentation, how.batch, rng_of, how.padding
        ):
            for teacher, own in zip(teachers, logits, strict=True):
                own.append(logits_of(teacher, data, views, how.precision))
            targets.append(target)
    whole = list(map(torch.cat, logits))
    for own in whole:
        check_logits(own)
    return whole, torch.cat(targets)


@checked(teacher=teachers_kind, augmentations=anything, data=anything)
def rank(
    teacher: Callable | Mapping[str, Callable],
    data: Any,
    augmentations: Sequence[Any] | Mapping[str, Any] = AUGMENTATIONS,
    *,
    stddev_group: int = 500,
    replicates: int = 200,
    **options: Any,
) -> pd.DataFrame:
    """Score augmentations with the teacher alone, one pass over the images each, and put the best
    first.

    teacher        any classifier: a network or a function of (N, C, H, W) normalised float images,
                   of any precision. It gives logits, alone or within a tuple, a dictionary or a
                   ModelOutput (see `Scoring`, output). Probabilities are refused. Or several by
                   name, such as checkpoints of one training: they all look at the same views, which
                   are made once.
    data           images and labels: a `paperlib.data.Dataset`, of which the training images are
                   used; a pair of arrays; a torch Dataset, a DataLoader, a Hugging Face dataset, or
                   any iterable of batches, see `paperlib.data.streams`. All but the first need
                   `mean` and `std`. What is not in memory is read once, batch by batch. Data with
                   places is taken in a seeded random order, other data in its own.
    augmentations  names among `AUGMENTATIONS`, torchvision's transforms or functions of one's own,
                   or a dictionary from names to such; see `paperlib.augment.candidates`.
    stddev_group   images in one group of T. stddev, 500 in the released code, to which as many
                   views with crop and mirror alone (and CutMix, if the candidate has it) are added,
                   from a pass of their own that all candidates share.
    replicates     of the bootstrap; 0 leaves the intervals out.
    options        those of `Scoring`: mean, std, mirror, padding, seed, batch (CutMix draws one box
                   for each, 100 as in the released code), cmi_weight, precision, progress, workers,
                   output.

    Returns one row an augmentation (of several teachers, one row a teacher and augmentation, with
    the name in `teacher`, ranked within it): rank, augmentation, score, cmi, divergence, entropy,
    cross_entropy (nats), error and confidence of the teacher (means over the views: 1 - label mass
    on the predicted class, largest probability), centroid_entropy (nats, mean over images of
    H(Q_y)), teacher_stddev (NaN if there are fewer than two groups), cmi_released and
    score_released (with the released code's centroids, see `class_centroids`; they differ under
    CutMix only), 95 % intervals NAME_low and NAME_high of score, cmi and divergence, and images.
    Raises ValueError for an unknown augmentation, or one that has no meaning for images of so many
    channels, images that are neither uint8 nor floats in 0..1, labels out of range, a class with no
    image, a teacher with another number of classes, or one that gives NaN; TypeError for an option
    that `Scoring` does not have.
    Warns where the ranking is that of the teacher's error alone (`paperlib.basics.confidence`), of
    a class with fewer than 10 images, and of images sorted by class that come in their own order.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    >>> images = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)
    >>> scale = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    >>> table = rank(net, (images, torch.arange(40) % 2), ["none", "augmix+cutmix"], **scale)
    >>> list(table.columns[:3])
    ['rank', 'augmentation', 'score']
    """
    how, wanted = Scoring(**options), list(candidates(augmentations).values())
    how.check_scale(data)
    named = isinstance(teacher, Mapping)
    teachers = dict(teacher) if named else {"": teacher}
    all_of = list(teachers.values())
    here = all(candidate.plain for candidate in wanted)
    if here and all(_resident(each, data, how) for each in all_of):
        rows, images = _in_memory(all_of, how.dataset(data), wanted, how, stddev_group, replicates)
    else:
        rows, images = streamed(all_of, data, wanted, how, stddev_group, replicates)
    if (few := int(images.min())) < FEW:
        text = f"class {int(images.argmin())} has {few} images: below {FEW}, CMI comes out too low"
        warnings.warn(text, stacklevel=3)
    tables = []
    for name, own in zip(teachers, rows, strict=True):
        table = pd.DataFrame(own).sort_values("score", ignore_index=True)
        table.insert(0, "rank", range(1, len(table) + 1))
        if problem := warning(table, len(images)):
            warnings.warn(f"teacher {name!r}: {problem}" if named else problem, stacklevel=3)
        if named:
            table.insert(0, "teacher", name)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _resident(teacher: Callable, data: Any, how: Scoring) -> bool:
    """Whether `predict` can look: the images are in memory, uint8 and RGB, beside the teacher."""
    if not isinstance(teacher, nn.Module) or how.output is not None:
        return False
    if isinstance(data, datasets.Dataset):
        images = data.train_images
    elif is_pair(data) and isinstance(data[0], Tensor):
        images = data[0]
    else:
        return False
    rgb = images.dtype == torch.uint8 and images.ndim == 4 and images.shape[1] == 3
    return rgb and device_of(teacher, images) == images.device


def _in_memory(
    teachers: Sequence[nn.Module],
    data: datasets.Dataset,
    wanted: Sequence[Candidate],
    how: Scoring,
    stddev_group: int,
    replicates: int,
) -> tuple[list[list[dict[str, Any]]], Tensor]:
    """Rows of `rank` for each teacher, and (C,) images of each class: one candidate after the
    other.
    """
    groups = [stddev_group] * (len(data.train_images) // stddev_group)
    partners = {candidate.partner.name for candidate in wanted} if len(groups) > 1 else set()
    first = data.train_images[scoring_order(data, how.seed)[: how.batch]]
    own = scale_of(data, replace(how, mean=None, std=None, mirror=None))
    left = len(data.train_images) * (len(wanted) + len(partners))
    seen = []
    for teacher in teachers:  # no comprehension: warnings count the frames to the caller
        seen.append(look_of(teacher, first, wanted, *own, left).teacher)
    base: dict[str, list[Tensor]] = {}
    rows: list[list[dict[str, Any]]] = [[] for _ in teachers]
    with progress_bar("augmentations", len(wanted)) as advance:
        for done, candidate in enumerate(wanted):
            how.progress(done, len(wanted), candidate.name)
            logits, targets = _predict_all(seen, data, candidate.policy + candidate.mixing, how)
            partner = candidate.partner.name  # CutMix, if on, is drawn for both halves
            if partners and partner not in base:
                base[partner], _ = _predict_all(seen, data, partner, how, draw=1)
            for k, each in enumerate(logits):
                found = evaluate(each, targets, how.cmi_weight, replicates, how.seed)
                stddev = paired_stddev(each, base[partner][k], groups) if partners else float("nan")
                rows[k].append({"augmentation": candidate.name, **found, "teacher_stddev": stddev})
            advance(1)
    how.progress(len(wanted), len(wanted), "")
    return rows, torch.bincount(data.train_labels, minlength=len(data.classes))


@checked(data=DATA)
def predict_views(
    teacher: nn.Module,
    data: datasets.Dataset,
    augmentation: str,
    views: int,
    seed: int = 0,
    batch: int = 100,
    precision: str = "float32",
) -> tuple[Tensor, Tensor]:
    """`predict`'s logits and targets of at least so many views: of one random pass over the images,
    or of several.
    """
    how = {"seed": seed, "batch": batch, "precision": precision}
    draws = range(max(1, -(-views // len(data.train_images))))
    drawn = [predict(teacher, data, augmentation, draw=draw, **how) for draw in draws]
    return tuple(map(torch.cat, zip(*drawn, strict=True)))


AS_DEFINED = "as defined"


@checked(data=DATA, augmentations=augmentation_names)
def ablate(
    teacher: nn.Module,
    data: datasets.Dataset,
    augmentations: Sequence[str] = AUGMENTATIONS,
    temperatures: Sequence[float] = (0.5, 2.0, 4.0),
    counts: Sequence[int] = (),
    *,
    seed: int = 0,
    batch: int = 100,
    progress: Callable[[int, int, str], None] = lambda done, total, augmentation: None,
) -> pd.DataFrame:
    """The score of each augmentation computed in other ways, from one pass as `rank` makes it and a
    second one.

    teacher, data, augmentations, seed, batch, progress  as for `rank`. temperatures  of the
    teacher's softmax, above 0.
    counts  numbers of images, at most all: the first so many of the pass.

    Returns one row an augmentation and variant, with columns augmentation, variant, score, cmi,
    divergence (nats): "as defined" the columns of `rank`; "temperature T"; "N images"; "two
    passes": centroids of the second pass, as the released code; "unmixed labels": under CutMix, an
    image counts for the class of its own label only. Raises ValueError as `rank`, for a temperature
    that is not positive, or a count that is not within 1 .. N.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    >>> images, labels = torch.randint(0, 256, (40, 3, 8, 8),
    ...     dtype=torch.uint8), torch.arange(40) % 2
    >>> data = datasets.Dataset("own", images, labels, images, labels, ("a", "b"), (0.5,) * 3,
    ...     (0.25,) * 3, True)
    >>> ablate(net, data, ["none+cutmix"], [2.0], [20])["variant"].tolist()
    ['as defined', 'temperature 2', '20 images', 'two passes', 'unmixed labels']
    """
    most = len(data.train_images)
    require(max(counts, default=1) <= most, f"counts must be at most {most}, got {counts}")
    labels = data.train_labels[scoring_order(data, seed)]
    rows = []
    for done, name in enumerate(augmentations):
        progress(done, len(augmentations), name)
        logits, targets = predict(teacher, data, name, seed, batch)
        others, other_targets = predict(teacher, data, name, seed, batch, draw=1)
        other = class_centroids(others.double().softmax(1), other_targets)
        variants = {AS_DEFINED: score(logits, targets)}
        variants |= {f"temperature {t:g}": score(logits / t, targets) for t in temperatures}
        variants |= {f"{n} images": score(logits[:n], targets[:n]) for n in counts}
        variants["two passes"] = score(logits, targets, centroids=other)
        variants["unmixed labels"] = score(logits, labels)
        rows += [{"augmentation": name, "variant": v, **asdict(s)} for v, s in variants.items()]
    progress(len(augmentations), len(augmentations), "")
    return pd.DataFrame(rows, columns=["augmentation", "variant", "score", "cmi", "divergence"])
