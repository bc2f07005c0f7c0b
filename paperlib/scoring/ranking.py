"""A ranking of augmentations by one teacher, from one augmented pass each."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from .. import data as datasets
from ..augment import AUGMENTATIONS, CUTMIX, augmented, generator, parse, to_device
from ..augment.pipeline import augmentation_name, augmentation_names
from ..basics.checks import check_fields, checked, kind_of, require
from ..basics.confidence import warning
from ..data.checks import module
from ..models import in_mode
from ..models.precision import autocast
from .metrics import class_centroids, evaluate, paired_stddev, score


@torch.no_grad()
def logits_of(
    teacher: nn.Module, data: datasets.Dataset, views: Tensor, precision: str = "float32"
) -> Tensor:
    """(N, 3, H, W) uint8 views -> (N, C) float32 logits. Raises ValueError if C is not the data
    set's.
    """
    with autocast(views.device, precision):
        logits = teacher(data.network_input(views)).float()
    found = f"the teacher gives logits of shape {tuple(logits.shape)} for {len(views)} images"
    wanted = f"the data set {data.name!r} has {len(data.classes)} classes"
    require(logits.shape == (len(views), len(data.classes)), f"{found}; {wanted}")
    return logits


def scoring_order(data: datasets.Dataset, seed: int) -> Tensor:
    """(N,) int64 on the data's device: the place in the data set of each image of a pass."""
    order = generator(seed, 0x0DE5).permutation(len(data.train_images))
    return to_device(order, data.train_images.device)


DATA = kind_of(datasets.Dataset)


@checked(teacher=module, data=DATA, augmentation=augmentation_name)
@torch.no_grad()
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
    known = augmentation in AUGMENTATIONS
    policy = AUGMENTATIONS.index(augmentation) if known else len(AUGMENTATIONS)

    def rng_of(number: int) -> np.random.Generator:
        return generator(seed, policy, number, draw)

    order = scoring_order(data, seed)
    logits, targets = [], []
    with in_mode(teacher, training=False):
        for views, target, _ in augmented(data, order, augmentation, batch, rng_of, padding):
            logits.append(logits_of(teacher, data, views, precision))
            targets.append(target)
    return torch.cat(logits), torch.cat(targets)


@dataclass(frozen=True)
class Scoring:
    """How a teacher looks at images: the keywords that `rank` and `rank_within` share.

    mean, std   of the channels (scale 0 .. 1), what the teacher's input is normalised with; and
    mirror      whether a mirrored image keeps its class (None: yes). These three belong to images
                and labels alone; a `paperlib.data.Dataset` brings its own.
    padding     pixels of the random crop.
    seed        of every random draw. batch  images a forward pass.
    cmi_weight  of CMI in the score.
    precision   "float32", or "bfloat16" for the teacher's convolutions: faster, and the third digit
                moves.
    progress    called with (done, total, augmentation) before each pass.
    """

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    mirror: bool | None = None
    padding: int = 4
    seed: int = 0
    batch: int = 100
    cmi_weight: float = 1.0
    precision: str = "float32"
    progress: Callable[[int, int, str], None] = lambda done, total, augmentation: None

    def __post_init__(self):
        check_fields(self)

    def dataset(self, data: datasets.Dataset | tuple[Tensor, Tensor]) -> datasets.Dataset:
        """The images and labels to score. Raises ValueError, naming what is wrong with them."""
        own = (self.mean, self.std, self.mirror)
        if isinstance(data, datasets.Dataset):
            brings = "a Dataset brings its own mean, std and mirror: leave these arguments out"
            require(all(value is None for value in own), brings)
            return data
        need = "images and labels alone need mean and std, to normalise what the teacher sees"
        require(self.mean is not None and self.std is not None, need)
        kind_of(tuple, list)("data", data)
        require(len(data) == 2, f"data must be images and labels, got {len(data)} values")
        images, labels = data
        datasets.check_images(images)
        datasets.check_labels(labels, len(images), len(images))
        classes = int(labels.max()) + 1
        names, scale = tuple(map(str, range(classes))), (tuple(self.mean), tuple(self.std))
        tensors = images, labels, images[:1], labels[:1]  # nothing is tested
        return datasets.Dataset("own data", *tensors, names, *scale, self.mirror is not False)


@checked(teacher=module, augmentations=augmentation_names)
def rank(
    teacher: nn.Module,
    data: datasets.Dataset | tuple[Tensor, Tensor],
    augmentations: Sequence[str] = AUGMENTATIONS,
    *,
    stddev_group: int = 500,
    replicates: int = 200,
    **options: Any,
) -> pd.DataFrame:
    """Score augmentations with the teacher alone, one pass over the images each, and put the best
    first.

    teacher        any torch classifier of (N, 3, H, W) normalised float images; on the images'
                   device.
    data           a `paperlib.data.Dataset`, of which the training images are used, or a pair: (N,
                   3, H, W) uint8 images and (N,) int64 labels, which needs `mean` and `std`.
    augmentations  names among `AUGMENTATIONS`.
    stddev_group   images in one group of T. stddev, 500 in the released code, to which as many
                   views with crop and mirror alone (and CutMix, if the candidate has it) are added,
                   from a pass of their own that all candidates share.
    replicates     of the bootstrap; 0 leaves the intervals out.
    options        those of `Scoring`: mean, std, mirror, padding, seed, batch (CutMix draws one box
                   for each, 100 as in the released code), cmi_weight, precision, progress.

    Returns one row an augmentation: rank, augmentation, score, cmi, divergence, entropy,
    cross_entropy (nats), error and confidence of the teacher (means over the views: 1 - label mass
    on the predicted class, largest probability), centroid_entropy (nats, mean over images of
    H(Q_y)), teacher_stddev (NaN if there are fewer than two groups), cmi_released and
    score_released (with the released code's centroids, see `class_centroids`; they differ under
    CutMix only), 95 % intervals NAME_low and NAME_high of score, cmi and divergence, and images.
    Raises ValueError for an unknown augmentation, images that are not uint8 NCHW, labels out of
    range, a class with no image, a teacher with another number of classes, or one that gives NaN;
    TypeError for an option that `Scoring` does not have.
    Warns where the ranking is that of the teacher's error alone (`paperlib.basics.confidence`).

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    >>> images = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)
    >>> scale = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    >>> table = rank(net, (images, torch.arange(40) % 2), ["none", "augmix+cutmix"], **scale)
    >>> list(table.columns[:3])
    ['rank', 'augmentation', 'score']
    """
    how = Scoring(**options)
    data = how.dataset(data)
    groups = [stddev_group] * (len(data.train_images) // stddev_group)

    def looked(name: str, draw: int = 0) -> tuple[Tensor, Tensor]:
        return predict(teacher, data, name, how.seed, how.batch, how.padding, draw, how.precision)

    base: dict[str, Tensor] = {}
    rows = []
    for done, name in enumerate(augmentations):
        how.progress(done, len(augmentations), name)
        logits, targets = looked(name)
        found = evaluate(logits, targets, how.cmi_weight, replicates, how.seed)
        row = {"augmentation": name, **found, "teacher_stddev": float("nan")}
        if len(groups) > 1:
            partner = "none" + CUTMIX * parse(name)[1]  # CutMix, if on, is drawn for both halves
            if partner not in base:
                base[partner], _ = looked(partner, draw=1)
            row["teacher_stddev"] = paired_stddev(logits, base[partner], groups)
        rows.append(row)
    how.progress(len(augmentations), len(augmentations), "")
    table = pd.DataFrame(rows).sort_values("score", ignore_index=True)
    table.insert(0, "rank", range(1, len(table) + 1))
    if problem := warning(table, len(data.classes)):
        warnings.warn(problem, stacklevel=3)
    return table


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
